//! Somebody with the database's full rights: the triggers are gone, every row can be
//! changed. Works on both databases by the same statements.

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, SqliteConnection};
use zta_server::audit::merkle::Frontier;

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
}
