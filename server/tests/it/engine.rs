//! What a decision says of itself: nearest permits, explanations, what would be permitted,
//! and entities that a request brings.

mod brought;
mod extremes;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use zta_client::{Client, v1};

use crate::support::rpc::{allowed, authorize, call, call_with, entity, events, refused};
use crate::support::server::text;
use crate::support::{Server, Setup};

const SCHEMA: &str = r#"namespace Shop {
  entity Team in [Team];
  entity Order = { "amount": Long, "team": Team, "owner"?: ZTA::Agent };
  @request_suppliable
  entity Ticket in [Team, Ticket] = { "priority": Long };
  action approve appliesTo {
    principal: [ZTA::Agent], resource: [Order],
    context: { zta: ZTA::Facts, request: ZTA::PepContext },
  };
  action close appliesTo {
    principal: [ZTA::Agent], resource: [Ticket],
    context: { zta: ZTA::Facts, request: ZTA::PepContext },
  };
  action refund in [ZTA::Action::"call_tool"] appliesTo {
    principal: [ZTA::Agent], resource: [ZTA::Tool],
    context: { zta: ZTA::Facts, request: ZTA::PepContext, input: { "amount": Long } },
  };
  action wipe in [ZTA::Action::"call_tool"] appliesTo {
    principal: [ZTA::Agent], resource: [ZTA::Tool],
    context: { zta: ZTA::Facts, request: ZTA::PepContext, input: {} },
  };
}"#;

const POLICIES: &str = r#"
@id("shop.refunds") @reason("small refunds") @obligation("log_export, notify")
permit (principal in ZTA::Role::"clerk", action == Shop::Action::"refund", resource)
when { context.input.amount < 100 && context.request has framework };

@id("shop.search")
permit (principal in ZTA::Role::"clerk", action == ZTA::Action::"call_tool",
        resource == ZTA::Tool::"search");

@id("shop.lookup")
permit (principal in ZTA::Role::"clerk", action == ZTA::Action::"call_tool",
        resource == ZTA::Tool::"lookup") when { context.request has user };

@id("shop.orders")
permit (principal in ZTA::Role::"clerk", action == Shop::Action::"approve", resource)
when { resource.amount <= 10 } unless { resource.team in Shop::Team::"sealed" };

@id("shop.tickets")
permit (principal in ZTA::Role::"clerk", action == Shop::Action::"close",
        resource in Shop::Team::"north") when { resource.priority < 5 };

@id("shop.no_wipe")
forbid (principal, action == Shop::Action::"wipe", resource)
when { 9223372036854775807 + 1 > 0 };
@id("shop.wipe")
permit (principal in ZTA::Role::"clerk", action == Shop::Action::"wipe", resource);
"#;

async fn shop() -> (Server, Client, Client) {
    let server = Setup::sqlite().start().await;
    let admin = server.admin();
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
        message: "the shop".to_owned(),
        ..Default::default()
    };
    admin.policies().apply(request).await.expect("applied");
    let clerk = server.agent("clerk", &["clerk"]).await;
    (server, admin, clerk)
}

fn refund(amount: i64) -> v1::AuthorizeRequest {
    v1::AuthorizeRequest {
        context_json: br#"{"framework":"crewai"}"#.to_vec(),
        supported_obligations: vec!["notify".to_owned(), "log_export".to_owned()],
        ..call_with("refund", json!({ "amount": amount }).to_string())
    }
}

#[tokio::test]
async fn a_default_deny_names_the_permit_that_came_nearest() {
    let (server, _, clerk) = shop().await;
    let answer = authorize(&clerk, refund(100)).await.expect("a decision");
    assert_eq!(answer.reason(), v1::DenyReason::NotPermitted);
    let nearest = |id: &str, condition: &str| v1::NearestPolicy {
        policy_id: id.to_owned(),
        condition: condition.to_owned(),
        error: String::new(),
    };
    let first = nearest("shop.refunds", "context.input.amount < 100");
    assert_eq!(answer.nearest_policies, [first]);
    // The second condition, once the first one holds.
    let bare = v1::AuthorizeRequest {
        context_json: Vec::new(),
        ..refund(1)
    };
    let answer = authorize(&clerk, bare).await.expect("a decision");
    let second = nearest("shop.refunds", "context.request has framework");
    assert_eq!(answer.nearest_policies, [second]);
    // The message goes to a model, which need not know how to get round a rule.
    assert!(!answer.message.contains("framework"), "{}", answer.message);
    // Nothing is near where no scope matches, and an allow needs no explanation.
    let other = server.agent("other", &[]).await;
    let answer = authorize(&other, refund(1)).await.expect("a decision");
    assert_eq!(answer.nearest_policies, []);
    let answer = allowed(&clerk, refund(1)).await;
    assert_eq!(answer.nearest_policies, []);
    let annotations = &answer.annotations[0];
    assert_eq!(annotations.policy_id, "shop.refunds");
    assert_eq!(annotations.annotations["reason"], "small refunds");
    let obligations: Vec<_> = answer.obligations.iter().map(|o| o.name.as_str()).collect();
    assert_eq!(obligations, ["log_export", "notify"], "sorted by name");
    server.assert_verifies();
}

#[tokio::test]
async fn a_condition_that_errs_is_named_without_the_values() {
    let (_server, _, clerk) = shop().await;
    // Stored nowhere, so it has no attributes.
    let request = v1::AuthorizeRequest {
        action: entity("Shop::Action", "approve"),
        resource: entity("Shop::Order", "o1"),
        ..Default::default()
    };
    let answer = authorize(&clerk, request).await.expect("a decision");
    assert_eq!(answer.reason(), v1::DenyReason::NotPermitted);
    assert_eq!(answer.errored_policy_ids, ["shop.orders"]);
    let nearest = &answer.nearest_policies[0];
    assert_eq!(nearest.condition, "resource.amount <= 10");
    assert_eq!(nearest.error, "an entity does not exist");
}

fn of_clerk(request: v1::AuthorizeRequest) -> v1::ExplainRequest {
    v1::ExplainRequest {
        request: Some(request),
        principal: entity("ZTA::Agent", "spiffe://zta.local/agent/clerk"),
    }
}

#[tokio::test]
async fn explain_tells_the_whole_story_and_decides_nothing() {
    let (server, admin, clerk) = shop().await;
    let story = admin.authorization().explain(of_clerk(refund(500))).await;
    let story = story.expect("an explanation").into_inner();
    assert_eq!(story.effect(), v1::Effect::Deny);
    assert_eq!(story.reason(), v1::DenyReason::NotPermitted);
    let policy = &story.policies[0];
    assert_eq!(policy.policy_id, "shop.refunds");
    assert_eq!(policy.outcome(), v1::PolicyOutcome::NotSatisfied);
    assert_eq!((policy.file.as_str(), policy.line), ("shop.cedar", 2));
    assert_eq!(policy.conditions.len(), 1, "up to the first that fails");
    assert!(
        story.context_json.contains(r#""amount":500"#),
        "{}",
        story.context_json
    );
    assert!(story.policies_in_force > 5);
    let principal = story.entities.iter().find(|e| {
        e.uid
            .as_ref()
            .is_some_and(|uid| uid.id == "spiffe://zta.local/agent/clerk")
    });
    // Nothing looks into an entity here, so none was put together.
    assert!(principal.is_none(), "{:?}", story.entities);
    let story = admin.authorization().explain(of_clerk(call("wipe"))).await;
    let story = story.expect("an explanation").into_inner();
    assert_eq!(story.reason(), v1::DenyReason::EvaluationError);
    let outcome = |id: &str| {
        let policy = story.policies.iter().find(|p| p.policy_id == id);
        policy.expect("the policy").outcome()
    };
    assert_eq!(outcome("shop.no_wipe"), v1::PolicyOutcome::Errored);
    assert_eq!(outcome("shop.wipe"), v1::PolicyOutcome::Satisfied);
    // On record as acts of the administrator, not as decisions on the agent.
    assert_eq!(events(&admin, &["decision"]).await.len(), 0);
    let acts = events(&admin, &["admin"]).await;
    let explained = acts
        .iter()
        .filter(|(_, leaf)| leaf["action"]["id"] == "explain");
    let sequences: Vec<u64> = explained.clone().map(|(sequence, _)| *sequence).collect();
    assert!(
        sequences.len() == 2 && sequences.contains(&story.sequence),
        "{sequences:?}"
    );
    assert!(
        explained
            .clone()
            .all(|(_, leaf)| leaf["detail"]["effect"] == "deny")
    );
    // An agent may not look behind the policies.
    let own = v1::ExplainRequest {
        request: Some(refund(1)),
        principal: None,
    };
    let refusal = clerk.authorization().explain(own).await;
    assert_eq!(refused(refusal), "NOT_PERMITTED");
    let nobody = v1::ExplainRequest {
        request: Some(refund(1)),
        principal: entity("ZTA::Agent", "spiffe://zta.local/agent/nobody"),
    };
    assert_eq!(
        refused(admin.authorization().explain(nobody).await),
        "AGENT_NOT_FOUND"
    );
    // A contained agent's story ends before any policy.
    let agent = "clerk".to_owned();
    let note = String::new();
    let isolate = v1::IsolateRequest { agent, note };
    admin.agents().isolate(isolate).await.expect("isolated");
    let story = admin.authorization().explain(of_clerk(refund(1))).await;
    let story = story.expect("an explanation").into_inner();
    assert_eq!(story.reason(), v1::DenyReason::Isolated);
    assert!(story.policies.is_empty());
    server.assert_verifies();
}

async fn permitted(
    client: &Client,
    request: v1::ListPermittedRequest,
) -> Vec<(String, String, bool)> {
    let answer = client.authorization().list_permitted(request).await;
    let answer = answer.expect("a list").into_inner();
    assert!(answer.consistency_token.is_some() && answer.revision == 2);
    let one = |p: v1::Permitted| {
        let id = |uid: Option<v1::EntityRef>| uid.expect("a uid").id;
        (id(p.action), id(p.resource), p.conditional)
    };
    answer.permitted.into_iter().map(one).collect()
}

fn tools(ids: &[&str]) -> v1::ListPermittedRequest {
    use v1::list_permitted_request::Query;
    v1::ListPermittedRequest {
        query: Some(Query::Resources(v1::PermittedResources {
            resource_ids: ids.iter().map(|&id| id.to_owned()).collect(),
            ..Default::default()
        })),
        ..Default::default()
    }
}

#[tokio::test]
async fn an_agent_is_offered_what_it_may_call_and_nothing_else() {
    let (server, admin, clerk) = shop().await;
    let row = |tool: &str, conditional| ("call_tool".to_owned(), tool.to_owned(), conditional);
    // `lookup` needs a user, `wipe` has a forbid that errs, `refund` depends on its amount.
    let all = permitted(&clerk, tools(&[])).await;
    assert_eq!(all, [row("refund", true), row("search", false)]);
    let some = permitted(&clerk, tools(&["search", "nothing", "wipe"])).await;
    assert_eq!(some, [row("search", false)]);
    let with_user = v1::ListPermittedRequest {
        user: "u".to_owned(),
        ..tools(&[])
    };
    let all = permitted(&clerk, with_user).await;
    assert_eq!(
        all,
        [
            row("lookup", false),
            row("refund", true),
            row("search", false)
        ]
    );
    // What is listed as certain is allowed, what is left out is denied.
    allowed(&clerk, call("search")).await;
    let other = server.agent("other", &[]).await;
    assert_eq!(permitted(&other, tools(&[])).await, []);
    // Actions on one resource.
    let on = |resource| v1::ListPermittedRequest {
        query: Some(v1::list_permitted_request::Query::Actions(
            v1::PermittedActions { resource },
        )),
        ..Default::default()
    };
    let on_search = permitted(&clerk, on(entity("ZTA::Tool", "search"))).await;
    assert_eq!(on_search, [row("search", false)]);
    let on_refund = permitted(&clerk, on(entity("ZTA::Tool", "refund"))).await;
    assert_eq!(on_refund, [row("refund", true)]);
    // Page by page.
    let mut paged = Vec::new();
    let mut request = v1::ListPermittedRequest {
        page_size: 1,
        ..tools(&[])
    };
    loop {
        let answer = clerk.authorization().list_permitted(request.clone()).await;
        let answer = answer.expect("a page").into_inner();
        assert!(answer.permitted.len() <= 1);
        paged.extend(
            answer
                .permitted
                .into_iter()
                .map(|p| p.resource.expect("uid").id),
        );
        if answer.next_page_token.is_empty() {
            break;
        }
        // It may stand on what the caller must not know of.
        let token = URL_SAFE_NO_PAD.decode(&answer.next_page_token);
        let token = String::from_utf8_lossy(&token.expect("base64url")).into_owned();
        assert!(!token.contains("Tool"), "{token}");
        request.page_token = answer.next_page_token;
    }
    assert_eq!(paged, ["refund", "search"]);
    // On record, and no decision.
    let listed = events(&admin, &["permissions_listed"]).await;
    assert!(listed.len() >= 8);
    assert!(listed.iter().any(|(_, leaf)| leaf["detail"]["listed"] == 2));
    assert_eq!(events(&admin, &["decision"]).await.len(), 1);
    // A contained agent may do nothing.
    let agent = "clerk".to_owned();
    let note = String::new();
    let suspend = v1::SuspendRequest { agent, note };
    admin.agents().suspend(suspend).await.expect("suspended");
    assert_eq!(permitted(&clerk, tools(&[])).await, []);
    server.assert_verifies();
}

#[tokio::test]
async fn a_listing_that_asks_nonsense_is_told_so() {
    let (_server, _, clerk) = shop().await;
    let asked = async |request: v1::ListPermittedRequest| {
        refused(clerk.authorization().list_permitted(request).await)
    };
    assert_eq!(
        asked(v1::ListPermittedRequest::default()).await,
        "FIELD_INVALID"
    );
    for (page_size, page_token, reason) in [
        (1001, "", "LIMIT_EXCEEDED"),
        (1, "!", "PAGE_TOKEN_INVALID"),
        (1, "YWJj", "PAGE_TOKEN_INVALID"),
        // `ZTA::Tool`, line break, `refund`: sealed by nobody.
        (1, "WlRBOjpUb29sCnJlZnVuZA", "PAGE_TOKEN_INVALID"),
    ] {
        let request = v1::ListPermittedRequest {
            page_size,
            page_token: page_token.to_owned(),
            ..tools(&[])
        };
        assert_eq!(asked(request).await, reason);
    }
    let many: Vec<String> = (0..1001).map(|n| n.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(asked(tools(&many)).await, "LIMIT_EXCEEDED");
    let of_type = |action: Option<v1::EntityRef>, resource_type: &str| v1::ListPermittedRequest {
        query: Some(v1::list_permitted_request::Query::Resources(
            v1::PermittedResources {
                action,
                resource_type: resource_type.to_owned(),
                resource_ids: vec!["x".to_owned()],
            },
        )),
        ..Default::default()
    };
    assert_eq!(
        asked(of_type(entity("", "nothing"), "")).await,
        "ACTION_UNKNOWN"
    );
    let wrong = of_type(None, "Shop::Order");
    assert_eq!(asked(wrong).await, "RESOURCE_TYPE_INVALID");
}

#[tokio::test]
async fn the_command_line_explains() {
    let (server, _, _clerk) = shop().await;
    let explain = |more: &[&str]| {
        let words = ["policy", "explain", "clerk", "call_tool", "refund"];
        server.zta(&[&words, more].concat())
    };
    let denied = explain(&["--arguments", r#"{"amount": 500}"#]);
    let said = text(&denied.stdout);
    assert_eq!(denied.status.code(), Some(1), "{said}");
    assert!(said.starts_with("DENY NOT_PERMITTED"), "{said}");
    assert!(
        said.contains("permit shop.refunds is false  (shop.cedar:2)"),
        "{said}"
    );
    assert!(
        said.contains("context.input.amount < 100   is false"),
        "{said}"
    );
    let context = r#"{"framework": "crewai"}"#;
    let allowed = explain(&[
        "--arguments",
        r#"{"amount": 5}"#,
        "--context",
        context,
        "--json",
    ]);
    let story: serde_json::Value = serde_json::from_slice(&allowed.stdout).expect("JSON");
    // The explainer supports no obligation, and says so.
    assert_eq!(story["reason"], "OBLIGATION_UNSUPPORTED");
    assert_eq!(story["policies"][0]["outcome"], "holds");
    let unknown = server.zta(&["policy", "explain", "nobody", "call_tool", "refund"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(
        text(&unknown.stderr).contains("nobody"),
        "{}",
        text(&unknown.stderr)
    );
}
