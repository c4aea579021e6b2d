//! A database that fails in the middle, or that others write to.

use std::time::{Duration, Instant};

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, Executor as _};

use super::support::{Db, Kind, all, append, decision, finish, prepared};

/// A full disk ends a SQLite transaction by itself; a trigger can do the same. Neither
/// may leave a connection behind on which nothing begins any more.
pub(crate) async fn a_failing_insert(db: Db) {
    let db = db.with_log().await;
    let inject = match db.kind {
        Kind::Sqlite => {
            "CREATE TRIGGER boom BEFORE INSERT ON audit_events WHEN NEW.actor_id = 'boom' \
             BEGIN SELECT RAISE(ROLLBACK, 'boom'); END"
        }
        Kind::Postgres => {
            "CREATE FUNCTION boom() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN RAISE EXCEPTION 'boom'; END $$; \
             CREATE TRIGGER boom BEFORE INSERT ON audit_events FOR EACH ROW \
             WHEN (NEW.actor_id = 'boom') EXECUTE FUNCTION boom()"
        }
    };
    db.raw.execute(inject).await.expect("inject");
    for round in 0..3 {
        let good = prepared(&decision("good", 0));
        let mut tx = db.store.begin().await.expect("begin");
        tx.insert(round, std::slice::from_ref(&good))
            .await
            .expect("insert");
        let failed = tx
            .insert(round + 1, &[prepared(&decision("boom", 0))])
            .await;
        assert!(failed.is_err());
        // Not even a caller that goes on may commit the half.
        assert!(
            finish(tx, &[prepared(&decision("good", 0))], true)
                .await
                .is_err()
        );
        assert_eq!(
            db.store.find(good.columns.event_id).await.expect("find"),
            None
        );
        assert_eq!(append(&db.store, &[good]).await, round);
        assert_eq!(all(&db.store).await.len() as u64, round + 1);
    }
}

/// Wake-ups come by themselves, whether or not anything changes.
pub(crate) async fn a_wake_up(db: Db) {
    let db = db.with_log().await;
    for _ in 0..3 {
        let started = Instant::now();
        db.store.wait_for_change().await;
        assert!(
            started.elapsed() < Duration::from_secs(3),
            "{:?}",
            started.elapsed()
        );
    }
    db.store.close().await;
    let closed = db.store.begin().await;
    assert!(closed.is_err(), "a closed store begins nothing");
}

/// `INSERT OR REPLACE` deletes rows without a DELETE that a trigger would see.
pub(crate) async fn no_replace(db: Db) {
    let db = db.with_log().await;
    append(
        &db.store,
        &[prepared(&decision("a", 0)), prepared(&decision("b", 0))],
    )
    .await;
    let columns = "log_id, time, type, policies, leaf, leaf_hash";
    for (sequence, id) in [("0", "'x'"), ("7", "event_id")] {
        let sql = format!(
            "INSERT OR REPLACE INTO audit_events (sequence, event_id, {columns}) \
             SELECT {sequence}, {id}, {columns} FROM audit_events WHERE sequence = 0"
        );
        let refused = db.raw.execute(&sql).await.expect_err("a replaced event");
        assert!(refused.to_string().contains("append-only"), "{refused}");
    }
    assert_eq!(all(&db.store).await.len(), 2);
}

/// The WAL is copied back and used again although there is always a commit under way, or always
/// a reader; one that grew because somebody read for long is cut again.
pub(crate) async fn wal_size(db: Db) {
    let db = db.with_log().await;
    let wal = || wal_bytes(&db);
    // It begins anew at 16 MiB, but a busy machine may be late, or readers not make way at once.
    let limit = 64 << 20;
    // Each writes more than what is copied at a time.
    for _ in 0..45 {
        append_large(&db, 96).await;
        assert!(wal() < limit, "the WAL has {} bytes", wal());
    }

    let file = SqliteConnectOptions::new().filename(db.folder().join("zta.db"));
    let look = "BEGIN; SELECT one FROM log_head";
    let reading = [0, 5].map(|offset| {
        let file = file.clone();
        tokio::spawn(async move {
            let mut reader = file.connect().await.expect("a reader");
            tokio::time::sleep(Duration::from_millis(offset)).await;
            loop {
                reader.execute(look).await.expect("a look");
                tokio::time::sleep(Duration::from_millis(10)).await;
                reader.execute("COMMIT").await.expect("its end");
            }
        })
    });
    for _ in 0..90 {
        append_large(&db, 32).await;
        assert!(wal() < limit, "the WAL has {} bytes", wal());
    }
    for reader in reading {
        assert!(!reader.is_finished(), "a reader failed");
        reader.abort();
    }

    let mut reader = file.connect().await.expect("a reader");
    reader.execute(look).await.expect("a look");
    while wal() < 48 << 20 {
        append_large(&db, 32).await;
    }
    reader.close().await.expect("its end");
    while wal() > 32 << 20 {
        append_large(&db, 32).await;
    }
}

fn wal_bytes(db: &Db) -> u64 {
    let file = db.folder().join("zta.db-wal");
    std::fs::metadata(file).expect("the WAL").len()
}

async fn append_large(db: &Db, events: usize) {
    let mut large = decision("a", 0);
    large.user = Some("x".repeat(20_000));
    let batch: Vec<_> = (0..events)
        .map(|_| {
            large.id = uuid::Uuid::now_v7();
            prepared(&large)
        })
        .collect();
    append(&db.store, &batch).await;
}
