//! Tokens of a real identity provider: login, roles, key rotation, an outage, forgeries.

use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde_json::{Value, json};
use tonic::Status;
use zta_client::v1;
use zta_client::v1::authenticate_request::Proof;
use zta_client::v1::authentication_service_client::AuthenticationServiceClient;
use zta_client::v1::authorization_service_client::AuthorizationServiceClient;

use crate::support::dpop::Holder;
use crate::support::http::anonymous;
use crate::support::pki::{new_key, now};
use crate::support::provider::Provider;
use crate::support::proxy::Proxy;
use crate::support::rpc::{call, event, events, refusals, refused};
use crate::support::{Database, Server, Setup, eventually};

pub(super) const AUDIENCE: &str = "https://zta.example";
/// What services may do that have a role by their group.
const SERVICES: &str = r#"@id("test.services_search")
permit (
  principal is ZTA::Workload in ZTA::Role::"researcher",
  action == ZTA::Action::"call_tool",
  resource == ZTA::Tool::"web_search"
);"#;

/// The tables for a provider: its services' access tokens, and nothing of people.
pub(super) fn issuers(provider: &Provider, more: &str) -> String {
    format!(
        r#"
[[issuers]]
issuer = "{}"
audiences = ["{AUDIENCE}"]
principal = "workload"
algorithms = ["RS256", "ES256"]
token_types = ["at+jwt"]
ca_file = "{}"
name_claim = "name"
groups_claim = "groups"
{more}
[issuers.roles]
g-research = ["researcher"]
"#,
        provider.issuer,
        provider.ca().display()
    )
}

pub(super) async fn server_with(settings: &str) -> Server {
    // Many forgeries come from here; that they lock out is shown elsewhere.
    let setup = Setup::sqlite()
        .config(settings)
        .policy(SERVICES)
        .set("ZTA_LIMITS__LOGIN_FAILURES_MAX", 1000);
    setup.start().await
}

pub(super) fn stranger(proxy: &Proxy) -> Holder {
    Holder::new(&new_key(), proxy.channel(), &proxy.endpoint)
}

pub(super) async fn login(
    holder: &mut Holder,
    token: &str,
) -> Result<v1::AuthenticateResponse, Status> {
    let token = token.to_owned();
    holder
        .login(Proof::IdentityToken(v1::IdentityToken { token }))
        .await
}

#[tokio::test]
async fn a_service_of_a_provider_logs_in_and_gets_the_roles_of_its_groups() {
    let provider = Provider::start();
    let server = server_with(&issuers(&provider, "")).await;
    let proxy = Proxy::before(&server).await;
    let mut service = stranger(&proxy);
    let identity = provider.access_token("svc-research").await;
    let answer = login(&mut service, &identity).await.expect("logs in");
    let principal = answer.principal.expect("a principal");
    let id = format!("{}#svc-research", provider.issuer);
    assert_eq!(
        (&*principal.r#type, &*principal.id),
        ("ZTA::Workload", &*id)
    );
    let admin = server.admin();
    let logins = events(&admin, &["login"]).await;
    assert_eq!(logins[0].1["detail"]["roles"], "researcher");
    let decision = service.authorize("web_search", &answer.access_token).await;
    let decision = decision.expect("a decision");
    assert_eq!(decision.effect(), v1::Effect::Allow, "{decision:?}");
    let leaf = event(&admin, decision.sequence).await;
    assert_eq!(
        (&leaf["actor"]["type"], &leaf["actor"]["id"]),
        (&json!("ZTA::Workload"), &json!(id))
    );

    // Another group gives no role, and so no permit.
    let identity = provider.access_token("svc-stranger").await;
    let answer = login(&mut service, &identity).await.expect("logs in");
    let decision = service.authorize("web_search", &answer.access_token).await;
    let decision = decision.expect("a decision");
    assert_eq!(decision.reason(), v1::DenyReason::NotPermitted);

    // To be told a nonce was no failed login.
    assert_eq!(events(&admin, &["login_failed"]).await, []);

    // The provider's token is none of ours, in either scheme.
    let direct = service.authorize("web_search", &identity).await;
    assert_eq!(refused(direct), "TOKEN_INVALID");
    let logins = events(&admin, &["login"]).await;
    assert_eq!(logins.len(), 2);
    let text = format!("{logins:?}") + &server.log();
    assert!(!text.contains(&identity) && !text.contains("eyJ"));
    server.assert_verifies();
}

#[tokio::test]
async fn a_new_key_of_the_provider_is_fetched_once_and_at_a_bounded_rate() {
    let mut provider = Provider::start();
    let server = server_with(&issuers(&provider, "")).await;
    let proxy = Proxy::before(&server).await;
    let mut service = stranger(&proxy);
    let identity = provider.access_token("svc-research").await;
    login(&mut service, &identity).await.expect("logs in");
    let asked = provider.keys_asked();
    // Keys that nobody has do not make us ask at all within half a minute of the last time.
    let claims = || json!({"aud": AUDIENCE, "sub": "x", "iat": now().unix_timestamp(), "exp": now().unix_timestamp() + 60});
    for n in 0..10 {
        let header = json!({"typ": "at+jwt", "kid": format!("invented-{n}")});
        let forged = provider.sign(header, claims());
        assert_eq!(
            refused(login(&mut stranger(&proxy), &forged).await),
            "IDENTITY_TOKEN_INVALID"
        );
    }
    assert_eq!(provider.keys_asked(), asked);
    provider.act(json!({"act": "rotate", "keep": true}));
    let rotated = provider.access_token("svc-research").await;
    tokio::time::sleep(Duration::from_secs(31)).await;
    login(&mut service, &rotated)
        .await
        .expect("logs in by the new key");
    assert_eq!(provider.keys_asked(), asked + 1);
    login(&mut service, &identity)
        .await
        .expect("the old key still serves");
    assert_eq!(provider.keys_asked(), asked + 1);
    assert_eq!(
        refusals(&server.admin(), "key is not among its issuer's")
            .await
            .min(3),
        3
    );
}

#[tokio::test]
async fn an_outage_of_the_provider_is_outlived_for_a_while() {
    let mut provider = Provider::start();
    let server = server_with(&issuers(&provider, "keys_stale_max_s = 12")).await;
    let proxy = Proxy::before(&server).await;
    let mut service = stranger(&proxy);
    let identity = provider.access_token("svc-research").await;
    login(&mut service, &identity).await.expect("logs in");
    provider.act(json!({"act": "away", "is": true}));
    login(&mut service, &identity)
        .await
        .expect("stale keys serve");
    let ended = eventually("the end of stale keys", async || {
        tokio::time::sleep(Duration::from_millis(500)).await;
        // Each with a key of its own: one key may not log in that often.
        match login(&mut stranger(&proxy), &identity).await {
            Ok(_) => Err("still serving"),
            Err(status) => Ok(crate::support::rpc::reason(&status)),
        }
    })
    .await;
    assert_eq!(ended, "IDENTITY_TOKEN_INVALID");
    assert!(refusals(&server.admin(), "could not be fetched").await > 0);
    provider.act(json!({"act": "away", "is": false}));
    let back = async {
        while login(&mut stranger(&proxy), &identity).await.is_err() {
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), back)
        .await
        .expect("recovers by itself");
}

fn encode(value: &Value) -> String {
    BASE64.encode(value.to_string())
}

#[tokio::test]
async fn what_the_provider_never_signed_for_us_is_refused_with_a_reason_of_its_own() {
    let mut provider = Provider::start();
    let mut other = Provider::start();
    let both = issuers(&provider, "required_claims = {tid = \"t\"}") + &issuers(&other, "");
    let server = server_with(&both).await;
    let proxy = Proxy::before(&server).await;
    let time = now().unix_timestamp();
    let good = json!({"aud": AUDIENCE, "sub": "x", "iat": time, "exp": time + 300, "tid": "t"});
    let access = json!({"typ": "at+jwt"});
    let mut with = |name: &str, value: Value| {
        let mut claims = good.clone();
        match value {
            Value::Null => drop(claims.as_object_mut().expect("claims").remove(name)),
            value => claims[name] = value,
        }
        provider.sign(access.clone(), claims)
    };
    let mut cases = vec![
        (
            "another issuer",
            with("iss", json!("https://evil.example")),
            "not configured",
        ),
        (
            "another audience",
            with("aud", json!("other")),
            "another audience",
        ),
        (
            "no audience",
            with("aud", Value::Null),
            "no valid claim `aud`",
        ),
        (
            "not yet valid",
            with("nbf", json!(time + 3_600)),
            "not valid yet",
        ),
        (
            "no subject",
            with("sub", Value::Null),
            "no valid claim `sub`",
        ),
        ("no end", with("exp", Value::Null), "no valid claim `exp`"),
        (
            "no issue time",
            with("iat", Value::Null),
            "no valid claim `iat`",
        ),
        ("too old", with("iat", json!(time - 90_000)), "too long ago"),
        (
            "another tenant",
            with("tid", json!("other")),
            "`tid` has not the value",
        ),
    ];
    let expired = with("exp", json!(time - 1));
    let id_token = provider.sign(json!({"typ": "JWT"}), good.clone());
    cases.push(("an ID token", id_token, "type (`typ`)"));
    let unknown = provider.sign(json!({"typ": "at+jwt", "kid": "unknown"}), good.clone());
    cases.push(("an unknown key", unknown, "not among its issuer's"));
    // The other provider's first key has the same `kid`.
    let mut claims = good.clone();
    claims["iss"] = json!(provider.issuer);
    let borrowed = other.sign(access.clone(), claims);
    cases.push((
        "the key of another issuer",
        borrowed,
        "signature does not verify",
    ));
    let mut claims = good;
    claims["iss"] = json!(provider.issuer);
    let none = encode(&json!({"alg": "none", "typ": "at+jwt", "kid": "key-1"}));
    let none = format!("{none}.{}.", encode(&claims));
    cases.push(("alg none", none, "algorithm"));
    let text = encode(&json!({"alg": "HS256", "typ": "at+jwt", "kid": "key-1"}));
    let text = format!("{text}.{}", encode(&claims));
    let public = provider.act(json!({"act": "public"}))["pem"]
        .as_str()
        .expect("PEM")
        .to_owned();
    let key = hmac::Key::new(hmac::HMAC_SHA256, public.as_bytes());
    let tag = BASE64.encode(hmac::sign(&key, text.as_bytes()));
    cases.push((
        "HMAC with the public key",
        format!("{text}.{tag}"),
        "algorithm",
    ));

    let admin = server.admin();
    for (what, token, why) in cases {
        let mut attacker = stranger(&proxy);
        assert_eq!(
            refused(login(&mut attacker, &token).await),
            "IDENTITY_TOKEN_INVALID",
            "{what}"
        );
        assert!(
            refusals(&admin, why).await > 0,
            "{what}: `{why}` is not on record"
        );
        // Single events are few a second.
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    let mut attacker = stranger(&proxy);
    assert_eq!(
        refused(login(&mut attacker, &expired).await),
        "TOKEN_EXPIRED"
    );
    assert!(events(&admin, &["login"]).await.is_empty());
}

#[tokio::test]
async fn a_server_without_issuers_takes_no_token_of_any() {
    let provider = Provider::start();
    let server = Setup::sqlite().start().await;
    let proxy = Proxy::before(&server).await;
    let identity = provider.access_token("svc-research").await;
    let refused_login = login(&mut stranger(&proxy), &identity).await;
    assert_eq!(refused(refused_login), "IDENTITY_TOKEN_INVALID");
    let on_record = refusals(&server.admin(), "issuer is not configured").await;
    assert_eq!(on_record, 1);
}

/// A call with a bearer token, by whoever has it.
async fn bearer(server: &Server, token: &str) -> Result<v1::AuthorizeResponse, Status> {
    let mut request = tonic::Request::new(call("web_search"));
    let value = format!("Bearer {token}").parse().expect("a value");
    request.metadata_mut().insert("authorization", value);
    let mut service = AuthorizationServiceClient::new(anonymous(server));
    Ok(service.authorize(request).await?.into_inner())
}

async fn bare_login(server: &Server, token: &str) -> Result<v1::AuthenticateResponse, Status> {
    let token = token.to_owned();
    let proof = Some(Proof::IdentityToken(v1::IdentityToken { token }));
    let mut service = AuthenticationServiceClient::new(anonymous(server));
    let request = v1::AuthenticateRequest { proof };
    Ok(service.authenticate(request).await?.into_inner())
}

#[tokio::test]
async fn bearer_tokens_are_for_the_development_mode_which_says_so_everywhere() {
    let provider = Provider::start();
    let identity = provider.access_token("svc-research").await;
    for format in ["human", "json"] {
        let settings = format!("development_bearer = true\nlog_format = \"{format}\"\n");
        let server = server_with(&(settings + &issuers(&provider, ""))).await;
        let answer = bare_login(&server, &identity).await.expect("logs in");
        let decision = bearer(&server, &answer.access_token)
            .await
            .expect("a decision");
        assert_eq!(decision.effect(), v1::Effect::Allow, "{decision:?}");
        // The provider's own token and one without the mode's login are none of it.
        assert_eq!(refused(bearer(&server, &identity).await), "TOKEN_INVALID");
        assert_eq!(
            refused(bare_login(&server, "a.b.c").await),
            "IDENTITY_TOKEN_INVALID"
        );
        let (status, text) = crate::support::http::get(&server, "/readyz").await;
        assert!(status == 200 && text.contains("DEVELOPMENT MODE"), "{text}");
        let log = server.log().clone();
        assert!(log.lines().count() >= 3);
        for line in log.lines() {
            assert!(line.contains("DEVELOPMENT MODE"), "{line}");
            let json = serde_json::from_str::<Value>(line);
            assert_eq!(json.is_ok(), format == "json", "{line}");
        }
    }
}

#[tokio::test]
async fn without_the_development_mode_nothing_unbound_is_given_or_taken() {
    let provider = Provider::start();
    let identity = provider.access_token("svc-research").await;
    let development = String::from("development_bearer = true\n") + &issuers(&provider, "");
    let mut server = server_with(&development).await;
    let token = bare_login(&server, &identity)
        .await
        .expect("logs in")
        .access_token;
    // The same server, with the same keys, without the mode.
    server.stop().await;
    server.configure("ZTA_DEVELOPMENT_BEARER", "false");
    let without = server.folder().join("without.toml");
    std::fs::write(&without, issuers(&provider, "")).expect("written");
    server.configure("ZTA_CONFIG", &without.display().to_string());
    server.start().await;
    assert_eq!(refused(bearer(&server, &token).await), "CREDENTIAL_MISSING");
    assert_eq!(
        refused(bare_login(&server, &identity).await),
        "CREDENTIAL_MISSING"
    );
    let proxy = Proxy::before(&server).await;
    let mut thief = stranger(&proxy);
    let answer = login(&mut thief, &identity).await;
    answer.expect("with a proof as ever");
    assert_eq!(
        refused(thief.authorize("web_search", &token).await),
        "TOKEN_BINDING"
    );
    // With an agent's certificate.
    let research = server.agent("research", &["researcher"]).await;
    let stolen = crate::support::rpc::authorize_with_token(&research, call("web_search"), &token);
    assert_eq!(refused(stolen.await), "TOKEN_BINDING");
    let (_, text) = crate::support::http::get(&server, "/readyz").await;
    assert_eq!(text, "ready\n");
    assert!(!server.log().contains("DEVELOPMENT"));
    let refused_start = server
        .command(&["serve"])
        .env("ZTA_DEVELOPMENT_BEARER", "true")
        .env("ZTA_LISTEN", "0.0.0.0:0")
        .output();
    let refused_start = refused_start.expect("zta runs");
    assert!(!refused_start.status.success());
    let said = String::from_utf8_lossy(&refused_start.stderr).into_owned();
    assert!(
        said.contains("development_bearer") && said.contains("loopback only"),
        "{said}"
    );
}

#[tokio::test]
async fn revoked_tokens_are_void_on_every_replica_and_a_new_login_is_not() {
    let provider = Provider::start();
    let settings = issuers(&provider, "");
    let setup = Setup::on(Database::postgres().await).config(&settings);
    let server = setup.policy(SERVICES).start().await;
    let other = server.replica().await;
    let (here, there) = (Proxy::before(&server).await, Proxy::before(&other).await);
    let key = new_key();
    let mut first = Holder::new(&key, here.channel(), &here.endpoint);
    let mut second = Holder::new(&key, there.channel(), &there.endpoint);
    let identity = provider.access_token("svc-research").await;
    let answer = login(&mut first, &identity).await.expect("logs in");
    let token = answer.access_token;
    let nonce = second.authorize("web_search", &token).await;
    assert_eq!(refused(nonce), "NONCE_REQUIRED");
    second
        .authorize("web_search", &token)
        .await
        .expect("a decision");

    let revoke = |revoked| v1::RevokeTokensRequest {
        revoked: Some(revoked),
        note: "stolen laptop".to_owned(),
    };
    let principal = answer.principal.expect("a principal");
    let of_service = revoke(v1::revoke_tokens_request::Revoked::Principal(principal));
    let agent = server.agent("research", &["researcher"]).await;
    let denied = agent
        .authentication()
        .revoke_tokens(of_service.clone())
        .await;
    assert_eq!(refused(denied), "NOT_PERMITTED");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let admin = server.admin();
    admin
        .authentication()
        .revoke_tokens(of_service)
        .await
        .expect("revokes");
    assert_eq!(
        refused(second.authorize("web_search", &token).await),
        "TOKEN_INVALID"
    );
    assert_eq!(
        refused(first.authorize("web_search", &token).await),
        "TOKEN_INVALID"
    );
    assert!(refusals(&admin, "was revoked").await > 0);

    tokio::time::sleep(Duration::from_secs(1)).await;
    let again = login(&mut first, &identity).await.expect("logs in again");
    let token = again.access_token;
    first
        .authorize("web_search", &token)
        .await
        .expect("a decision");
    let logins = events(&admin, &["login"]).await;
    let token_id = logins[0].1["detail"]["token_id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let output = server.zta(&["token", "revoke", "--token", &token_id, "--json"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        refused(second.authorize("web_search", &token).await),
        "TOKEN_INVALID"
    );
    for bad in [
        v1::revoke_tokens_request::Revoked::TokenId(String::new()),
        v1::revoke_tokens_request::Revoked::Principal(v1::EntityRef::default()),
    ] {
        let refused_act = admin.authentication().revoke_tokens(revoke(bad)).await;
        assert_eq!(refused(refused_act), "FIELD_INVALID");
    }
    server.assert_verifies();
}
