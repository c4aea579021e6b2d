//! Entities that a request brings.

use serde_json::json;
use sqlx::{Connection as _, SqliteConnection};
use zta_client::v1;

use super::shop;
use crate::support::Server;
use crate::support::rpc::{allowed, authorize, entity, refused};

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
