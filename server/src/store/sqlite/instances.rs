//! Enrolled keys in SQLite: their states, and the generations of their certificates.

use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};
use uuid::Uuid;

use super::changes::{Applied, At, one_row};
use super::{parse_time, time_text, translate};
use crate::model::change::{GenerationUse, Renewal};
use crate::model::{Conflict, Instance, InstanceState};
use crate::store::StoreError;
use crate::store::value::{corrupt, digest, parse_uuid, signed, unsigned};

pub(super) async fn insert(tx: &mut SqliteConnection, at: &At, instance: &Instance) -> Applied {
    let done = sqlx::query(
        "INSERT INTO instances (id, log_id, principal_id, key_sha256, state, generation, \
         used_generation, recoveries, create_time, epoch) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING",
    )
    .bind(instance.id.to_string())
    .bind(&at.log_id)
    .bind(&instance.principal_id)
    .bind(&instance.key_sha256[..])
    .bind(instance.state.as_str())
    .bind(signed(instance.generation))
    .bind(signed(instance.used_generation))
    .bind(instance.recoveries)
    .bind(time_text(instance.create_time))
    .bind(at.epoch)
    .execute(tx)
    .await
    .map_err(translate)?;
    Ok(one_row(done.rows_affected(), Conflict::KeyEnrolled))
}

/// A key as it stands in the transaction, whose head lock keeps it so.
pub(super) async fn find(
    tx: &mut SqliteConnection,
    instance_id: Uuid,
) -> Result<Option<Instance>, StoreError> {
    let row = sqlx::query("SELECT * FROM instances WHERE id = $1")
        .bind(instance_id.to_string())
        .fetch_optional(tx)
        .await
        .map_err(translate)?;
    row.as_ref().map(read).transpose()
}

/// Keys of a principal in the order of their ids, after `after`.
pub(super) async fn list(
    tx: &mut SqliteConnection,
    principal_id: &str,
    after: Option<Uuid>,
    limit: u32,
) -> Result<Vec<Instance>, StoreError> {
    let rows = sqlx::query(
        "SELECT * FROM instances WHERE principal_id = $1 AND ($2 IS NULL OR id > $2) \
         ORDER BY id LIMIT $3",
    )
    .bind(principal_id)
    .bind(after.map(|id| id.to_string()))
    .bind(limit)
    .fetch_all(tx)
    .await
    .map_err(translate)?;
    rows.iter().map(read).collect()
}

/// No epoch: the change feed need not carry what no decision looks at.
pub(super) async fn renew(tx: &mut SqliteConnection, renewal: &Renewal) -> Applied {
    let id = renewal.certificate.instance_id;
    let Some(instance) = find(tx, id).await? else {
        return Ok(Err(Conflict::KeyRevoked));
    };
    match instance.state {
        InstanceState::Active => {}
        InstanceState::Locked => return Ok(Err(Conflict::KeyLocked)),
        InstanceState::Revoked => return Ok(Err(Conflict::KeyRevoked)),
    }
    match instance.renewal(renewal.presented) {
        None => return Ok(Err(Conflict::Generation)),
        Some(due) if due != renewal.generation => return Ok(Err(Conflict::GenerationMoved)),
        Some(_) => {}
    }
    let recoveries = match renewal.recoveries_max {
        None => instance.recoveries,
        Some(max) if instance.recoveries < max => instance.recoveries + 1,
        Some(_) => return Ok(Err(Conflict::RecoveriesExhausted)),
    };
    sqlx::query(
        "UPDATE instances SET generation = $2, used_generation = $3, recoveries = $4 WHERE id = $1",
    )
    .bind(id.to_string())
    .bind(signed(renewal.generation))
    .bind(signed(instance.used_generation.max(renewal.presented)))
    .bind(recoveries)
    .execute(tx)
    .await
    .map_err(translate)?;
    Ok(Ok(()))
}

pub(super) async fn mark_used(tx: &mut SqliteConnection, used: GenerationUse) -> Applied {
    sqlx::query("UPDATE instances SET used_generation = $2 WHERE id = $1 AND used_generation < $2")
        .bind(used.instance_id.to_string())
        .bind(signed(used.generation))
        .execute(tx)
        .await
        .map_err(translate)?;
    Ok(Ok(()))
}

pub(super) async fn lock(tx: &mut SqliteConnection, at: &At, id: Uuid, presented: u64) -> Applied {
    match find(tx, id).await? {
        None => Ok(Err(Conflict::KeyNotFound)),
        Some(key) if key.state != InstanceState::Active => Ok(Err(Conflict::KeyState(key.state))),
        Some(key) if key.renewal(presented).is_some() => Ok(Err(Conflict::GenerationMoved)),
        Some(_) => write_state(tx, at, id, InstanceState::Locked).await,
    }
}

/// A state of one key of this agent.
pub(super) async fn set_state(
    tx: &mut SqliteConnection,
    at: &At,
    (agent_id, id): (&str, Uuid),
    from: &[InstanceState],
    to: InstanceState,
) -> Applied {
    match find(tx, id).await? {
        Some(key) if key.principal_id == agent_id => match from.contains(&key.state) {
            true => write_state(tx, at, id, to).await,
            false => Ok(Err(Conflict::KeyState(key.state))),
        },
        _ => Ok(Err(Conflict::KeyNotFound)),
    }
}

async fn write_state(
    tx: &mut SqliteConnection,
    at: &At,
    id: Uuid,
    state: InstanceState,
) -> Applied {
    sqlx::query("UPDATE instances SET state = $1, epoch = $2 WHERE id = $3")
        .bind(state.as_str())
        .bind(at.epoch)
        .bind(id.to_string())
        .execute(tx)
        .await
        .map_err(translate)?;
    Ok(Ok(()))
}

/// All keys of a principal, for good.
pub(super) async fn revoke_all(
    tx: &mut SqliteConnection,
    at: &At,
    principal_id: &str,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE instances SET state = 'revoked', epoch = $1 \
         WHERE principal_id = $2 AND state <> 'revoked'",
    )
    .bind(at.epoch)
    .bind(principal_id)
    .execute(tx)
    .await
    .map(drop)
    .map_err(translate)
}

/// A key as it is stored.
pub(super) fn read(row: &SqliteRow) -> Result<Instance, StoreError> {
    let state: &str = row.try_get("state").map_err(translate)?;
    let recoveries: i64 = row.try_get("recoveries").map_err(translate)?;
    Ok(Instance {
        id: parse_uuid(row.try_get("id").map_err(translate)?)?,
        principal_id: row.try_get("principal_id").map_err(translate)?,
        key_sha256: digest(row.try_get("key_sha256").map_err(translate)?)?,
        state: InstanceState::parse(state).ok_or_else(|| corrupt("an unknown state of a key"))?,
        generation: unsigned(row.try_get("generation").map_err(translate)?)?,
        used_generation: unsigned(row.try_get("used_generation").map_err(translate)?)?,
        recoveries: u32::try_from(recoveries).map_err(|_| corrupt("a count out of range"))?,
        create_time: parse_time(row.try_get("create_time").map_err(translate)?)?,
    })
}
