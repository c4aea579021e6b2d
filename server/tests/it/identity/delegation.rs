//! Acting on somebody's behalf: every party must be permitted, and every hop needs a key.

mod clients;
mod parties;

use tonic::Status;
use zta_client::{Client, Credential, v1};

use crate::support::pki::Forger;
use crate::support::rpc::{
    authorize_with_token, call, entity, event, events, reason, refusals, refused,
};
use crate::support::{Database, Server, Setup, repository};

const RULES: &str = r#"
@id("t.delegate") permit (principal, action == ZTA::Action::"delegate", resource)
  unless { principal is ZTA::Agent && principal in ZTA::Role::"closed" };
@id("t.report") permit (principal in ZTA::Role::"administrator", action == ZTA::Action::"call_tool",
  resource == ZTA::Tool::"report");
@id("t.report.agents") @obligation("watermark")
permit (principal in ZTA::Role::"reporter", action == ZTA::Action::"call_tool",
  resource == ZTA::Tool::"report");
@id("t.payroll") permit (principal in ZTA::Role::"hr", action == ZTA::Action::"call_tool",
  resource == ZTA::Tool::"payroll");
@id("t.shared") permit (principal, action == ZTA::Action::"call_tool",
  resource in ZTA::Group::"shared");
@id("t.long") forbid (principal, action, resource == ZTA::Tool::"short")
  when { context.zta has delegation && context.zta.delegation.depth > 1 };
@id("t.for_people") forbid (principal, action, resource == ZTA::Tool::"personal")
  unless { context.zta has delegation && context.zta.delegation has user &&
           context.zta.delegation.user in ZTA::Role::"administrator" &&
           context.zta.delegation.actors.contains(ZTA::Agent::"spiffe://zta.local/agent/research") };
"#;

pub(super) async fn serve(database: Database) -> Server {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["admin.cedar", "base.cedar"] {
        let from = repository("policies").join(name);
        std::fs::copy(from, folder.path().join(name)).expect("copy");
    }
    std::fs::write(folder.path().join("rules.cedar"), RULES).expect("write");
    let server = Setup::on(database)
        .policies(&[])
        .set("ZTA_POLICY_DIR", folder.path().display())
        .start()
        .await;
    let shared = |tool: &str| v1::Entity {
        uid: entity("ZTA::Tool", tool),
        parents: entity("ZTA::Group", "shared").into_iter().collect(),
        ..Default::default()
    };
    let group = v1::Entity {
        uid: entity("ZTA::Group", "shared"),
        ..Default::default()
    };
    let mut entities = vec![group];
    entities.extend(["search", "short", "personal"].map(shared));
    let put = v1::EntityServicePutRequest { entities };
    server.admin().entities().put(put).await.expect("put");
    server
}

pub(super) async fn delegate(
    client: &Client,
    agent: &str,
    scope: &[&str],
) -> Result<String, Status> {
    delegate_by(client, agent, scope, None).await
}

/// With a token, on the behalf of those whom the caller acts for.
pub(super) async fn delegate_by(
    client: &Client,
    agent: &str,
    scope: &[&str],
    token: Option<&str>,
) -> Result<String, Status> {
    let delegate = v1::Delegate {
        agent: agent.to_owned(),
        scope: scope.iter().map(|&entry| entry.to_owned()).collect(),
        ..Default::default()
    };
    let exchange = v1::exchange_token_request::Exchange::Delegate(delegate);
    Ok(exchange_by(client, exchange, token).await?.token)
}

pub(super) async fn act(client: &Client, grant: &str, scope: &[&str]) -> Result<String, Status> {
    let act = v1::Act {
        grant: grant.to_owned(),
        scope: scope.iter().map(|&entry| entry.to_owned()).collect(),
        ..Default::default()
    };
    let exchange = v1::exchange_token_request::Exchange::Act(act);
    Ok(exchange_by(client, exchange, None).await?.token)
}

async fn exchange_by(
    client: &Client,
    exchange: v1::exchange_token_request::Exchange,
    token: Option<&str>,
) -> Result<v1::ExchangeTokenResponse, Status> {
    let mut request = tonic::Request::new(v1::ExchangeTokenRequest {
        exchange: Some(exchange),
    });
    if let Some(token) = token {
        let value = format!("Bearer {token}").parse().expect("a header value");
        request.metadata_mut().insert("authorization", value);
    }
    let answer = client.authentication().exchange_token(request).await?;
    Ok(answer.into_inner())
}

/// `agent` acting for `from`.
async fn acting(from: &Client, agent: &Client, name: &str) -> String {
    let grant = delegate(from, name, &[]).await.expect("a grant");
    act(agent, &grant, &[]).await.expect("a token")
}

pub(super) async fn decided(client: &Client, tool: &str, token: &str) -> v1::AuthorizeResponse {
    let request = v1::AuthorizeRequest {
        supported_obligations: vec!["watermark".to_owned()],
        ..call(tool)
    };
    let answer = authorize_with_token(client, request, token).await;
    answer.expect("a decision")
}

pub(super) async fn allowed(client: &Client, tool: &str, token: &str) -> v1::AuthorizeResponse {
    let answer = decided(client, tool, token).await;
    assert_eq!(answer.effect(), v1::Effect::Allow, "{tool}: {answer:?}");
    answer
}

async fn denied(client: &Client, tool: &str, token: &str) -> v1::DenyReason {
    let answer = decided(client, tool, token).await;
    assert_eq!(answer.effect(), v1::Effect::Deny, "{tool}: {answer:?}");
    answer.reason()
}

#[tokio::test]
async fn a_confused_deputy_gains_nothing() {
    let server = serve(Database::Sqlite).await;
    let admin = server.admin();
    let plain = server.agent("plain", &[]).await;
    let hr = server.agent("payroll-bot", &["hr"]).await;
    let reporter = server.agent("reporter", &["reporter"]).await;

    // The person may, the agent may not.
    let token = acting(&admin, &plain, "plain").await;
    assert_eq!(
        denied(&plain, "report", &token).await,
        v1::DenyReason::NotPermitted
    );
    // The agent may, the person may not: nor on the person's behalf.
    let token = acting(&admin, &hr, "payroll-bot").await;
    let answer = decided(&hr, "payroll", &token).await;
    assert_eq!(answer.reason(), v1::DenyReason::Delegation);
    assert!(
        answer.message.contains("the user on whose behalf"),
        "{answer:?}"
    );
    let on_record = event(&admin, answer.sequence).await;
    let denier = &on_record["detail"]["delegation"]["denied_by"];
    assert_eq!(denier["party"]["id"], "spiffe://zta.local#admin");
    assert_eq!(denier["reason"], "NOT_PERMITTED");
    // For itself it still may.
    crate::support::rpc::allowed(&hr, call("payroll")).await;
    // Both may: what both allow rests on, and what either asks for.
    let token = acting(&admin, &reporter, "reporter").await;
    let answer = allowed(&reporter, "report", &token).await;
    assert_eq!(answer.policy_ids, ["t.report", "t.report.agents"]);
    assert_eq!(answer.obligations.len(), 1);
    let on_record = event(&admin, answer.sequence).await;
    let actor = "spiffe://zta.local/agent/reporter";
    assert_eq!(on_record["actor"]["id"], actor);
    let delegation = &on_record["detail"]["delegation"];
    assert_eq!(delegation["subject"]["id"], "spiffe://zta.local#admin");
    assert_eq!(delegation["actors"][0]["id"], actor);
    // An administrator's deputy administers nothing.
    let list = v1::AgentServiceListRequest::default();
    let mut list = tonic::Request::new(list);
    let bearer = format!("Bearer {token}").parse().expect("a header value");
    list.metadata_mut().insert("authorization", bearer);
    assert_eq!(refused(reporter.agents().list(list).await), "NOT_PERMITTED");
    server.assert_verifies();
}

#[tokio::test]
async fn policies_see_the_whole_chain() {
    let server = serve(Database::Sqlite).await;
    let admin = server.admin();
    let research = server.agent("research", &[]).await;
    let analysis = server.agent("analysis", &[]).await;
    let writing = server.agent("writing", &[]).await;

    let first = acting(&admin, &research, "research").await;
    let grant = delegate_by(&research, "analysis", &[], Some(&first)).await;
    let second = act(&analysis, &grant.expect("a grant"), &[])
        .await
        .expect("a token");
    let grant = delegate_by(&analysis, "writing", &[], Some(&second)).await;
    let third = act(&writing, &grant.expect("a grant"), &[])
        .await
        .expect("a token");

    allowed(&research, "short", &first).await;
    assert_eq!(
        denied(&analysis, "short", &second).await,
        v1::DenyReason::Forbidden
    );
    let answer = allowed(&writing, "search", &third).await;
    let on_record = event(&admin, answer.sequence).await;
    let actors = on_record["detail"]["delegation"]["actors"].as_array();
    let names: Vec<_> = actors
        .expect("actors")
        .iter()
        .map(|a| a["id"].clone())
        .collect();
    let id = |name: &str| format!("spiffe://zta.local/agent/{name}");
    assert_eq!(names, [id("writing"), id("analysis"), id("research")]);
    // A person's role, and who is among the actors, as policies see them.
    allowed(&writing, "personal", &third).await;
    let own = acting(&analysis, &writing, "writing").await;
    assert_eq!(
        denied(&writing, "personal", &own).await,
        v1::DenyReason::Forbidden
    );
    // Each hop is on record, with whom it concerns.
    let exchanged = events(&admin, &["token_exchanged"]).await;
    assert_eq!(exchanged.len(), 4);
    let delegated = events(&admin, &["delegated"]).await;
    assert_eq!(delegated.len(), 4);
    assert_eq!(delegated[1].1["actor"]["id"], id("analysis"));
    assert_eq!(delegated[1].1["detail"]["may_act"]["id"], id("writing"));
    server.assert_verifies();
}

#[tokio::test]
async fn a_chain_neither_loops_nor_grows_for_ever() {
    let server = serve(Database::Sqlite).await;
    let admin = server.admin();
    let names = ["a0", "a1", "a2", "a3", "a4"];
    let mut agents = Vec::new();
    for name in names {
        agents.push(server.agent(name, &[]).await);
    }
    let own = delegate(&agents[0], "a0", &[]).await;
    assert_eq!(refused(own), "DELEGATION_INVALID", "to itself");
    let mut token = acting(&admin, &agents[0], "a0").await;
    for n in 1..4 {
        let back = delegate_by(&agents[n - 1], "a0", &[], Some(&token)).await;
        assert_eq!(refused(back), "DELEGATION_INVALID", "a loop at {n}");
        let grant = delegate_by(&agents[n - 1], names[n], &[], Some(&token)).await;
        token = act(&agents[n], &grant.expect("a grant"), &[])
            .await
            .expect("a token");
        allowed(&agents[n], "search", &token).await;
    }
    let fifth = delegate_by(&agents[3], "a4", &[], Some(&token)).await;
    assert_eq!(refused(fifth), "DELEGATION_INVALID", "too deep");
    let closed = server.agent("closed", &["closed"]).await;
    assert_eq!(refused(delegate(&closed, "a0", &[]).await), "NOT_PERMITTED");
    let unknown = delegate(&admin, "nobody", &[]).await.expect_err("refused");
    assert_eq!(reason(&unknown), "AGENT_NOT_FOUND");
}

#[tokio::test]
async fn a_grant_is_good_for_the_one_it_names_and_for_nothing_else() {
    let server = serve(Database::Sqlite).await;
    let admin = server.admin();
    let research = server.agent("research", &[]).await;
    let thief = server.agent("thief", &[]).await;
    let grant = delegate(&admin, "research", &[]).await.expect("a grant");

    assert_eq!(
        refused(act(&thief, &grant, &[]).await),
        "DELEGATION_INVALID"
    );
    assert_eq!(
        refused(act(&admin, &grant, &[]).await),
        "DELEGATION_INVALID"
    );
    // An access token is no grant, and who acts already takes no other one.
    let token = act(&research, &grant, &[]).await.expect("a token");
    assert_eq!(
        refused(act(&research, &token, &[]).await),
        "DELEGATION_INVALID"
    );
    let by_token = v1::exchange_token_request::Exchange::Act(v1::Act {
        grant: grant.clone(),
        ..Default::default()
    });
    let again = exchange_by(&research, by_token, Some(&token)).await;
    assert_eq!(refused(again), "DELEGATION_INVALID", "who acts already");
    for why in [
        "names another agent",
        "only agents act",
        "not an access token",
        "acts on somebody's behalf already",
    ] {
        assert_eq!(refusals(&admin, why).await, 1, "{why}");
    }
    // A grant opens no door, and the token is bound to its certificate.
    let as_token = authorize_with_token(&research, call("search"), &grant).await;
    assert_eq!(refused(as_token), "TOKEN_INVALID");
    allowed(&research, "search", &token).await;
    let stolen = authorize_with_token(&thief, call("search"), &token).await;
    assert_eq!(refused(stolen), "TOKEN_BINDING");
    for altered in [
        format!("{grant}x"),
        grant.replace('.', ".e"),
        grant[..grant.len() - 4].to_owned(),
        String::new(),
    ] {
        assert_eq!(
            refused(act(&research, &altered, &[]).await),
            "DELEGATION_INVALID"
        );
    }
    let said = server.log().clone();
    assert!(!said.contains(&grant) && !said.contains(&token));
    let none = v1::ExchangeTokenRequest { exchange: None };
    let none = research.authentication().exchange_token(none).await;
    assert_eq!(refused(none), "FIELD_INVALID");
}

#[tokio::test]
async fn scope_only_shrinks_and_holds() {
    let server = serve(Database::Sqlite).await;
    let admin = server.admin();
    let research = server.agent("research", &[]).await;
    let analysis = server.agent("analysis", &[]).await;
    let scope = ["call_tool:search", "call_tool:short", "delegate"];
    let grant = delegate(&admin, "research", &scope).await.expect("a grant");
    let token = act(&research, &grant, &[]).await.expect("a token");
    allowed(&research, "search", &token).await;
    let answer = decided(&research, "personal", &token).await;
    assert_eq!(answer.reason(), v1::DenyReason::Delegation, "{answer:?}");
    assert!(answer.message.contains("scope"), "{answer:?}");

    let wider = act(&research, &grant, &["call_tool"]).await;
    assert_eq!(refused(wider), "DELEGATION_INVALID");
    let narrow = act(&research, &grant, &["call_tool:search"])
        .await
        .expect("a token");
    assert_eq!(
        denied(&research, "short", &narrow).await,
        v1::DenyReason::Delegation
    );
    let wider = delegate_by(&research, "analysis", &["read"], Some(&token)).await;
    assert_eq!(refused(wider), "DELEGATION_INVALID");
    // Who may not delegate within its scope may not delegate.
    let closed = delegate_by(&research, "analysis", &[], Some(&narrow)).await;
    assert_eq!(refused(closed), "NOT_PERMITTED");
    let grant = delegate_by(&research, "analysis", &["call_tool:short"], Some(&token)).await;
    let next = act(&analysis, &grant.expect("a grant"), &[])
        .await
        .expect("a token");
    assert_eq!(
        denied(&analysis, "search", &next).await,
        v1::DenyReason::Delegation
    );

    for bad in ["", "a b", "call_tool\n"] {
        let refused_ = delegate(&admin, "research", &[bad]).await;
        assert_eq!(refused(refused_), "FIELD_INVALID", "{bad:?}");
    }
    let many = vec!["read"; 65];
    assert_eq!(
        refused(delegate(&admin, "research", &many).await),
        "FIELD_INVALID"
    );
}

#[tokio::test]
async fn what_is_offered_is_what_every_party_may() {
    let server = serve(Database::Sqlite).await;
    let admin = server.admin();
    let reporter = server.agent("reporter", &["reporter", "hr"]).await;
    let token = acting(&admin, &reporter, "reporter").await;
    let listed = async |token: Option<&str>| {
        let mut request = tonic::Request::new(v1::ListPermittedRequest {
            query: Some(v1::list_permitted_request::Query::Resources(
                v1::PermittedResources::default(),
            )),
            ..Default::default()
        });
        if let Some(token) = token {
            let bearer = format!("Bearer {token}").parse().expect("a header value");
            request.metadata_mut().insert("authorization", bearer);
        }
        let answer = reporter.authorization().list_permitted(request).await;
        let permitted = answer.expect("a listing").into_inner().permitted;
        let id = |p: v1::Permitted| p.resource.map(|r| r.id).unwrap_or_default();
        permitted.into_iter().map(id).collect::<Vec<_>>()
    };
    assert_eq!(listed(None).await, ["payroll", "report", "search", "short"]);
    assert_eq!(listed(Some(&token)).await, ["report", "search", "short"]);
}

async fn a_party_that_is_contained(database: Database) {
    let server = serve(database).await;
    let admin = server.admin();
    let other = match *server.database {
        Database::Postgres(_) => Some(server.replica().await),
        Database::Sqlite => None,
    };
    let elsewhere = other.as_ref().unwrap_or(&server);
    let middle = server.agent("middle", &[]).await;
    let last: Credential = {
        server.register("last", &[]).await;
        server.enroll("last").await
    };
    let last = elsewhere.client(last);
    let token = acting(&middle, &last, "last").await;
    allowed(&last, "search", &token).await;
    let waiting = delegate(&middle, "last", &[]).await.expect("a grant");

    let suspend = v1::SuspendRequest {
        agent: "middle".to_owned(),
        ..Default::default()
    };
    admin.agents().suspend(suspend).await.expect("suspends");
    // On the connection that is open, on whichever replica it is.
    let answer = decided(&last, "search", &token).await;
    assert_eq!(answer.reason(), v1::DenyReason::Delegation);
    assert!(answer.message.contains("no longer active"), "{answer:?}");
    assert_eq!(
        refused(act(&last, &waiting, &[]).await),
        "DELEGATION_INVALID"
    );
    crate::support::rpc::allowed(&last, call("search")).await;
    let reinstate = v1::ReinstateRequest {
        agent: "middle".to_owned(),
        ..Default::default()
    };
    admin
        .agents()
        .reinstate(reinstate)
        .await
        .expect("reinstates");
    allowed(&last, "search", &token).await;
    act(&last, &waiting, &[]).await.expect("a token");
    server.assert_verifies();
}

#[tokio::test]
async fn a_contained_party_ends_what_rests_on_it() {
    a_party_that_is_contained(Database::Sqlite).await;
}

#[tokio::test]
async fn a_contained_party_ends_it_on_every_replica() {
    a_party_that_is_contained(Database::postgres().await).await;
}

#[tokio::test]
async fn a_delegation_ends_with_what_its_maker_proved_itself_by() {
    let server = serve(Database::Sqlite).await;
    let research = server.agent("research", &[]).await;
    server.register("brief", &[]).await;
    let credential = server.enroll("brief").await;
    let folder = credential.folder().expect("a folder");
    let key = std::fs::read_to_string(folder.join("key.pem")).expect("a key");
    let id = "spiffe://zta.local/agent/brief";
    let lifetime = time::Duration::seconds(3);
    let brief = Forger::thief(&server).credential(&server, &key, id, lifetime);
    let brief = server.client(brief);
    let grant = delegate(&brief, "research", &[]).await.expect("a grant");
    let token = act(&research, &grant, &[]).await.expect("a token");
    allowed(&research, "search", &token).await;
    tokio::time::sleep(std::time::Duration::from_millis(3500)).await;
    let late = authorize_with_token(&research, call("search"), &token).await;
    assert_eq!(refused(late), "TOKEN_EXPIRED");
    assert_eq!(
        refused(act(&research, &grant, &[]).await),
        "DELEGATION_INVALID"
    );
}
