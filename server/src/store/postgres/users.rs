//! People with keys of their own in Postgres.

use sqlx::PgConnection;
use uuid::Uuid;

use super::changes::{Applied, At, end_join_tokens, insert_join_token, one_row};
use super::error::translate;
use super::{instances, parties, revocations};
use crate::model::change::JoinTokenRecord;
use crate::model::{Conflict, Instance, InstanceState, TokenRevocation, UserRecord};
use crate::store::StoreError;

/// A user, with its first key unless that is still to come.
pub(super) async fn register(
    tx: &mut PgConnection,
    at: &At,
    user: &UserRecord,
    instance: Option<&Instance>,
) -> Applied {
    let done = sqlx::query(
        "INSERT INTO users (id, log_id, spiffe_id, roles, create_time, epoch) \
         VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
    )
    .bind(&user.id)
    .bind(at.log_id)
    .bind(&user.spiffe_id)
    .bind(&user.roles)
    .bind(user.create_time)
    .bind(at.epoch)
    .execute(&mut *tx)
    .await
    .map_err(translate)?;
    match one_row(done.rows_affected(), Conflict::UserExists) {
        Ok(()) => {
            parties::of_user(tx, at, user).await?;
            match instance {
                Some(instance) => instances::insert(tx, at, instance).await,
                None => Ok(Ok(())),
            }
        }
        Err(conflict) => Ok(Err(conflict)),
    }
}

/// Whether a user of this id is on record.
pub(super) async fn exists(tx: &mut PgConnection, id: &str) -> Result<bool, StoreError> {
    let found: Option<String> = sqlx::query_scalar("SELECT id FROM users WHERE id = $1")
        .bind(id)
        .fetch_optional(tx)
        .await
        .map_err(translate)?;
    Ok(found.is_some())
}

/// A join token for a user, who is put on record first where it is a new one.
pub(super) async fn invite(
    tx: &mut PgConnection,
    at: &At,
    user: Option<&UserRecord>,
    token: &JoinTokenRecord,
) -> Applied {
    if let Some(user) = user
        && let Err(conflict) = register(tx, at, user, None).await?
    {
        return Ok(Err(conflict));
    }
    match exists(tx, &token.principal_id).await? {
        true => insert_join_token(tx, at, token).await,
        false => Ok(Err(Conflict::UserNotFound)),
    }
}

/// Another key of a user who is on record.
pub(super) async fn add_key(tx: &mut PgConnection, at: &At, instance: &Instance) -> Applied {
    match exists(tx, &instance.principal_id).await? {
        true => instances::insert(tx, at, instance).await,
        false => Ok(Err(Conflict::UserNotFound)),
    }
}

/// One key of a user, or all and what could become one; and the tokens made by them.
pub(super) async fn revoke_keys(
    tx: &mut PgConnection,
    at: &At,
    user_id: &str,
    instance_id: Option<Uuid>,
    tokens: &TokenRevocation,
) -> Applied {
    if !exists(tx, user_id).await? {
        return Ok(Err(Conflict::UserNotFound));
    }
    match instance_id {
        None => {
            instances::revoke_all(tx, at, user_id).await?;
            end_join_tokens(tx, user_id).await?;
        }
        Some(id) => {
            use InstanceState::{Active, Locked, Revoked};
            let (of, from) = ((user_id, id), [Active, Locked, Revoked]);
            if let Err(conflict) = instances::set_state(tx, at, of, &from, Revoked).await? {
                return Ok(Err(conflict));
            }
        }
    }
    revocations::revoke(tx, at, tokens).await
}
