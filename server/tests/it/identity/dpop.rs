//! Proof of possession with each call, where TLS ends before the server.

use std::path::Path;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::json;
use tonic::{Code, Request};
use zta_client::Client;
use zta_client::v1;
use zta_client::v1::authenticate_request::Proof;
use zta_client::v1::authentication_service_client::AuthenticationServiceClient;
use zta_client::v1::authorization_service_client::AuthorizationServiceClient;

use crate::support::dpop::{AUTHENTICATE, AUTHORIZE, Holder};
use crate::support::pki::{Forger, new_key};
use crate::support::proxy::Proxy;
use crate::support::rpc::{authorize_with_token, call, event, events, reason, refusals, refused};
use crate::support::{Server, Setup};

const RESEARCH: &str = "spiffe://zta.local/agent/research";

fn folder_of(client: &Client) -> std::path::PathBuf {
    let credential = client.credential().expect("a credential");
    credential.folder().expect("a folder").to_owned()
}

fn key_of(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("key.pem")).expect("key.pem")
}

fn certificate_of(folder: &Path) -> Proof {
    let der = CertificateDer::from_pem_file(folder.join("cert.pem")).expect("cert.pem");
    certificate_proof(der.to_vec())
}

fn certificate_proof(certificate_der: Vec<u8>) -> Proof {
    Proof::Certificate(v1::CertificateProof { certificate_der })
}

fn holder(folder: &Path, proxy: &Proxy) -> Holder {
    Holder::new(&key_of(folder), proxy.channel(), &proxy.endpoint)
}

/// An agent behind a proxy that has logged in.
async fn logged_in(server: &Server, name: &str, roles: &[&str], proxy: &Proxy) -> (Holder, String) {
    let folder = folder_of(&server.agent(name, roles).await);
    let mut holder = holder(&folder, proxy);
    let answer = holder
        .login(certificate_of(&folder))
        .await
        .expect("logs in");
    (holder, answer.access_token)
}

#[tokio::test]
async fn an_agent_behind_a_proxy_logs_in_and_calls_by_its_key() {
    let server = Setup::sqlite().start().await;
    let proxy = Proxy::before(&server).await;
    let folder = folder_of(&server.agent("research", &["researcher"]).await);
    let mut holder = holder(&folder, &proxy);
    let answer = holder
        .login(certificate_of(&folder))
        .await
        .expect("logs in");
    assert_eq!(answer.principal.expect("a principal").id, RESEARCH);

    let decision = holder.authorize("web_search", &answer.access_token).await;
    let decision = decision.expect("a decision");
    assert_eq!(decision.effect(), v1::Effect::Allow, "{decision:?}");
    let admin = server.admin();
    let leaf = event(&admin, decision.sequence).await;
    assert_eq!(leaf["actor"]["id"], RESEARCH);
    let logins = events(&admin, &["login"]).await;
    assert_eq!(logins.len(), 1);
    assert_eq!(logins[0].1["actor"]["id"], RESEARCH);

    // A revoked agent's token is worth nothing on its next call.
    let revoke = v1::RevokeRequest {
        agent: "research".to_owned(),
        ..Default::default()
    };
    admin.agents().revoke(revoke).await.expect("revokes");
    let denied = holder.authorize("web_search", &answer.access_token).await;
    let denied = denied.expect("a decision");
    assert_eq!(denied.reason(), v1::DenyReason::Revoked);
    server.assert_verifies();
}

#[tokio::test]
async fn a_stolen_token_is_worth_nothing_without_its_key() {
    let server = Setup::sqlite().start().await;
    let proxy = Proxy::before(&server).await;
    let (mut victim, token) = logged_in(&server, "research", &["researcher"], &proxy).await;

    // A stranger with a key of its own.
    let mut thief = Holder::new(&new_key(), proxy.channel(), &proxy.endpoint);
    thief.nonce.clone_from(&victim.nonce);
    let stolen = thief.authorize("web_search", &token).await;
    assert_eq!(refused(stolen), "TOKEN_BINDING");

    // Another agent, over its own certificate and over a proof.
    let writing = server.agent("writing", &["writer"]).await;
    let stolen = authorize_with_token(&writing, call("web_search"), &token).await;
    assert_eq!(refused(stolen), "TOKEN_BINDING");
    let mut thief = holder(&folder_of(&writing), &proxy);
    thief.nonce.clone_from(&victim.nonce);
    let stolen = thief.authorize("web_search", &token).await;
    assert_eq!(refused(stolen), "TOKEN_BINDING");

    // Without any proof, and as what it is not.
    let mut service = AuthorizationServiceClient::new(proxy.channel());
    for (scheme, why) in [
        ("DPoP", "PROOF_MISSING"),
        ("dpop", "PROOF_MISSING"),
        ("Bearer", "CREDENTIAL_MISSING"),
        ("Basic", "CREDENTIAL_MISSING"),
    ] {
        let mut request = Request::new(call("web_search"));
        let value = format!("{scheme} {token}").parse().expect("a value");
        request.metadata_mut().insert("authorization", value);
        assert_eq!(refused(service.authorize(request).await), why, "{scheme}");
    }
    let good = victim.authorize("web_search", &token).await;
    assert!(good.is_ok(), "the victim's is as good as before");
    // A token of a certificate is none of a key.
    let research =
        Client::builder(zta_client::Credential::load(folder_of(&writing)).expect("loads"));
    let research = research
        .server(server.endpoint())
        .without_renewal()
        .build()
        .expect("a client");
    let bound = research.authenticate().await.expect("a token").access_token;
    let stolen = thief.authorize("web_search", &bound).await;
    assert_eq!(refused(stolen), "TOKEN_BINDING");
}

#[tokio::test]
async fn a_proof_is_good_once_and_for_its_call() {
    let server = Setup::sqlite().start().await;
    let proxy = Proxy::before(&server).await;
    let (mut holder, token) = logged_in(&server, "research", &["researcher"], &proxy).await;
    let proof = holder.proof(AUTHORIZE, Some(&token));
    let first = holder.authorize_by("web_search", &token, &proof).await;
    assert!(first.is_ok());
    let again = holder.authorize_by("web_search", &token, &proof).await;
    assert_eq!(refused(again), "PROOF_INVALID", "replayed");

    let altered = |name: &str, value: serde_json::Value| {
        let mut claims = holder.claims(AUTHORIZE, Some(&token));
        claims[name] = value;
        holder.proof_of(&claims)
    };
    let good = holder.proof(AUTHORIZE, Some(&token));
    let unsigned = good.rsplit_once('.').map(|(text, _)| format!("{text}."));
    let cases = [
        (
            "another call",
            holder.proof("/zta.v1.AuthorizationService/BatchAuthorize", Some(&token)),
        ),
        (
            "another host",
            altered("htu", json!(format!("https://evil.example{AUTHORIZE}"))),
        ),
        ("another method", altered("htm", json!("GET"))),
        ("another token", holder.proof(AUTHORIZE, Some("another"))),
        ("no token", holder.proof(AUTHORIZE, None)),
        ("old", altered("iat", json!(1_700_000_000))),
        ("no id", altered("jti", json!(null))),
        ("no signature", unsigned.expect("a signature")),
        ("not a proof", token.clone()),
    ];
    for (what, proof) in cases {
        let status = holder.authorize_by("web_search", &token, &proof).await;
        let status = status.expect_err(what);
        assert_eq!(
            (status.code(), &*reason(&status)),
            (Code::Unauthenticated, "PROOF_INVALID"),
            "{what}"
        );
        assert!(status.metadata().contains_key("dpop-nonce"), "{what}");
    }
    let mut twice =
        crate::support::dpop::with(call("web_search"), Some(&format!("DPoP {token}")), &good);
    twice
        .metadata_mut()
        .append("dpop", good.parse().expect("a value"));
    let mut service = AuthorizationServiceClient::new(proxy.channel());
    assert_eq!(
        refused(service.authorize(twice).await),
        "PROOF_INVALID",
        "twice"
    );
    let good = holder.authorize("web_search", &token).await;
    assert!(good.is_ok(), "none of it used anything up");
    let admin = server.admin();
    assert_eq!(refusals(&admin, "the proof was used before").await, 1);
    assert!(refusals(&admin, "proof").await >= 5);
    let text = format!("{:?}", events(&admin, &["login_failed"]).await);
    assert!(
        !text.contains(&token) && !text.contains("eyJ"),
        "no secret on record"
    );
    assert!(!server.log().contains(&token));
}

#[tokio::test]
async fn a_nonce_is_of_one_replica_and_dies_with_it() {
    let mut server = Setup::sqlite().start().await;
    let proxy = Proxy::before(&server).await;
    let (mut holder, token) = logged_in(&server, "research", &["researcher"], &proxy).await;
    let old = holder.nonce.clone();
    server.stop().await;
    server.start().await;
    let foreign = holder.authorize("web_search", &token).await;
    assert_eq!(refused(foreign), "NONCE_REQUIRED");
    assert_ne!(holder.nonce, old, "the refusal brings a good one");
    let again = holder.authorize("web_search", &token).await;
    assert!(again.is_ok(), "{again:?}");
    for nonce in [None, Some(String::new()), Some("AQ".repeat(22)), old] {
        holder.nonce = nonce;
        let refused_call = holder.authorize("web_search", &token).await;
        assert_eq!(refused(refused_call), "NONCE_REQUIRED");
    }
}

#[tokio::test]
async fn only_an_enrolled_key_logs_in_by_its_certificate() {
    let server = Setup::sqlite()
        .set("ZTA_LIMITS__LOGIN_FAILURES_MAX", 1000)
        .start()
        .await;
    let proxy = Proxy::before(&server).await;
    let research = folder_of(&server.agent("research", &["researcher"]).await);
    let writing = folder_of(&server.agent("writing", &["writer"]).await);

    // The public certificate without its key.
    let mut thief = holder(&writing, &proxy);
    let stolen = thief.login(certificate_of(&research)).await;
    assert_eq!(refused(stolen), "PROOF_INVALID");
    let mut owner = holder(&research, &proxy);
    let key = key_of(&research);
    let lifetime = time::Duration::HOUR;
    let forged = |forger: &Forger, key: &str, id: &str, lifetime| {
        let pem = forger.certificate(key, id, lifetime);
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM");
        certificate_proof(der.to_vec())
    };
    let stranger = Forger::stranger();
    for (what, proof, why) in [
        (
            "another CA",
            forged(&stranger, &key, RESEARCH, lifetime),
            "PRINCIPAL_UNKNOWN",
        ),
        ("empty", certificate_proof(Vec::new()), "PRINCIPAL_UNKNOWN"),
        (
            "large",
            certificate_proof(vec![0x30; 60_000]),
            "PRINCIPAL_UNKNOWN",
        ),
    ] {
        assert_eq!(refused(owner.login(proof).await), why, "{what}");
    }
    // With the stolen key of our own CA.
    let thief = Forger::thief(&server);
    let other = "spiffe://zta.local/agent/writing";
    let expired = forged(&thief, &key, RESEARCH, -time::Duration::MINUTE);
    assert_eq!(refused(owner.login(expired).await), "CERTIFICATE_EXPIRED");
    let renamed = forged(&thief, &key, other, lifetime);
    assert_eq!(refused(owner.login(renamed).await), "PRINCIPAL_UNKNOWN");
    let fresh = new_key();
    let unknown = forged(&thief, &fresh, RESEARCH, lifetime);
    let mut unenrolled = Holder::new(&fresh, proxy.channel(), &proxy.endpoint);
    assert_eq!(refused(unenrolled.login(unknown).await), "KEY_UNKNOWN");

    // No proof at all, and a challenge, which needs the handshake's certificate.
    let mut service = AuthenticationServiceClient::new(proxy.channel());
    let proof = Some(certificate_of(&research));
    let bare = service
        .authenticate(v1::AuthenticateRequest { proof })
        .await;
    assert_eq!(refused(bare), "CREDENTIAL_MISSING");
    let signed = Proof::SignedChallenge(v1::SignedChallenge::default());
    assert_eq!(refused(owner.login(signed).await), "CREDENTIAL_MISSING");
    let unknown = Proof::IdentityToken(v1::IdentityToken {
        token: "a.b.c".to_owned(),
    });
    assert_eq!(
        refused(owner.login(unknown).await),
        "IDENTITY_TOKEN_INVALID"
    );
    let large = Proof::IdentityToken(v1::IdentityToken {
        token: "x".repeat(70_000),
    });
    assert_eq!(refused(owner.login(large).await), "LIMIT_EXCEEDED");
    let good = owner.login(certificate_of(&research)).await;
    assert!(good.is_ok(), "{good:?}");

    let suspend = v1::SuspendRequest {
        agent: "research".to_owned(),
        ..Default::default()
    };
    server
        .admin()
        .agents()
        .suspend(suspend)
        .await
        .expect("suspends");
    assert_eq!(
        refused(owner.login(certificate_of(&research)).await),
        "SUSPENDED"
    );
}

#[tokio::test]
async fn a_proof_leads_to_nothing_but_a_login_without_a_token() {
    let server = Setup::sqlite().start().await;
    let proxy = Proxy::before(&server).await;
    let (holder, _) = logged_in(&server, "research", &["researcher"], &proxy).await;
    let proof = holder.proof(AUTHORIZE, None);
    let request = crate::support::dpop::with(call("web_search"), None, &proof);
    let mut service = AuthorizationServiceClient::new(proxy.channel());
    assert_eq!(
        refused(service.authorize(request).await),
        "CREDENTIAL_MISSING"
    );
    let proof = holder.proof(AUTHENTICATE, None);
    let request = crate::support::dpop::with(v1::GetChallengeRequest {}, None, &proof);
    let mut service = AuthenticationServiceClient::new(proxy.channel());
    assert_eq!(
        refused(service.get_challenge(request).await),
        "PROOF_INVALID"
    );
}

fn through(proxy: &Proxy, credential: &Path) -> Client {
    let roots = std::fs::read(&proxy.ca).expect("the proxy's CA");
    let credential = zta_client::Credential::load(credential).expect("loads");
    let builder = Client::builder(credential).server(&proxy.endpoint);
    let builder = builder.dpop().server_roots(&roots).without_renewal();
    builder.build().expect("a client")
}

#[tokio::test]
async fn the_client_logs_in_proves_each_call_and_renews_through_a_proxy() {
    let mut server = Setup::sqlite()
        .set("ZTA_TOKEN_LIFETIME_S", 10)
        .start()
        .await;
    let proxy = Proxy::before(&server).await;
    let folder = folder_of(&server.agent("research", &["researcher"]).await);
    let client = through(&proxy, &folder);
    for _ in 0..3 {
        let decision = client
            .authorize(call("web_search"))
            .await
            .expect("a decision");
        assert_eq!(decision.effect, zta_client::Effect::Allow);
    }
    let admin = server.admin();
    assert_eq!(
        events(&admin, &["login"]).await.len(),
        1,
        "one token for all"
    );
    let failed = events(&admin, &["login_failed"]).await;
    assert_eq!(failed, [], "to be told a nonce is no failure");

    let before = client.credential().expect("a credential").validity();
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    client.renew().await.expect("renews");
    let after = client.credential().expect("a credential").validity();
    assert!(after.not_after > before.not_after);
    let renewed = zta_client::Credential::load(&folder).expect("loads");
    assert_eq!(renewed.validity().not_after, after.not_after, "stored, too");

    // Its token ends, and then the server and with it the nonces.
    tokio::time::sleep(std::time::Duration::from_secs(10)).await;
    let decision = client.authorize(call("web_search")).await;
    assert!(decision.is_ok(), "{decision:?}");
    assert_eq!(events(&admin, &["login"]).await.len(), 2);
    server.stop().await;
    server.start().await;
    let calls = (0..8).map(|_| client.authorize(call("web_search")));
    for decision in futures_util::future::join_all(calls).await {
        assert!(decision.is_ok(), "{decision:?}");
    }
    // Over a connection that is no proxy's, the same.
    let direct = through(&proxy, &folder);
    let agent = direct
        .agents()
        .list(v1::AgentServiceListRequest::default())
        .await;
    assert_eq!(refused(agent), "NOT_PERMITTED");
    server.assert_verifies();
}
