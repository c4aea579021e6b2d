//! The two databases: a fresh one for each test, dropped with it.

use std::str::FromStr as _;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, PgConnection, SqliteConnection};

/// The role that the server works under, as in production: of the audit it can only add.
const ROLE: &str = "zta_it_server";

/// Where a server keeps its log.
pub(crate) enum Database {
    /// A file in the server's data folder.
    Sqlite,
    /// A database of its own.
    Postgres(Fresh),
}

impl Database {
    /// Both, each fresh.
    pub(crate) async fn both() -> [Self; 2] {
        [Self::Sqlite, Self::postgres().await]
    }

    /// A new Postgres database.
    pub(crate) async fn postgres() -> Self {
        let superuser = std::env::var("ZTA_TEST_POSTGRES_URL").expect(
            "ZTA_TEST_POSTGRES_URL is not set: these tests need a Postgres; `make test` starts one",
        );
        Self::postgres_at(&superuser).await
    }

    /// A new database on the Postgres of this superuser's URL.
    pub(crate) async fn postgres_at(superuser: &str) -> Self {
        Self::Postgres(Fresh::create(superuser.to_owned()).await)
    }

    /// Its kind, for messages.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres(_) => "postgres",
        }
    }
}

/// A Postgres database that is dropped with this value.
pub(crate) struct Fresh {
    name: String,
    superuser: String,
}

impl Fresh {
    async fn create(superuser: String) -> Self {
        let name = format!("zta_it_{}", uuid::Uuid::new_v4().simple());
        let mut connection = connect(&superuser).await;
        // Tests run side by side and one of them makes the role.
        let role = format!(
            "DO $$ BEGIN CREATE ROLE {ROLE} LOGIN IN ROLE zta_service; \
             EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"
        );
        run(&mut connection, &role).await;
        run(&mut connection, &format!("CREATE DATABASE {name}")).await;
        Self { name, superuser }
    }

    /// The URL under which the database's owner migrates, and a test plays the intruder.
    pub(crate) fn superuser_url(&self) -> String {
        let (server, parameters) = self
            .superuser
            .split_once('?')
            .unwrap_or((&self.superuser, ""));
        let (server, _) = server
            .rsplit_once('/')
            .expect("a URL that names a database");
        format!("{server}/{}?{parameters}", self.name)
    }

    /// The URL under which the server works.
    pub(crate) fn server_url(&self) -> String {
        let url = self.superuser_url();
        let user = PgConnectOptions::from_str(&url).expect("a URL");
        url.replacen(
            &format!("//{}@", user.get_username()),
            &format!("//{ROLE}@"),
            1,
        )
    }

    /// Ends every connection of servers.
    pub(crate) async fn terminate_connections(&self) {
        let mut connection = connect(&self.superuser).await;
        let sql = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}'",
            self.name
        );
        run(&mut connection, &sql).await;
    }

    /// Lets nobody in, or everybody again.
    pub(crate) async fn allow_connections(&self, allowed: bool) {
        let mut connection = connect(&self.superuser).await;
        let sql = format!("ALTER DATABASE {} ALLOW_CONNECTIONS {allowed}", self.name);
        run(&mut connection, &sql).await;
    }

    /// Makes the partitions of an empty log hold so many events. Only a superuser gets around
    /// the rule that they are wider.
    pub(crate) async fn partitions_of(&self, events: u32) {
        let sql = format!(
            "ALTER TABLE audit_layout DROP CONSTRAINT audit_layout_partition_width_check; \
             UPDATE audit_layout SET partition_width = {events}; \
             DROP TABLE audit_events_0; DROP TABLE audit_inputs_0"
        );
        run(&mut self.intruder().await, &sql).await;
    }

    /// A connection that may do anything.
    pub(crate) async fn intruder(&self) -> PgConnection {
        connect(&self.superuser_url()).await
    }
}

async fn connect(url: &str) -> PgConnection {
    let options = PgConnectOptions::from_str(url).expect("ZTA_TEST_POSTGRES_URL is a URL");
    let options = options.disable_statement_logging();
    PgConnection::connect_with(&options)
        .await
        .expect("Postgres answers")
}

impl super::Server {
    /// Runs one statement on the database of the running server, as its owner.
    pub(crate) async fn sql(&self, sql: &str) {
        match &*self.database {
            Database::Postgres(database) => run(&mut database.intruder().await, sql).await,
            Database::Sqlite => {
                let url = format!("sqlite://{}", self.data().join("zta.db").display());
                let mut connection = SqliteConnection::connect(&url).await.expect("the store");
                let result = connection
                    .execute(sqlx::AssertSqlSafe(sql.to_owned()))
                    .await;
                result.unwrap_or_else(|e| panic!("{sql}: {e}"));
            }
        }
    }
}

/// Runs one statement of the test's own making.
pub(crate) async fn run(connection: &mut PgConnection, sql: &str) {
    let result = connection
        .execute(sqlx::AssertSqlSafe(sql.to_owned()))
        .await;
    result.unwrap_or_else(|e| panic!("{sql}: {e}"));
}

impl Drop for Fresh {
    fn drop(&mut self) {
        let (url, name) = (self.superuser.clone(), self.name.clone());
        // Not on the test's runtime, which may be ending.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.expect("a runtime").block_on(async {
                let mut connection = connect(&url).await;
                run(
                    &mut connection,
                    &format!("DROP DATABASE {name} WITH (FORCE)"),
                )
                .await;
            });
        });
        let _ = dropped.join();
    }
}
