//! The example queries of the documentation run, and find what they say.

use zta_server::audit::merkle::leaf_hash;
use zta_server::model::{Change, DenyReason, Effect, EntityUid, EventType, Obligation};
use zta_server::store::PreparedEvent;

use super::revisions::{policy, revision};
use super::support::{Db, Kind, decision, finish, prepared, with_inputs};

const DOCS: [&str; 2] = [
    include_str!("../../../../migrations/README.md"),
    include_str!("../../../../docs/audit/outcomes.md"),
];

/// The queries for a database, in the order of the files.
fn queries(kind: Kind) -> Vec<String> {
    let own = match kind {
        Kind::Sqlite => "sqlite",
        Kind::Postgres => "postgres",
    };
    let blocks = DOCS.iter().flat_map(|text| text.split("```sql").skip(1));
    let blocks = blocks.filter_map(|b| b.split_once("```")?.0.split_once('\n'));
    blocks
        .filter(|(info, _)| info.is_empty() || info.trim() == own)
        .map(|(_, sql)| sql.trim().to_owned())
        .collect()
}

pub(crate) async fn examples(db: Db) {
    let db = db.with_log().await;
    #[allow(
        clippy::disallowed_methods,
        reason = "the examples look back from the database's clock"
    )]
    let now = time::OffsetDateTime::now_utc();
    let mut event = decision("spiffe://zta.local/agent/research", 0);
    event.time = zta_server::model::event::to_micros(now);
    event.action = Some(EntityUid::action("call_tool"));
    event.resource = Some(EntityUid::new("ZTA::Tool", "web_search"));
    event.effect = Some(Effect::Allow);
    event.policies = vec!["researchers-search".to_owned()];
    event.obligations = vec![Obligation {
        name: "notify".to_owned(),
        policy: "researchers-search".to_owned(),
    }];
    let subject = serde_json::json!({"type": "ZTA::User", "id": "https://idp.example#alice"});
    let event = event.with_detail("delegation", serde_json::json!({"subject": subject}));
    let allowed = with_inputs(&event, "{}");
    let mut event = decision("spiffe://zta.local/agent/writing", 1);
    event.effect = Some(Effect::Deny);
    event.reason = Some(DenyReason::NotPermitted.as_str().to_owned());
    let denied = prepared(&event);
    let mut event = decision("spiffe://zta.local#admin", 2);
    event.kind = EventType::Admin;
    let admin = prepared(&event);
    let mut event = decision("x", 3);
    event.kind = EventType::LoginFailed;
    event.source = Some("10.1.2.3".parse().expect("an address"));
    let refused = prepared(&event);
    let mut event = decision("spiffe://zta.local/agent/writing", 4);
    event.time = zta_server::model::event::to_micros(now);
    event.kind = EventType::Outcome;
    let failed = prepared(&event.with_detail("result", "error"));
    let hashed = |event: PreparedEvent| PreparedEvent {
        leaf_hash: leaf_hash(&event.leaf),
        ..event
    };
    let batch = [allowed, denied, admin, refused, failed].map(hashed);
    let mut tx = db.store.begin().await.expect("begin");
    for (number, file) in [(1, "a.cedar"), (2, "b.cedar")] {
        let change = revision(number, vec![policy(file, "// nothing")]);
        let change = Change::ApplyRevision(Box::new(change));
        let applied = tx.apply(&change, number).await.expect("apply");
        applied.expect("no conflict");
    }
    let tool = super::entities::entity("ZTA::Tool", "t", "{}");
    let applied = tx.apply(&Change::PutEntities([tool].into()), 3).await;
    applied.expect("apply").expect("no conflict");
    finish(tx, &batch, true).await.expect("commit");

    let expected: &[usize] = match db.kind {
        Kind::Sqlite => &[1, 1, 1, 1, 1, 1, 1, 1, 5, 1, 2, 1, 1, 1, 1],
        Kind::Postgres => &[1, 1, 1, 1, 1, 1, 1, 1, 5, 1, 2, 1, 1, 1, 1, 0, 1, 1],
    };
    let queries = queries(db.kind);
    assert_eq!(queries.len(), expected.len(), "an example without a test");
    for (sql, rows) in queries.iter().zip(expected) {
        let found = db.raw.rows(sql).await.expect(sql);
        assert_eq!(found, *rows, "{sql}");
    }
}
