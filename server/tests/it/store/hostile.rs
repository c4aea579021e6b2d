//! A database that fails in the middle, or that others write to.

use std::time::{Duration, Instant};

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

/// The WAL is copied back and used again although readers come and go all the time.
pub(crate) async fn wal_size(db: Db) {
    let db = db.with_log().await;
    let reader = db.another().await;
    let reading = tokio::spawn(async move {
        loop {
            reader.read(0, 50).await.expect("read");
        }
    });
    let mut large = decision("a", 0);
    large.user = Some("x".repeat(20_000));
    for _ in 0..60 {
        let batch: Vec<_> = (0..32)
            .map(|_| {
                large.id = uuid::Uuid::now_v7();
                prepared(&large)
            })
            .collect();
        append(&db.store, &batch).await;
    }
    reading.abort();
    let size = |name: &str| std::fs::metadata(db.folder().join(name)).expect(name).len();
    let (main, wal) = (size("zta.db"), size("zta.db-wal"));
    assert!(main > 30 << 20, "the database has {main} bytes");
    assert!(wal < 24 << 20, "the WAL has {wal} bytes");
}
