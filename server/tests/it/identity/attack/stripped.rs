//! A provider's token that is bound to a key, or that somebody else acts by, is not turned
//! into a token of ours that is bound to whatever key came with it.

use serde_json::{Value, json};

use crate::identity::oidc::{AUDIENCE, issuers, login, server_with, stranger};
use crate::support::pki::now;
use crate::support::provider::Provider;
use crate::support::proxy::Proxy;
use crate::support::rpc::{events, refusals, refused};

fn claims(more: Value) -> Value {
    let time = now().unix_timestamp();
    let mut claims = json!({"aud": AUDIENCE, "sub": "svc", "iat": time, "exp": time + 300});
    let more = more.as_object().expect("claims").clone();
    claims.as_object_mut().expect("claims").extend(more);
    claims
}

#[tokio::test]
async fn a_stolen_token_that_its_provider_bound_to_a_key_is_worth_nothing_to_another() {
    let mut provider = Provider::start();
    let server = server_with(&issuers(&provider, "")).await;
    let proxy = Proxy::before(&server).await;
    let (mut owner, mut thief) = (stranger(&proxy), stranger(&proxy));
    let access = json!({"typ": "at+jwt"});
    let bound = json!({"cnf": {"jkt": owner.thumbprint()}});
    let bound = provider.sign(access.clone(), claims(bound));
    let stolen = login(&mut thief, &bound).await;
    assert_eq!(refused(stolen), "IDENTITY_TOKEN_INVALID");
    let admin = server.admin();
    assert!(refusals(&admin, "bound to another key").await > 0);
    login(&mut owner, &bound).await.expect("the key's owner");

    // What cannot be looked at here binds all the same.
    for cnf in [
        json!({"x5t#S256": "AAAA"}),
        json!({"jkt": owner.thumbprint(), "x5t#S256": "AAAA"}),
        json!({"jkt": "AAAA"}),
        json!({"jkt": 7}),
        json!({}),
        json!("jkt"),
        json!(null),
    ] {
        let token = provider.sign(access.clone(), claims(json!({"cnf": cnf})));
        let answer = login(&mut owner, &token).await;
        assert_eq!(refused(answer), "IDENTITY_TOKEN_INVALID", "{cnf}");
    }
    assert_eq!(events(&admin, &["login"]).await.len(), 1);
}

#[tokio::test]
async fn who_acts_for_somebody_at_the_provider_is_not_that_somebody_here() {
    let mut provider = Provider::start();
    let server = server_with(&issuers(&provider, "")).await;
    let proxy = Proxy::before(&server).await;
    let acting = claims(json!({"act": {"sub": "a-deputy"}}));
    let acting = provider.sign(json!({"typ": "at+jwt"}), acting);
    let answer = login(&mut stranger(&proxy), &acting).await;
    assert_eq!(refused(answer), "IDENTITY_TOKEN_INVALID");
    let admin = server.admin();
    assert!(refusals(&admin, "acts for").await > 0);
    assert!(events(&admin, &["login"]).await.is_empty());
}
