//! The log in Postgres.
//!
//! A batch costs three round trips: BEGIN with the lock, one INSERT of everything, and
//! the new head with COMMIT. One more, once in half a partition: see [`super::partitions`].

use std::fmt::Write as _;

use async_trait::async_trait;
use sqlx::{AssertSqlSafe, Row as _};
use tokio::time::timeout;
use uuid::Uuid;

use super::error::{is_answer, translate};
use super::notice::CHANNEL;
use super::partitions::Partitions;
use super::writer::{COMMIT_TIMEOUT, Lease, head_of, within};
use super::{PostgresStore, events};
use crate::model::{Change, Conflict};
use crate::store::value::{
    corrupt, no_head, refuse_change, refuse_events, stored_number, unsigned,
};
use crate::store::{
    AuditStore, AuditTx, LogHead, PreparedEvent, StoreError, StoredCheckpoint, StoredEvent,
};

struct PostgresTx {
    lease: Lease,
    head: LogHead,
    partitions: Partitions,
}

#[async_trait]
impl AuditTx for PostgresTx {
    fn head(&self) -> &LogHead {
        &self.head
    }

    async fn apply(
        &mut self,
        change: &Change,
        epoch: u64,
    ) -> Result<Result<(), Conflict>, StoreError> {
        refuse_change(change)?;
        let connection = self.lease.start()?;
        let log_id = self.head.log_id;
        let applied = super::changes::apply(connection, log_id, change, epoch).await?;
        self.lease.done();
        Ok(applied)
    }

    async fn insert(
        &mut self,
        first_sequence: u64,
        events: &[PreparedEvent],
    ) -> Result<(), StoreError> {
        refuse_events(events)?;
        if events.is_empty() {
            return Ok(());
        }
        let first = stored_number(first_sequence)?;
        let log_id = self.head.log_id;
        let connection = self.lease.start()?;
        let needed = stored_number(first_sequence + events.len() as u64)?;
        self.partitions.reach(connection, needed).await?;
        let rows = events::insert(connection, log_id, first, events).await;
        let rows = rows.inspect_err(|_| self.partitions.forget())?;
        if rows != events.len() as u64 {
            return Err(corrupt("an insert that wrote another number of rows"));
        }
        self.lease.done();
        Ok(())
    }

    async fn commit(mut self: Box<Self>, head: &LogHead) -> Result<(), StoreError> {
        let sql = commit_sql(&self.head, head)?;
        let connection = self.lease.start()?;
        let commit = sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection);
        match timeout(COMMIT_TIMEOUT, commit).await {
            Ok(Ok(_)) => {
                self.lease.committed();
                self.partitions.committed();
                Ok(())
            }
            Ok(Err(error)) if is_answer(&error) => Err(translate(error)),
            Ok(Err(error)) => Err(StoreError::CommitUnknown(error.to_string())),
            Err(_) => Err(StoreError::CommitUnknown("no answer in time".to_owned())),
        }
    }
}

/// One message with digits and hex digits of our own in it, no text of anybody's.
fn commit_sql(before: &LogHead, head: &LogHead) -> Result<String, StoreError> {
    let mut sql = format!(
        "UPDATE log_head SET size = {}, epoch = {}, frontier = '\\x{}' WHERE one = 1; ",
        stored_number(head.size)?,
        stored_number(head.epoch)?,
        hex::encode(head.frontier.as_flattened()),
    );
    if head.epoch != before.epoch {
        let _ = write!(sql, "NOTIFY {CHANNEL}; ");
    }
    // A statement timeout that strikes while COMMIT waits for a standby is answered
    // with success and a warning: no timeout, then, but ours.
    sql.push_str("SET LOCAL statement_timeout = 0; COMMIT");
    Ok(sql)
}

#[async_trait]
impl AuditStore for PostgresStore {
    async fn ensure_log(&self, log_id: Uuid) -> Result<LogHead, StoreError> {
        let mut lease = self.writer.lease().await?;
        let insert = sqlx::query(
            "INSERT INTO log_head (one, log_id, size, frontier, epoch) VALUES (1, $1, 0, '', 0) \
             ON CONFLICT (one) DO NOTHING",
        )
        .bind(log_id)
        .execute(lease.start()?);
        within(insert).await.map_err(translate)?;
        lease.done();
        drop(lease);
        self.head().await
    }

    async fn head(&self) -> Result<LogHead, StoreError> {
        let sql = "SELECT log_id, size, frontier, epoch FROM log_head WHERE one = 1";
        let row = sqlx::query(sql)
            .fetch_optional(&self.readers)
            .await
            .map_err(translate)?;
        head_of(&row.ok_or_else(no_head)?)
    }

    async fn begin_with(
        &self,
        event_ids: &[Uuid],
        since: u64,
    ) -> Result<(Box<dyn AuditTx>, Vec<Uuid>), StoreError> {
        let (lease, head, present) = self.writer.begin(event_ids, since).await?;
        let partitions = self.partitions.clone();
        let tx = PostgresTx {
            lease,
            head,
            partitions,
        };
        Ok((Box::new(tx), present))
    }

    async fn find(&self, event_id: Uuid) -> Result<Option<u64>, StoreError> {
        // The backend of a lost connection holds the head until its COMMIT has ended
        // or it has rolled back. Only after the lock, the second SELECT takes its
        // snapshot. The UUID prints as hex digits and dashes.
        let sql = format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED; \
             SELECT size AS n FROM log_head WHERE one = 1 FOR UPDATE; \
             SELECT sequence AS n FROM audit_events WHERE event_id = '{event_id}'; COMMIT"
        );
        let (_lease, rows) = self.writer.query(&sql, false).await?;
        rows.first().ok_or_else(no_head)?;
        rows.get(1)
            .map(|row| unsigned(row.try_get("n").map_err(translate)?))
            .transpose()
    }

    async fn read(&self, first: u64, limit: u32) -> Result<Vec<StoredEvent>, StoreError> {
        events::read(&self.readers, first, limit).await
    }

    async fn named(&self, event_ids: &[Uuid]) -> Result<Vec<StoredEvent>, StoreError> {
        events::named(&self.readers, event_ids).await
    }

    async fn latest_checkpoint(&self) -> Result<Option<StoredCheckpoint>, StoreError> {
        let row = sqlx::query("SELECT size, note FROM checkpoints ORDER BY size DESC LIMIT 1")
            .fetch_optional(&self.readers)
            .await
            .map_err(translate)?;
        row.map(|r| {
            Ok(StoredCheckpoint {
                size: unsigned(r.try_get(0).map_err(translate)?)?,
                note: r.try_get(1).map_err(translate)?,
            })
        })
        .transpose()
    }
}
