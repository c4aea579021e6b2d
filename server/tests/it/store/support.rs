//! What the cases share: a fresh database each, and events to write.

use std::pin::Pin;
use std::str::FromStr as _;
use std::sync::Arc;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use sqlx::{AssertSqlSafe, PgPool, SqlitePool};
use time::OffsetDateTime;
use time::macros::datetime;
use uuid::Uuid;
use zta_server::model::arguments::sha256;
use zta_server::model::event::Inputs;
use zta_server::model::{Change, Conflict, Event, EventType};
use zta_server::store::postgres::PostgresStore;
use zta_server::store::sqlite::SqliteStore;
use zta_server::store::{AuditTx, LogHead, PreparedEvent, SharedStore, StoreError, StoredEvent};

pub(crate) const NOW: OffsetDateTime = datetime!(2026-11-22 10:00:00.123456 UTC);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Sqlite,
    Postgres,
}

type Run = Box<dyn Fn(Db) -> Pin<Box<dyn Future<Output = ()> + Send>>>;

pub(crate) struct Case {
    name: &'static str,
    only: Option<Kind>,
    run: Run,
}

/// A case for both databases.
pub(crate) fn case<F: Future<Output = ()> + Send + 'static>(
    name: &'static str,
    body: fn(Db) -> F,
) -> Case {
    Case {
        name,
        only: None,
        run: Box::new(move |db| Box::pin(body(db))),
    }
}

/// A case about what only one of them has.
pub(crate) fn only<F: Future<Output = ()> + Send + 'static>(
    kind: Kind,
    name: &'static str,
    body: fn(Db) -> F,
) -> Case {
    Case {
        only: Some(kind),
        ..case(name, body)
    }
}

/// Runs each case on a database of its own, and names all that failed.
#[allow(
    clippy::print_stdout,
    reason = "one line per case, shown when the test fails"
)]
pub(crate) fn run(kind: Kind, cases: Vec<Case>) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut failed = Vec::new();
    for case in cases {
        if case.only.is_some_and(|only| only != kind) {
            continue;
        }
        let started = std::time::Instant::now();
        let ended = runtime.block_on(async {
            let db = Db::create(kind).await;
            let place = db.place.clone();
            let limit = std::time::Duration::from_secs(60);
            let ended = tokio::spawn(tokio::time::timeout(limit, (case.run)(db))).await;
            place.remove().await;
            matches!(ended, Ok(Ok(())))
        });
        let verdict = if ended { "ok" } else { "FAILED" };
        println!("{kind:?} {} {verdict} {:?}", case.name, started.elapsed());
        if !ended {
            failed.push(case.name);
        }
    }
    assert!(failed.is_empty(), "{kind:?}: failed {failed:?}");
}

/// Where a database is.
#[derive(Clone)]
enum Place {
    File(Arc<tempfile::TempDir>),
    Database(Box<Postgres>, String),
}

impl Place {
    async fn remove(self) {
        if let Self::Database(server, name) = self {
            let sql = format!("DROP DATABASE {name} WITH (FORCE)");
            server
                .execute(&sql)
                .await
                .expect("drop the test's database");
        }
    }
}

/// A server to create databases on.
#[derive(Clone)]
pub(crate) struct Postgres {
    options: PgConnectOptions,
}

impl Postgres {
    fn from_env() -> Self {
        let url = std::env::var("ZTA_TEST_POSTGRES_URL").expect(
            "ZTA_TEST_POSTGRES_URL is not set: run `make test`, or this test under \
             `tools/with-postgres.sh cargo test`",
        );
        let options = PgConnectOptions::from_str(&url).expect("ZTA_TEST_POSTGRES_URL");
        assert!(
            options.get_socket().is_some(),
            "ZTA_TEST_POSTGRES_URL must name a Unix socket"
        );
        Self { options }
    }

    /// The socket's folder.
    pub(crate) fn folder(&self) -> String {
        let socket = self.options.get_socket().expect("a socket");
        socket.display().to_string()
    }

    pub(crate) fn port(&self) -> u16 {
        self.options.get_port()
    }

    pub(crate) fn url(&self, folder: &str, database: &str) -> String {
        let (user, port) = (self.options.get_username(), self.port());
        format!("postgres:///{database}?host={folder}&port={port}&user={user}")
    }

    /// As the superuser, on the maintenance database.
    pub(crate) async fn execute(&self, sql: &str) -> Result<(), sqlx::Error> {
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .connect_with(self.options.clone())
            .await?;
        let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&pool).await;
        pool.close().await;
        done.map(drop)
    }
}

/// Plain SQL beside the store.
#[derive(Clone)]
pub(crate) enum Raw {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

impl Raw {
    pub(crate) async fn execute(&self, sql: &str) -> Result<u64, sqlx::Error> {
        let sql = AssertSqlSafe(sql);
        match self {
            Self::Sqlite(pool) => sqlx::raw_sql(sql)
                .execute(pool)
                .await
                .map(|d| d.rows_affected()),
            Self::Postgres(pool) => sqlx::raw_sql(sql)
                .execute(pool)
                .await
                .map(|d| d.rows_affected()),
        }
    }

    /// How many rows a query returns.
    pub(crate) async fn rows(&self, sql: &str) -> Result<usize, sqlx::Error> {
        let sql = AssertSqlSafe(sql);
        match self {
            Self::Sqlite(pool) => sqlx::raw_sql(sql).fetch_all(pool).await.map(|r| r.len()),
            Self::Postgres(pool) => sqlx::raw_sql(sql).fetch_all(pool).await.map(|r| r.len()),
        }
    }
}

/// A fresh database with its schema, and a store on it.
pub(crate) struct Db {
    pub(crate) kind: Kind,
    pub(crate) store: SharedStore,
    pub(crate) raw: Raw,
    place: Place,
}

impl Db {
    async fn create(kind: Kind) -> Self {
        let (place, raw) = match kind {
            Kind::Sqlite => {
                let folder = tempfile::tempdir().expect("a folder");
                let file = folder.path().join("zta.db");
                let options = SqliteConnectOptions::new().filename(file);
                let raw = SqlitePoolOptions::new()
                    .max_connections(1)
                    .connect_lazy_with(options);
                (Place::File(Arc::new(folder)), Raw::Sqlite(raw))
            }
            Kind::Postgres => {
                let server = Postgres::from_env();
                let name = format!("zta_test_{}", Uuid::new_v4().simple());
                let sql = format!("CREATE DATABASE {name}");
                server.execute(&sql).await.expect("create a database");
                let options = server.options.clone().database(&name);
                let raw = PgPoolOptions::new()
                    .max_connections(1)
                    .connect_lazy_with(options);
                (Place::Database(Box::new(server), name), Raw::Postgres(raw))
            }
        };
        let store = place.open().await;
        store.migrate().await.expect("migrate");
        store.migrate().await.expect("migrate again");
        Self {
            kind,
            store,
            raw,
            place,
        }
    }

    /// A second store on the same database, as a second replica has one.
    pub(crate) async fn another(&self) -> SharedStore {
        self.place.open().await
    }

    /// The Postgres server and the database's name.
    pub(crate) fn postgres(&self) -> (&Postgres, &str) {
        match &self.place {
            Place::Database(server, name) => (server, name),
            Place::File(_) => panic!("not on Postgres"),
        }
    }

    /// The file's folder.
    pub(crate) fn folder(&self) -> &std::path::Path {
        match &self.place {
            Place::File(folder) => folder.path(),
            Place::Database(..) => panic!("not on SQLite"),
        }
    }

    /// With the log created.
    pub(crate) async fn with_log(self) -> Self {
        self.store
            .ensure_log(Uuid::from_u128(7))
            .await
            .expect("a log");
        self
    }
}

impl Place {
    async fn open(&self) -> SharedStore {
        match self {
            Self::File(folder) => {
                let file = folder.path().join("zta.db");
                Arc::new(SqliteStore::open(&file).await.expect("open"))
            }
            Self::Database(server, name) => {
                let url = server.url(&server.folder(), name);
                Arc::new(PostgresStore::connect(&url).await.expect("connect"))
            }
        }
    }
}

/// A decision by an actor, at a time some seconds after [`NOW`].
pub(crate) fn decision(actor: &str, seconds: i64) -> Event {
    let time = NOW + time::Duration::seconds(seconds);
    let mut event = Event::new(
        EventType::Decision,
        Uuid::from_u128(7),
        Uuid::now_v7(),
        time,
    );
    event.actor = Some(zta_server::model::EntityUid::new("ZTA::Agent", actor));
    event
}

pub(crate) fn prepared(event: &Event) -> PreparedEvent {
    let leaf = event.leaf().expect("a leaf");
    PreparedEvent {
        leaf_hash: sha256(&leaf),
        leaf,
        columns: event.columns(),
        inputs: None,
    }
}

pub(crate) fn with_inputs(event: &Event, json: &str) -> PreparedEvent {
    let inputs = Inputs {
        salt: *b"0123456789abcdef",
        json: json.as_bytes().to_vec(),
    };
    PreparedEvent {
        inputs: Some(inputs),
        ..prepared(event)
    }
}

/// The head after `events` more. The frontier has the right length; its hashes are
/// none of this suite's business.
pub(crate) fn advanced(head: &LogHead, events: usize, bump: bool) -> LogHead {
    let size = head.size + events as u64;
    LogHead {
        log_id: head.log_id,
        size,
        frontier: vec![sha256(&size.to_be_bytes()); size.count_ones() as usize],
        epoch: head.epoch + u64::from(bump),
    }
}

/// Writes and commits a batch, as the sequencer does, and returns its first sequence.
pub(crate) async fn append(store: &SharedStore, events: &[PreparedEvent]) -> u64 {
    let tx = store.begin().await.expect("begin");
    let first = tx.head().size;
    finish(tx, events, false).await.expect("append");
    first
}

/// Inserts and commits in a transaction that has begun.
pub(crate) async fn finish(
    mut tx: Box<dyn AuditTx>,
    events: &[PreparedEvent],
    bump: bool,
) -> Result<(), StoreError> {
    let head = tx.head().clone();
    tx.insert(head.size, events).await?;
    tx.commit(&advanced(&head, events.len(), bump)).await
}

/// Makes a change with one event, as an administrative act does. A conflict commits
/// the event alone.
pub(crate) async fn change(store: &SharedStore, change: &Change) -> Result<(), Conflict> {
    let mut tx = store.begin().await.expect("begin");
    let epoch = tx.head().epoch + 1;
    let applied = tx.apply(change, epoch).await.expect("apply");
    let bump = applied.is_ok() && change.bumps_epoch();
    let event = prepared(&decision("admin", 0));
    finish(tx, &[event], bump).await.expect("commit");
    applied
}

pub(crate) async fn all(store: &SharedStore) -> Vec<StoredEvent> {
    store.read(0, 10_000).await.expect("read")
}
