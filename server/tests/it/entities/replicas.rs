//! Two replicas on one Postgres: what one stores, the other knows on its next call.

use serde_json::json;
use zta_client::v1;

use super::{delete, doc, get, given, put, with_schema};
use crate::support::Database;
use crate::support::rpc::{allowed, call, denied, refused};

#[tokio::test]
async fn what_one_replica_stores_the_other_has_on_its_next_call() {
    let (first, admin) = with_schema(Database::postgres().await).await;
    let second = first.replica().await;
    let other = second.admin();
    for round in 0..5 {
        let title = format!("round {round}");
        put(&admin, vec![doc("d", &title)]).await.expect("puts");
        let seen = get(&other, "App::Doc", &["d"]).await;
        assert_eq!(
            seen[0].attributes_json,
            json!({ "title": title }).to_string()
        );
        // The circle is closed by two replicas, so one of them must see the other's half.
        let team = |id: &str, of: &str| given("App::Team", id, "", &[("App::Team", of)]);
        let (a, b) = (format!("a{round}"), format!("b{round}"));
        put(&admin, vec![team(&a, &b)])
            .await
            .expect("half a circle");
        assert_eq!(
            refused(put(&other, vec![team(&b, &a)]).await),
            "ENTITY_INVALID"
        );
        delete(&other, "App::Doc", &["d"]).await.expect("deletes");
        assert_eq!(get(&admin, "App::Doc", &["d"]).await, []);
    }
    first.assert_verifies();
}

/// Policies over stored entities, in place of the demo crew's own.
const POLICIES: &str = r#"
@id("group") permit (principal, action == ZTA::Action::"call_tool", resource in ZTA::Group::"open");
@id("risky") forbid (principal, action == ZTA::Action::"call_tool", resource)
when { resource.hasTag("risk") && resource.getTag("risk") == "high" };
"#;

#[tokio::test]
async fn a_change_of_entities_bites_on_the_next_decision_of_each_replica() {
    let (first, admin) = with_schema(Database::postgres().await).await;
    let second = first.replica().await;
    let request = v1::GetRevisionRequest::default();
    let answer = admin
        .policies()
        .get_revision(request)
        .await
        .expect("a revision")
        .into_inner();
    let mut source = answer.source.expect("files");
    source.policies.push(v1::SourceFile {
        name: "tools.cedar".to_owned(),
        text: POLICIES.to_owned(),
    });
    let request = v1::ApplyRequest {
        source: Some(source),
        expected_revision: answer.revision.expect("a revision").number,
        ..v1::ApplyRequest::default()
    };
    admin.policies().apply(request).await.expect("applies");
    first.register("calls", &[]).await;
    let credential = first.enroll("calls").await;
    let replicas = [first.client(credential.clone()), second.client(credential)];
    let group = |id: &str, of: &[(&str, &str)]| given("ZTA::Group", id, "", of);
    let tool = |risk: &str| v1::Entity {
        tags_json: json!({ "risk": risk }).to_string(),
        ..given("ZTA::Tool", "hammer", "", &[("ZTA::Group", "inner")])
    };
    for _ in 0..3 {
        for (change, expected) in [
            (vec![tool("low")], Some(v1::DenyReason::NotPermitted)),
            // Two levels up, and by that of the middle one alone.
            (vec![group("inner", &[("ZTA::Group", "open")])], None),
            (vec![tool("high")], Some(v1::DenyReason::Forbidden)),
            (vec![tool("low")], None),
            (
                vec![group("inner", &[])],
                Some(v1::DenyReason::NotPermitted),
            ),
        ] {
            put(&admin, change).await.expect("puts");
            // The other replica first: nobody has told it.
            for replica in replicas.iter().rev() {
                match expected {
                    None => drop(allowed(replica, call("hammer")).await),
                    Some(reason) => assert_eq!(denied(replica, call("hammer")).await, reason),
                }
            }
        }
        put(&admin, vec![group("inner", &[("ZTA::Group", "open")])])
            .await
            .expect("puts");
        allowed(&replicas[1], call("hammer")).await;
        // What had the deleted group as parent keeps the reference, but leads no further.
        delete(&admin, "ZTA::Group", &["inner"])
            .await
            .expect("deletes");
        let reason = denied(&replicas[1], call("hammer")).await;
        assert_eq!(reason, v1::DenyReason::NotPermitted);
    }
    first.assert_verifies();
}
