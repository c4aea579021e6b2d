//! Each RPC once, for tests of who may call none of them.

use tonic::Status;
use tonic::transport::Channel;
use zta_client::v1;
use zta_client::v1::agent_service_client::AgentServiceClient;
use zta_client::v1::audit_service_client::AuditServiceClient;
use zta_client::v1::authentication_service_client::AuthenticationServiceClient;
use zta_client::v1::authorization_service_client::AuthorizationServiceClient;
use zta_client::v1::policy_service_client::PolicyServiceClient;
use zta_client::v1::user_service_client::UserServiceClient;

use crate::support::rpc::{call, entity};

pub(super) type Answers = Vec<(&'static str, Result<(), Status>)>;

macro_rules! tried {
    ($client:ident.$method:ident($request:expr)) => {
        (
            stringify!($method),
            $client.$method($request).await.map(drop),
        )
    };
}

/// What an agent calls for itself.
pub(super) async fn of_agents(channel: Channel) -> Answers {
    let mut decisions = AuthorizationServiceClient::new(channel.clone());
    let mut logins = AuthenticationServiceClient::new(channel.clone());
    let mut agents = AgentServiceClient::new(channel);
    let batch = v1::BatchAuthorizeRequest {
        requests: vec![call("web_search")],
    };
    vec![
        tried!(decisions.authorize(call("web_search"))),
        tried!(decisions.batch_authorize(batch)),
        tried!(logins.get_challenge(v1::GetChallengeRequest {})),
        tried!(logins.authenticate(v1::AuthenticateRequest::default())),
        tried!(agents.renew(v1::RenewRequest::default())),
        tried!(agents.recover(v1::RecoverRequest::default())),
    ]
}

/// What administrators call. `research` is the agent in question.
pub(super) async fn of_administrators(channel: Channel) -> Answers {
    let mut agents = AgentServiceClient::new(channel.clone());
    let (agent, note) = (|| "research".to_owned(), String::new);
    let register = |name: &str| v1::RegisterRequest {
        name: name.to_owned(),
        roles: vec!["writer".to_owned()],
        owner: String::new(),
        ..Default::default()
    };
    let (join, get) = (
        v1::CreateJoinTokenRequest { agent: agent() },
        v1::AgentServiceGetRequest { agent: agent() },
    );
    let (suspend, isolate, reinstate, revoke) = (
        v1::SuspendRequest {
            agent: agent(),
            note: note(),
        },
        v1::IsolateRequest {
            agent: agent(),
            note: note(),
        },
        v1::ReinstateRequest {
            agent: agent(),
            note: note(),
            ..Default::default()
        },
        v1::RevokeRequest {
            agent: agent(),
            note: note(),
            ..Default::default()
        },
    );
    let ban = v1::BanRequest {
        agent: agent(),
        note: note(),
    };
    let keys = v1::ListInstancesRequest {
        agent: agent(),
        ..Default::default()
    };
    let update = v1::UpdateRequest {
        agent: Some(v1::Agent {
            name: agent(),
            roles: vec!["administrator".to_owned(), "writer".to_owned()],
            ..Default::default()
        }),
        update_mask: Some(prost_types::FieldMask {
            paths: vec!["roles".to_owned()],
        }),
        note: note(),
    };
    let mut answers = vec![
        tried!(agents.register(register("research"))),
        tried!(agents.register(register("writing"))),
        tried!(agents.create_join_token(join)),
        tried!(agents.list(v1::AgentServiceListRequest::default())),
        tried!(agents.get(get)),
        tried!(agents.suspend(suspend)),
        tried!(agents.isolate(isolate)),
        tried!(agents.reinstate(reinstate)),
        tried!(agents.revoke(revoke)),
        tried!(agents.ban(ban)),
        tried!(agents.list_instances(keys)),
        tried!(agents.update(update)),
    ];
    answers.extend(of_people(channel.clone()).await);
    answers.extend(of_policies_and_audit(channel).await);
    answers
}

async fn of_people(channel: Channel) -> Answers {
    let mut users = UserServiceClient::new(channel);
    let invite = v1::InviteRequest {
        user: "research".to_owned(),
        roles: vec!["administrator".to_owned()],
        note: String::new(),
    };
    let revoke = v1::RevokeKeysRequest {
        user: "admin".to_owned(),
        force: true,
        ..Default::default()
    };
    let keys = v1::ListKeysRequest {
        user: "admin".to_owned(),
        ..Default::default()
    };
    vec![
        tried!(users.invite(invite)),
        tried!(users.revoke_keys(revoke)),
        tried!(users.list(v1::UserServiceListRequest::default())),
        tried!(users.list_keys(keys)),
    ]
}

async fn of_policies_and_audit(channel: Channel) -> Answers {
    let mut policies = PolicyServiceClient::new(channel.clone());
    let mut audit = AuditServiceClient::new(channel);
    let source = || Some(v1::PolicySource::default());
    let apply = v1::ApplyRequest {
        source: source(),
        expected_revision: 1,
        message: String::new(),
        ..Default::default()
    };
    let item = v1::EvaluateItem {
        principal: entity("A", "a"),
        action: entity("A", "a"),
        resource: entity("A", "a"),
        ..Default::default()
    };
    let evaluate = v1::EvaluateRequest {
        requests: vec![item],
        ..Default::default()
    };
    vec![
        tried!(policies.validate(v1::ValidateRequest {
            source: source(),
            ..Default::default()
        })),
        tried!(policies.apply(apply)),
        tried!(policies.get_revision(v1::GetRevisionRequest::default())),
        tried!(policies.list_revisions(v1::ListRevisionsRequest::default())),
        tried!(policies.evaluate(evaluate)),
        tried!(audit.list_events(v1::ListEventsRequest::default())),
        tried!(audit.watch_events(v1::WatchEventsRequest::default())),
        tried!(audit.get_checkpoint(v1::GetCheckpointRequest {})),
        tried!(audit.get_event(v1::GetEventRequest {
            event: Some(v1::get_event_request::Event::Sequence(0)),
        })),
        tried!(audit.get_inclusion_proof(v1::GetInclusionProofRequest::default())),
        tried!(audit.get_consistency_proof(v1::GetConsistencyProofRequest::default())),
    ]
}
