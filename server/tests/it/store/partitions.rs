//! Partitions of the audit on Postgres: made in time, guarded each, and left out of queries
//! that do not need them.

use std::sync::Arc;

use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool, Row as _};
use zta_server::store::postgres::PostgresStore;
use zta_server::store::{SharedStore, StoreError};

use super::roles::{DENIED, refused, under};
use super::support::{Db, Raw, all, append, decision, finish, prepared, with_inputs};

fn pool(db: &Db) -> &PgPool {
    match &db.raw {
        Raw::Postgres(pool) => pool,
        Raw::Sqlite(_) => panic!("not on Postgres"),
    }
}

/// A log whose partitions hold eight events each. Only a superuser gets around the rule that
/// they hold whole tiles.
async fn with_narrow_ones(db: Db) -> Db {
    let narrow = "ALTER TABLE audit_layout DROP CONSTRAINT audit_layout_partition_width_check; \
                  UPDATE audit_layout SET partition_width = 8; \
                  DROP TABLE audit_events_0; DROP TABLE audit_inputs_0";
    db.raw.execute(narrow).await.expect(narrow);
    db.with_log().await
}

async fn as_service(db: &Db) -> SharedStore {
    let (server, name) = db.postgres();
    let url = server.url(&server.folder(), name) + "&options[role]=zta_service";
    Arc::new(PostgresStore::connect(&url).await.expect("connect"))
}

async fn names(db: &Db, parent: &str) -> Vec<String> {
    let sql = format!(
        "SELECT inhrelid::regclass::text FROM pg_inherits \
         WHERE inhparent = '{parent}'::regclass ORDER BY inhrelid"
    );
    let rows = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(pool(db));
    rows.await.expect("the partitions")
}

/// Two servers, which own nothing, write over the ends of many partitions, in small batches and
/// in batches wider than a partition, while somebody reads in one long transaction.
pub(crate) async fn under_load(db: Db) {
    let db = with_narrow_ones(db).await;
    let mut reader = pool(&db).acquire().await.expect("a reader").detach();
    let reading = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM audit_events";
    let begun = sqlx::raw_sql(reading).execute(&mut reader).await;
    begun.expect(reading);
    let mut writing = Vec::new();
    for batch in [1, 29] {
        let store = as_service(&db).await;
        writing.push(tokio::spawn(async move {
            for _ in 0..12 {
                let events: Vec<_> = (0..batch)
                    .map(|_| with_inputs(&decision("a", 0), "{}"))
                    .collect();
                append(&store, &events).await;
            }
        }));
    }
    for one in writing {
        one.await.expect("every batch is written");
    }
    drop(reader);
    let events = all(&db.store).await;
    let sequences: Vec<u64> = events.iter().map(|e| e.sequence).collect();
    assert_eq!(sequences, (0..360).collect::<Vec<u64>>());
    assert!(events.iter().all(|e| e.inputs.is_some()));
    // 360 events and half a partition more.
    assert_eq!(names(&db, "audit_events").await.len(), 46);
    assert_eq!(names(&db, "audit_inputs").await.len(), 46);
    let last = &events[359].columns.event_id;
    assert_eq!(db.store.find(*last).await.expect("find"), Some(359));
}

/// A query for a range of sequences looks into the partitions of that range alone.
pub(crate) async fn pruned_plans(db: Db) {
    let db = with_narrow_ones(db).await;
    let events: Vec<_> = (0..64).map(|_| prepared(&decision("a", 0))).collect();
    append(&db.store, &events).await;
    for sql in [
        "SELECT * FROM audit_events WHERE sequence = 20",
        "SELECT * FROM audit_events WHERE sequence >= 16 AND sequence < 24 ORDER BY sequence",
        "SELECT * FROM audit_activity WHERE sequence BETWEEN 17 AND 23",
        "SELECT e.sequence, i.salt FROM audit_events e LEFT JOIN audit_inputs i \
         ON i.sequence = e.sequence AND i.sequence = 20 WHERE e.sequence = 20",
    ] {
        let rows = sqlx::query(AssertSqlSafe(format!("EXPLAIN {sql}")))
            .fetch_all(pool(&db))
            .await
            .expect(sql);
        let plan: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        let plan = plan.join("\n");
        assert!(plan.contains("audit_events_16"), "{sql}: {plan}");
        for other in ["audit_events_8 ", "audit_events_24 ", "audit_inputs_24 "] {
            assert!(!plan.contains(other), "{sql}: {plan}");
        }
    }
    // In the order of sequences, partitions follow each other: nothing is sorted.
    let sql = "EXPLAIN SELECT * FROM audit_events WHERE sequence > 20 ORDER BY sequence LIMIT 9";
    let rows = sqlx::query(sql).fetch_all(pool(&db)).await.expect(sql);
    let plan: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert!(!plan.join("\n").contains("Sort"), "{plan:?}");
}

/// Without a partition nothing is written, and the error says what to do; afterwards it goes on.
pub(crate) async fn none_to_write(db: Db) {
    let db = with_narrow_ones(db).await;
    let store = as_service(&db).await;
    append(&store, &[prepared(&decision("a", 0))]).await;
    let revoke = "REVOKE EXECUTE ON FUNCTION audit_extend(bigint) FROM zta_service";
    db.raw.execute(revoke).await.expect(revoke);
    let events: Vec<_> = (0..40).map(|_| prepared(&decision("a", 0))).collect();
    let tx = store.begin().await.expect("begin");
    let error = finish(tx, &events, false).await.expect_err("no partition");
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    assert!(error.to_string().contains("audit_extend"), "{error}");
    let grant = "GRANT EXECUTE ON FUNCTION audit_extend(bigint) TO zta_service";
    db.raw.execute(grant).await.expect(grant);
    assert_eq!(append(&store, &events).await, 1);

    // The owner takes away the partitions that the server knows to be there.
    let taken = "DROP TABLE audit_events_40; DROP TABLE audit_inputs_40";
    db.raw.execute(taken).await.expect(taken);
    let tx = store.begin().await.expect("begin");
    let error = finish(tx, &[prepared(&decision("a", 0))], false).await;
    let error = error.expect_err("no partition");
    assert!(error.to_string().contains("partition"), "{error}");
    assert_eq!(store.head().await.expect("the head").size, 41);
}

/// A lock on the tables, such as that of ANALYZE, stops nobody while there is a place to write.
pub(crate) async fn maintenance(db: Db) {
    let db = with_narrow_ones(db).await;
    let store = as_service(&db).await;
    append(&store, &[prepared(&decision("a", 0))]).await;
    let (server, name) = db.postgres();
    let url = server.url(&server.folder(), name);
    let mut other = PgConnection::connect(&url).await.expect("connect");
    let lock = "BEGIN; LOCK TABLE audit_events IN SHARE UPDATE EXCLUSIVE MODE";
    sqlx::raw_sql(lock).execute(&mut other).await.expect(lock);
    for sequence in 1..8 {
        let event = prepared(&decision("a", 0));
        assert_eq!(append(&store, &[event]).await, sequence);
    }
    let tx = store.begin().await.expect("begin");
    let events: Vec<_> = (0..9).map(|_| prepared(&decision("a", 0))).collect();
    let error = finish(tx, &events, false).await.expect_err("no place");
    assert!(error.to_string().contains("partition"), "{error}");
    sqlx::raw_sql("ROLLBACK")
        .execute(&mut other)
        .await
        .expect("unlock");
    assert_eq!(append(&store, &events).await, 8);
}

/// What a role may not do to the tables, it may not do to a partition of theirs; and what the
/// triggers refuse even the owner there, they refuse here.
pub(crate) async fn each_guarded(db: Db) {
    let db = with_narrow_ones(db).await;
    let events: Vec<_> = (0..40)
        .map(|_| with_inputs(&decision("a", 0), "{}"))
        .collect();
    append(&as_service(&db).await, &events).await;
    let mut every = names(&db, "audit_events").await;
    every.extend(names(&db, "audit_inputs").await);
    assert_eq!(every.len(), 12);
    for table in &every {
        for sql in [
            format!("SELECT * FROM {table}"),
            format!("INSERT INTO {table} DEFAULT VALUES"),
            format!("UPDATE {table} SET log_id = log_id"),
            format!("DELETE FROM {table}"),
            format!("TRUNCATE {table}"),
            format!("DROP TABLE {table}"),
            format!("ALTER TABLE {table} DISABLE TRIGGER ALL"),
        ] {
            for role in ["zta_service", "zta_auditor"] {
                refused(&db, role, &sql, &DENIED).await;
            }
        }
        let mut refuse = vec![format!("UPDATE {table} SET log_id = log_id")];
        if table.starts_with("audit_events") {
            refuse.push(format!("DELETE FROM {table}"));
            refuse.push(format!("TRUNCATE {table}"));
        }
        for sql in refuse {
            let refused = db.raw.execute(&sql).await.expect_err(&sql).to_string();
            assert!(refused.contains("append-only"), "{sql}: {refused}");
        }
    }
    for sql in [
        "SELECT audit_add_partition(1000, 1008)",
        "ALTER TABLE audit_events DETACH PARTITION audit_events_0",
        "UPDATE audit_layout SET partition_width = 65536",
        "SELECT audit_extend(10)",
    ] {
        refused(&db, "zta_auditor", sql, &DENIED).await;
        if !sql.starts_with("SELECT audit_extend") {
            refused(&db, "zta_service", sql, &DENIED).await;
        }
    }
    let far = "SELECT audit_extend(9000000)";
    refused(&db, "zta_service", far, &["too far from the head"]).await;
    let near = "SELECT audit_extend(41)";
    under(&db, "zta_service", near).await.expect(near);
    assert_eq!(names(&db, "audit_events").await.len(), 6);
}
