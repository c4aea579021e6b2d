//! Postgres' errors as the store's.

use sqlx::postgres::{PgDatabaseError, PgSeverity};

use crate::store::StoreError;

/// sqlx's errors as ours. Texts name no values: the detail of a Postgres error, which
/// holds them, is left out, and so is the message where it quotes one (class 22).
pub(super) fn translate(error: sqlx::Error) -> StoreError {
    match &error {
        sqlx::Error::Database(inner) => match inner.try_downcast_ref::<PgDatabaseError>() {
            Some(postgres) => from_server(postgres),
            None => StoreError::Unavailable(inner.message().to_owned()),
        },
        sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::Decode(_)
        | sqlx::Error::RowNotFound
        | sqlx::Error::ColumnNotFound(_) => StoreError::Corrupt(error.to_string()),
        sqlx::Error::Encode(_) => {
            StoreError::Refused("a value is too large for one message".to_owned())
        }
        _ => StoreError::Unavailable(error.to_string()),
    }
}

fn from_server(error: &PgDatabaseError) -> StoreError {
    let code = error.code();
    let text = format!("{} (SQLSTATE {code})", error.message());
    match (code.get(..2).unwrap_or(code), code) {
        (_, "23514") if error.message().starts_with("no partition") => {
            StoreError::Unavailable(format!(
                "{text}: a partition of the audit was taken away; restore it, or attach one again"
            ))
        }
        ("22", _) => StoreError::Refused(format!("Postgres refuses it (SQLSTATE {code})")),
        // A key that exists, a trigger that refuses: not what a sequence of our own
        // commits can lead to.
        ("23" | "P0", _) => StoreError::Refused(text),
        (_, "42P01" | "42703" | "42883" | "3F000") => StoreError::Schema(text),
        _ => StoreError::Unavailable(text),
    }
}

/// Whether the connection is of no use any more, so that a statement without effect
/// may be tried again on a new one.
pub(super) fn is_connection_lost(error: &sqlx::Error) -> bool {
    !is_answer(error)
}

/// Whether the server refused the statement and nothing of it took effect. A FATAL
/// error ends the session and can come while a COMMIT waits for a standby, after the
/// transaction became durable: that says nothing.
pub(super) fn is_answer(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(inner) = error else {
        return false;
    };
    inner
        .try_downcast_ref::<PgDatabaseError>()
        .is_some_and(|e| e.severity() == PgSeverity::Error)
}
