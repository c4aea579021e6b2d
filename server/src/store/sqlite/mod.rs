//! The embedded store: one SQLite file, one process. One writer connection that
//! commits with `BEGIN IMMEDIATE` and `synchronous=FULL`, and a pool of readers (WAL).

mod audit;
mod authorities;
mod backfill;
mod certificates;
mod changes;
mod entities;
mod events;
mod files;
mod instances;
mod parties;
mod policy;
mod proofs;
mod proposals;
mod query;
mod registry;
mod replicas;
mod retention;
mod revocations;
mod users;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Connection as _, Executor as _, Row as _, Sqlite, SqliteConnection, SqlitePool};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::Notify;

use backfill::Backfill;
use files::DatabaseFiles;

use super::value::{corrupt, no_head, refuse_nul};
use super::{BlobStore, Store, StoreError, TILE_WIDTH};
use crate::model::canonical::list_text;
use crate::model::event::time_text;

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../migrations/sqlite");

/// How long a reader waits for a connection before the call fails.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections that read.
const READERS_MAX: u32 = 4;

/// Rows that SQLite's thread hands over before it waits for the one who asked: a tile's leaf
/// hashes, without a switch of threads for every few of them.
const ROWS_BUFFERED: usize = TILE_WIDTH as usize;

/// The embedded store.
#[derive(Debug)]
pub struct SqliteStore {
    files: Arc<DatabaseFiles>,
    writer: SqlitePool,
    readers: SqlitePool,
    backfill: Backfill,
}

impl SqliteStore {
    /// Opens the file, creating it with mode 0600 if it is missing.
    ///
    /// # Errors
    /// When the file cannot be opened as a database.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let mut files = DatabaseFiles::create(path)?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .row_buffer_size(ROWS_BUFFERED)
            .busy_timeout(Duration::from_secs(5));
        let written = Arc::new(Notify::new());
        let given_back = Arc::clone(&written);
        let writer = pool(1)
            .after_release(move |connection, _| {
                given_back.notify_one();
                Box::pin(is_clean(connection))
            })
            .connect_with(backfill::copied_by_another(options.clone()))
            .await
            .map_err(translate)?;
        // What is read first opens the WAL.
        let looked = writer.execute("SELECT 1 FROM sqlite_schema").await;
        looked.map_err(translate)?;
        files.were_opened();
        let files = Arc::new(files);
        let options = options.pragma("query_only", "ON");
        let backfill =
            Backfill::start(options.clone(), writer.clone(), Arc::clone(&files), written).await?;
        let readers = pool(READERS_MAX).connect_lazy_with(options);
        // All are opened now: later, one may find other files.
        let mut opened = Vec::new();
        for _ in 0..READERS_MAX {
            opened.push(readers.acquire().await.map_err(translate)?);
        }
        drop(opened);
        Ok(Self {
            files,
            writer,
            readers,
            backfill,
        })
    }

    /// An empty log in a folder.
    #[cfg(test)]
    pub(crate) async fn with_log(folder: &Path) -> Self {
        let store = Self::open(&folder.join("zta.db")).await.expect("opens");
        store.migrate().await.expect("migrates");
        let log_id = uuid::Uuid::nil();
        super::AuditStore::ensure_log(&store, log_id)
            .await
            .expect("a log");
        store
    }

    /// The one connection that writes, whose turn this is then. None is opened while other files
    /// stand at the paths: closing it could take the WAL with it.
    async fn writer(&self) -> Result<PoolConnection<Sqlite>, StoreError> {
        self.files.require()?;
        self.writer.acquire().await.map_err(translate)
    }

    /// Somebody with the file in their hands.
    #[cfg(test)]
    pub(crate) async fn intrude(&self, sql: &'static str) {
        let done = sqlx::raw_sql(sql).execute(&self.writer).await;
        done.expect("changes the file");
    }
}

/// Connections to a file, which neither ages nor hangs up: none is tested before its use.
fn pool(max: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(max)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .test_before_acquire(false)
        .max_lifetime(None)
        .idle_timeout(None)
        .after_release(|connection, _| Box::pin(is_clean(connection)))
}

/// Whether a connection may be used again. Where SQLite itself ended a transaction, sqlx's count
/// of it stays wrong, and all that is read afterwards would be of one moment, for ever.
async fn is_clean(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    if connection.is_in_transaction() {
        // Of a rollback under way this is the end.
        connection.ping().await?;
    }
    Ok(!connection.is_in_transaction())
}

#[async_trait]
impl Store for SqliteStore {
    async fn migrate(&self) -> Result<(), StoreError> {
        self.files.require()?;
        MIGRATIONS
            .run(&self.writer)
            .await
            .map_err(|e| StoreError::Schema(e.to_string()))
    }

    async fn wait_for_change(&self) {
        // One process: whoever changes something here knows it. The tick is for a
        // second process on the same file.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }

    async fn ended(&self) {
        self.backfill.ended().await;
    }

    async fn close(&self) {
        self.readers.close().await;
        self.backfill.close().await;
        self.writer.close().await;
    }
}

#[async_trait]
impl BlobStore for SqliteStore {
    async fn get_blob(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        refuse_nul([&name.to_owned()])?;
        let row = sqlx::query("SELECT value FROM blobs WHERE name = $1")
            .bind(name)
            .fetch_optional(&self.readers)
            .await
            .map_err(translate)?;
        row.map(|r| r.try_get(0).map_err(translate)).transpose()
    }

    async fn put_blob_if_absent(&self, name: &str, value: &[u8]) -> Result<Vec<u8>, StoreError> {
        refuse_nul([&name.to_owned()])?;
        sqlx::query(
            "INSERT INTO blobs (name, log_id, value) SELECT $1, log_id, $2 FROM log_head \
             WHERE true ON CONFLICT (name) DO NOTHING",
        )
        .bind(name)
        .bind(value)
        .execute(&mut *self.writer().await?)
        .await
        .map_err(translate)?;
        self.get_blob(name).await?.ok_or_else(no_head)
    }
}

/// sqlx's errors as ours. The text names no values: sqlx does not put bound ones in.
fn translate(error: sqlx::Error) -> StoreError {
    match &error {
        sqlx::Error::Database(inner) if is_constraint(inner.code().as_deref()) => {
            StoreError::Refused(inner.message().to_owned())
        }
        // SQLite has one code for all that it cannot prepare.
        sqlx::Error::Database(inner)
            if ["no such table", "no such column"]
                .iter()
                .any(|p| inner.message().starts_with(p)) =>
        {
            StoreError::Schema(inner.message().to_owned())
        }
        sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::Decode(_)
        | sqlx::Error::RowNotFound
        | sqlx::Error::ColumnNotFound(_) => StoreError::Corrupt(error.to_string()),
        _ => StoreError::Unavailable(error.to_string()),
    }
}

/// A key that exists, a trigger that refuses: not what a sequence of our own commits
/// can lead to. The low byte of an extended code is its primary one.
fn is_constraint(code: Option<&str>) -> bool {
    const SQLITE_CONSTRAINT: u32 = 19;
    code.and_then(|c| c.parse::<u32>().ok())
        .is_some_and(|c| c & 0xff == SQLITE_CONSTRAINT)
}

fn parse_time(text: &str) -> Result<OffsetDateTime, StoreError> {
    OffsetDateTime::parse(text, &Rfc3339).map_err(|_| corrupt("a time that is not RFC 3339"))
}

fn parse_list(text: &str) -> Result<Vec<String>, StoreError> {
    serde_json::from_str(text).map_err(|_| corrupt("a list that is not JSON"))
}
