//! Suspend, isolate, reinstate, revoke; and that no agent administers anything.

use tonic::Status;
use zta_client::{Client, v1};

use crate::support::Setup;
use crate::support::http::anonymous;
use crate::support::rpc::{allowed, authorize_with_token, call, denied, events, refused};

fn agent() -> String {
    "research".to_owned()
}

async fn suspend(admin: &Client) -> Result<v1::AgentState, Status> {
    let request = v1::SuspendRequest {
        agent: agent(),
        note: "a test".to_owned(),
    };
    let answer = admin.agents().suspend(request).await?.into_inner();
    Ok(answer.agent.expect("an agent").state())
}

async fn isolate(admin: &Client) -> Result<v1::AgentState, Status> {
    let request = v1::IsolateRequest {
        agent: agent(),
        note: "a test".to_owned(),
    };
    let answer = admin.agents().isolate(request).await?.into_inner();
    Ok(answer.agent.expect("an agent").state())
}

async fn reinstate(admin: &Client) -> Result<v1::AgentState, Status> {
    let request = v1::ReinstateRequest {
        agent: agent(),
        note: "a test".to_owned(),
    };
    let answer = admin.agents().reinstate(request).await?.into_inner();
    Ok(answer.agent.expect("an agent").state())
}

async fn revoke(admin: &Client) -> Result<v1::AgentState, Status> {
    let request = v1::RevokeRequest {
        agent: agent(),
        note: "a test".to_owned(),
    };
    let answer = admin.agents().revoke(request).await?.into_inner();
    Ok(answer.agent.expect("an agent").state())
}

#[tokio::test]
async fn containment_bites_on_the_next_call_of_an_open_connection() {
    let server = Setup::sqlite().start().await;
    let admin = server.admin();
    let research = server.agent("research", &["researcher"]).await;
    let token = research.authenticate().await.expect("a token").access_token;
    let spare = server.join_token("research").await;
    allowed(&research, call("web_search")).await;

    assert_eq!(
        suspend(&admin).await.expect("suspends"),
        v1::AgentState::Suspended
    );
    assert_eq!(
        denied(&research, call("web_search")).await,
        v1::DenyReason::Suspended
    );
    let by_token = authorize_with_token(&research, call("web_search"), &token).await;
    assert_eq!(
        by_token.expect("a decision").reason(),
        v1::DenyReason::Suspended
    );
    assert_eq!(
        research
            .authenticate()
            .await
            .expect_err("no login")
            .reason(),
        Some("SUSPENDED")
    );
    assert_eq!(
        research.renew().await.expect_err("no renewal").reason(),
        Some("SUSPENDED")
    );

    assert_eq!(
        isolate(&admin).await.expect("isolates"),
        v1::AgentState::Isolated
    );
    assert_eq!(
        denied(&research, call("web_search")).await,
        v1::DenyReason::Isolated
    );
    assert_eq!(
        refused(suspend(&admin).await),
        "STATE_CONFLICT",
        "that would be a way out"
    );
    assert_eq!(
        research.renew().await.expect_err("no renewal").reason(),
        Some("ISOLATED")
    );

    assert_eq!(
        reinstate(&admin).await.expect("reinstates"),
        v1::AgentState::Active
    );
    allowed(&research, call("web_search")).await;

    assert_eq!(
        revoke(&admin).await.expect("revokes"),
        v1::AgentState::Revoked
    );
    assert_eq!(
        denied(&research, call("web_search")).await,
        v1::DenyReason::Revoked
    );
    assert_eq!(
        research.renew().await.expect_err("no renewal").reason(),
        Some("REVOKED")
    );
    assert_eq!(
        research
            .authenticate()
            .await
            .expect_err("no login")
            .reason(),
        Some("REVOKED")
    );
    assert_eq!(refused(reinstate(&admin).await), "REVOKED", "for good");
    let folder = server.folder().join("late");
    let late = zta_client::enroll(server.endpoint(), &spare, &folder)
        .await
        .expect_err("no key");
    assert_eq!(late.reason(), Some("REVOKED"), "{late}");
    let again = v1::RegisterRequest {
        name: agent(),
        ..Default::default()
    };
    assert_eq!(
        refused(admin.agents().register(again).await),
        "AGENT_EXISTS",
        "never reused"
    );

    let (failed, acts): (Vec<_>, Vec<_>) = events(&admin, &["admin"])
        .await
        .iter()
        .filter_map(|(_, leaf)| {
            let action = leaf.pointer("/action/id")?.as_str()?.to_owned();
            Some((leaf.pointer("/detail/failed").is_some(), action))
        })
        .filter(|(_, action)| action.ends_with("_agent"))
        .partition(|(failed, _)| *failed);
    let names = |acts: Vec<(bool, String)>| -> Vec<String> {
        acts.into_iter().map(|(_, action)| action).collect()
    };
    assert_eq!(
        names(failed),
        ["register_agent", "reinstate_agent", "suspend_agent"],
        "what was permitted and could not be done is on record as that"
    );
    let acts = names(acts);
    let expected = [
        "revoke_agent",
        "reinstate_agent",
        "isolate_agent",
        "suspend_agent",
        "register_agent",
    ];
    assert_eq!(
        acts, expected,
        "newest first; what was refused changed nothing"
    );
    server.assert_verifies();
}

#[tokio::test]
async fn no_agent_administers_or_gives_itself_a_role() {
    let server = Setup::sqlite().start().await;
    let admin = server.admin();
    // A role of that name is nothing: `admin.cedar` gives rights to people.
    let rogue = server.agent("research", &["administrator"]).await;
    let (mut agents, mut policies, mut audit) = (rogue.agents(), rogue.policies(), rogue.audit());
    let register = |name: &str| v1::RegisterRequest {
        name: name.to_owned(),
        roles: vec!["writer".to_owned()],
        owner: String::new(),
    };
    let source = || Some(v1::PolicySource::default());
    let apply = v1::ApplyRequest {
        source: source(),
        expected_revision: 1,
        message: String::new(),
    };
    let evaluate = v1::EvaluateRequest {
        requests: vec![v1::EvaluateItem {
            principal: crate::support::rpc::entity("A", "a"),
            action: crate::support::rpc::entity("A", "a"),
            resource: crate::support::rpc::entity("A", "a"),
            ..Default::default()
        }],
        ..Default::default()
    };
    let join = v1::CreateJoinTokenRequest { agent: agent() };
    let answers = [
        (
            "Register itself",
            agents.register(register("research")).await.map(drop),
        ),
        (
            "Register another",
            agents.register(register("writing")).await.map(drop),
        ),
        (
            "CreateJoinToken",
            agents.create_join_token(join).await.map(drop),
        ),
        (
            "List",
            agents
                .list(v1::AgentServiceListRequest::default())
                .await
                .map(drop),
        ),
        ("Suspend", suspend(&rogue).await.map(drop)),
        ("Isolate", isolate(&rogue).await.map(drop)),
        ("Reinstate", reinstate(&rogue).await.map(drop)),
        ("Revoke", revoke(&rogue).await.map(drop)),
        (
            "Validate",
            policies
                .validate(v1::ValidateRequest { source: source() })
                .await
                .map(drop),
        ),
        ("Apply", policies.apply(apply).await.map(drop)),
        (
            "GetRevision",
            policies
                .get_revision(v1::GetRevisionRequest::default())
                .await
                .map(drop),
        ),
        ("Evaluate", policies.evaluate(evaluate).await.map(drop)),
        (
            "ListEvents",
            audit
                .list_events(v1::ListEventsRequest::default())
                .await
                .map(drop),
        ),
        (
            "GetCheckpoint",
            audit
                .get_checkpoint(v1::GetCheckpointRequest {})
                .await
                .map(drop),
        ),
    ];
    let asked = answers.len();
    for (what, answer) in answers {
        let status = answer.expect_err(what);
        assert_eq!(status.code(), tonic::Code::PermissionDenied, "{what}");
        assert_eq!(
            crate::support::rpc::reason(&status),
            "NOT_PERMITTED",
            "{what}"
        );
    }
    let denials = events(&admin, &["admin"]).await;
    let denials = denials.iter().filter(|(_, leaf)| leaf["effect"] == "deny");
    assert_eq!(denials.count(), asked, "each attempt is on record");

    let request = v1::AgentServiceListRequest::default();
    let listed = admin
        .agents()
        .list(request)
        .await
        .expect("a list")
        .into_inner()
        .agents;
    let listed: Vec<_> = listed
        .iter()
        .map(|a| (a.name.as_str(), a.roles.clone(), a.state()))
        .collect();
    assert_eq!(
        listed,
        [(
            "research",
            vec!["administrator".to_owned()],
            v1::AgentState::Active
        )]
    );
}

#[tokio::test]
async fn an_agents_name_opens_nothing_without_its_certificate() {
    let server = Setup::sqlite().start().await;
    let research = server.agent("research", &["researcher"]).await;
    let token = research.authenticate().await.expect("a token").access_token;
    let mut stranger =
        v1::authorization_service_client::AuthorizationServiceClient::new(anonymous(&server));
    let mut request = tonic::Request::new(call("web_search"));
    let value = format!("Bearer {token}").parse().expect("a header");
    request.metadata_mut().insert("authorization", value);
    assert_eq!(
        refused(stranger.authorize(request).await),
        "CREDENTIAL_MISSING"
    );
}
