//! What policies see of the parties, also where a party is what the request is about.

use serde_json::json;
use zta_client::v1;
use zta_client::v1::authentication_service_client::AuthenticationServiceClient;

use super::{act, acting, serve};
use crate::support::dpop::{Holder, with};
use crate::support::pki::{new_key, now};
use crate::support::provider::Provider;
use crate::support::proxy::Proxy;
use crate::support::rpc::{authorize_with_token, call, entity};
use crate::support::{Database, Setup};

/// Looks at nothing but the context.
const RULE: &str = r#"
@id("t.talk") permit (principal, action == ZTA::Action::"send_message", resource);
@id("t.quiet") forbid (principal, action == ZTA::Action::"send_message", resource)
  when { context.zta has delegation && context.zta.delegation has agent &&
         context.zta.delegation.agent in ZTA::Role::"quiet" };
"#;

#[tokio::test]
async fn a_forbid_over_who_is_acted_for_forbids_a_message_to_that_very_one() {
    let server = serve(Database::Sqlite).await;
    let admin = server.admin();
    let patch = v1::PolicyPatch {
        put_policies: vec![v1::SourceFile {
            name: "talk.cedar".to_owned(),
            text: RULE.to_owned(),
        }],
        ..Default::default()
    };
    let apply = v1::ApplyRequest {
        patch: Some(patch),
        expected_revision: 1,
        ..Default::default()
    };
    admin.policies().apply(apply).await.expect("applied");
    let quiet = server.agent("quiet", &["quiet"]).await;
    let helper = server.agent("helper", &[]).await;
    server.register("third", &[]).await;
    let token = acting(&quiet, &helper, "helper").await;
    // All parties are principal or resource of the first request, and none of the others'.
    for to in ["quiet", "third", "helper"] {
        let message = v1::AuthorizeRequest {
            action: entity("ZTA::Action", "send_message"),
            resource: entity("ZTA::Agent", &format!("spiffe://zta.local/agent/{to}")),
            ..call("unused")
        };
        let answer = authorize_with_token(&helper, message, &token).await;
        let answer = answer.expect("a decision");
        assert_eq!(
            answer.reason(),
            v1::DenyReason::Forbidden,
            "{to}: {answer:?}"
        );
    }
}

/// As [`RULE`], of people, and for agents only: the person is asked, too, and would be known
/// as the principal.
const QUIET_PEOPLE: &str = r#"
@id("t.delegate") permit (principal, action == ZTA::Action::"delegate", resource);
@id("t.talk") permit (principal, action == ZTA::Action::"send_message", resource);
@id("t.quiet") forbid (principal is ZTA::Agent, action == ZTA::Action::"send_message", resource)
  when { context.zta has delegation && context.zta.delegation has user &&
         context.zta.delegation.user in ZTA::Role::"quiet" };
@id("t.external") forbid (principal is ZTA::Agent, action == ZTA::Action::"send_message", resource)
  when { resource is ZTA::User && resource.hasTag("contract") &&
         resource.getTag("contract") == "external" };
@id("t.staff") forbid (principal is ZTA::Agent, action == ZTA::Action::"send_message",
  resource in ZTA::Role::"staff");
"#;

const EXCHANGE: &str = "/zta.v1.AuthenticationService/ExchangeToken";

/// A person whom only a provider knows lets the agent `helper` act for them.
async fn grant_by_person(person: &mut Holder, token: &str) -> String {
    let exchange = v1::exchange_token_request::Exchange::Delegate(v1::Delegate {
        agent: "helper".to_owned(),
        ..Default::default()
    });
    let request = v1::ExchangeTokenRequest {
        exchange: Some(exchange),
    };
    let proof = person.proof(EXCHANGE, Some(token));
    let request = with(request, Some(&format!("DPoP {token}")), &proof);
    let mut service = AuthenticationServiceClient::new(person.channel.clone());
    let answer = service.exchange_token(request).await.expect("a grant");
    answer.into_inner().token
}

#[tokio::test]
async fn a_forbid_over_a_person_of_a_provider_forbids_a_message_to_that_very_one() {
    let mut provider = Provider::start();
    let settings = format!(
        r#"
[[issuers]]
issuer = "{}"
audiences = ["https://zta.example"]
principal = "user"
ca_file = "{}"
groups_claim = "groups"
[issuers.roles]
g-quiet = ["quiet"]
g-staff = ["staff"]
[issuers.attributes]
contract = "https://corp.example/contract"
"#,
        provider.issuer,
        provider.ca().display()
    );
    let setup = Setup::sqlite().config(&settings).policy(QUIET_PEOPLE);
    let server = setup.start().await;
    let helper = server.agent("helper", &[]).await;
    let proxy = Proxy::before(&server).await;
    let time = now().unix_timestamp();
    for (group, contract, denied_by) in [
        ("g-quiet", "internal", "t.quiet"),
        ("g-staff", "internal", "t.staff"),
        ("g-x", "external", "t.external"),
        ("g-x", "internal", ""),
    ] {
        let claims = json!({"aud": "https://zta.example", "sub": group, "groups": [group],
                            "iat": time, "exp": time + 300,
                            "https://corp.example/contract": contract});
        let token = provider.sign(json!({}), claims);
        let mut person = Holder::new(&new_key(), proxy.channel(), &proxy.endpoint);
        let proof = v1::authenticate_request::Proof::IdentityToken(v1::IdentityToken { token });
        let login = person.login(proof).await.expect("logs in");
        let grant = grant_by_person(&mut person, &login.access_token).await;
        let token = act(&helper, &grant, &[]).await.expect("a token");
        // The person is subject and resource at once, and nobody of the registry.
        let message = v1::AuthorizeRequest {
            action: entity("ZTA::Action", "send_message"),
            resource: login.principal,
            ..call("unused")
        };
        let answer = authorize_with_token(&helper, message, &token).await;
        let answer = answer.expect("a decision");
        match denied_by {
            "" => assert_eq!(answer.effect(), v1::Effect::Allow, "{group}: {answer:?}"),
            policy => {
                assert_eq!(answer.reason(), v1::DenyReason::Forbidden, "{answer:?}");
                assert_eq!(answer.policy_ids, [policy]);
            }
        }
    }
}
