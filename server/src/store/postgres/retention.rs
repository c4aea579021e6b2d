//! Retention in Postgres: whole partitions are dropped, by the role that owns them (migration
//! 0004). The server's own role may neither say that something is pruned nor drop it.

use async_trait::async_trait;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::PostgresStore;
use super::changes::{Applied, At};
use super::error::translate;
use super::writer::within;
use crate::model::Conflict;
use crate::store::value::{signed, unsigned};
use crate::store::{Pruned, RetentionStore, StoreError};

/// SQLSTATE of `insufficient_privilege`.
const NOT_OWNER: &str = "42501";

#[async_trait]
impl RetentionStore for PostgresStore {
    async fn pruned(&self) -> Result<Option<Pruned>, StoreError> {
        let sql = "SELECT size, event_id FROM audit_pruned ORDER BY size DESC LIMIT 1";
        let row = sqlx::query(sql)
            .fetch_optional(&self.readers)
            .await
            .map_err(translate)?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(Pruned {
            size: unsigned(row.try_get("size").map_err(translate)?)?,
            event_id: row.try_get("event_id").map_err(translate)?,
        }))
    }

    async fn prunable(&self, limit: u64) -> Result<u64, StoreError> {
        let sql = "SELECT COALESCE(max(until), 0) FROM audit_partitions('audit_events') \
                   WHERE until <= $1";
        let until = sqlx::query_scalar(sql)
            .bind(signed(limit))
            .fetch_one(&self.readers)
            .await
            .map_err(translate)?;
        unsigned(until)
    }

    async fn drop_pruned(&self) -> Result<bool, StoreError> {
        let mut lease = self.writer.lease().await?;
        let drop = sqlx::query_scalar("SELECT audit_prune()").fetch_one(lease.start()?);
        let more = within(drop).await.map_err(|error| match &error {
            sqlx::Error::Database(inner) if inner.code().as_deref() == Some(NOT_OWNER) => {
                StoreError::Refused(format!("only the owner of the tables drops them: {inner}"))
            }
            _ => translate(error),
        })?;
        lease.done();
        Ok(more)
    }
}

/// Says what is pruned.
pub(super) async fn note(tx: &mut PgConnection, at: &At, size: u64, event_id: Uuid) -> Applied {
    let insert = sqlx::query(
        "INSERT INTO audit_pruned (size, log_id, event_id) SELECT $1, $2, $3 \
         WHERE NOT EXISTS (SELECT FROM audit_pruned WHERE size >= $1)",
    )
    .bind(signed(size))
    .bind(at.log_id)
    .bind(event_id);
    let done = within(insert.execute(tx)).await.map_err(translate)?;
    Ok(match done.rows_affected() {
        1 => Ok(()),
        _ => Err(Conflict::Pruned { size }),
    })
}
