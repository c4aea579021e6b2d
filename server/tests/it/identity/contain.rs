//! Suspend, isolate, reinstate, revoke, ban; and that no agent administers anything.

use tonic::Status;
use zta_client::{Client, v1};

use super::rpcs;
use crate::support::Setup;
use crate::support::descriptors;
use crate::support::http::{anonymous, channel_as};
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
        ..Default::default()
    };
    let answer = admin.agents().reinstate(request).await?.into_inner();
    Ok(answer.agent.expect("an agent").state())
}

async fn revoke(admin: &Client) -> Result<v1::AgentState, Status> {
    let request = v1::RevokeRequest {
        agent: agent(),
        note: "a test".to_owned(),
        ..Default::default()
    };
    let answer = admin.agents().revoke(request).await?.into_inner();
    Ok(answer.agent.expect("an agent").state())
}

async fn ban(admin: &Client) -> Result<v1::AgentState, Status> {
    let request = v1::BanRequest {
        agent: agent(),
        note: "a test".to_owned(),
    };
    let answer = admin.agents().ban(request).await?.into_inner();
    Ok(answer.agent.expect("an agent").state())
}

/// The reasons for which the agent gets neither a token nor a certificate.
async fn no_login_no_renewal(agent: &Client) -> [Option<String>; 2] {
    let login = agent.authenticate().await.expect_err("no login");
    let renewal = agent.renew().await.expect_err("no renewal");
    [login, renewal].map(|error| error.reason().map(str::to_owned))
}

#[tokio::test]
async fn containment_bites_on_the_next_call_of_an_open_connection() {
    use v1::{AgentState, DenyReason};
    let server = Setup::sqlite().start().await;
    let admin = server.admin();
    let research = server.agent("research", &["researcher"]).await;
    let token = research.authenticate().await.expect("a token").access_token;
    allowed(&research, call("web_search")).await;

    let state = suspend(&admin).await.expect("suspends");
    assert_eq!(state, AgentState::Suspended);
    let reason = denied(&research, call("web_search")).await;
    assert_eq!(reason, DenyReason::Suspended);
    let by_token = authorize_with_token(&research, call("web_search"), &token).await;
    let reason = by_token.expect("a decision").reason();
    assert_eq!(reason, DenyReason::Suspended);
    let suspended = Some("SUSPENDED".to_owned());
    assert_eq!(
        no_login_no_renewal(&research).await,
        [suspended.clone(), suspended]
    );

    let state = isolate(&admin).await.expect("isolates");
    assert_eq!(state, AgentState::Isolated);
    let reason = denied(&research, call("web_search")).await;
    assert_eq!(reason, DenyReason::Isolated);
    let way_out = refused(suspend(&admin).await);
    assert_eq!(way_out, "STATE_CONFLICT", "that would be a way out");
    let isolated = Some("ISOLATED".to_owned());
    assert_eq!(
        no_login_no_renewal(&research).await,
        [isolated.clone(), isolated]
    );

    let state = reinstate(&admin).await.expect("reinstates");
    assert_eq!(state, AgentState::Active);
    allowed(&research, call("web_search")).await;
    server.assert_verifies();
}

#[tokio::test]
async fn a_revoked_agent_comes_back_with_a_new_key_only() {
    let server = Setup::sqlite().start().await;
    let admin = server.admin();
    let research = server.agent("research", &["researcher"]).await;
    let second = server.client(server.enroll("research").await);
    let spare = server.join_token("research").await;
    let state = revoke(&admin).await.expect("revokes");
    assert_eq!(state, v1::AgentState::Revoked);
    for key in [&research, &second] {
        let reason = denied(key, call("web_search")).await;
        assert_eq!(reason, v1::DenyReason::Revoked);
        let revoked = Some("REVOKED".to_owned());
        assert_eq!(no_login_no_renewal(key).await, [revoked.clone(), revoked]);
    }
    let way_back = refused(reinstate(&admin).await);
    assert_eq!(way_back, "STATE_CONFLICT", "no key would be good");
    let folder = server.folder().join("late");
    let late = zta_client::enroll(server.endpoint(), &spare, &folder).await;
    let late = late.expect_err("what was handed out before is void");
    assert_eq!(late.reason(), Some("JOIN_TOKEN_INVALID"), "{late}");
    let renewed = server.client(server.enroll("research").await);
    allowed(&renewed, call("web_search")).await;
    for key in [&research, &second] {
        let reason = denied(key, call("web_search")).await;
        assert_eq!(reason, v1::DenyReason::Revoked, "an old key stays void");
    }
    server.assert_verifies();
}

#[tokio::test]
async fn a_banned_agent_is_gone_for_good() {
    let server = Setup::sqlite().start().await;
    let admin = server.admin();
    let research = server.agent("research", &["researcher"]).await;
    let spare = server.join_token("research").await;
    allowed(&research, call("web_search")).await;
    let state = ban(&admin).await.expect("bans");
    assert_eq!(state, v1::AgentState::Banned);
    let reason = denied(&research, call("web_search")).await;
    assert_eq!(reason, v1::DenyReason::Revoked);
    let revoked = Some("REVOKED".to_owned());
    assert_eq!(
        no_login_no_renewal(&research).await,
        [revoked.clone(), revoked]
    );
    for way_back in [
        reinstate(&admin).await,
        revoke(&admin).await,
        suspend(&admin).await,
    ] {
        assert_eq!(refused(way_back), "REVOKED");
    }
    let request = v1::CreateJoinTokenRequest { agent: agent() };
    let token = admin.agents().create_join_token(request).await;
    assert_eq!(refused(token), "REVOKED");
    let folder = server.folder().join("late");
    let late = zta_client::enroll(server.endpoint(), &spare, &folder).await;
    let late = late.expect_err("no key");
    assert_eq!(late.reason(), Some("JOIN_TOKEN_INVALID"), "{late}");
    let again = v1::RegisterRequest {
        name: agent(),
        ..Default::default()
    };
    let again = refused(admin.agents().register(again).await);
    assert_eq!(again, "AGENT_EXISTS", "never reused");
    let acts: Vec<(bool, String)> = events(&admin, &["admin"])
        .await
        .iter()
        .filter_map(|(_, leaf)| {
            let action = leaf.pointer("/action/id")?.as_str()?.to_owned();
            Some((leaf.pointer("/detail/failed").is_some(), action))
        })
        .filter(|(_, action)| action.ends_with("_agent"))
        .collect();
    // Newest first; what was permitted and could not be done is on record as that.
    let expected = [
        (true, "register_agent"),
        (true, "suspend_agent"),
        (true, "revoke_agent"),
        (true, "reinstate_agent"),
        (false, "ban_agent"),
        (false, "register_agent"),
    ];
    assert_eq!(acts, expected.map(|(failed, act)| (failed, act.to_owned())));
    server.assert_verifies();
}

/// What an agent may call for itself and has something to do with an empty request.
const OWN: [&str; 2] = ["AgentService.Renew", "AuthenticationService.GetChallenge"];

/// The list of the test below is written by hand; this one comes from the protos, so that
/// nothing new answers to agents unless somebody says that it may.
#[tokio::test]
async fn to_an_agent_no_call_answers_but_its_own() {
    let server = Setup::sqlite().start().await;
    let rogue = server.agent("research", &["administrator"]).await;
    let credential = rogue.credential().expect("a credential");
    let channel = channel_as(&server, credential.folder().expect("a folder"));
    let mut answered = Vec::new();
    for rpc in descriptors::rpcs() {
        match descriptors::call(&channel, &rpc, Vec::new()).await {
            Ok(()) => answered.push(rpc.name),
            Err(status) => {
                let codes = [tonic::Code::PermissionDenied, tonic::Code::InvalidArgument];
                let failed = [
                    tonic::Code::FailedPrecondition,
                    tonic::Code::Unauthenticated,
                ];
                let code = status.code();
                assert!(
                    codes.contains(&code) || failed.contains(&code),
                    "{}: {status:?}",
                    rpc.name
                );
            }
        }
    }
    assert_eq!(answered, OWN);
}

#[tokio::test]
async fn no_agent_administers_or_gives_itself_a_role() {
    let server = Setup::sqlite().start().await;
    let admin = server.admin();
    // A role of that name is nothing: `admin.cedar` gives rights to people.
    let rogue = server.agent("research", &["administrator"]).await;
    let credential = rogue.credential().expect("a credential");
    let folder = credential.folder().expect("a folder");
    let answers = rpcs::of_administrators(channel_as(&server, folder)).await;
    let asked = answers.len();
    assert_eq!(asked, 27);
    for (what, answer) in answers {
        let status = answer.expect_err(what);
        assert_eq!(status.code(), tonic::Code::PermissionDenied, "{what}");
        let reason = crate::support::rpc::reason(&status);
        assert_eq!(reason, "NOT_PERMITTED", "{what}");
    }
    let denials = events(&admin, &["admin"]).await;
    let denials = denials.iter().filter(|(_, leaf)| leaf["effect"] == "deny");
    assert_eq!(denials.count(), asked, "each attempt is on record");

    let request = v1::AgentServiceListRequest::default();
    let listed = admin.agents().list(request).await.expect("a list");
    let listed = listed.into_inner().agents;
    let roles = vec!["administrator".to_owned()];
    assert_eq!(
        (listed.len(), listed[0].state()),
        (1, v1::AgentState::Active)
    );
    assert_eq!(
        (listed[0].name.as_str(), &listed[0].roles),
        ("research", &roles)
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
