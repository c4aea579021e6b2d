//! Certificate authorities in Postgres.

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};

use super::changes::{Applied, At};
use super::error::translate;
use crate::model::{AuthorityRecord, AuthorityState, Conflict};
use crate::store::StoreError;
use crate::store::value::corrupt;
use time::OffsetDateTime;

/// The CAs that changed after an epoch, in the order in which they were prepared.
pub(super) async fn since(
    tx: &mut PgConnection,
    epoch: i64,
) -> Result<Vec<AuthorityRecord>, StoreError> {
    let rows = sqlx::query(
        "SELECT * FROM certificate_authorities WHERE epoch > $1 ORDER BY prepare_time, id",
    )
    .bind(epoch)
    .fetch_all(tx)
    .await
    .map_err(translate)?;
    rows.iter().map(authority).collect()
}

pub(super) async fn prepare(
    tx: &mut PgConnection,
    at: &At,
    signing: &AuthorityRecord,
    next: &AuthorityRecord,
) -> Applied {
    insert(tx, at, signing).await?;
    match insert(tx, at, next).await? {
        true => Ok(Ok(())),
        false => conflict("the CA is on record already"),
    }
}

/// Whether it was not there yet.
async fn insert(
    tx: &mut PgConnection,
    at: &At,
    authority: &AuthorityRecord,
) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "INSERT INTO certificate_authorities (id, log_id, key_name, chain, state, prepare_time, \
         activate_time, supersede_time, retire_time, epoch) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (id) DO NOTHING",
    )
    .bind(&authority.id)
    .bind(at.log_id)
    .bind(&authority.key)
    .bind(&authority.chain_pem)
    .bind(authority.state.as_str())
    .bind(authority.prepare_time)
    .bind(authority.activate_time)
    .bind(authority.supersede_time)
    .bind(authority.retire_time)
    .bind(at.epoch)
    .execute(tx)
    .await
    .map_err(translate)?;
    Ok(done.rows_affected() == 1)
}

pub(super) async fn activate(
    tx: &mut PgConnection,
    at: &At,
    id: &str,
    time: OffsetDateTime,
) -> Applied {
    // First: there is never more than one that signs.
    sqlx::query(
        "UPDATE certificate_authorities SET state = 'superseded', supersede_time = $1, epoch = $2 \
         WHERE state = 'active'",
    )
    .bind(time)
    .bind(at.epoch)
    .execute(&mut *tx)
    .await
    .map_err(translate)?;
    let done = sqlx::query(
        "UPDATE certificate_authorities SET state = 'active', activate_time = $1, epoch = $2 \
         WHERE id = $3 AND state = 'prepared'",
    )
    .bind(time)
    .bind(at.epoch)
    .bind(id)
    .execute(tx)
    .await
    .map_err(translate)?;
    match done.rows_affected() {
        1 => Ok(Ok(())),
        _ => conflict("the CA is not prepared"),
    }
}

pub(super) async fn retire(
    tx: &mut PgConnection,
    at: &At,
    id: &str,
    time: OffsetDateTime,
) -> Applied {
    let done = sqlx::query(
        "UPDATE certificate_authorities SET state = 'retired', retire_time = $1, epoch = $2 \
         WHERE id = $3 AND state IN ('prepared', 'superseded')",
    )
    .bind(time)
    .bind(at.epoch)
    .bind(id)
    .execute(tx)
    .await
    .map_err(translate)?;
    match done.rows_affected() {
        1 => Ok(Ok(())),
        _ => conflict("the CA signs, or is not trusted any more"),
    }
}

fn conflict(why: &str) -> Applied {
    Ok(Err(Conflict::Authority(why.to_owned())))
}

fn authority(row: &PgRow) -> Result<AuthorityRecord, StoreError> {
    let state: &str = row.try_get("state").map_err(translate)?;
    Ok(AuthorityRecord {
        id: row.try_get("id").map_err(translate)?,
        key: row.try_get("key_name").map_err(translate)?,
        chain_pem: row.try_get("chain").map_err(translate)?,
        state: AuthorityState::parse(state).ok_or_else(|| corrupt("an unknown state of a CA"))?,
        prepare_time: row.try_get("prepare_time").map_err(translate)?,
        activate_time: row.try_get("activate_time").map_err(translate)?,
        supersede_time: row.try_get("supersede_time").map_err(translate)?,
        retire_time: row.try_get("retire_time").map_err(translate)?,
    })
}
