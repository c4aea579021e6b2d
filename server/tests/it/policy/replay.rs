//! Recorded decisions, made again under a candidate.

use std::collections::HashMap;

use zta_client::v1::replay_response::Step;
use zta_client::{Client, v1};

use super::file;
use crate::support::rpc::{authorize, call, call_with, entity, reason, refused};
use crate::support::{CREW, Database, Server, Setup};

/// What a replay found, and how often it told of its progress.
pub(crate) async fn replay(
    client: &Client,
    request: v1::ReplayRequest,
) -> Result<(v1::ReplayReport, usize), tonic::Status> {
    let mut answers = client.policies().replay(request).await?.into_inner();
    let mut told = 0;
    while let Some(answer) = answers.message().await? {
        match answer.step.expect("a step") {
            Step::Progress(_) => told += 1,
            Step::Report(report) => return Ok((report, told)),
        }
    }
    panic!("a replay without a report")
}

fn under(policy: &str) -> v1::ReplayRequest {
    v1::ReplayRequest {
        patch: Some(v1::PolicyPatch {
            put_policies: vec![file("candidate.cedar", policy)],
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Each group as `actor: before -> after xN`, by the last parts of the ids.
fn groups(report: &v1::ReplayReport) -> Vec<String> {
    let short = |id: &str| id.rsplit('/').next().unwrap_or(id).to_owned();
    let outcome = |outcome: &Option<v1::ReplayOutcome>| {
        let outcome = outcome.as_ref().expect("an outcome");
        match outcome.effect() {
            v1::Effect::Allow => format!("allow by {}", outcome.policy_ids.join(",")),
            _ => format!("{} by {}", outcome.reason, outcome.policy_ids.join(",")),
        }
    };
    let group = |group: &v1::ReplayGroup| {
        let actor = short(&group.actor.as_ref().expect("an actor").id);
        let (before, after) = (outcome(&group.before), outcome(&group.after));
        format!("{actor}: {before} -> {after} x{}", group.count)
    };
    report.groups.iter().map(group).collect()
}

const RULES: &str = r#"
@id("r.search") permit (principal in ZTA::Role::"researcher", action in ZTA::Action::"call_tool",
  resource);
@id("r.talk") permit (principal, action == ZTA::Action::"send_message", resource);
"#;

async fn put(admin: &Client, tool: &str, group: Option<&str>) {
    let entities = vec![
        v1::Entity {
            uid: entity("ZTA::Group", "external"),
            ..Default::default()
        },
        v1::Entity {
            uid: entity("ZTA::Tool", tool),
            parents: group
                .and_then(|group| entity("ZTA::Group", group))
                .into_iter()
                .collect(),
            ..Default::default()
        },
    ];
    let put = v1::EntityServicePutRequest { entities };
    admin.entities().put(put).await.expect("put");
}

async fn roles(admin: &Client, agent: &str, roles: &[&str]) {
    let update = v1::UpdateRequest {
        agent: Some(v1::Agent {
            name: agent.to_owned(),
            roles: roles.iter().map(|&role| role.to_owned()).collect(),
            ..Default::default()
        }),
        update_mask: Some(prost_types::FieldMask {
            paths: vec!["roles".to_owned()],
        }),
        ..Default::default()
    };
    admin.agents().update(update).await.expect("updated");
}

fn message(to: &str) -> v1::AuthorizeRequest {
    v1::AuthorizeRequest {
        action: entity("ZTA::Action", "send_message"),
        resource: entity("ZTA::Agent", &format!("spiffe://zta.local/agent/{to}")),
        ..Default::default()
    }
}

/// What was stored when a decision was made has changed since: the tool's group, the roles of
/// who asked, and the roles of whom it was about.
async fn a_past(server: &Server) -> Client {
    let admin = server.admin();
    let research = server.agent("research", &["researcher"]).await;
    server.register("vault", &["shielded"]).await;
    let ask = async |request| drop(authorize(&research, request).await.expect("a decision"));
    put(&admin, "mail", Some("external")).await;
    ask(call("mail")).await;
    ask(call("mail")).await;
    ask(message("vault")).await;
    put(&admin, "mail", None).await;
    roles(&admin, "vault", &[]).await;
    ask(call("mail")).await;
    ask(message("vault")).await;
    roles(&admin, "research", &["intern"]).await;
    ask(call("mail")).await;
    admin
}

#[tokio::test]
async fn decisions_are_made_again_from_what_was_stored_then() {
    for database in Database::both().await {
        let server = Setup::on(database).policy(RULES).start().await;
        let admin = a_past(&server).await;
        // The revision in force says of each what it said, whatever has changed since.
        let same = v1::ReplayRequest {
            revision: 1,
            ..Default::default()
        };
        let (report, told) = replay(&admin, same).await.expect("a report");
        assert_eq!((report.replayed, report.flipped, report.changed), (6, 0, 0));
        assert!(told > 0 && report.groups.is_empty() && report.skipped.is_empty());

        let stricter = r#"
            @id("c.external") forbid (principal, action, resource in ZTA::Group::"external");
            @id("c.shielded") forbid (principal, action, resource in ZTA::Role::"shielded");
            @id("c.interns") permit (principal in ZTA::Role::"intern", action, resource);"#;
        let (report, _) = replay(&admin, under(stricter)).await.expect("a report");
        assert_eq!(
            groups(&report),
            [
                "research: allow by r.search -> FORBIDDEN by c.external x2",
                "research: NOT_PERMITTED by  -> allow by c.interns x1",
                "research: allow by r.talk -> FORBIDDEN by c.shielded x1",
            ]
        );
        assert_eq!((report.replayed, report.flipped, report.changed), (6, 4, 0));
        let example = &report.groups[0].examples[0];
        assert_eq!(example.resource.as_ref().expect("a resource").id, "mail");
        assert_eq!(example.revision, 1);
        // The same again; nothing of it is in force or was decided.
        let (again, _) = replay(&admin, under(stricter)).await.expect("a report");
        assert_eq!(again, report);
        assert_eq!(super::in_force(&admin).await.0, 1);
        server.assert_verifies();
    }
}

#[tokio::test]
async fn a_selection_is_replayed_and_nothing_else() {
    let server = Setup::sqlite().policy(RULES).start().await;
    let admin = a_past(&server).await;
    let research = "spiffe://zta.local/agent/research".to_owned();
    let all = under(r#"@id("c.none") forbid (principal, action, resource);"#);
    let count = async |request: v1::ReplayRequest| {
        let (report, _) = replay(&admin, request).await.expect("a report");
        (report.replayed, report.truncated)
    };
    let with = |alter: fn(&mut v1::ReplayRequest)| {
        let mut request = all.clone();
        alter(&mut request);
        request
    };
    assert_eq!(count(all.clone()).await, (6, false));
    assert_eq!(count(with(|r| r.decisions_max = 4)).await, (4, true));
    assert_eq!(count(with(|r| r.decisions_max = 6)).await, (6, false));
    assert_eq!(
        count(with(|r| r.action_id = "send_message".to_owned())).await,
        (2, false)
    );
    let mut of_actor = all.clone();
    of_actor.actor_id = research;
    assert_eq!(count(of_actor.clone()).await, (6, false));
    of_actor.actor_id += "er";
    assert_eq!(count(of_actor).await, (0, false));
    let (sampled, _) = count(with(|r| r.sample = 0.5)).await;
    assert_eq!(count(with(|r| r.sample = 0.5)).await.0, sampled);
    assert_eq!(count(with(|r| r.sample = 1.0)).await, (6, false));
    let past = |r: &mut v1::ReplayRequest| {
        r.end_time = Some(prost_types::Timestamp {
            seconds: 1_000_000_000,
            nanos: 0,
        });
    };
    assert_eq!(count(with(past)).await, (0, false));
    for (alter, why) in [
        (
            (|r| r.sample = 1.5) as fn(&mut v1::ReplayRequest),
            "FIELD_INVALID",
        ),
        (|r| r.sample = f64::NAN, "FIELD_INVALID"),
        (|r| r.decisions_max = u64::MAX, "FIELD_INVALID"),
        (|r| r.revision = 1, "FIELD_INVALID"),
        (|r| r.patch = None, "FIELD_INVALID"),
    ] {
        assert_eq!(refused(replay(&admin, with(alter)).await), why);
    }
    let unknown = v1::ReplayRequest {
        revision: 9,
        ..Default::default()
    };
    assert_eq!(refused(replay(&admin, unknown).await), "REVISION_NOT_FOUND");
    let broken = under("permit (principal, action");
    assert_eq!(refused(replay(&admin, broken).await), "POLICY_INVALID");
}

#[tokio::test]
async fn what_cannot_be_made_again_is_told_apart() {
    for database in Database::both().await {
        let server = Setup::on(database)
            .set("ZTA_REDACT", "**.password")
            .policies(&CREW)
            .start()
            .await;
        let admin = server.admin();
        let research = server.agent("research", &["researcher"]).await;
        let ask = async |request| authorize(&research, request).await.expect("a decision");
        let mut with_secret = call_with("web_search", r#"{"query":"x"}"#);
        with_secret.context_json = br#"{"framework":"f"}"#.to_vec();
        let kept = ask(with_secret).await;
        let secret = ask(call_with("anything", r#"{"password":"p"}"#)).await;
        let gone = ask(call_with("web_search", r#"{"query":"y"}"#)).await;
        let altered = ask(call_with("web_search", r#"{"query":"z"}"#)).await;
        let request = v1::SuspendRequest {
            agent: "research".to_owned(),
            note: String::new(),
        };
        admin.agents().suspend(request).await.expect("suspended");
        ask(call("web_search")).await;
        server
            .sql(&format!(
                "DELETE FROM audit_inputs WHERE sequence = {}",
                gone.sequence
            ))
            .await;
        let replaced = format!(
            "DELETE FROM audit_inputs WHERE sequence = {0}; \
             INSERT INTO audit_inputs (sequence, log_id, salt, inputs) \
             SELECT {0}, log_id, salt, inputs FROM audit_inputs WHERE sequence = {1}",
            altered.sequence, kept.sequence
        );
        for statement in replaced.split(';') {
            server.sql(statement).await;
        }
        assert!(secret.sequence > kept.sequence);
        let none = under(r#"@id("c.none") forbid (principal, action, resource);"#);
        let (report, _) = replay(&admin, none).await.expect("a report");
        assert_eq!((report.replayed, report.flipped), (1, 1), "{report:?}");
        let expected = ["REDACTED", "DESTROYED", "ALTERED", "CONTAINED"];
        let expected: HashMap<String, u64> = expected
            .into_iter()
            .map(|why| (why.to_owned(), 1))
            .collect();
        assert_eq!(report.skipped, expected);
    }
}

#[tokio::test]
async fn who_may_not_read_decisions_replays_none() {
    let server = Setup::sqlite().policy(RULES).start().await;
    let admin = a_past(&server).await;
    let auditor = server.agent("ann", &["auditor"]).await;
    let none = || under(r#"@id("c.none") forbid (principal, action, resource);"#);
    let status = replay(&auditor, none()).await.expect_err("an agent");
    assert_eq!(reason(&status), "NOT_PERMITTED");
    let record = crate::support::rpc::events(&admin, &["admin"]).await;
    let denied = record
        .iter()
        .find(|e| e.1["action"]["id"] == "replay_policy");
    assert_eq!(denied.expect("on record").1["effect"], "deny");
}

#[tokio::test]
async fn the_command_line_replays() {
    let server = Setup::sqlite().policy(RULES).start().await;
    a_past(&server).await;
    let folder = tempfile::tempdir().expect("a folder");
    let rules = folder.path().join("rules.cedar");
    let admin = crate::support::repository("policies/admin.cedar");
    std::fs::copy(admin, folder.path().join("admin.cedar")).expect("copied");
    std::fs::write(&rules, RULES).expect("written");
    let path = folder.path().display().to_string();
    let run = |arguments: &[&str]| {
        let output = server.zta(&[&["policy", "replay"], arguments].concat());
        let said = crate::support::server::text(&output.stdout);
        (output.status.code().expect("a code"), said)
    };
    let (code, said) = run(&[&path, "--since", "1h"]);
    assert_eq!(code, 0, "{said}");
    assert!(
        said.contains("6 decisions replayed: 0 would flip"),
        "{said}"
    );
    let none = r#"@id("c.mail") forbid (principal, action, resource == ZTA::Tool::"mail");"#;
    std::fs::write(&rules, format!("{RULES}{none}")).expect("written");
    let (code, said) = run(&[&path]);
    assert_eq!(code, 1, "{said}");
    for part in [
        "FLIP        3 x  spiffe://zta.local/agent/research  call_tool",
        "was      allow by r.search",
        "would be deny (FORBIDDEN) by c.mail",
        "6 decisions replayed: 3 would flip, 1 would change",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let (code, said) = run(&[&path, "--json"]);
    let report: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!((code, &report["flipped"]), (1, &3.into()), "{said}");
    assert_eq!(report["groups"][0]["after"]["policies"][0], "c.mail");
    let (code, said) = run(&[&path, "--since", "yesterday"]);
    assert_eq!(code, 2, "{said}");
}
