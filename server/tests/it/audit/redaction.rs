//! What is redacted stands nowhere: not in the record, not in an explanation, and nobody
//! can send what looks as if it had been.

use serde_json::{Value, json};
use zta_client::{Client, v1};

use super::intruder::Intruder;
use crate::policy::replay::replay;
use crate::support::rpc::{authorize, call_with, entity};
use crate::support::{Database, Server, Setup};

const CARD: &str = "4111-canary-1111";
const PIN: &str = "canary-pin-77";
const AMOUNT: i64 = 918_273_645;
/// The schema of this tool is built in: any arguments.
const TOOL: &str = "web_search";

async fn inputs(intruder: &mut Intruder, sequence: u64) -> Value {
    let sql = format!("SELECT inputs FROM audit_inputs WHERE sequence = {sequence}");
    let rows = intruder.bytes(&sql).await;
    serde_json::from_slice(&rows[0]).expect("JSON")
}

async fn decided(client: &Client, arguments: Value, context: Value) -> u64 {
    let mut request = call_with(TOOL, arguments.to_string());
    request.context_json = context.to_string().into_bytes();
    authorize(client, request)
        .await
        .expect("a decision")
        .sequence
}

#[tokio::test]
async fn a_hash_joins_across_paths_calls_and_restarts_and_cannot_be_forged() {
    for database in Database::both().await {
        let setup = Setup::on(database).set("ZTA_REDACT_HASH", "**.card,arguments.who");
        let mut server = setup.start().await;
        let research = server.agent("research", &["researcher"]).await;
        let first = decided(&research, json!({"card": CARD, "who": {"n": 1}}), json!({})).await;
        let forger = json!({"x": "zta:hmac:00", "y": "[redacted]", "z": "zta:hmac:"});
        let forged = decided(&research, forger, json!({"card": CARD})).await;
        assert!(server.stop().await.success());
        server.start().await;
        let again = decided(&research, json!({"a": [{"card": CARD}]}), json!({})).await;
        let other = decided(&research, json!({"card": "4111"}), json!({})).await;

        let mut intruder = Intruder::open(&server).await;
        let (first, forged) = (
            inputs(&mut intruder, first).await,
            inputs(&mut intruder, forged).await,
        );
        let (again, other) = (
            inputs(&mut intruder, again).await,
            inputs(&mut intruder, other).await,
        );
        let hash = &first["arguments"]["card"];
        let hex = hash.as_str().and_then(|h| h.strip_prefix("zta:hmac:"));
        assert_eq!(hex.map(str::len), Some(64), "{first}");
        assert_eq!(&forged["request"]["card"], hash, "another path");
        assert_eq!(&again["arguments"]["a"][0]["card"], hash, "another start");
        assert_ne!(&other["arguments"]["card"], hash, "another value");
        assert!(
            first["arguments"]["who"].is_string(),
            "an object, whole: {first}"
        );
        assert_eq!(
            forged["arguments"],
            json!({"x": "zta:str:zta:hmac:00", "y": "zta:str:[redacted]", "z": "zta:str:zta:hmac:"}),
            "what a caller sends is told apart"
        );
        assert!(
            first["arguments_sha256"].is_null(),
            "a digest would let it be guessed"
        );
        assert!(
            forged["arguments_sha256"].is_string(),
            "nothing of them was redacted"
        );
        for inputs in [first, forged, again] {
            assert!(!inputs.to_string().contains(CARD), "{inputs}");
        }
    }
}

#[tokio::test]
async fn a_replay_skips_what_was_hashed_and_nothing_that_only_looks_so() {
    let rules = r#"@id("t.all") permit (principal, action, resource);"#;
    let server = Setup::sqlite()
        .set("ZTA_REDACT_HASH", "**.card")
        .policy(rules)
        .start()
        .await;
    let research = server.agent("research", &["researcher"]).await;
    decided(&research, json!({"card": CARD}), json!({})).await;
    decided(
        &research,
        json!({"x": "zta:hmac:00", "[redacted]": "[redacted]"}),
        json!({}),
    )
    .await;
    decided(
        &research,
        json!({"zta:hmac:": 1}),
        json!({"x": "[redacted]"}),
    )
    .await;
    let file = v1::SourceFile {
        name: "candidate.cedar".to_owned(),
        text: r#"@id("c.none") forbid (principal, action, resource);"#.to_owned(),
    };
    let request = v1::ReplayRequest {
        patch: Some(v1::PolicyPatch {
            put_policies: vec![file],
            ..Default::default()
        }),
        ..Default::default()
    };
    let (report, _) = replay(&server.admin(), request).await.expect("a report");
    assert_eq!((report.replayed, report.flipped), (2, 2), "{report:?}");
    assert_eq!(report.skipped, [("REDACTED".to_owned(), 1)].into());
    assert!(!format!("{report:?}").contains(CARD), "{report:?}");
}

const SCHEMA: &str = r#"namespace Shop {
  @request_suppliable
  entity Ticket = { "pin": String, "level": Long };
  action refund in [ZTA::Action::"call_tool"] appliesTo {
    principal: [ZTA::Agent], resource: [ZTA::Tool],
    context: { zta: ZTA::Facts, request: ZTA::PepContext, input: { "amount": Long, "card": String } },
  };
  action close appliesTo {
    principal: [ZTA::Agent], resource: [Ticket],
    context: { zta: ZTA::Facts, request: ZTA::PepContext },
  };
}"#;

const POLICIES: &str = r#"
@id("shop.refund") permit (principal, action == Shop::Action::"refund", resource)
when { context.input.amount * 9223372036854775807 > 0 };
@id("shop.close") permit (principal, action == Shop::Action::"close", resource)
when { resource.level > 3 && resource.pin == "x" };
"#;

async fn shop() -> (Server, Client) {
    let server = Setup::sqlite()
        .set("ZTA_REDACT", "arguments.amount,entities.*.attributes.pin")
        .set("ZTA_REDACT_HASH", "arguments.card")
        .start()
        .await;
    let file = |name: &str, text: &str| v1::SourceFile {
        name: name.to_owned(),
        text: text.to_owned(),
    };
    let request = v1::ApplyRequest {
        patch: Some(v1::PolicyPatch {
            put_policies: vec![file("shop.cedar", POLICIES)],
            put_schemas: vec![file("shop.cedarschema", SCHEMA)],
            ..Default::default()
        }),
        expected_revision: 1,
        ..Default::default()
    };
    let applied = server.admin().policies().apply(request).await;
    applied.expect("applied");
    let clerk = server.agent("clerk", &[]).await;
    (server, clerk)
}

/// A value that a policy chokes on stands in the engine's own sentence.
#[tokio::test]
async fn an_explanation_tells_no_redacted_value() {
    let (server, clerk) = shop().await;
    let ticket = v1::Entity {
        uid: entity("Shop::Ticket", "t1"),
        attributes_json: json!({"pin": PIN, "level": 5}).to_string(),
        ..Default::default()
    };
    let refund = call_with(
        "refund",
        json!({"amount": AMOUNT, "card": CARD}).to_string(),
    );
    let close = v1::AuthorizeRequest {
        action: entity("Shop::Action", "close"),
        resource: entity("Shop::Ticket", "t1"),
        entities: vec![ticket],
        ..Default::default()
    };
    let mut intruder = Intruder::open(&server).await;
    for (request, seen) in [(refund, "a number is out of range"), (close, "\"level\":5")] {
        let answer = authorize(&clerk, request.clone())
            .await
            .expect("a decision");
        let kept = inputs(&mut intruder, answer.sequence).await.to_string();
        let request = v1::ExplainRequest {
            request: Some(request),
            principal: entity("ZTA::Agent", "spiffe://zta.local/agent/clerk"),
        };
        let story = server.admin().authorization().explain(request).await;
        let story = story.expect("an explanation").into_inner();
        let told = format!("{story:?}").replace('\\', "");
        assert!(told.contains(seen) && told.contains("redacted"), "{told}");
        for canary in [CARD, PIN, &AMOUNT.to_string()] {
            assert!(!told.contains(canary), "`{canary}` is told: {told}");
            assert!(!format!("{answer:?}").contains(canary), "{answer:?}");
            assert!(!kept.contains(canary), "`{canary}` is kept: {kept}");
        }
    }
}
