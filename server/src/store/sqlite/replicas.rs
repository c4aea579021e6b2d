//! What replicas tell of themselves, in SQLite.

use async_trait::async_trait;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use time::OffsetDateTime;

use super::{SqliteStore, parse_time, time_text, translate};
use crate::model::replica::{Fleet, ReplicaRecord};
use crate::store::value::{parse_uuid, refuse_nul, signed, stored_number, unsigned};
use crate::store::{ReplicaStore, StoreError};

const PUT: &str = "INSERT INTO replicas (log_id, id, name, version, revision, revision_time, \
     start_time, seen_time, stopped) \
     SELECT log_id, $1, $2, $3, $4, $5, $6, $7, $8 FROM log_head WHERE one = 1 \
     ON CONFLICT (id) DO UPDATE SET revision = excluded.revision, \
     revision_time = excluded.revision_time, seen_time = excluded.seen_time, \
     stopped = excluded.stopped";

#[async_trait]
impl ReplicaStore for SqliteStore {
    async fn put_replica(&self, replica: &ReplicaRecord) -> Result<(), StoreError> {
        refuse_nul([&replica.name, &replica.version])?;
        stored_number(replica.revision)?;
        sqlx::query(PUT)
            .bind(replica.id.to_string())
            .bind(&replica.name)
            .bind(&replica.version)
            .bind(signed(replica.revision))
            .bind(time_text(replica.revision_time))
            .bind(time_text(replica.start_time))
            .bind(time_text(replica.seen_time))
            .bind(replica.stopped)
            .execute(&mut *self.writer().await?)
            .await
            .map_err(translate)?;
        Ok(())
    }

    async fn fleet(&self, limit: u32) -> Result<Fleet, StoreError> {
        let mut tx = self.readers.begin().await.map_err(translate)?;
        let newest: Option<i64> = sqlx::query_scalar("SELECT max(number) FROM revisions")
            .fetch_one(&mut *tx)
            .await
            .map_err(translate)?;
        let rows = sqlx::query("SELECT * FROM replicas ORDER BY seen_time DESC, id LIMIT $1")
            .bind(i64::from(limit))
            .fetch_all(&mut *tx)
            .await
            .map_err(translate)?;
        let mut replicas: Vec<_> = rows.iter().map(replica).collect::<Result<_, _>>()?;
        replicas.sort_by_key(|replica: &ReplicaRecord| (replica.start_time, replica.id));
        Ok(Fleet {
            revision: unsigned(newest.unwrap_or(0))?,
            replicas,
        })
    }

    async fn forget_replicas(&self, time: OffsetDateTime) -> Result<u64, StoreError> {
        let done = sqlx::query("DELETE FROM replicas WHERE seen_time < $1")
            .bind(time_text(time))
            .execute(&mut *self.writer().await?)
            .await
            .map_err(translate)?;
        Ok(done.rows_affected())
    }
}

fn replica(row: &SqliteRow) -> Result<ReplicaRecord, StoreError> {
    Ok(ReplicaRecord {
        id: parse_uuid(row.try_get("id").map_err(translate)?)?,
        name: row.try_get("name").map_err(translate)?,
        version: row.try_get("version").map_err(translate)?,
        revision: unsigned(row.try_get("revision").map_err(translate)?)?,
        revision_time: parse_time(row.try_get("revision_time").map_err(translate)?)?,
        start_time: parse_time(row.try_get("start_time").map_err(translate)?)?,
        seen_time: parse_time(row.try_get("seen_time").map_err(translate)?)?,
        stopped: row.try_get("stopped").map_err(translate)?,
    })
}
