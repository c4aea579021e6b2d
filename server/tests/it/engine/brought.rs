//! Entities that a request brings.

use serde_json::json;
use sqlx::{Connection as _, SqliteConnection};
use zta_client::v1;

use super::shop;
use crate::support::Server;
use crate::support::rpc::{allowed, authorize, call, entity, refused};

fn ticket(id: &str, priority: i64, team: &str) -> v1::AuthorizeRequest {
    v1::AuthorizeRequest {
        action: entity("Shop::Action", "close"),
        resource: entity("Shop::Ticket", id),
        entities: vec![v1::Entity {
            uid: entity("Shop::Ticket", id),
            attributes_json: json!({ "priority": priority }).to_string(),
            parents: entity("Shop::Team", team).into_iter().collect(),
            tags_json: String::new(),
        }],
        ..Default::default()
    }
}

/// What replay would start from.
async fn inputs(server: &Server, sequence: u64) -> serde_json::Value {
    let url = format!("sqlite://{}", server.data().join("zta.db").display());
    let mut store = SqliteConnection::connect(&url).await.expect("the store");
    let sequence = i64::try_from(sequence).expect("a small log");
    let inputs: Vec<u8> = sqlx::query_scalar("SELECT inputs FROM audit_inputs WHERE sequence = $1")
        .bind(sequence)
        .fetch_one(&mut store)
        .await
        .expect("inputs");
    serde_json::from_slice(&inputs).expect("JSON")
}

#[tokio::test]
async fn a_request_brings_only_what_the_schema_lets_it() {
    let (server, admin, clerk) = shop().await;
    let answer = allowed(&clerk, ticket("t1", 1, "north")).await;
    assert_eq!(
        inputs(&server, answer.sequence).await["entities"],
        json!([{
            "attributes": { "priority": 1 },
            "parents": [{ "id": "north", "type": "Shop::Team" }],
            "tags": {},
            "uid": { "id": "t1", "type": "Shop::Ticket" },
        }])
    );
    for wrong in [ticket("t1", 5, "north"), ticket("t1", 1, "south")] {
        let answer = authorize(&clerk, wrong).await.expect("a decision");
        assert_eq!(answer.reason(), v1::DenyReason::NotPermitted);
    }
    // The hierarchy above what it brings is the stored one.
    let team = v1::Entity {
        uid: entity("Shop::Team", "oslo"),
        parents: entity("Shop::Team", "north").into_iter().collect(),
        ..Default::default()
    };
    let mut entities = admin.entities();
    let put = |entities: Vec<v1::Entity>| v1::EntityServicePutRequest { entities };
    entities.put(put(vec![team.clone()])).await.expect("stored");
    allowed(&clerk, ticket("t2", 1, "oslo")).await;
    let brings = |brought: v1::Entity| v1::AuthorizeRequest {
        entities: vec![brought],
        ..ticket("t1", 1, "north")
    };
    let with = |ty: &str, id: &str, attributes: &str| {
        brings(v1::Entity {
            uid: entity(ty, id),
            attributes_json: attributes.to_owned(),
            ..Default::default()
        })
    };
    for (request, reason) in [
        // Not marked; never of ours, however it is written.
        (brings(team.clone()), "ENTITY_TYPE_RESERVED"),
        (
            with("ZTA::Role", "administrator", ""),
            "ENTITY_TYPE_RESERVED",
        ),
        (
            with("ZTA::Agent", "spiffe://zta.local/agent/clerk", ""),
            "ENTITY_TYPE_RESERVED",
        ),
        (with("Shop::Action", "close", ""), "ENTITY_TYPE_RESERVED"),
        (with("Nowhere::Thing", "x", ""), "ENTITY_TYPE_RESERVED"),
        (
            with("Shop::Ticket", "t1", r#"{"priority":"high"}"#),
            "ENTITY_INVALID",
        ),
        (with("Shop::Ticket", "t1", "{}"), "ENTITY_INVALID"),
        (
            with("Shop::Ticket", "t1", r#"{"priority":1,"more":2}"#),
            "ENTITY_INVALID",
        ),
        (with("Shop::Ticket", "t1", "[]"), "FIELD_INVALID"),
    ] {
        let entities = request.entities.clone();
        assert_eq!(
            refused(authorize(&clerk, request).await),
            reason,
            "{entities:?}"
        );
    }
    let mut twice = ticket("t1", 1, "north");
    twice.entities.push(twice.entities[0].clone());
    assert_eq!(refused(authorize(&clerk, twice).await), "ENTITY_INVALID");
    let mut many = ticket("t1", 1, "north");
    many.entities = vec![many.entities[0].clone(); 65];
    assert_eq!(refused(authorize(&clerk, many).await), "LIMIT_EXCEEDED");
    // A stored one is what its administrator says.
    let stored = v1::Entity {
        attributes_json: r#"{"priority":9}"#.to_owned(),
        ..ticket("t3", 0, "north").entities[0].clone()
    };
    entities.put(put(vec![stored])).await.expect("stored");
    let refusal = authorize(&clerk, ticket("t3", 1, "north")).await;
    assert_eq!(refused(refusal), "ENTITY_STORED");
    let alone = v1::AuthorizeRequest {
        entities: Vec::new(),
        ..ticket("t3", 1, "north")
    };
    let answer = authorize(&clerk, alone).await.expect("a decision");
    assert_eq!(answer.reason(), v1::DenyReason::NotPermitted);
    server.assert_verifies();
}

const OWNED: &str = r#"
@id("owned.all") permit (principal in ZTA::Role::"clerk", action == Shop::Action::"approve", resource);
@id("owned.sanctioned") forbid (principal, action == Shop::Action::"approve", resource)
when { resource has owner && resource.owner in ZTA::Role::"sanctioned" };
@id("owned.quarantine") forbid (principal, action == Shop::Action::"close", resource)
when { ZTA::Agent::"spiffe://zta.local/agent/mallory" in ZTA::Role::"sanctioned" };
@id("owned.actions") forbid (principal, action == ZTA::Action::"call_tool", resource == ZTA::Tool::"search")
when { ZTA::Action::"read_audit" in ZTA::Action::"audit" };
"#;

/// An agent is stored nowhere: were it missing from the slice, `in` would be false, and a
/// forbid over the owner's role would not forbid.
#[tokio::test]
async fn forbids_see_agents_that_stored_entities_and_policies_name() {
    let (server, admin, clerk) = shop().await;
    server.register("mallory", &["sanctioned"]).await;
    server.register("alice", &[]).await;
    let (name, text) = ("owned.cedar".to_owned(), OWNED.to_owned());
    let request = v1::ApplyRequest {
        patch: Some(v1::PolicyPatch {
            put_policies: vec![v1::SourceFile { name, text }],
            ..Default::default()
        }),
        expected_revision: 2,
        ..Default::default()
    };
    admin.policies().apply(request).await.expect("applied");
    let order = |id: &str, owner: &str| {
        let owner = format!("spiffe://zta.local/agent/{owner}");
        let team = json!({"type": "Shop::Team", "id": "north"});
        let owner = json!({"type": "ZTA::Agent", "id": owner});
        v1::Entity {
            uid: entity("Shop::Order", id),
            attributes_json: json!({"amount": 5, "team": team, "owner": owner}).to_string(),
            ..Default::default()
        }
    };
    let entities = vec![order("o1", "alice"), order("o2", "mallory")];
    let put = v1::EntityServicePutRequest { entities };
    admin.entities().put(put).await.expect("stored");
    let approve = |id: &str| v1::AuthorizeRequest {
        action: entity("Shop::Action", "approve"),
        resource: entity("Shop::Order", id),
        ..Default::default()
    };
    allowed(&clerk, approve("o1")).await;
    for (request, policy) in [
        (approve("o2"), "owned.sanctioned"),
        (ticket("t1", 1, "north"), "owned.quarantine"),
        (call("search"), "owned.actions"),
    ] {
        let answer = authorize(&clerk, request).await.expect("a decision");
        assert_eq!(answer.reason(), v1::DenyReason::Forbidden, "{answer:?}");
        assert_eq!(answer.policy_ids, [policy]);
    }
}

/// A stored ticket in a ticket that is stored no more: whoever brings that one would say
/// what the stored one is in.
#[tokio::test]
async fn what_a_stored_entity_refers_to_is_not_brought() {
    let (_server, admin, clerk) = shop().await;
    let stored = v1::Entity {
        uid: entity("Shop::Ticket", "secret"),
        attributes_json: r#"{"priority":1}"#.to_owned(),
        parents: entity("Shop::Ticket", "gone").into_iter().collect(),
        ..Default::default()
    };
    let put = v1::EntityServicePutRequest {
        entities: vec![stored],
    };
    admin.entities().put(put).await.expect("stored");
    let request = v1::AuthorizeRequest {
        resource: entity("Shop::Ticket", "secret"),
        ..ticket("gone", 1, "north")
    };
    let answer = authorize(&clerk, request).await.expect("a decision");
    assert_eq!(
        answer.reason(),
        v1::DenyReason::InvalidArguments,
        "{answer:?}"
    );
    assert!(answer.message.contains("gone"), "{}", answer.message);
}
