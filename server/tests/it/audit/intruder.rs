//! Somebody with the database's full rights: the triggers are gone, every row can be
//! changed. Works on both databases by the same statements.

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, SqliteConnection};
use time::macros::datetime;
use uuid::Uuid;
use zta_server::audit::merkle::{Frontier, leaf_hash};
use zta_server::model::{Event, EventType};

use crate::support::{Database, Server};

const TABLES: [&str; 6] = [
    "log_head",
    "audit_events",
    "audit_inputs",
    "checkpoints",
    "log_tiles",
    "audit_pruned",
];

/// The stopped server's database under an intruder's hands.
pub(super) enum Intruder {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

impl Intruder {
    /// Takes the triggers away and remembers the tables as they are.
    pub(super) async fn open(server: &Server) -> Self {
        let mut intruder = match &*server.database {
            Database::Sqlite => {
                let url = format!("sqlite://{}", server.data().join("zta.db").display());
                Self::Sqlite(SqliteConnection::connect(&url).await.expect("the store"))
            }
            Database::Postgres(database) => Self::Postgres(database.intruder().await),
        };
        match &mut intruder {
            Self::Sqlite(connection) => {
                let triggers: Vec<String> =
                    sqlx::query_scalar("SELECT name FROM sqlite_master WHERE type = 'trigger'")
                        .fetch_all(connection)
                        .await
                        .expect("triggers");
                assert!(triggers.len() > 2, "there is something to take away");
                for trigger in triggers {
                    intruder.run(&format!("DROP TRIGGER {trigger}")).await;
                }
            }
            Self::Postgres(_) => {
                for table in TABLES {
                    intruder
                        .run(&format!("ALTER TABLE {table} DISABLE TRIGGER ALL"))
                        .await;
                }
            }
        }
        for table in TABLES {
            intruder
                .run(&format!(
                    "CREATE TABLE before_{table} AS SELECT * FROM {table}"
                ))
                .await;
        }
        intruder
    }

    /// Whether it is Postgres.
    pub(super) fn is_postgres(&self) -> bool {
        matches!(self, Self::Postgres(_))
    }

    /// Runs a statement; how many rows it changed.
    pub(super) async fn run(&mut self, sql: &str) -> u64 {
        let safe = AssertSqlSafe(sql.to_owned());
        let done = match self {
            Self::Sqlite(connection) => connection.execute(safe).await.map(|d| d.rows_affected()),
            Self::Postgres(connection) => connection.execute(safe).await.map(|d| d.rows_affected()),
        };
        done.unwrap_or_else(|e| panic!("{sql}: {e}"))
    }

    /// Runs a statement that must change something.
    pub(super) async fn change(&mut self, sql: &str) {
        assert!(self.run(sql).await > 0, "changes nothing: {sql}");
    }

    /// Puts the tables back.
    pub(super) async fn restore(&mut self) {
        for table in TABLES {
            self.run(&format!("DELETE FROM {table}")).await;
            self.run(&format!("INSERT INTO {table} SELECT * FROM before_{table}"))
                .await;
        }
    }

    /// One column of bytes.
    pub(super) async fn bytes(&mut self, sql: &str) -> Vec<Vec<u8>> {
        let query = sqlx::query_scalar(AssertSqlSafe(sql.to_owned()));
        match self {
            Self::Sqlite(connection) => query.fetch_all(connection).await,
            Self::Postgres(connection) => {
                sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
                    .fetch_all(connection)
                    .await
            }
        }
        .unwrap_or_else(|e| panic!("{sql}: {e}"))
    }

    /// One number.
    pub(super) async fn number(&mut self, sql: &str) -> i64 {
        match self {
            Self::Sqlite(connection) => {
                sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
                    .fetch_one(connection)
                    .await
            }
            Self::Postgres(connection) => {
                sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
                    .fetch_one(connection)
                    .await
            }
        }
        .unwrap_or_else(|e| panic!("{sql}: {e}"))
    }

    /// Bytes as a literal.
    pub(super) fn literal(&self, bytes: &[u8]) -> String {
        if self.is_postgres() {
            format!("'\\x{}'::bytea", hex::encode(bytes))
        } else {
            format!("x'{}'", hex::encode(bytes))
        }
    }

    /// Makes the head fit the rows, as a careful forger would.
    pub(super) async fn rewrite_head(&mut self) {
        let mut tree = Frontier::default();
        for hash in self
            .bytes("SELECT leaf_hash FROM audit_events ORDER BY sequence")
            .await
        {
            tree.push(hash.try_into().expect("32 bytes"));
        }
        let roots = self.literal(&tree.roots().concat());
        let size = tree.size();
        self.change(&format!(
            "UPDATE log_head SET size = {size}, frontier = {roots}"
        ))
        .await;
    }

    /// Appends an event that says that records below `size` were pruned, and moves the head, as
    /// the server would.
    pub(super) async fn append_pruned(&mut self, id: Uuid, size: u64, statement: &str) {
        let place = self.number("SELECT size FROM log_head").await;
        let log_id = self.bytes_of("SELECT leaf FROM audit_events LIMIT 1").await;
        let log_id: serde_json::Value = serde_json::from_slice(&log_id).expect("JSON");
        let log_id = log_id["log_id"].as_str().and_then(|id| id.parse().ok());
        let log_id: Uuid = log_id.expect("the log's id");
        let event = Event::new(
            EventType::LogPruned,
            log_id,
            id,
            datetime!(2026-11-27 10:00 UTC),
        )
        .with_detail("size", size.to_string())
        .with_detail("statement", statement);
        let leaf = event.leaf().expect("a leaf");
        let hash = leaf_hash(&leaf);
        let policies = if self.is_postgres() { "{}" } else { "[]" };
        let row = format!(
            "INSERT INTO audit_events (sequence, log_id, event_id, time, type, policies, leaf, \
             leaf_hash) VALUES ({place}, '{log_id}', '{id}', '2026-11-27T10:00:00.000000Z', \
             'log_pruned', '{policies}', {}, {})",
            self.literal(&leaf),
            self.literal(&hash)
        );
        self.change(&row).await;
        let before = self.bytes_of("SELECT frontier FROM log_head").await;
        let roots = before.as_chunks::<32>().0.to_vec();
        let mut tree = Frontier::new(place as u64, roots).expect("a tree");
        tree.push(hash);
        let roots = self.literal(&tree.roots().concat());
        let head = format!(
            "UPDATE log_head SET size = {}, frontier = {roots}",
            tree.size()
        );
        self.change(&head).await;
    }

    /// The bytes of one row.
    async fn bytes_of(&mut self, sql: &str) -> Vec<u8> {
        self.bytes(sql).await.remove(0)
    }
}
