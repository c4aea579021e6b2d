//! The store of a fleet: many replicas on one Postgres. One connection that writes
//! ([`writer`]), a pool that can only read, and one that listens for changes.
//!
//! A total order over all replicas follows from the head row, which each transaction
//! of the log locks before anything else. Everything durable goes through the writing
//! connection, whose `synchronous_commit` is on whatever the server's default is.

mod audit;
mod authorities;
mod certificates;
mod changes;
mod entities;
mod error;
mod events;
mod instances;
mod notice;
mod parties;
mod partitions;
mod policy;
mod proofs;
mod proposals;
mod query;
mod registry;
mod replicas;
mod retention;
mod revocations;
mod users;
mod writer;

use std::collections::BTreeSet;
use std::str::FromStr as _;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::migrate::MigrateError;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Executor as _, PgPool, Row as _};

use self::error::translate;
use self::notice::Notices;
use self::partitions::Partitions;
use self::writer::{Writer, within};
use super::value::{no_head, refuse_nul};
use super::{BlobStore, Store, StoreError};

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../migrations/postgres");

/// How long a reader waits for a connection before the call fails.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections that read.
const READERS_MAX: u32 = 8;
/// The oldest server that the conformance suite runs on, as `server_version_num`.
const VERSION_MIN: u32 = 150_000;
const READER_SESSION: &str = "SET default_transaction_read_only = on; \
    SET statement_timeout = '30s'; SET idle_in_transaction_session_timeout = '60s'";

/// The store of a fleet.
pub struct PostgresStore {
    options: PgConnectOptions,
    writer: Writer,
    partitions: Partitions,
    readers: PgPool,
    notices: Notices,
}

impl std::fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresStore").finish_non_exhaustive()
    }
}

impl PostgresStore {
    /// Connects to the database of a URL, for example `postgres://zta@db/zta` or, over
    /// a Unix socket, `postgres:///zta?host=/run/postgresql`.
    ///
    /// # Errors
    /// When the URL cannot be read, the server cannot be reached, or is too old or
    /// set up so that it would not keep what we write.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        // The error is left out: it could quote a part of the URL, and with it a password.
        let options = PgConnectOptions::from_str(url)
            .map_err(|_| StoreError::Unavailable("the database URL cannot be read".to_owned()))?
            .application_name("zta");
        let readers = PgPoolOptions::new()
            .max_connections(READERS_MAX)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .after_connect(|connection, _| {
                Box::pin(async move { connection.execute(READER_SESSION).await.map(drop) })
            })
            .connect_lazy_with(options.clone());
        let store = Self {
            notices: Notices::new(options.clone()),
            writer: Writer::new(options.clone()),
            partitions: Partitions::default(),
            options,
            readers,
        };
        store.inspect_server().await?;
        Ok(store)
    }

    /// Whether exactly our migrations are applied.
    async fn is_migrated(&self) -> Result<bool, StoreError> {
        let rows = sqlx::query("SELECT version, success, checksum FROM _sqlx_migrations")
            .fetch_all(&self.readers)
            .await;
        let rows = match rows.map_err(translate) {
            Err(StoreError::Schema(_)) => return Ok(false),
            rows => rows?,
        };
        let mut applied = BTreeSet::new();
        for row in &rows {
            let version: i64 = row.try_get("version").map_err(translate)?;
            let success: bool = row.try_get("success").map_err(translate)?;
            let checksum: Vec<u8> = row.try_get("checksum").map_err(translate)?;
            applied.insert((version, success, checksum));
        }
        let ours = MIGRATIONS
            .iter()
            .map(|m| (m.version, true, m.checksum.to_vec()));
        Ok(applied == ours.collect())
    }

    async fn inspect_server(&self) -> Result<(), StoreError> {
        let sql = "SELECT current_setting('server_version_num') AS version, \
                   current_setting('server_encoding') AS encoding, \
                   current_setting('fsync') AS fsync, current_setting('full_page_writes') AS pages";
        let (_lease, rows) = self.writer.query(sql, false).await?;
        let row = rows.first().ok_or_else(no_head)?;
        let text = |name: &str| row.try_get::<String, _>(name).map_err(translate);
        if text("version")?.parse::<u32>().unwrap_or(0) < VERSION_MIN {
            return Err(StoreError::Schema(
                "Postgres 15 or newer is needed".to_owned(),
            ));
        }
        if text("encoding")? != "UTF8" {
            return Err(StoreError::Schema(
                "the database must be encoded in UTF8".to_owned(),
            ));
        }
        for (setting, value) in [
            ("fsync", text("fsync")?),
            ("full_page_writes", text("pages")?),
        ] {
            if value != "on" {
                tracing::warn!(
                    "Postgres runs with `{setting} = {value}`: a crash of its machine can lose events that were answered"
                );
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn migrate(&self) -> Result<(), StoreError> {
        // A role that owns nothing may look, but not so much as lock for a migration.
        if self.is_migrated().await? {
            return Ok(());
        }
        // A connection of its own: a migration may take longer than any statement may.
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_lazy_with(self.options.clone());
        let done = MIGRATIONS.run(&pool).await;
        pool.close().await;
        done.map_err(|error| match error {
            MigrateError::Execute(inner) => translate(inner),
            other => StoreError::Schema(other.to_string()),
        })
    }

    async fn wait_for_change(&self) {
        self.notices.wait().await;
    }

    async fn close(&self) {
        self.notices.close().await;
        self.readers.close().await;
        self.writer.close().await;
    }
}

#[async_trait]
impl BlobStore for PostgresStore {
    async fn get_blob(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        refuse_nul([&name.to_owned()])?;
        sqlx::query_scalar("SELECT value FROM blobs WHERE name = $1")
            .bind(name)
            .fetch_optional(&self.readers)
            .await
            .map_err(translate)
    }

    async fn put_blob_if_absent(&self, name: &str, value: &[u8]) -> Result<Vec<u8>, StoreError> {
        refuse_nul([&name.to_owned()])?;
        let mut lease = self.writer.lease().await?;
        let insert = sqlx::query(
            "INSERT INTO blobs (name, log_id, value) SELECT $1, log_id, $2 FROM log_head \
             ON CONFLICT (name) DO NOTHING",
        )
        .bind(name)
        .bind(value)
        .execute(lease.start()?);
        within(insert).await.map_err(translate)?;
        lease.done();
        drop(lease);
        self.get_blob(name).await?.ok_or_else(no_head)
    }
}
