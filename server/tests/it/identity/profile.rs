//! What is known of an agent: policies see it, changes bite at once, and nobody changes
//! their own.

use tonic::Status;
use zta_client::{Client, v1};

use crate::support::rpc::{allowed, call, denied, entity, event, events, refused};
use crate::support::{Database, Server, Setup};

/// Zones and tags decide. Operators are agents, because people other than the first
/// administrator need an identity provider; without `base.cedar`, which forbids it.
const POLICIES: &str = r#"
    @id("lab") permit (principal is ZTA::Agent, action, resource == ZTA::Tool::"lab")
        when { principal.zone == "lab" };
    @id("tag") permit (principal is ZTA::Agent, action, resource == ZTA::Tool::"tag")
        when { principal.hasTag("clearance") && principal.getTag("clearance") == "high" };
    @id("role") permit (principal in ZTA::Role::"writer", action,
        resource == ZTA::Tool::"role");
    @id("to") permit (principal is ZTA::Agent, action == ZTA::Action::"send_message",
        resource is ZTA::Agent) when { resource.hasTag("inbox") };
    @id("operator") permit (principal in ZTA::Role::"operator",
        action in ZTA::Action::"operate", resource);
"#;

async fn scene(database: Database) -> Server {
    let folder = tempfile::tempdir().expect("a folder");
    let admin = crate::support::repository("policies/admin.cedar");
    std::fs::copy(admin, folder.path().join("admin.cedar")).expect("copy");
    std::fs::write(folder.path().join("own.cedar"), POLICIES).expect("write");
    Setup::on(database)
        .policies(&[])
        .set("ZTA_POLICY_DIR", folder.path().display())
        .start()
        .await
}

fn research() -> v1::Agent {
    v1::Agent {
        name: "research".to_owned(),
        ..Default::default()
    }
}

async fn update(client: &Client, agent: v1::Agent, paths: &[&str]) -> Result<v1::Agent, Status> {
    let request = v1::UpdateRequest {
        agent: Some(agent),
        update_mask: Some(prost_types::FieldMask {
            paths: paths.iter().map(|&path| path.to_owned()).collect(),
        }),
        note: "a test".to_owned(),
    };
    let answer = client.agents().update(request).await?.into_inner();
    Ok(answer.agent.expect("an agent"))
}

fn tag(key: &str, value: &str) -> std::collections::HashMap<String, String> {
    [(key.to_owned(), value.to_owned())].into()
}

#[tokio::test]
async fn policies_see_zone_tags_and_roles_and_a_change_bites_on_the_next_call() {
    for database in Database::both().await {
        let server = scene(database).await;
        let admin = server.admin();
        let client = server.agent("research", &[]).await;
        for tool in ["lab", "tag", "role"] {
            let reason = denied(&client, call(tool)).await;
            assert_eq!(reason, v1::DenyReason::NotPermitted, "{tool}");
        }
        let zone = v1::Agent {
            zone: "lab".to_owned(),
            owner: "not in the mask".to_owned(),
            ..research()
        };
        let changed = update(&admin, zone, &["zone"]).await.expect("updates");
        assert_eq!(
            (changed.zone.as_str(), changed.owner.as_str()),
            ("lab", "owner")
        );
        allowed(&client, call("lab")).await;
        for (level, is_allowed) in [("low", false), ("high", true)] {
            let tags = v1::Agent {
                attributes: tag("clearance", level),
                ..research()
            };
            update(&admin, tags, &["attributes"])
                .await
                .expect("updates");
            match is_allowed {
                true => drop(allowed(&client, call("tag")).await),
                false => drop(denied(&client, call("tag")).await),
            }
        }
        let role = v1::Agent {
            roles: vec!["writer".to_owned()],
            ..research()
        };
        update(&admin, role, &["roles"]).await.expect("updates");
        allowed(&client, call("role")).await;
        update(&admin, research(), &["roles", "zone", "attributes"])
            .await
            .expect("takes all of it back");
        for tool in ["lab", "tag", "role"] {
            denied(&client, call(tool)).await;
        }
        server.assert_verifies();
    }
}

#[tokio::test]
async fn an_agent_as_a_resource_has_its_tags_too() {
    let server = scene(Database::Sqlite).await;
    let client = server.agent("research", &[]).await;
    server.register("writing", &[]).await;
    let message = v1::AuthorizeRequest {
        action: entity("ZTA::Action", "send_message"),
        resource: entity("ZTA::Agent", "spiffe://zta.local/agent/writing"),
        ..Default::default()
    };
    denied(&client, message.clone()).await;
    let tags = v1::Agent {
        spiffe_id: "spiffe://zta.local/agent/writing".to_owned(),
        attributes: tag("inbox", ""),
        ..Default::default()
    };
    update(&server.admin(), tags, &["attributes"])
        .await
        .expect("updates");
    allowed(&client, message).await;
}

#[tokio::test]
async fn nobody_gives_a_role_to_themselves() {
    let server = scene(Database::Sqlite).await;
    let admin = server.admin();
    let operator = server.agent("research", &["operator"]).await;
    server.register("writing", &[]).await;
    let role = |agent: &str| v1::Agent {
        name: agent.to_owned(),
        roles: vec!["operator".to_owned(), "writer".to_owned()],
        ..Default::default()
    };
    // Policy permits it, to others.
    let others = update(&operator, role("writing"), &["roles"]).await;
    assert_eq!(others.expect("updates").roles.len(), 2);
    for path in ["roles", "attributes", "zone", "owner"] {
        let own = update(&operator, role("research"), &[path]).await;
        assert_eq!(refused(own), "NOT_PERMITTED", "{path}");
    }
    denied(&operator, call("role")).await;
    let acts = events(&admin, &["admin"]).await;
    let failed = acts.iter().filter(|(_, leaf)| {
        let why = leaf["detail"]["failed"].as_str().unwrap_or_default();
        leaf["action"]["id"] == "update_agent" && why.contains("themselves")
    });
    assert_eq!(failed.count(), 4, "each attempt is on record");
    // Without the role, nobody at all.
    let plain = server.agent("analysis", &["researcher"]).await;
    for agent in ["analysis", "writing"] {
        let refusal = update(&plain, role(agent), &["roles"]).await;
        assert_eq!(refused(refusal), "NOT_PERMITTED", "{agent}");
    }
}

#[tokio::test]
async fn what_is_registered_is_shown_and_recorded_and_bounds_are_kept() {
    let server = Setup::sqlite().start().await;
    let admin = server.admin();
    let request = v1::RegisterRequest {
        name: "research".to_owned(),
        owner: "ann".to_owned(),
        zone: "lab".to_owned(),
        attributes: tag("level", "3"),
        audiences: vec!["https://api.example".to_owned()],
        certificate_lifetime_max_s: Some(120),
        token_lifetime_max_s: Some(30),
        delegation_depth_max: Some(0),
        ..Default::default()
    };
    let registered = admin.agents().register(request).await.expect("registers");
    let registered = registered.into_inner().agent.expect("an agent");
    let get = v1::AgentServiceGetRequest {
        agent: "research".to_owned(),
    };
    let shown = admin.agents().get(get).await.expect("one").into_inner();
    assert_eq!(shown.agent.as_ref(), Some(&registered));
    assert_eq!(registered.delegation_depth_max, Some(0), "0 is not absent");
    // The shorter of two lives: its own, and the server's.
    let client = server.client(server.enroll("research").await);
    let validity = client.credential().expect("a credential").validity();
    let life = validity
        .not_after
        .duration_since(validity.not_before)
        .expect("a life");
    assert!((120..=135).contains(&life.as_secs()), "{life:?}");
    let token = client.authenticate().await.expect("a token");
    let (from, until) = (
        crate::support::pki::now(),
        token.expire_time.expect("an end"),
    );
    assert!(until.seconds - from.unix_timestamp() <= 30, "{until:?}");

    for (paths, agent) in [
        (&[][..], research()),
        (&["state"], research()),
        (&["zone", "name"], research()),
        (
            &["token_lifetime_max_s"],
            v1::Agent {
                token_lifetime_max_s: Some(9),
                ..research()
            },
        ),
        (
            &["zone"],
            v1::Agent {
                zone: "No Zone".to_owned(),
                ..research()
            },
        ),
        (
            &["attributes"],
            v1::Agent {
                attributes: tag("Bad Key", ""),
                ..research()
            },
        ),
    ] {
        let refusal = update(&admin, agent, paths).await;
        assert_eq!(refused(refusal), "FIELD_INVALID", "{paths:?}");
    }
    let missing = v1::Agent {
        name: "nobody".to_owned(),
        ..Default::default()
    };
    assert_eq!(
        refused(update(&admin, missing, &["zone"]).await),
        "AGENT_NOT_FOUND"
    );
    let cleared = update(&admin, research(), &["token_lifetime_max_s", "audiences"]).await;
    let cleared = cleared.expect("updates");
    assert_eq!(cleared.token_lifetime_max_s, None);
    assert_eq!(cleared.certificate_lifetime_max_s, Some(120));
    let (sequence, _) = events(&admin, &["admin"])
        .await
        .into_iter()
        .find(|(_, leaf)| leaf["action"]["id"] == "update_agent")
        .expect("an event");
    let detail = &event(&admin, sequence).await["detail"];
    let expected = serde_json::json!({
        "audiences": [], "note": "a test", "token_lifetime_max_s": null,
    });
    assert_eq!(*detail, expected);
}

#[tokio::test]
async fn the_command_line_tells_the_whole_story_of_an_agent() {
    let server = Setup::sqlite().start().await;
    let zta = |arguments: &[&str]| {
        let output = server.zta(arguments);
        let out = crate::support::server::text(&output.stdout);
        let err = crate::support::server::text(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {err}");
        out
    };
    zta(&[
        "agent",
        "register",
        "research",
        "--role",
        "researcher",
        "--zone",
        "lab",
        "--attribute",
        "level=3",
        "--delegation-depth-max",
        "1",
    ]);
    zta(&[
        "agent", "update", "research", "--owner", "ann", "--clear", "zone", "--note", "moved",
    ]);
    let credential = server.enroll("research").await;
    zta(&["agent", "suspend", "research", "--note", "odd"]);
    let listed = zta(&["agent", "list"]);
    assert!(
        listed.contains("suspended") && listed.contains("researcher"),
        "{listed}"
    );
    let keys = zta(&["agent", "keys", "research"]);
    assert!(
        keys.contains(credential.instance_id()) && keys.contains("active"),
        "{keys}"
    );
    let shown = zta(&["agent", "show", "research"]);
    for part in [
        "suspended",
        "level=3",
        "ann",
        "delegation 1",
        credential.instance_id(),
        "register_agent",
        "update_agent",
        "moved",
        "enrolled",
        "suspend_agent",
        "odd",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let json: serde_json::Value =
        serde_json::from_str(&zta(&["agent", "show", "research", "--json"])).expect("JSON");
    assert_eq!(json["state"], "suspended");
    assert_eq!(json["attributes"]["level"], "3");
    assert_eq!(json["keys"][0]["generation"], 1);
    assert_eq!(json["history"][0]["event"]["action"]["id"], "suspend_agent");
    let key = credential.instance_id();
    zta(&["agent", "reinstate", "research"]);
    zta(&[
        "agent", "revoke", "research", "--key", key, "--note", "lost",
    ]);
    let keys = zta(&["agent", "keys", "research", "--json"]);
    assert!(keys.contains("\"revoked\""), "{keys}");
    zta(&["agent", "ban", "research"]);
    let listed = zta(&["agent", "list"]);
    assert!(listed.contains("banned"), "{listed}");
    let nothing = server.zta(&["agent", "update", "research"]);
    assert_eq!(nothing.status.code(), Some(2), "nothing to change");
}
