//! The log in SQLite.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::pool::PoolConnection;
use sqlx::{Row as _, Sqlite, SqliteConnection};
use uuid::Uuid;

use super::files::DatabaseFiles;
use super::{SqliteStore, events, translate};
use crate::model::{Change, Conflict};
use crate::store::value::{
    frontier, no_head, parse_uuid, refuse_change, refuse_events, stored_number, unsigned,
};
use crate::store::{
    AuditStore, AuditTx, LogHead, PreparedEvent, StoreError, StoredCheckpoint, StoredEvent,
};

/// A transaction, by hand: sqlx's own counts its depth, and where SQLite itself ended
/// one (a full disk, an I/O error), the count stays wrong and nothing begins any more
/// on that connection. So a transaction that failed ends with its connection, which
/// SQLite rolls back; one that is dropped between statements is rolled back, and the
/// connection kept, with its pages and statements.
struct SqliteTx {
    connection: Unclean,
    files: Arc<DatabaseFiles>,
    head: LogHead,
    /// A statement is under way, or failed.
    busy: bool,
}

impl Drop for SqliteTx {
    fn drop(&mut self) {
        let mut connection = Unclean(self.connection.0.take());
        if self.busy || connection.0.is_none() {
            return;
        }
        // The pool has no other connection: the next user waits, so it never meets the open
        // transaction.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { connection.roll_back().await });
        }
    }
}

/// The connection of a transaction, until that has ended well: `None` from then on. Dropped
/// before, it is closed.
struct Unclean(Option<PoolConnection<Sqlite>>);

impl Unclean {
    async fn roll_back(&mut self) {
        if let Some(connection) = &mut self.0
            && execute(connection, "ROLLBACK").await.is_ok()
        {
            self.0 = None;
        }
    }
}

impl Drop for Unclean {
    fn drop(&mut self) {
        if let Some(connection) = &mut self.0 {
            connection.close_on_drop();
        }
    }
}

#[async_trait]
impl AuditTx for SqliteTx {
    fn head(&self) -> &LogHead {
        &self.head
    }

    async fn apply(
        &mut self,
        change: &Change,
        epoch: u64,
    ) -> Result<Result<(), Conflict>, StoreError> {
        refuse_change(change)?;
        let log_id = self.head.log_id;
        let connection = self.start()?;
        execute(connection, "SAVEPOINT change").await?;
        let applied = super::changes::apply(connection, log_id, change, epoch).await?;
        if applied.is_err() {
            execute(connection, "ROLLBACK TO change").await?;
        }
        execute(connection, "RELEASE change").await?;
        self.busy = false;
        Ok(applied)
    }

    async fn insert(
        &mut self,
        first_sequence: u64,
        events: &[PreparedEvent],
    ) -> Result<(), StoreError> {
        refuse_events(events)?;
        let first = stored_number(first_sequence)?;
        let log_id = self.head.log_id.to_string();
        let connection = self.start()?;
        events::insert(connection, &log_id, first, events).await?;
        self.busy = false;
        Ok(())
    }

    async fn commit(mut self: Box<Self>, head: &LogHead) -> Result<(), StoreError> {
        let (size, epoch) = (stored_number(head.size)?, stored_number(head.epoch)?);
        let connection = self.start()?;
        // One trip to SQLite's thread. An error of the UPDATE counts as one of the COMMIT:
        // looked up, it is found not to have taken effect.
        sqlx::query(
            "UPDATE log_head SET size = $1, frontier = $2, epoch = $3 WHERE one = 1; COMMIT",
        )
        .bind(size)
        .bind(head.frontier.as_flattened())
        .bind(epoch)
        .execute(&mut *connection)
        .await
        .map_err(|e| StoreError::CommitUnknown(e.to_string()))?;
        self.connection.0 = None;
        // Written, but where nobody finds it: then nothing is answered.
        self.files.require()
    }
}

impl SqliteTx {
    /// The connection for some statements. Until one who saw them all end well says that it
    /// is not busy any more, the transaction cannot go on.
    fn start(&mut self) -> Result<&mut SqliteConnection, StoreError> {
        if self.busy {
            return Err(StoreError::Unavailable(
                "the transaction failed before".to_owned(),
            ));
        }
        self.busy = true;
        self.connection
            .0
            .as_deref_mut()
            .ok_or_else(|| StoreError::Unavailable("the connection is gone".to_owned()))
    }
}

async fn execute(connection: &mut SqliteConnection, sql: &'static str) -> Result<(), StoreError> {
    sqlx::query(sql)
        .execute(connection)
        .await
        .map(drop)
        .map_err(translate)
}

const READ_HEAD: &str = "SELECT log_id, size, frontier, epoch FROM log_head WHERE one = 1";
const BEGIN: &str =
    "BEGIN IMMEDIATE; SELECT log_id, size, frontier, epoch FROM log_head WHERE one = 1";

async fn read_head(
    connection: &mut SqliteConnection,
    sql: &'static str,
) -> Result<LogHead, StoreError> {
    let row = sqlx::query(sql)
        .fetch_optional(connection)
        .await
        .map_err(translate)?
        .ok_or_else(no_head)?;
    let bytes: Vec<u8> = row.try_get(2).map_err(translate)?;
    Ok(LogHead {
        log_id: parse_uuid(row.try_get(0).map_err(translate)?)?,
        size: unsigned(row.try_get(1).map_err(translate)?)?,
        frontier: frontier(&bytes)?,
        epoch: unsigned(row.try_get(3).map_err(translate)?)?,
    })
}

#[async_trait]
impl AuditStore for SqliteStore {
    async fn ensure_log(&self, log_id: Uuid) -> Result<LogHead, StoreError> {
        sqlx::query(
            "INSERT INTO log_head (one, log_id, size, frontier, epoch) VALUES (1, $1, 0, x'', 0) \
             ON CONFLICT (one) DO NOTHING",
        )
        .bind(log_id.to_string())
        .execute(&mut *self.writer().await?)
        .await
        .map_err(translate)?;
        self.head().await
    }

    async fn head(&self) -> Result<LogHead, StoreError> {
        let mut connection = self.readers.acquire().await.map_err(translate)?;
        read_head(&mut connection, READ_HEAD).await
    }

    async fn begin_with(
        &self,
        event_ids: &[Uuid],
        since: u64,
    ) -> Result<(Box<dyn AuditTx>, Vec<Uuid>), StoreError> {
        let connection = self.writer().await?;
        // Before BEGIN, so that a call that is dropped here leaves no transaction.
        let mut tx = Box::new(SqliteTx {
            connection: Unclean(Some(connection)),
            files: Arc::clone(&self.files),
            head: LogHead {
                log_id: Uuid::nil(),
                size: 0,
                frontier: Vec::new(),
                epoch: 0,
            },
            busy: false,
        });
        let connection = tx.start()?;
        let head = read_head(connection, BEGIN).await?;
        let present = match event_ids {
            [] => Vec::new(),
            ids => events::present(connection, ids, since).await?,
        };
        tx.head = head;
        tx.busy = false;
        Ok((tx, present))
    }

    async fn find(&self, event_id: Uuid) -> Result<Option<u64>, StoreError> {
        // On the writer connection: whatever it was doing has ended when we get it.
        let row = sqlx::query("SELECT sequence FROM audit_events WHERE event_id = $1")
            .bind(event_id.to_string())
            .fetch_optional(&mut *self.writer().await?)
            .await
            .map_err(translate)?;
        // It decides whether something is answered, as a commit does.
        self.files.require()?;
        row.map(|r| unsigned(r.try_get(0).map_err(translate)?))
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

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;
    use crate::model::{Event, EventType};

    fn event(id: Uuid) -> PreparedEvent {
        let (kind, log, time) = (EventType::Decision, Uuid::nil(), OffsetDateTime::UNIX_EPOCH);
        let event = Event::new(kind, log, id, time);
        PreparedEvent {
            leaf: event.leaf().expect("a leaf"),
            leaf_hash: [0; 32],
            columns: event.into_columns(),
            inputs: None,
        }
    }

    async fn kept(store: &SqliteStore) -> bool {
        let sql = "SELECT count(*) FROM sqlite_temp_master WHERE name = 'kept'";
        let found = sqlx::query_scalar(sql).fetch_one(&store.writer).await;
        found.map(|found: i64| found == 1).expect("the writer")
    }

    /// A table that only one connection has tells whether another took its place.
    #[tokio::test]
    async fn a_dropped_transaction_keeps_its_connection_and_a_failed_one_does_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = SqliteStore::with_log(folder.path()).await;
        store.intrude("CREATE TEMP TABLE kept (x)").await;

        let id = Uuid::new_v4();
        let event = event(id);
        for _ in 0..3 {
            let (mut tx, _) = store.begin_with(&[], 0).await.expect("begins");
            let events = std::slice::from_ref(&event);
            tx.insert(0, events).await.expect("inserts");
            drop(tx);
            assert_eq!(store.find(id).await.expect("looks"), None);
        }
        assert!(kept(&store).await, "closed, though nothing had failed");

        let (mut tx, _) = store.begin_with(&[], 0).await.expect("begins");
        let refused = tx.insert(0, &[event.clone(), event]).await;
        assert!(
            matches!(refused, Err(StoreError::Refused(_))),
            "{refused:?}"
        );
        drop(tx);
        assert_eq!(store.find(id).await.expect("looks"), None);
        assert!(!kept(&store).await, "kept, though SQLite had failed on it");
    }

    #[tokio::test]
    async fn a_commit_to_a_file_that_is_gone_is_no_answer() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = SqliteStore::with_log(folder.path()).await;
        let id = Uuid::new_v4();
        let (mut tx, _) = store.begin_with(&[], 0).await.expect("begins");
        tx.insert(0, &[event(id)]).await.expect("inserts");
        let head = LogHead {
            size: 1,
            ..tx.head().clone()
        };
        let (file, aside) = ("zta.db-wal", "aside");
        let rename = |from, to| std::fs::rename(folder.path().join(from), folder.path().join(to));
        rename(file, aside).expect("moves it");
        let done = tx.commit(&head).await;
        assert!(matches!(done, Err(StoreError::Unavailable(_))), "{done:?}");
        let begun = store.begin_with(&[], 0).await.map(|_| ());
        assert!(
            matches!(begun, Err(StoreError::Unavailable(_))),
            "{begun:?}"
        );
        let found = store.find(id).await;
        assert!(
            matches!(found, Err(StoreError::Unavailable(_))),
            "{found:?}"
        );
        rename(aside, file).expect("puts it back");
        assert_eq!(store.find(id).await.expect("looks"), Some(0));
    }

    /// As SQLite does it by itself where the disk fails, also under a SELECT.
    #[tokio::test]
    async fn a_connection_on_which_sqlite_ended_a_transaction_is_used_no_more() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = SqliteStore::with_log(folder.path()).await;
        for pool in [&store.readers, &store.writer] {
            let mut tx = pool.begin().await.expect("begins");
            let ended = sqlx::raw_sql("ROLLBACK").execute(&mut *tx).await;
            ended.expect("ends");
            drop(tx);
            let mut tx = pool.begin().await.expect("begins again");
            let read = read_head(&mut tx, READ_HEAD).await;
            assert_eq!(read.expect("the head").epoch, 0);
            drop(tx);
        }
        store.intrude("UPDATE log_head SET epoch = 7").await;
        for _ in 0..3 {
            assert_eq!(store.head().await.expect("the head").epoch, 7);
        }
    }
}
