//! A rule is changed on a Friday: two replicas, traffic all the while, candidates that must not
//! pass, a replay, a change, faults in the middle, and the way back.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::task::JoinSet;
use tonic_types::StatusExt as _;
use zta_client::{Client, v1};

use super::replay::replay;
use super::{file, in_force};
use crate::support::rpc::{authorize, call, reason, refused};
use crate::support::{Database, Server, Setup};

/// What is in force: the same two files with other contents. Were a decision made by one file
/// of each, it would name policies of both.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Rules {
    Open,
    Narrow,
}
use Rules::{Narrow, Open};

/// Revision 1 is the server's own, 2 is the week before, and so on.
const PLAN: [Rules; 8] = [Open, Open, Open, Narrow, Open, Narrow, Open, Open];

impl Rules {
    fn name(self) -> &'static str {
        match self {
            Open => "open",
            Narrow => "narrow",
        }
    }

    fn patch(self) -> v1::PolicyPatch {
        let name = self.name();
        let search = |file: &str| {
            format!(
                r#"@id("{file}.{name}") @obligation("o.{file}.{name}")
                permit (principal in ZTA::Role::"crew", action == ZTA::Action::"call_tool", resource)
                when {{ [ZTA::Tool::"search", ZTA::Tool::"export"].contains(resource) }};"#
            )
        };
        let no_export = r#"@id("b.no_export") @reason("not on a Friday")
            forbid (principal in ZTA::Role::"crew", action, resource == ZTA::Tool::"export");"#;
        let b = match self {
            Open => search("b"),
            Narrow => search("b") + no_export,
        };
        let test = format!(
            r#"
principals:
  agent: {{agent: spiffe://zta.local/agent/test, roles: [crew]}}
cases:
  - name: the crew searches
    principal: agent
    tool: search
    supported_obligations: [o.a.{name}, o.b.{name}]
    expect: {{decision: allow, policies: [a.{name}, b.{name}]}}
"#
        );
        v1::PolicyPatch {
            put_policies: vec![file("a.cedar", &search("a")), file("b.cedar", &b)],
            put_tests: vec![file("crew.test.yaml", &test)],
            ..Default::default()
        }
    }

    /// Effect, reason, policies and obligations of a call.
    fn expected(self, tool: &str) -> Expected {
        let name = self.name();
        if (self, tool) == (Narrow, "export") {
            return (
                false,
                "FORBIDDEN".to_owned(),
                vec!["b.no_export".to_owned()],
                Vec::new(),
            );
        }
        let both = |prefix: &str| {
            ["a", "b"]
                .map(|file| format!("{prefix}{file}.{name}"))
                .to_vec()
        };
        (true, "UNSPECIFIED".to_owned(), both(""), both("o."))
    }
}

type Expected = (bool, String, Vec<String>, Vec<String>);

fn told(answer: &v1::AuthorizeResponse) -> Expected {
    let reason = answer.reason().as_str_name();
    let obligations = match answer.effect() {
        v1::Effect::Allow => answer.obligations.iter().map(|o| o.name.clone()).collect(),
        // On a deny they are for people.
        _ => Vec::new(),
    };
    (
        answer.effect() == v1::Effect::Allow,
        reason.trim_start_matches("DENY_REASON_").to_owned(),
        answer.policy_ids.clone(),
        obligations,
    )
}

fn request(tool: &str) -> v1::AuthorizeRequest {
    let names = ["o.a.open", "o.b.open", "o.a.narrow", "o.b.narrow"];
    v1::AuthorizeRequest {
        supported_obligations: names.map(str::to_owned).to_vec(),
        ..call(tool)
    }
}

/// Calls all the while, at both replicas.
struct Traffic {
    over: Arc<AtomicBool>,
    /// Answers so far.
    answered: Arc<AtomicU64>,
    /// What was refused, by reason.
    refused: Arc<Mutex<BTreeMap<String, u64>>>,
    callers: JoinSet<()>,
}

impl Traffic {
    fn start(clients: &[Client]) -> Self {
        let mut traffic = Self {
            over: Arc::default(),
            answered: Arc::default(),
            refused: Arc::default(),
            callers: JoinSet::new(),
        };
        for (nth, client) in clients.iter().cycle().take(clients.len() * 3).enumerate() {
            let tool = ["search", "export"][nth % 2];
            let client = client.clone();
            let (over, answered) = (Arc::clone(&traffic.over), Arc::clone(&traffic.answered));
            let refused = Arc::clone(&traffic.refused);
            traffic.callers.spawn(async move {
                let mut newest = 0;
                while !over.load(Ordering::Relaxed) {
                    match authorize(&client, request(tool)).await {
                        Ok(answer) => {
                            let number = usize::try_from(answer.revision).expect("small");
                            let rules = PLAN[number - 1];
                            assert_eq!(told(&answer), rules.expected(tool), "{answer:?}");
                            assert!(answer.revision >= newest, "back to an older revision");
                            newest = answer.revision;
                            answered.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(status) => {
                            // A replica that is killed says nothing of ours.
                            let ours = status.get_details_error_info().is_some();
                            let why = match ours {
                                true => reason(&status),
                                false => format!("{:?}", status.code()),
                            };
                            *refused.lock().expect("whole").entry(why).or_default() += 1;
                            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                        }
                    }
                }
            });
        }
        traffic
    }

    /// Until both replicas have answered some more.
    async fn goes_on(&self) {
        let enough = self.answered.load(Ordering::Relaxed) + 40;
        crate::support::eventually("traffic", async || {
            match self.answered.load(Ordering::Relaxed) {
                n if n >= enough => Ok(()),
                n => Err(n),
            }
        })
        .await;
    }

    /// What was refused since it was last asked.
    fn refused(&self) -> BTreeMap<String, u64> {
        std::mem::take(&mut *self.refused.lock().expect("whole"))
    }

    async fn end(mut self) {
        self.over.store(true, Ordering::Relaxed);
        while let Some(caller) = self.callers.join_next().await {
            caller.expect("each answer was as its revision says");
        }
    }
}

async fn apply(
    admin: &Client,
    patch: v1::PolicyPatch,
    expected: u64,
) -> Result<u64, tonic::Status> {
    let request = v1::ApplyRequest {
        patch: Some(patch),
        expected_revision: expected,
        message: "Friday".to_owned(),
        ..Default::default()
    };
    let answer = admin.policies().apply(request).await?.into_inner();
    Ok(answer.revision.expect("a revision").number)
}

async fn rollback(admin: &Client, to: u64) -> u64 {
    let request = v1::RollbackRequest {
        number: to,
        expected_revision: in_force(admin).await.0,
        message: "undo Friday".to_owned(),
    };
    let answer = admin.policies().rollback(request).await;
    let revision = answer.expect("rolled back").into_inner().revision;
    revision.expect("a revision").number
}

/// Candidates that each stop at another gate.
async fn bad_candidates_are_stopped(admin: &Client, number: u64) {
    let policy = |text: &str| v1::PolicyPatch {
        put_policies: vec![file("bad.cedar", text)],
        ..Default::default()
    };
    let test = r#"
principals:
  agent: {agent: spiffe://zta.local/agent/test, roles: [crew]}
cases:
  - {name: all export, principal: agent, tool: export, expect: {decision: allow}}
"#;
    let failing_test = v1::PolicyPatch {
        put_tests: vec![file("bad.test.yaml", test)],
        ..Default::default()
    };
    let unreadable_test = v1::PolicyPatch {
        put_tests: vec![file("bad.test.yaml", "cases: 7")],
        ..Default::default()
    };
    let schema = v1::PolicyPatch {
        put_schemas: vec![file("bad.cedarschema", "entity Nothing in [Nowhere];")],
        ..Default::default()
    };
    let long = format!(
        r#"@id("x") permit (principal, action, resource) when {{ "{}" == "" }};"#,
        "x".repeat(40_000)
    );
    for (gate, patch, why) in [
        ("parse", policy("permit (principal"), "POLICY_INVALID"),
        (
            "no id",
            policy("permit (principal, action, resource);"),
            "POLICY_INVALID",
        ),
        (
            "an id twice",
            policy(r#"@id("a.open") forbid (principal, action, resource);"#),
            "POLICY_INVALID",
        ),
        (
            "types",
            policy(
                r#"@id("x") permit (principal, action, resource) when { context.zta.nothing };"#,
            ),
            "POLICY_INVALID",
        ),
        ("schema", schema, "POLICY_INVALID"),
        (
            "lint",
            policy(
                r#"@id("x") forbid (principal == ZTA::User::"a", action, resource)
                when { principal == ZTA::User::"b" };"#,
            ),
            "POLICY_INVALID",
        ),
        ("test", failing_test, "POLICY_INVALID"),
        ("a test file", unreadable_test, "POLICY_INVALID"),
        ("limits", policy(&long), "POLICY_INVALID"),
        (
            "lockout",
            policy(r#"@id("x") forbid (principal is ZTA::User, action, resource);"#),
            "LOCKOUT",
        ),
    ] {
        let stopped = apply(admin, patch, number).await;
        let status = stopped.expect_err(gate);
        assert_eq!(reason(&status), why, "{gate}: {status:?}");
        assert_eq!(in_force(admin).await.0, number, "{gate}");
    }
    let stale = apply(admin, Narrow.patch(), number - 1).await;
    assert_eq!(refused(stale), "REVISION_CONFLICT");
}

/// From now on, each replica's next call.
async fn decides_by(clients: &[Client], number: u64, rules: Rules) {
    for client in clients {
        for tool in ["search", "export"] {
            let answer = authorize(client, request(tool)).await.expect("a decision");
            assert_eq!(answer.revision, number);
            assert_eq!(told(&answer), rules.expected(tool));
        }
    }
}

/// Every connection of the servers to the database is cut.
async fn cut(server: &Server) {
    let Database::Postgres(database) = &*server.database else {
        panic!("Postgres");
    };
    database.terminate_connections().await;
}

#[tokio::test]
async fn a_rule_is_changed_on_a_friday() {
    let first = Setup::on(Database::postgres().await).start().await;
    let mut second = first.replica().await;
    let admin = first.admin();
    assert_eq!(apply(&admin, Open.patch(), 1).await.expect("applied"), 2);
    first.register("agent", &["crew"]).await;
    let credential = first.enroll("agent").await;
    let clients = [first.client(credential.clone()), second.client(credential)];
    let traffic = Traffic::start(&clients);
    traffic.goes_on().await;
    // A comment is no change.
    let mut commented = Open.patch();
    commented.put_policies[0].text += "\n// the week before";
    assert_eq!(apply(&admin, commented, 2).await.expect("applied"), 3);

    bad_candidates_are_stopped(&admin, 3).await;
    traffic.goes_on().await;

    // What would it have done?
    let candidate = v1::ReplayRequest {
        patch: Some(Narrow.patch()),
        ..Default::default()
    };
    let (report, _) = replay(&admin, candidate).await.expect("a report");
    assert!(report.flipped > 0 && report.changed > 0, "{report:?}");
    assert!(report.skipped.is_empty() && !report.truncated, "{report:?}");
    for group in &report.groups {
        let after = group.after.as_ref().expect("an outcome");
        let flips = after.effect() == v1::Effect::Deny;
        let policies = if flips {
            vec!["b.no_export"]
        } else {
            vec!["a.narrow", "b.narrow"]
        };
        assert_eq!(after.policy_ids, policies, "{group:?}");
    }

    assert_eq!(apply(&admin, Narrow.patch(), 3).await.expect("applied"), 4);
    decides_by(&clients, 4, Narrow).await;
    traffic.goes_on().await;
    assert_eq!(rollback(&admin, 3).await, 5);
    decides_by(&clients, 5, Open).await;
    traffic.goes_on().await;
    assert_eq!(traffic.refused(), BTreeMap::new(), "no request has failed");

    // The database's connections are cut in the middle: what cannot be decided is not, and
    // nothing is decided wrongly.
    let cutting = async {
        for _ in 0..5 {
            cut(&first).await;
            tokio::time::sleep(std::time::Duration::from_millis(30)).await;
        }
    };
    let changing = async {
        crate::support::eventually("applied", async || {
            match apply(&admin, Narrow.patch(), 5).await {
                Ok(number) => Ok(number),
                // The first answer was lost.
                Err(status) if status.code() == tonic::Code::FailedPrecondition => Ok(6),
                Err(status) => Err(status),
            }
        })
        .await
    };
    let ((), number) = tokio::join!(cutting, changing);
    assert_eq!(number, 6);
    traffic.goes_on().await;
    decides_by(&clients, 6, Narrow).await;
    let refusals = traffic.refused();
    let known = ["STORE_UNAVAILABLE", "NOT_READY"];
    assert!(
        refusals.keys().all(|why| known.contains(&&**why)),
        "{refusals:?}"
    );

    // A replica is killed while the way back is taken at the other.
    second.kill();
    assert_eq!(rollback(&admin, 3).await, 7);
    decides_by(&clients[..1], 7, Open).await;
    second.start().await;
    decides_by(&clients, 7, Open).await;
    traffic.goes_on().await;
    traffic.end().await;
    first.assert_verifies();
}
