//! The views for the usual questions: the same columns and the same answers on both databases.

use serde_json::json;
use zta_server::model::{DenyReason, Effect, EntityUid, Event};

use super::support::{Db, Kind, Raw, append, decision, prepared};

const COLUMNS: [(&str, &str); 5] = [
    (
        "audit_activity",
        "sequence time type actor_type actor_id instance_id source subject_type subject_id \
         action_type action_id resource_type resource_id effect reason session_id task_id \
         user_id revision event_id",
    ),
    (
        "audit_denials_by_policy",
        "policy sequence time type actor_type actor_id action_type action_id resource_type \
         resource_id reason revision event_id",
    ),
    (
        "audit_delegations",
        "sequence time type actor_type actor_id subject_type subject_id actors denied_type \
         denied_id action_type action_id resource_type resource_id effect reason event_id",
    ),
    (
        "audit_first_uses",
        "actor_type actor_id resource_type resource_id sequence time action_type action_id \
         event_id",
    ),
    (
        "audit_activity_by_hour",
        "hour type actor_type actor_id effect events",
    ),
];

fn call(actor: &str, seconds: i64, tool: &str, effect: Effect, policies: &[&str]) -> Event {
    let mut event = decision(actor, seconds);
    event.action = Some(EntityUid::action("call_tool"));
    event.resource = Some(EntityUid::new("ZTA::Tool", tool));
    event.effect = Some(effect);
    event.policies = policies.iter().map(|&p| p.to_owned()).collect();
    if effect == Effect::Deny {
        event.reason = Some(DenyReason::NotPermitted.as_str().to_owned());
    }
    event
}

/// Each row of a query with one column of text.
async fn texts(db: &Db, sql: &str) -> Vec<String> {
    match &db.raw {
        Raw::Sqlite(pool) => sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
            .fetch_all(pool)
            .await
            .expect(sql),
        Raw::Postgres(pool) => sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
            .fetch_all(pool)
            .await
            .expect(sql),
    }
}

async fn columns(db: &Db, view: &str) -> String {
    let sql = match db.kind {
        Kind::Sqlite => format!("SELECT name FROM pragma_table_info('{view}') ORDER BY cid"),
        Kind::Postgres => format!(
            "SELECT attname::text FROM pg_attribute WHERE attrelid = '{view}'::regclass \
             AND attnum > 0 ORDER BY attnum"
        ),
    };
    texts(db, &sql).await.join(" ")
}

pub(crate) async fn answers(db: Db) {
    let db = db.with_log().await;
    let uid = |id: &str| json!({"type": "ZTA::Agent", "id": id});
    let chain = json!({
        "token_id": "t",
        "subject": {"type": "ZTA::User", "id": "alice"},
        "actors": [uid("b"), uid("c")],
        "denied_by": {"party": {"type": "ZTA::User", "id": "alice"}, "reason": "FORBIDDEN",
                      "policies": ["p2"]},
    });
    let events = [
        call("a", 0, "search", Effect::Deny, &[]),
        call("a", 1, "search", Effect::Allow, &["p1"]),
        call("a", 2, "search", Effect::Allow, &["p1"]),
        call("b", 3, "search", Effect::Deny, &["p2", "p3"]).with_detail("delegation", chain),
        call("b", 3600, "mail", Effect::Allow, &["p1"]),
    ];
    append(&db.store, &events.map(|e| prepared(&e))).await;
    for (view, expected) in COLUMNS {
        assert_eq!(columns(&db, view).await, expected, "{view}");
    }
    let hour = match db.kind {
        Kind::Sqlite => "hour",
        Kind::Postgres => "to_char(hour AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
    };
    let by_hour = format!(
        "SELECT {hour} || ' ' || actor_id || ' ' || effect || ' ' || events \
         FROM audit_activity_by_hour ORDER BY hour, actor_id, effect"
    );
    let cases: [(&str, &[&str]); 5] = [
        (
            "SELECT sequence || ' ' || actor_id || ' ' || COALESCE(subject_id, '-') || ' ' || \
             resource_id || ' ' || effect FROM audit_activity ORDER BY sequence",
            &[
                "0 a - search deny",
                "1 a - search allow",
                "2 a - search allow",
                "3 b alice search deny",
                "4 b - mail allow",
            ],
        ),
        (
            "SELECT COALESCE(policy, '-') || ' ' || sequence FROM audit_denials_by_policy \
             ORDER BY sequence, policy",
            &["- 0", "p2 3", "p3 3"],
        ),
        (
            "SELECT sequence || ' ' || actor_id || ' ' || subject_type || ' ' || subject_id || \
             ' ' || denied_id || ' ' || REPLACE(CAST(actors AS TEXT), ' ', '') \
             FROM audit_delegations",
            &["3 b ZTA::User alice alice \
               [{\"id\":\"b\",\"type\":\"ZTA::Agent\"},{\"id\":\"c\",\"type\":\"ZTA::Agent\"}]"],
        ),
        (
            "SELECT actor_id || ' ' || resource_id || ' ' || sequence FROM audit_first_uses \
             ORDER BY sequence",
            &["a search 1", "b mail 4"],
        ),
        (
            &by_hour,
            &[
                "2026-11-22T10:00:00.000000Z a allow 2",
                "2026-11-22T10:00:00.000000Z a deny 1",
                "2026-11-22T10:00:00.000000Z b deny 1",
                "2026-11-22T11:00:00.000000Z b allow 1",
            ],
        ),
    ];
    for (sql, rows) in cases {
        assert_eq!(texts(&db, sql).await, rows, "{sql}");
    }
}

/// One event that a caller made on purpose must not make a view fail for all others.
pub(crate) async fn awkward_leaves(db: Db) {
    let db = db.with_log().await;
    let texts_of = ["\0", "\\u0000", "\\\0", "\"delegation\"", "'\"}{\u{2028}𝄞"];
    let mut events = Vec::new();
    for text in texts_of {
        let chain = json!({"subject": {"type": "ZTA::User", "id": text}, "actors": [text]});
        events.push(decision("a", 0).with_detail("delegation", chain));
        let bait = json!({"delegation": text});
        events.push(decision("a", 0).with_detail("x", bait));
        events.push(decision("a", 0).with_detail("delegation", json!(text)));
    }
    let events: Vec<_> = events.iter().map(prepared).collect();
    append(&db.store, &events).await;
    for (view, _) in COLUMNS {
        let found = db.raw.rows(&format!("SELECT * FROM {view}")).await;
        found.expect(view);
    }
    let named = "SELECT * FROM audit_delegations WHERE subject_type = 'ZTA::User'";
    assert_eq!(db.raw.rows(named).await.expect(named), texts_of.len());
}
