//! Void tokens in Postgres.

use sqlx::{PgConnection, Row as _};

use super::changes::{Applied, At};
use super::error::translate;
use crate::model::TokenRevocation;
use crate::store::StoreError;

/// What became void after an epoch.
pub(super) async fn since(
    tx: &mut PgConnection,
    epoch: i64,
) -> Result<Vec<TokenRevocation>, StoreError> {
    let rows = sqlx::query("SELECT * FROM token_revocations WHERE epoch > $1 ORDER BY type, id")
        .bind(epoch)
        .fetch_all(tx)
        .await
        .map_err(translate)?;
    let revocation = |row: &sqlx::postgres::PgRow| {
        Ok(TokenRevocation {
            ty: row.try_get("type").map_err(translate)?,
            id: row.try_get("id").map_err(translate)?,
            before: row.try_get("issued_before").map_err(translate)?,
            expire_time: row.try_get("expire_time").map_err(translate)?,
        })
    };
    rows.iter().map(revocation).collect()
}

/// Adds one, and forgets those that nothing lives any more to be void by.
pub(super) async fn revoke(
    tx: &mut PgConnection,
    at: &At,
    revocation: &TokenRevocation,
) -> Applied {
    sqlx::query("DELETE FROM token_revocations WHERE expire_time < $1")
        .bind(revocation.before)
        .execute(&mut *tx)
        .await
        .map_err(translate)?;
    sqlx::query(
        "INSERT INTO token_revocations (type, id, log_id, issued_before, expire_time, epoch) \
         VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (type, id) DO UPDATE SET \
         issued_before = greatest(token_revocations.issued_before, excluded.issued_before), \
         expire_time = greatest(token_revocations.expire_time, excluded.expire_time), \
         epoch = excluded.epoch",
    )
    .bind(&revocation.ty)
    .bind(&revocation.id)
    .bind(at.log_id)
    .bind(revocation.before)
    .bind(revocation.expire_time)
    .bind(at.epoch)
    .execute(tx)
    .await
    .map_err(translate)?;
    Ok(Ok(()))
}
