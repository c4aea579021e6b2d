//! Decisions that are put on record together: one commit, places that follow each other,
//! all of them or none.

use futures_util::future::join_all;
use sqlx::AssertSqlSafe;
use zta_server::audit::sequencer::UNIT_MAX;
use zta_server::audit::{AppendError, Audit, Record};
use zta_server::store::PreparedEvent;

use super::support::{Db, Raw, all, decision, finish, prepared};

fn unit(actor: &str, events: usize) -> Vec<PreparedEvent> {
    let event = |n| Record::prepare(decision(actor, n), None).expect("a leaf");
    (0..events as i64).map(event).collect()
}

/// How many transactions wrote events from a sequence on. SQLite has nothing that says
/// so by itself: a trigger notes each move of the head.
async fn commits(db: &Db) -> i64 {
    let sql = AssertSqlSafe(match &db.raw {
        Raw::Sqlite(_) => "SELECT count(*) FROM moves",
        Raw::Postgres(_) => "SELECT count(DISTINCT xmin::text) FROM audit_events",
    });
    let found = match &db.raw {
        Raw::Sqlite(pool) => sqlx::query_scalar(sql).fetch_one(pool).await,
        Raw::Postgres(pool) => sqlx::query_scalar(sql).fetch_one(pool).await,
    };
    found.expect("a count")
}

pub(crate) async fn together(db: Db) {
    let db = db.with_log().await;
    if let Raw::Sqlite(_) = &db.raw {
        let note = "CREATE TABLE moves (size INTEGER); \
                    CREATE TRIGGER moves AFTER UPDATE ON log_head \
                    BEGIN INSERT INTO moves VALUES (NEW.size); END";
        db.raw.execute(note).await.expect("a trigger");
    }
    let head = db.store.head().await.expect("head");
    let (audit, sequencer) = Audit::new(head.log_id, db.store.clone());
    tokio::spawn(sequencer.run());

    let first = audit
        .append_all(unit("a", UNIT_MAX), 0, None)
        .await
        .expect("one");
    assert_eq!((first.sequence, commits(&db).await), (0, 1));
    for wrong in [0, UNIT_MAX + 1] {
        let refused = audit.append_all(unit("a", wrong), 0, None).await;
        assert!(matches!(refused, Err(AppendError::Overloaded)), "{wrong}");
    }

    // More than a transaction takes, single ones among them: no unit is torn.
    let units = join_all((0..7).map(async |n| {
        let events = unit(&format!("unit-{n}"), 100 + n);
        let single = audit.append(Record::fact(decision("single", 0)));
        let (appended, single) = tokio::join!(audit.append_all(events.clone(), 0, None), single);
        single.expect("a fact");
        (appended.expect("a unit").sequence, events)
    }))
    .await;
    let stored = all(&db.store).await;
    assert_eq!(stored.len(), UNIT_MAX + (100..107).sum::<usize>() + 7);
    for (first, events) in units {
        let found = &stored[first as usize..][..events.len()];
        let ids = found.iter().map(|e| e.columns.event_id);
        assert!(ids.eq(events.iter().map(|e| e.columns.event_id)));
    }
}

pub(crate) async fn of_another_epoch(db: Db) {
    let db = db.with_log().await;
    let head = db.store.head().await.expect("head");
    let (audit, sequencer) = Audit::new(head.log_id, db.store.clone());
    tokio::spawn(sequencer.run());
    let tx = db.store.begin().await.expect("begin");
    let change = prepared(&decision("admin", 0));
    finish(tx, &[change], true).await.expect("commit");
    let stale = audit.append_all(unit("a", 3), 0, None).await;
    assert!(matches!(stale, Err(AppendError::Stale { epoch: 1 })));
    assert_eq!(all(&db.store).await.len(), 1, "none of them is there");
    let again = audit
        .append_all(unit("a", 3), 1, None)
        .await
        .expect("decided again");
    assert_eq!((again.sequence, again.epoch), (1, 1));
}

/// A unit that the database refuses does not take others with it.
pub(crate) async fn a_bad_one(db: Db) {
    let db = db.with_log().await;
    let head = db.store.head().await.expect("head");
    let (audit, sequencer) = Audit::new(head.log_id, db.store.clone());
    let mut bad = unit("a", 3);
    bad[1].columns.user_id = Some("\0".to_owned());
    // Both wait before the writer begins, so they meet in one batch.
    let (bad, good, ()) = tokio::join!(
        audit.append_all(bad, 0, None),
        audit.append_all(unit("b", 3), 0, None),
        async {
            tokio::spawn(sequencer.run());
        }
    );
    assert!(matches!(bad, Err(AppendError::Store(_))), "{bad:?}");
    assert_eq!(good.expect("the good one").sequence, 0);
    assert_eq!(all(&db.store).await.len(), 3);
}
