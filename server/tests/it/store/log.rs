//! Head, order and durability of the log.

use std::time::Duration;

use uuid::Uuid;
use zta_server::model::{AgentProfile, AgentRecord, AgentState, Change};
use zta_server::store::{StoreError, StoredCheckpoint};

use super::support::{
    Db, Kind, NOW, advanced, all, append, decision, finish, prepared, with_inputs,
};

pub(crate) async fn a_log_keeps_its_id(db: Db) {
    let another = db.another().await;
    let (one, two) = tokio::join!(
        db.store.ensure_log(Uuid::from_u128(1)),
        another.ensure_log(Uuid::from_u128(2)),
    );
    let (one, two) = (one.expect("one"), two.expect("two"));
    assert_eq!(one, two, "two replicas that start at once create one log");
    assert_eq!((one.size, one.epoch, one.frontier.len()), (0, 0, 0));
    let again = db
        .store
        .ensure_log(Uuid::from_u128(3))
        .await
        .expect("again");
    assert_eq!(again.log_id, one.log_id);
}

pub(crate) async fn the_head_moves(db: Db) {
    let db = db.with_log().await;
    let tx = db.store.begin().await.expect("begin");
    let before = tx.head().clone();
    let events: Vec<_> = (0..3).map(|i| prepared(&decision("a", i))).collect();
    finish(tx, &events, true).await.expect("commit");
    let head = db.store.head().await.expect("head");
    assert_eq!(head, advanced(&before, 3, true));
    assert_eq!(head.frontier.len(), 2);
    let locked = db.another().await.begin().await.expect("begin");
    assert_eq!(locked.head(), &head);
}

pub(crate) async fn a_dropped_transaction(db: Db) {
    let db = db.with_log().await;
    let before = db.store.head().await.expect("head");
    for _ in 0..3 {
        let mut tx = db.store.begin().await.expect("begin");
        let event = prepared(&decision("a", 0));
        tx.insert(0, std::slice::from_ref(&event))
            .await
            .expect("insert");
        tx.apply(&agent("spiffe://zta.local/agent/x"), 1)
            .await
            .expect("apply")
            .expect("no conflict");
        drop(tx);
        assert_eq!(
            db.store.find(event.columns.event_id).await.expect("find"),
            None
        );
    }
    assert_eq!(db.store.head().await.expect("head"), before);
    assert!(all(&db.store).await.is_empty());
    let feed = db.store.changes_since(0, 0).await.expect("feed");
    assert!(feed.agents.is_empty());
    assert_eq!(append(&db.store, &[prepared(&decision("a", 0))]).await, 0);
}

/// Each call is dropped at many points of its way; none may leave a lock, a half
/// transaction or a connection that nobody can use.
pub(crate) async fn a_dropped_future(db: Db) {
    let db = db.with_log().await;
    let mut cut = 0;
    for step in 0..60_u64 {
        let limit = Duration::from_micros(step * 40);
        let event = prepared(&decision("a", 0));
        let id = event.columns.event_id;
        let whole = async {
            let tx = db.store.begin().await?;
            finish(tx, &[event], false).await
        };
        let outcome = tokio::time::timeout(limit, whole).await;
        let found = db.store.find(id).await.expect("find");
        match outcome {
            Ok(done) => {
                done.expect("append");
                assert!(found.is_some(), "a commit that was answered");
            }
            Err(_) => cut += 1,
        }
        // Whatever happened, head and rows agree.
        let head = db.store.head().await.expect("head");
        let rows = all(&db.store).await;
        assert_eq!(head.size, rows.len() as u64);
        assert_eq!(found.map_or(head.size, |place| place + 1), head.size);
    }
    assert!(cut > 0, "no future was dropped in the middle");
    let after = append(&db.store, &[prepared(&decision("a", 0))]).await;
    assert_eq!(after + 1, db.store.head().await.expect("head").size);
}

pub(crate) async fn concurrent_writers(db: Db) {
    let db = db.with_log().await;
    let stores = [db.store.clone(), db.another().await, db.another().await];
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..6 {
        let store = stores[writer % stores.len()].clone();
        tasks.spawn(async move {
            let mut mine = Vec::new();
            for round in 0..10 {
                let actor = format!("writer-{writer}");
                let batch: Vec<_> = (0..1 + (writer + round) % 4)
                    .map(|_| prepared(&decision(&actor, 0)))
                    .collect();
                let first = append(&store, &batch).await;
                let ids = batch.iter().map(|e| e.columns.event_id);
                mine.extend((first..).zip(ids));
            }
            mine
        });
    }
    let mut written: Vec<(u64, Uuid)> = tasks.join_all().await.into_iter().flatten().collect();
    written.sort_unstable();
    let stored: Vec<(u64, Uuid)> = all(&db.store)
        .await
        .iter()
        .map(|e| (e.sequence, e.columns.event_id))
        .collect();
    assert_eq!(
        stored, written,
        "each writer's events stand where it was told"
    );
    let places: Vec<u64> = stored.iter().map(|(place, _)| *place).collect();
    assert_eq!(places, (0..places.len() as u64).collect::<Vec<_>>());
    let head = db.store.head().await.expect("head");
    assert_eq!(head.size, places.len() as u64);
}

pub(crate) async fn large_batches(db: Db) {
    let db = db.with_log().await;
    let mut next = 0;
    for size in [0_usize, 1, 2, 255, 256, 257, 700] {
        let batch: Vec<_> = (0..size).map(|_| prepared(&decision("a", 0))).collect();
        assert_eq!(append(&db.store, &batch).await, next);
        let stored = db.store.read(next, 1000).await.expect("read");
        assert!(
            stored
                .iter()
                .map(|e| &e.leaf)
                .eq(batch.iter().map(|e| &e.leaf))
        );
        next += size as u64;
    }
    let mut event = decision("a", 0);
    event.user = Some("x".repeat(31_000));
    assert_eq!(append(&db.store, &[prepared(&event)]).await, next);
    let stored = db.store.read(next, 1).await.expect("read");
    assert_eq!(stored[0].columns, event.columns());
    assert_eq!(db.store.read(5, 3).await.expect("read").len(), 3);
    assert!(db.store.read(next + 1, 3).await.expect("read").is_empty());
    assert!(db.store.read(u64::MAX, 3).await.expect("read").is_empty());
}

pub(crate) async fn an_event_stands_once(db: Db) {
    let db = db.with_log().await;
    let event = prepared(&decision("a", 0));
    append(&db.store, std::slice::from_ref(&event)).await;
    assert_eq!(
        db.store.find(event.columns.event_id).await.expect("find"),
        Some(0)
    );
    assert_eq!(db.store.find(Uuid::nil()).await.expect("find"), None);
    let other = prepared(&decision("a", 0));
    for (place, twice) in [(1, &event), (0, &other)] {
        let mut tx = db.store.begin().await.expect("begin");
        let refused = tx.insert(place, std::slice::from_ref(twice)).await;
        assert!(
            matches!(refused, Err(StoreError::Refused(_))),
            "{refused:?}"
        );
        let head = advanced(tx.head(), 1, false);
        let refused = tx.commit(&head).await;
        assert!(refused.is_err(), "a transaction that failed cannot commit");
    }
    assert_eq!(db.store.head().await.expect("head").size, 1);
    assert_eq!(append(&db.store, &[other]).await, 1);
}

pub(crate) async fn append_only(db: Db) {
    let db = db.with_log().await;
    let inputs = |actor| with_inputs(&decision(actor, 0), "{}");
    append(&db.store, &[inputs("a"), inputs("b")]).await;
    let before = all(&db.store).await;
    let mut statements = vec![
        "UPDATE audit_events SET reason = 'x'",
        "UPDATE audit_events SET sequence = 9 WHERE sequence = 0",
        "DELETE FROM audit_events WHERE sequence = 1",
        "DELETE FROM audit_events",
        "UPDATE audit_inputs SET inputs = salt",
        "UPDATE checkpoints SET note = 'x'",
        "DELETE FROM checkpoints",
    ];
    if db.kind == Kind::Postgres {
        statements.push("TRUNCATE audit_events");
        statements.push("TRUNCATE audit_events CASCADE");
        statements.push("TRUNCATE checkpoints");
    }
    let note = StoredCheckpoint {
        size: 2,
        note: "n".to_owned(),
    };
    let turn = super::proofs::turn(&db.store, 1).await.expect("a turn");
    assert!(
        db.store
            .put_checkpoint(&note, turn)
            .await
            .expect("checkpoint")
    );
    for sql in statements {
        let refused = db.raw.execute(sql).await.expect_err(sql);
        assert!(
            refused.to_string().contains("append-only"),
            "{sql}: {refused}"
        );
    }
    let after = all(&db.store).await;
    assert!(
        before
            .iter()
            .map(|e| &e.leaf)
            .eq(after.iter().map(|e| &e.leaf))
    );
    // Inputs may be destroyed; their event stays.
    db.raw
        .execute("DELETE FROM audit_inputs WHERE sequence = 0")
        .await
        .expect("destroy");
}

/// Before `ensure_log`, and before the schema, errors say so.
pub(crate) async fn without_a_log(db: Db) {
    let schema = |what: &str, error: StoreError| {
        assert!(matches!(error, StoreError::Schema(_)), "{what}: {error:?}");
    };
    schema("head", db.store.head().await.expect_err("head"));
    schema(
        "begin",
        db.store.begin().await.map(drop).expect_err("begin"),
    );
    schema(
        "feed",
        db.store.changes_since(0, 0).await.expect_err("feed"),
    );
    let blob = db.store.put_blob_if_absent("a", b"b").await;
    schema("blob", blob.expect_err("blob"));
    db.raw.execute("DROP TABLE log_head").await.expect("drop");
    schema(
        "begin",
        db.store.begin().await.map(drop).expect_err("begin"),
    );
    schema("head", db.store.head().await.expect_err("head"));
}

fn agent(id: &str) -> Change {
    Change::RegisterAgent(AgentRecord {
        id: id.to_owned(),
        name: id.to_owned(),
        state: AgentState::Active,
        create_time: NOW,
        profile: AgentProfile::default(),
    })
}
