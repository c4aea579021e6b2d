//! Retention in SQLite: rows are deleted, which the trigger lets happen below what
//! `audit_pruned` says. Their pages are used again for new rows; the file does not shrink.

use async_trait::async_trait;
use sqlx::{Connection as _, Row as _, SqliteConnection};
use uuid::Uuid;

use super::changes::{Applied, At};
use super::{SqliteStore, translate};
use crate::model::Conflict;
use crate::store::value::{corrupt, signed, unsigned};
use crate::store::{Pruned, RetentionStore, StoreError, TILE_WIDTH};

/// Places whose rows one transaction deletes: a writer waits for so many at most.
const PIECE: i64 = 2048;

#[async_trait]
impl RetentionStore for SqliteStore {
    async fn pruned(&self) -> Result<Option<Pruned>, StoreError> {
        let sql = "SELECT size, event_id FROM audit_pruned ORDER BY size DESC LIMIT 1";
        let row = sqlx::query(sql)
            .fetch_optional(&self.readers)
            .await
            .map_err(translate)?;
        let Some(row) = row else { return Ok(None) };
        let id: String = row.try_get("event_id").map_err(translate)?;
        Ok(Some(Pruned {
            size: unsigned(row.try_get("size").map_err(translate)?)?,
            event_id: id.parse().map_err(|_| corrupt("an id that is no UUID"))?,
        }))
    }

    async fn prunable(&self, limit: u64) -> Result<u64, StoreError> {
        Ok(limit - limit % TILE_WIDTH)
    }

    async fn drop_pruned(&self) -> Result<bool, StoreError> {
        let mut writer = self.writer().await?;
        let tx = writer.begin_with("BEGIN IMMEDIATE").await;
        let mut tx = tx.map_err(translate)?;
        for table in ["audit_inputs", "audit_events"] {
            let sql = format!(
                "DELETE FROM {table} WHERE sequence < (SELECT min(\
                 (SELECT max(size) FROM audit_pruned), \
                 (SELECT min(sequence) FROM {table}) + {PIECE}))"
            );
            let delete = sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut *tx);
            delete.await.map_err(translate)?;
        }
        let sql = "SELECT EXISTS (SELECT 1 FROM audit_pruned WHERE \
                   size > (SELECT min(sequence) FROM audit_events) OR \
                   size > (SELECT min(sequence) FROM audit_inputs))";
        let more = sqlx::query_scalar(sql).fetch_one(&mut *tx).await;
        let more = more.map_err(translate)?;
        tx.commit().await.map_err(translate)?;
        Ok(more)
    }
}

/// Says what is pruned.
pub(super) async fn note(tx: &mut SqliteConnection, at: &At, size: u64, event_id: Uuid) -> Applied {
    let done = sqlx::query(
        "INSERT INTO audit_pruned (size, log_id, event_id) SELECT $1, $2, $3 \
         WHERE NOT EXISTS (SELECT 1 FROM audit_pruned WHERE size >= $1)",
    )
    .bind(signed(size))
    .bind(&at.log_id)
    .bind(event_id.to_string())
    .execute(tx)
    .await
    .map_err(translate)?;
    Ok(match done.rows_affected() {
        1 => Ok(()),
        _ => Err(Conflict::Pruned { size }),
    })
}
