//! What each role of a Postgres may and may not: the one that reads, the one that the server
//! works under, and the owner of the tables.

use std::sync::Arc;

use sqlx::Executor as _;
use zta_server::model::Change;
use zta_server::store::SharedStore;
use zta_server::store::postgres::PostgresStore;

use super::support::{Db, Raw, append, decision, finish, prepared, with_inputs};

const READABLE: [&str; 11] = [
    "audit_events",
    "audit_inputs",
    "checkpoints",
    "log_head",
    "log_tiles",
    "audit_pruned",
    "audit_activity",
    "audit_denials_by_policy",
    "audit_delegations",
    "audit_first_uses",
    "audit_activity_by_hour",
];

/// Runs statements under a role, in a session that ends with them.
pub(crate) async fn under(db: &Db, role: &str, sql: &str) -> Result<(), sqlx::Error> {
    let Raw::Postgres(pool) = &db.raw else {
        panic!("not on Postgres")
    };
    let mut connection = pool.acquire().await?.detach();
    let sql = format!("SET ROLE {role}; {sql}");
    connection
        .execute(sqlx::raw_sql(sqlx::AssertSqlSafe(sql)))
        .await
        .map(drop)
}

pub(crate) async fn refused(db: &Db, role: &str, sql: &str, because: &[&str]) {
    let refused = under(db, role, sql).await.expect_err(sql).to_string();
    let fits = because.iter().any(|words| refused.contains(words));
    assert!(fits, "{role}: {sql}: {refused}");
}

/// Every table and view of the schema.
async fn relations(db: &Db) -> Vec<String> {
    let Raw::Postgres(pool) = &db.raw else {
        panic!("not on Postgres")
    };
    let sql = "SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace \
               AND relkind IN ('r', 'v', 'p', 'm', 'S', 'f') ORDER BY relname";
    sqlx::query_scalar(sql).fetch_all(pool).await.expect(sql)
}

async fn with_an_event(db: Db) -> Db {
    let db = db.with_log().await;
    append(&db.store, &[with_inputs(&decision("a", 0), "{}")]).await;
    db
}

pub(crate) const DENIED: [&str; 2] = ["permission denied", "must be owner"];

/// It reads the audit: no key, no join token, no registry, no policy; and writes nothing.
pub(crate) async fn auditor(db: Db) {
    let db = with_an_event(db).await;
    let all = relations(&db).await;
    for table in READABLE {
        assert!(all.iter().any(|name| name == table), "{table} is not there");
    }
    for table in &all {
        let read = format!("SELECT count(*) FROM {table}");
        if READABLE.contains(&&**table) || table == "_sqlx_migrations" {
            under(&db, "zta_auditor", &read).await.expect(&read);
        } else {
            refused(&db, "zta_auditor", &read, &DENIED).await;
        }
        for sql in [
            format!("INSERT INTO {table} DEFAULT VALUES"),
            format!("DELETE FROM {table}"),
            format!("TRUNCATE {table}"),
            format!("LOCK TABLE {table} IN EXCLUSIVE MODE"),
            format!("DROP TABLE {table}"),
        ] {
            let other = ["permission denied", "must be owner", "is not a table"];
            // A view is refused for what it is, before anybody's rights are looked at.
            let of_a_view = ["cannot insert into view", "cannot delete from view"];
            let because = [&other[..], &of_a_view].concat();
            refused(&db, "zta_auditor", &sql, &because).await;
        }
    }
    for sql in [
        "UPDATE audit_events SET leaf = ''",
        "UPDATE audit_inputs SET inputs = ''",
        "UPDATE log_head SET size = 0",
        "UPDATE audit_activity SET actor_id = ''",
        "SELECT size FROM log_head FOR UPDATE",
        "SELECT value FROM blobs",
        "SELECT secret_sha256 FROM join_tokens",
        "CREATE TABLE mine (x int)",
        "ALTER TABLE audit_events DISABLE TRIGGER ALL",
    ] {
        refused(&db, "zta_auditor", sql, &DENIED).await;
    }
}

/// An auditor verifies the log with what he may read.
async fn reads_as_auditor(db: &Db) {
    let (server, name) = db.postgres();
    let url = server.url(&server.folder(), name) + "&options[role]=zta_auditor";
    let store: SharedStore = Arc::new(PostgresStore::connect(&url).await.expect("connect"));
    store.migrate().await.expect("nothing to migrate");
    let read = store.read(0, 10).await.expect("read");
    assert!(!read.is_empty() && read.iter().all(|event| event.inputs.is_some()));
    store.head().await.expect("the head");
    store.latest_checkpoint().await.expect("checkpoints");
    store.tile_levels().await.expect("tiles");
    assert!(store.begin().await.is_err(), "an auditor holds no lock");
    assert!(
        store.get_blob("ca").await.is_err(),
        "an auditor sees no key"
    );
    store.close().await;
}

/// The server's role adds to the audit. It changes and destroys nothing of it.
pub(crate) async fn add_only(db: Db) {
    let db = with_an_event(db).await;
    reads_as_auditor(&db).await;
    for table in [
        "audit_events",
        "audit_inputs",
        "checkpoints",
        "log_tiles",
        "audit_pruned",
    ] {
        for sql in [
            format!("UPDATE {table} SET log_id = log_id"),
            format!("DELETE FROM {table}"),
            format!("TRUNCATE {table}"),
            format!("ALTER TABLE {table} DISABLE TRIGGER ALL"),
            format!("DROP TABLE {table}"),
            format!("SELECT * FROM {table} FOR UPDATE"),
        ] {
            refused(&db, "zta_service", &sql, &DENIED).await;
        }
    }
    for sql in [
        "SELECT * FROM audit_events_0",
        "SELECT * FROM audit_inputs_0",
        "INSERT INTO audit_pruned SELECT 256, log_id, log_id FROM log_head",
        "SELECT audit_prune()",
        "UPDATE blobs SET value = ''",
        "DELETE FROM blobs",
        "DELETE FROM log_head",
        "TRUNCATE log_head",
        "CREATE TABLE mine (x int)",
        "CREATE OR REPLACE FUNCTION audit_append_only() RETURNS trigger LANGUAGE plpgsql \
         AS $$ BEGIN RETURN NULL; END $$",
        "DROP FUNCTION audit_append_only() CASCADE",
        "CREATE OR REPLACE VIEW audit_activity AS SELECT 1",
        "ALTER TABLE audit_events OWNER TO zta_service",
        // A grant of what one has not is a mere warning: nothing came of it.
        "GRANT DELETE ON audit_events TO zta_service; DELETE FROM audit_events",
        "SET session_replication_role = replica",
    ] {
        refused(&db, "zta_service", sql, &DENIED).await;
    }
}

/// The owner needs no superuser to migrate, and even it has to take the triggers away first.
pub(crate) async fn owner(db: Db) {
    let (server, name) = db.postgres();
    let owned = format!("{name}_owned");
    let create = format!("CREATE DATABASE {owned} OWNER zta_owner");
    server.execute(&create).await.expect(&create);
    let url = server.url(&server.folder(), &owned) + "&options[role]=zta_owner";
    let store: SharedStore = Arc::new(PostgresStore::connect(&url).await.expect("connect"));
    store.migrate().await.expect("migrates without a superuser");
    store
        .ensure_log(uuid::Uuid::from_u128(7))
        .await
        .expect("a log");
    append(&store, &[with_inputs(&decision("a", 0), "{}")]).await;
    let raw = sqlx::PgPool::connect(&url).await.expect("connect");
    for table in ["audit_events", "checkpoints"] {
        for sql in [
            format!("UPDATE {table} SET log_id = log_id"),
            format!("DELETE FROM {table}"),
            format!("TRUNCATE {table}"),
        ] {
            let refused = raw.execute(sqlx::AssertSqlSafe(sql.clone())).await;
            let refused = refused.expect_err(&sql).to_string();
            assert!(refused.contains("append-only"), "{sql}: {refused}");
        }
    }
    let sql = "UPDATE audit_inputs SET salt = salt";
    assert!(raw.execute(sql).await.is_err(), "{sql}");
    store.close().await;
    another_partition(&raw, &server.url(&server.folder(), &owned)).await;
    prunes(&url).await;
    raw.close().await;
    let drop = format!("DROP DATABASE {owned} WITH (FORCE)");
    server.execute(&drop).await.expect(&drop);
}

/// What was pruned the owner drops, partition by partition, and no other one.
async fn prunes(url: &str) {
    let store: SharedStore = Arc::new(PostgresStore::connect(url).await.expect("connect"));
    let events: Vec<_> = (0..280)
        .map(|_| with_inputs(&decision("a", 0), "{}"))
        .collect();
    append(&store, &events).await;
    assert!(!store.drop_pruned().await.expect("nothing to drop"));
    assert_eq!(store.prunable(258).await.expect("a partition's end"), 256);
    let event = prepared(&decision("a", 0));
    let change = Change::Prune {
        size: 256,
        event_id: event.columns.event_id,
    };
    for accepted in [true, false] {
        let mut tx = store.begin().await.expect("begin");
        let applied = tx.apply(&change, 0).await.expect("apply");
        assert_eq!(applied.is_ok(), accepted, "{applied:?}");
        if accepted {
            finish(tx, std::slice::from_ref(&event), true)
                .await
                .expect("commit");
        }
    }
    // Two at a time are in nobody's way.
    let other: SharedStore = Arc::new(PostgresStore::connect(url).await.expect("connect"));
    let drop_all = async |store: SharedStore| while store.drop_pruned().await.expect("drops") {};
    tokio::join!(drop_all(store.clone()), drop_all(other.clone()));
    assert_eq!(store.read(0, 1).await.expect("read")[0].sequence, 256);
    let pruned = store.pruned().await.expect("read").expect("a row");
    assert_eq!(
        (pruned.size, pruned.event_id),
        (256, event.columns.event_id)
    );
    store.close().await;
    other.close().await;
}

/// Where no superuser made anything, the server's role gets its partitions all the same.
async fn another_partition(owner: &sqlx::PgPool, url: &str) {
    let narrow = "ALTER TABLE audit_layout DROP CONSTRAINT audit_layout_partition_width_check; \
                  UPDATE audit_layout SET partition_width = 4";
    let done = sqlx::raw_sql(narrow).execute(owner).await;
    done.expect(narrow);
    let far = "DROP TABLE audit_events_0; DROP TABLE audit_inputs_0; SELECT audit_extend(1)";
    sqlx::raw_sql(far).execute(owner).await.expect(far);
    let url = format!("{url}&options[role]=zta_service");
    let store: SharedStore = Arc::new(PostgresStore::connect(&url).await.expect("connect"));
    for sequence in 1..20 {
        let event = with_inputs(&decision("a", 0), "{}");
        assert_eq!(append(&store, &[event]).await, sequence);
    }
    store.close().await;
}
