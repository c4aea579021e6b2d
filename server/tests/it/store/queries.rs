//! What is read back.

use zta_server::model::{Change, Effect, EntityUid, Event, EventType};
use zta_server::store::{EventFilter, StoreError};

use super::support::{Db, NOW, all, append, decision, finish, prepared, with_inputs};

/// Pairs that a database might take for the same text.
pub(crate) const LOOK_ALIKES: [&str; 10] = [
    "agent",
    "Agent",
    "agent ",
    " agent",
    "agent\u{a0}",
    "é",
    "e\u{301}",
    "ﬁ",
    "fi",
    "İ",
];

/// Texts that a driver or an array syntax might get wrong.
const AWKWARD: [&str; 12] = [
    "",
    " ",
    "NULL",
    "null",
    "{}",
    "{a,b}",
    "a,b",
    "\"",
    "\\",
    "\\\"x\\",
    "a\nb\tc",
    "𝄞é'`--;",
];

pub(crate) async fn columns(db: Db) {
    let db = db.with_log().await;
    let mut full = decision("spiffe://zta.local/agent/é \"x\"", 5);
    full.instance = Some(uuid::Uuid::from_u128(9));
    full.action = Some(EntityUid::new("ZTA::Action", "call_tool"));
    full.resource = Some(EntityUid::new("ZTA::Tool", "a\\b'c"));
    full.effect = Some(Effect::Deny);
    full.reason = Some("FORBIDDEN".to_owned());
    full.policies = AWKWARD.map(str::to_owned).to_vec();
    full.revision = Some(i64::MAX as u64);
    full.session = Some(String::new());
    full.task = Some("t".to_owned());
    full.user = Some("𝄞".to_owned());
    full.correlation_id = Some("c".repeat(500));
    full.trace_id = Some("0af7651916cd43dd8448eb211c80319c".to_owned());
    let mut events = vec![full, decision("", 0)];
    let addresses = [
        "127.0.0.1",
        "::1",
        "::",
        "::ffff:10.1.2.3",
        "::10.1.2.3",
        "2001:db8::1:0:0:1",
        "fe80::1",
        "1:0:3:4:5:6:7:8",
        "0.0.0.0",
    ];
    for address in addresses {
        let mut event = decision("a", 0);
        event.source = Some(address.parse().expect("an address"));
        events.push(event);
    }
    for kind in EventType::ALL {
        events.push(Event::new(
            kind,
            uuid::Uuid::from_u128(7),
            uuid::Uuid::new_v4(),
            NOW,
        ));
    }
    let batch: Vec<_> = events.iter().map(prepared).collect();
    append(&db.store, &batch).await;
    let listed = db
        .store
        .list(&EventFilter::default(), 0..u64::MAX, false, 100)
        .await
        .expect("list");
    for stored in [all(&db.store).await, listed] {
        assert_eq!(stored.len(), events.len());
        for (stored, event) in stored.iter().zip(&events) {
            assert_eq!(stored.columns, event.columns());
            assert_eq!(Event::from_leaf(&stored.leaf).expect("a leaf"), *event);
            let hash = zta_server::model::arguments::sha256(&stored.leaf);
            assert_eq!(stored.leaf_hash, hash);
        }
    }
}

pub(crate) async fn inputs(db: Db) {
    let db = db.with_log().await;
    let json = r#"{"a":"é","b":["\u0000"]}"#;
    let events = [
        prepared(&decision("a", 0)),
        with_inputs(&decision("a", 1), json),
        with_inputs(&decision("a", 2), ""),
        prepared(&decision("a", 3)),
    ];
    append(&db.store, &events).await;
    let stored = all(&db.store).await;
    for (stored, event) in stored.iter().zip(&events) {
        assert_eq!(stored.inputs, event.inputs);
    }
    let listed = db
        .store
        .list(&EventFilter::default(), 0..u64::MAX, false, 9)
        .await
        .expect("list");
    assert!(
        listed.iter().all(|e| e.inputs.is_none()),
        "lists say nothing of inputs"
    );
    let filter = EventFilter {
        with_inputs: true,
        ..EventFilter::default()
    };
    let listed = db
        .store
        .list(&filter, 0..u64::MAX, false, 9)
        .await
        .expect("list");
    let listed: Vec<_> = listed.into_iter().map(|e| e.inputs).collect();
    assert_eq!(listed, events.map(|e| e.inputs), "unless they are asked to");
    db.raw
        .execute("DELETE FROM audit_inputs WHERE sequence = 1")
        .await
        .expect("destroy");
    let stored = all(&db.store).await;
    assert_eq!(stored.len(), 4);
    assert!(stored[1].inputs.is_none() && stored[2].inputs.is_some());
}

pub(crate) async fn look_alike_ids(db: Db) {
    let db = db.with_log().await;
    let batch: Vec<_> = LOOK_ALIKES
        .iter()
        .map(|id| prepared(&decision(id, 0)))
        .collect();
    append(&db.store, &batch).await;
    for (place, id) in LOOK_ALIKES.iter().enumerate() {
        let filter = EventFilter {
            actor_id: Some((*id).to_owned()),
            ..EventFilter::default()
        };
        let found = db
            .store
            .list(&filter, 0..u64::MAX, false, 100)
            .await
            .expect("list");
        let places: Vec<u64> = found.iter().map(|e| e.sequence).collect();
        assert_eq!(places, [place as u64], "`{id}`");
    }
}

pub(crate) async fn filters(db: Db) {
    let db = db.with_log().await;
    let batch: Vec<_> = (0..12)
        .map(|i| {
            let mut event = decision(if i % 2 == 0 { "even" } else { "odd" }, i);
            event.effect = (i % 3 != 0).then_some(if i % 3 == 1 {
                Effect::Allow
            } else {
                Effect::Deny
            });
            if i >= 8 {
                event.kind = EventType::Login;
            }
            prepared(&event)
        })
        .collect();
    append(&db.store, &batch).await;
    let at = |seconds| Some(NOW + time::Duration::seconds(seconds));
    let any = EventFilter::default;
    let types = |names: &[&str]| EventFilter {
        types: names.iter().map(|n| (*n).to_owned()).collect(),
        ..any()
    };
    let even = EventFilter {
        actor_id: Some("even".to_owned()),
        ..any()
    };
    let deny = EventFilter {
        effect: Some(Effect::Deny),
        ..any()
    };
    let span = EventFilter {
        start_time: at(3),
        end_time: at(6),
        ..any()
    };
    let everything = EventFilter {
        types: vec!["decision".to_owned()],
        actor_id: Some("odd".to_owned()),
        effect: Some(Effect::Allow),
        start_time: at(1),
        end_time: at(8),
        ..any()
    };
    type Listed = (EventFilter, Option<u64>, bool, u32, &'static [u64]);
    let cases: [Listed; 14] = [
        (any(), None, false, 3, &[0, 1, 2]),
        (any(), None, true, 3, &[11, 10, 9]),
        (any(), Some(2), false, 3, &[3, 4, 5]),
        (any(), Some(2), true, 3, &[1, 0]),
        (any(), Some(11), false, 3, &[]),
        (any(), Some(u64::MAX), true, 1, &[11]),
        (any(), None, false, 0, &[]),
        (even, Some(4), false, 9, &[6, 8, 10]),
        (deny, None, true, 9, &[11, 8, 5, 2]),
        (span, None, false, 9, &[3, 4, 5]),
        (types(&["login"]), None, true, 2, &[11, 10]),
        (types(&["decision", "login"]), Some(6), false, 3, &[7, 8, 9]),
        (types(&["log"]), None, false, 9, &[]),
        (everything, None, false, 9, &[1, 7]),
    ];
    for (filter, after, descending, limit, expected) in cases {
        let places = match (after, descending) {
            (None, _) => 0..u64::MAX,
            (Some(after), false) => after + 1..u64::MAX,
            (Some(after), true) => 0..after,
        };
        let found = db
            .store
            .list(&filter, places, descending, limit)
            .await
            .expect("list");
        let places: Vec<u64> = found.iter().map(|e| e.sequence).collect();
        assert_eq!(places, expected, "{filter:?} {after:?} {descending}");
    }
}

/// A text with a NUL is refused alike, and the transaction lives on.
pub(crate) async fn nul(db: Db) {
    let db = db.with_log().await;
    let mut tx = db.store.begin().await.expect("begin");
    let mut in_list = decision("a", 0);
    in_list.policies = vec!["a".to_owned(), "b\0".to_owned()];
    let mut large = decision("a", 0);
    large.revision = Some(u64::MAX);
    for event in [decision("a\0b", 0), in_list, large] {
        let refused = tx.insert(0, &[prepared(&event)]).await;
        assert!(
            matches!(refused, Err(StoreError::Refused(_))),
            "{refused:?}"
        );
    }
    let state = Change::SetAgentState {
        agent_id: "a\0".to_owned(),
        from: Vec::new(),
        to: zta_server::model::AgentState::Active,
    };
    let refused = tx.apply(&state, 1).await;
    assert!(
        matches!(refused, Err(StoreError::Refused(_))),
        "{refused:?}"
    );
    finish(tx, &[prepared(&decision("a", 0))], false)
        .await
        .expect("commit");
    assert_eq!(all(&db.store).await.len(), 1);
    let refused = db.store.get_blob("a\0").await;
    assert!(
        matches!(refused, Err(StoreError::Refused(_))),
        "{refused:?}"
    );
}
