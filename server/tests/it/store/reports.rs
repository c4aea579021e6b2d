//! Reports of callers through the audit's writer: on record once, whoever races, and beside
//! decisions that they do not keep waiting.

use futures_util::future::join_all;
use uuid::Uuid;
use zta_server::audit::sequencer::REPORTS_MAX;
use zta_server::audit::{AppendError, Audit, Record};
use zta_server::model::Event;

use super::support::{Db, all, decision};

fn report_of(n: u128) -> Event {
    let mut event = decision("reporter", 0);
    event.id = Uuid::from_u128(n);
    event
}

/// Writers of two replicas on one log are told the same report at once.
pub(crate) async fn once(db: Db) {
    let db = db.with_log().await;
    let log_id = db.store.head().await.expect("head").log_id;
    let (here, writer) = Audit::new(log_id, db.store.clone());
    tokio::spawn(writer.run());
    let (there, writer) = Audit::new(log_id, db.another().await);
    tokio::spawn(writer.run());
    let told = (0..64).map(async |n: u128| {
        let replica = if n.is_multiple_of(2) { &here } else { &there };
        // Each of 8 reports four times at each of the two.
        replica
            .report(vec![report_of(n / 8), decision("fact", 0)], 0, None)
            .await
    });
    let said: Vec<_> = join_all(told).await;
    let mut placed = 0;
    for mut said in said {
        said.pop()
            .expect("two")
            .expect("another report is not refused with it");
        match said.pop().expect("two") {
            Ok(_) => placed += 1,
            Err(error) => assert!(matches!(error, AppendError::OnRecord), "{error}"),
        }
    }
    assert_eq!(placed, 8);
    let stored = all(&db.store).await;
    assert_eq!(stored.len(), 8 + 64);
    // It is found by its id, and so is that another one is not.
    let ids = [Uuid::from_u128(3), Uuid::from_u128(99), Uuid::from_u128(7)];
    let mut found = db.store.named(&ids).await.expect("events");
    found.sort_by_key(|e| e.columns.event_id);
    let found: Vec<_> = found.iter().map(|e| e.columns.event_id).collect();
    assert_eq!(found, [ids[0], ids[2]]);
    assert!(db.store.named(&[]).await.expect("none").is_empty());
    // Under the lock it is looked for from a place on alone.
    for (since, expected) in [(0, 2), (stored.len() as u64, 0)] {
        let begun = db.store.begin_with(&ids, since).await.expect("begins");
        assert_eq!(begun.1.len(), expected, "from {since} on");
        assert_eq!(begun.0.head().size, stored.len() as u64);
    }
}

/// However many reports wait, a decision that comes after them stands before most of them.
pub(crate) async fn behind_decisions(db: Db) {
    let db = db.with_log().await;
    let log_id = db.store.head().await.expect("head").log_id;
    let (audit, writer) = Audit::new(log_id, db.store.clone());
    let reports = (0..=REPORTS_MAX as u128).map(report_of).collect();
    // All wait before the writer begins.
    let (told, decided, ()) = tokio::join!(
        audit.report(reports, 0, None),
        audit.append(Record {
            epoch: Some(0),
            ..Record::fact(decision("decider", 0))
        }),
        async {
            tokio::spawn(writer.run());
        }
    );
    assert_eq!(decided.expect("a decision").sequence, 0);
    let refused: Vec<_> = told.iter().filter_map(|r| r.as_ref().err()).collect();
    assert!(
        matches!(refused[..], [AppendError::Overloaded]),
        "{refused:?}"
    );
    let head = db.store.head().await.expect("head");
    assert_eq!(head.size, 1 + REPORTS_MAX as u64, "no report is forgotten");
}
