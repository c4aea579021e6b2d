//! The golden tables: each row asked through gRPC, in a batch, and by the guard.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use zta_client::v1::batch_authorize_item::Result as Item;
use zta_client::{Client, Guard, v1};

use crate::policy::replay::replay;
use crate::support::rpc::{authorize, event, reason};
use crate::support::{Server, Setup, repository};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    policies: Vec<String>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    roles: Vec<String>,
    #[serde(default)]
    state: String,
    tool: Option<String>,
    action: Option<Entity>,
    resource: Option<Entity>,
    #[serde(default)]
    arguments: String,
    #[serde(default)]
    context: String,
    #[serde(default)]
    user: String,
    #[serde(default)]
    supported_obligations: Vec<String>,
    expect: Expect,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entity {
    r#type: String,
    id: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    effect: Option<Effect>,
    reason: Option<String>,
    #[serde(default)]
    policies: Vec<String>,
    #[serde(default)]
    errored: Vec<String>,
    #[serde(default)]
    obligations: Vec<String>,
    action: Option<String>,
    #[serde(default)]
    message: String,
    error: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Effect {
    Allow,
    Deny,
}

impl Case {
    fn request(&self) -> v1::AuthorizeRequest {
        let wire = |e: Entity| v1::EntityRef {
            r#type: e.r#type,
            id: e.id,
        };
        let of = |ty: &str, id: &str| Entity {
            r#type: ty.into(),
            id: id.into(),
        };
        let (action, resource) = match &self.tool {
            Some(tool) => (of("ZTA::Action", "call_tool"), of("ZTA::Tool", tool)),
            None => (
                self.action.clone().expect("an action"),
                self.resource.clone().expect("a resource"),
            ),
        };
        v1::AuthorizeRequest {
            action: Some(wire(action)),
            resource: Some(wire(resource)),
            arguments_json: self.arguments.clone().into_bytes(),
            context_json: self.context.clone().into_bytes(),
            user: self.user.clone(),
            supported_obligations: self.supported_obligations.clone(),
            correlation_id: self.name.clone(),
            ..v1::AuthorizeRequest::default()
        }
    }

    /// Compares a decision with the row. Nothing of it may be left out.
    fn check(&self, door: &str, decision: &v1::AuthorizeResponse) {
        let (at, expect) = (format!("{door}: {}", self.name), &self.expect);
        assert!(expect.error.is_none(), "{at}: decided: {decision:?}");
        let effect = match decision.effect() {
            v1::Effect::Allow => Effect::Allow,
            v1::Effect::Deny | v1::Effect::Unspecified => Effect::Deny,
        };
        assert!(expect.effect == Some(effect), "{at}: {decision:?}");
        let name = decision
            .reason()
            .as_str_name()
            .trim_start_matches("DENY_REASON_");
        assert_eq!(
            name,
            expect.reason.as_deref().unwrap_or("UNSPECIFIED"),
            "{at}"
        );
        assert_eq!(decision.policy_ids, expect.policies, "{at}");
        assert_eq!(decision.errored_policy_ids, expect.errored, "{at}");
        let asked: Vec<_> = decision
            .obligations
            .iter()
            .map(|o| o.name.clone())
            .collect();
        assert_eq!(asked, expect.obligations, "{at}");
        let action = decision
            .action
            .as_ref()
            .map(|a| format!("{}::{:?}", a.r#type, a.id));
        assert_eq!(action, expect.action, "{at}");
        assert!(
            decision.message.contains(&expect.message),
            "{at}: {}",
            decision.message
        );
        assert!(
            !decision.message.contains('\n'),
            "{at}: {:?}",
            decision.message
        );
        assert_eq!(
            (decision.revision, &decision.correlation_id),
            (1, &self.name),
            "{at}"
        );
    }
}

/// Agents by roles and state, made at first need.
struct Agents<'a> {
    server: &'a Server,
    admin: Client,
    known: BTreeMap<(Vec<String>, String), Client>,
}

impl Agents<'_> {
    async fn of(&mut self, case: &Case) -> Client {
        let key = (case.roles.clone(), case.state.clone());
        if let Some(known) = self.known.get(&key) {
            return known.clone();
        }
        let name = format!("agent-{}", self.known.len());
        let roles: Vec<&str> = case.roles.iter().map(String::as_str).collect();
        let client = self.server.agent(&name, &roles).await;
        self.contain(name, &case.state).await;
        self.known.insert(key, client.clone());
        client
    }

    async fn contain(&self, agent: String, state: &str) {
        let (note, mut agents) = ("for a test".to_owned(), self.admin.agents());
        match state {
            "" => Ok(()),
            "suspended" => agents
                .suspend(v1::SuspendRequest { agent, note })
                .await
                .map(drop),
            "isolated" => agents
                .isolate(v1::IsolateRequest { agent, note })
                .await
                .map(drop),
            "revoked" => {
                let revoke = v1::RevokeRequest {
                    agent,
                    note,
                    ..Default::default()
                };
                agents.revoke(revoke).await.map(drop)
            }
            other => panic!("no state `{other}`"),
        }
        .expect("the state");
    }
}

/// Asks by `Authorize`, and compares the record with the answer.
async fn by_grpc(case: &Case, client: &Client, admin: &Client) {
    let expect = &case.expect;
    match authorize(client, case.request()).await {
        Ok(decision) => {
            case.check("Authorize", &decision);
            let leaf = event(admin, decision.sequence).await;
            let actor = client
                .credential()
                .expect("a credential")
                .spiffe_id()
                .to_owned();
            assert_eq!(leaf["id"], decision.decision_id, "{}", case.name);
            assert_eq!(leaf["actor"]["id"], actor, "{}", case.name);
            let effect = if expect.effect == Some(Effect::Allow) {
                "allow"
            } else {
                "deny"
            };
            assert_eq!(leaf["effect"], effect, "{}", case.name);
            assert_eq!(
                leaf["reason"].as_str(),
                expect.reason.as_deref(),
                "{}",
                case.name
            );
            let policies = serde_json::json!(expect.policies);
            assert_eq!(
                leaf.get("policies").unwrap_or(&serde_json::json!([])),
                &policies
            );
        }
        Err(status) => assert_eq!(
            Some(reason(&status)),
            expect.error,
            "{}: {status:?}",
            case.name
        ),
    }
}

/// Asks all rows of one agent in batches.
async fn in_batches(cases: &[&Case], client: &Client) {
    for chunk in cases.chunks(64) {
        let requests = chunk.iter().map(|case| case.request()).collect();
        let request = v1::BatchAuthorizeRequest { requests };
        let answer = client
            .authorization()
            .batch_authorize(request)
            .await
            .expect("a batch");
        let items = answer.into_inner().items;
        assert_eq!(items.len(), chunk.len());
        for (case, item) in chunk.iter().zip(items) {
            assert_eq!(item.correlation_id, case.name);
            match item.result.expect("a result") {
                Item::Decision(decision) => case.check("BatchAuthorize", &decision),
                Item::Error(error) => {
                    assert_eq!(Some(error.reason), case.expect.error, "{}", case.name);
                }
            }
        }
    }
}

/// Runs a function behind the guard. Rows that the guard cannot express are left out.
async fn by_guard(case: &Case, client: &Client) -> bool {
    let Some(tool) = case.tool.as_deref().filter(|_| case.context.is_empty()) else {
        return false;
    };
    let mut guard = Guard::new(client.clone())
        .timeout(Duration::from_secs(20))
        .user(&case.user);
    for name in &case.supported_obligations {
        guard = guard.obligation(name, |_, _| Ok(()));
    }
    let arguments = if case.arguments.is_empty() {
        "{}"
    } else {
        &case.arguments
    };
    let mut runs = 0;
    let ran = guard
        .run(tool, arguments, || {
            runs += 1;
            std::future::ready("done")
        })
        .await;
    let allow = case.expect.effect == Some(Effect::Allow);
    assert_eq!(runs, i32::from(allow), "Guard: {}", case.name);
    match ran {
        Ok(done) => assert_eq!(done, "done"),
        Err(denied) => {
            let expected = case.expect.reason.as_ref().or(case.expect.error.as_ref());
            assert_eq!(
                Some(&denied.reason),
                expected,
                "Guard: {}: {denied}",
                case.name
            );
            // What the client itself refuses has no decision, and says why in its own words.
            if denied.decision.is_some() {
                let message = &case.expect.message;
                assert!(
                    denied.message.contains(message),
                    "Guard: {}: {denied}",
                    case.name
                );
            }
        }
    }
    true
}

/// Under the revision that made them, all decisions come out as they did.
async fn replayed(admin: &Client, file: &str) {
    let request = v1::ReplayRequest {
        revision: 1,
        ..Default::default()
    };
    let (report, _) = replay(admin, request).await.expect("a report");
    assert!(report.replayed > 20, "{file}: {report:?}");
    let told = (report.flipped, report.changed, &*report.groups);
    assert_eq!(told, (0, 0, &[][..]), "{file}");
    let contained: Vec<&str> = report.skipped.keys().map(String::as_str).collect();
    assert!(
        contained.iter().all(|why| *why == "CONTAINED"),
        "{report:?}"
    );
}

async fn decides(file: &str) {
    let text = std::fs::read_to_string(repository("policies/cases").join(file)).expect("a table");
    let table: Table = serde_saphyr::from_str(&text).unwrap_or_else(|e| panic!("{file}: {e}"));
    let folders: Vec<&str> = table.policies.iter().map(String::as_str).collect();
    let server = Setup::sqlite().policies(&folders).start().await;
    let admin = server.admin();
    let mut agents = Agents {
        server: &server,
        admin: admin.clone(),
        known: BTreeMap::new(),
    };
    let (mut names, mut guarded) = (std::collections::BTreeSet::new(), 0);
    for case in &table.cases {
        assert!(
            names.insert(&case.name),
            "{file}: `{}` stands twice",
            case.name
        );
        let client = agents.of(case).await;
        by_grpc(case, &client, &admin).await;
        guarded += usize::from(by_guard(case, &client).await);
    }
    assert!(
        guarded * 2 > table.cases.len(),
        "{file}: the guard was asked {guarded} times"
    );
    for ((roles, state), client) in &agents.known {
        let mine = |case: &&Case| (&case.roles, &case.state) == (roles, state);
        let cases: Vec<&Case> = table.cases.iter().filter(mine).collect();
        in_batches(&cases, client).await;
    }
    replayed(&admin, file).await;
    server.assert_verifies();
}

#[tokio::test]
async fn the_demo_crew() {
    decides("crew.yaml").await;
}

#[tokio::test]
async fn semantics() {
    decides("semantics.yaml").await;
}
