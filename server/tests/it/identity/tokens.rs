//! Challenges and access tokens.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde_json::{Value, json};
use tonic::Status;
use zta_client::{Client, v1};

use crate::support::pki::now;
use crate::support::rpc::{authorize_with_token, call, events, refusals, refused};
use crate::support::{Server, Setup};

/// Rules that look at how the agent logged in.
const POLICIES: [&str; 2] = ["policies", "policies/cases/semantics"];

async fn challenge(client: &Client) -> Result<Vec<u8>, Status> {
    let answer = client
        .authentication()
        .get_challenge(v1::GetChallengeRequest {})
        .await?;
    Ok(answer.into_inner().challenge)
}

async fn prove(client: &Client, challenge: Vec<u8>, signature: Vec<u8>) -> Result<String, Status> {
    let proof = v1::authenticate_request::Proof::SignedChallenge(v1::SignedChallenge {
        challenge,
        signature,
    });
    let request = v1::AuthenticateRequest { proof: Some(proof) };
    let answer = client.authentication().authenticate(request).await?;
    Ok(answer.into_inner().access_token)
}

fn sign(client: &Client, challenge: &[u8]) -> Vec<u8> {
    client
        .credential()
        .expect("a credential")
        .sign_challenge(challenge)
        .expect("signs")
}

#[tokio::test]
async fn a_challenge_is_good_once_and_for_its_own_key() {
    let server = Setup::sqlite().start().await;
    let research = server.agent("research", &["researcher"]).await;
    let writing = server.agent("writing", &["writer"]).await;

    let first = challenge(&research).await.expect("a challenge");
    let signature = sign(&research, &first);
    prove(&research, first.clone(), signature.clone())
        .await
        .expect("a token");
    assert_eq!(
        refused(prove(&research, first, signature).await),
        "CHALLENGE_INVALID",
        "replayed"
    );

    let invented = vec![7; 32];
    let signature = sign(&research, &invented);
    assert_eq!(
        refused(prove(&research, invented, signature).await),
        "CHALLENGE_INVALID",
        "unknown"
    );

    let of_research = challenge(&research).await.expect("a challenge");
    let signature = sign(&writing, &of_research);
    let stolen = prove(&writing, of_research, signature).await;
    assert_eq!(refused(stolen), "CHALLENGE_INVALID", "of another key");

    let admin = server.admin();
    assert_eq!(refusals(&admin, "unknown or was used before").await, 2);
    assert_eq!(refusals(&admin, "given to another key").await, 1);
    let logins = events(&admin, &["login"]).await;
    assert_eq!(logins.len(), 1);
    assert_eq!(
        logins[0].1["actor"]["id"],
        "spiffe://zta.local/agent/research"
    );
}

#[tokio::test]
async fn a_wrong_signature_spends_the_challenge() {
    let server = Setup::sqlite().start().await;
    let research = server.agent("research", &["researcher"]).await;
    let writing = server.agent("writing", &["writer"]).await;
    let first = challenge(&research).await.expect("a challenge");
    let by_another = sign(&writing, &first);
    assert_eq!(
        refused(prove(&research, first.clone(), by_another).await),
        "SIGNATURE_INVALID"
    );
    let right = sign(&research, &first);
    assert_eq!(
        refused(prove(&research, first, right).await),
        "CHALLENGE_INVALID"
    );
    for signature in [Vec::new(), vec![0; 64], vec![0x30; 4096]] {
        let next = challenge(&research).await.expect("a challenge");
        assert_eq!(
            refused(prove(&research, next, signature).await),
            "SIGNATURE_INVALID"
        );
    }
    assert!(refusals(&server.admin(), "signature is wrong").await > 0);
}

#[tokio::test]
async fn one_key_cannot_hoard_challenges() {
    let server = Setup::sqlite().start().await;
    let research = server.agent("research", &["researcher"]).await;
    let writing = server.agent("writing", &["writer"]).await;
    for _ in 0..16 {
        challenge(&research).await.expect("a challenge");
    }
    assert_eq!(refused(challenge(&research).await), "RATE_LIMITED");
    challenge(&writing)
        .await
        .expect("another key is not held up");
}

/// A token in its three parts.
struct Parts {
    header: Value,
    claims: Value,
    signature: String,
}

fn parts(token: &str) -> Parts {
    let mut parts = token.split('.');
    let mut json = || {
        let part = BASE64
            .decode(parts.next().expect("a part"))
            .expect("base64url");
        serde_json::from_slice(&part).expect("JSON")
    };
    let (header, claims) = (json(), json());
    let signature = parts.next().expect("a signature").to_owned();
    Parts {
        header,
        claims,
        signature,
    }
}

impl Parts {
    fn signed_part(&self) -> String {
        let encode = |value: &Value| BASE64.encode(value.to_string());
        format!("{}.{}", encode(&self.header), encode(&self.claims))
    }

    fn token(&self) -> String {
        format!("{}.{}", self.signed_part(), self.signature)
    }
}

/// Every way to alter a token, and what must be on record about it.
fn forgeries(token: &str, public_key: &[u8]) -> Vec<(&'static str, String, &'static str)> {
    let altered = |change: &dyn Fn(&mut Parts)| {
        let mut parts = parts(token);
        change(&mut parts);
        parts.token()
    };
    let flipped = altered(&|p| {
        let first = if p.signature.starts_with('A') {
            "B"
        } else {
            "A"
        };
        p.signature.replace_range(..1, first);
    });
    let hmac_token = {
        let mut parts = parts(token);
        parts.header["alg"] = json!("HS256");
        let key = hmac::Key::new(hmac::HMAC_SHA256, public_key);
        parts.signature = BASE64.encode(hmac::sign(&key, parts.signed_part().as_bytes()));
        parts.token()
    };
    let none = altered(&|p| p.header["alg"] = json!("none"));
    let unsigned = none
        .rsplit_once('.')
        .map(|(text, _)| format!("{text}."))
        .expect("a dot");
    let signature = "signature does not verify";
    vec![
        ("flipped signature", flipped, signature),
        (
            "another subject",
            altered(&|p| p.claims["sub"] = json!("spiffe://zta.local/agent/writing")),
            signature,
        ),
        (
            "a longer life",
            altered(&|p| p.claims["exp"] = json!(4_000_000_000_u64)),
            signature,
        ),
        ("alg none", none, "not signed with ES256"),
        ("alg none, no signature", unsigned, "not signed with ES256"),
        (
            "HMAC with the public key",
            hmac_token,
            "not signed with ES256",
        ),
        (
            "another kid",
            altered(&|p| p.header["kid"] = json!("x")),
            "key is unknown",
        ),
        (
            "another type",
            altered(&|p| p.header["typ"] = json!("JWT")),
            "not an access token",
        ),
        (
            "a key in the header",
            altered(&|p| p.header["jwk"] = json!({})),
            "malformed",
        ),
        ("no token", "x".to_owned(), "malformed"),
        (
            "a join token",
            "zta-join-1.YQ.YQ.YQ".to_owned(),
            "malformed",
        ),
        ("a long one", "a".repeat(5000), "malformed"),
    ]
}

#[tokio::test]
async fn a_token_that_was_altered_is_refused_each_for_its_own_reason() {
    let server = Setup::sqlite().policies(&POLICIES).start().await;
    let clerk = server.agent("clerk", &["clerk"]).await;
    let admin = server.admin();
    let token = clerk.authenticate().await.expect("a token").access_token;
    let answer = authorize_with_token(&clerk, call("sign"), &token)
        .await
        .expect("a decision");
    assert_eq!(answer.effect(), v1::Effect::Allow, "{answer:?}");
    let key = std::fs::read_to_string(server.data().join("keys/token.pem")).expect("the key");
    let public = rcgen::KeyPair::from_pem(&key)
        .expect("a key")
        .public_key_pem();
    for (what, forged, why) in forgeries(&token, public.as_bytes()) {
        let before = refusals(&admin, why).await;
        let refused = refused(authorize_with_token(&clerk, call("sign"), &forged).await);
        assert_eq!(refused, "TOKEN_INVALID", "{what}");
        // At most five a second are listed singly: leave each its second.
        let after = refusals(&admin, why).await;
        assert!(
            after == before + 1 || summed(&admin).await > 0 || crowded(&admin).await,
            "{what}: `{why}`"
        );
    }
    // Another scheme is no way around the check.
    for scheme in ["Basic dXNlcjpwdw==", "Bearer", ""] {
        let mut request = tonic::Request::new(call("sign"));
        request
            .metadata_mut()
            .insert("authorization", scheme.parse().expect("a header"));
        let answer = clerk.authorization().authorize(request).await;
        assert_eq!(refused(answer), "TOKEN_INVALID", "{scheme:?}");
    }
}

/// Failures that stand in summaries.
async fn summed(admin: &Client) -> usize {
    events(admin, &["login_failed_summary"]).await.len()
}

/// Whether this second already has its five single events.
async fn crowded(admin: &Client) -> bool {
    let singles = events(admin, &["login_failed"]).await;
    let newest = singles
        .first()
        .map(|(_, l)| l["time"].as_str().unwrap_or("")[..19].to_owned());
    let same = singles.iter().filter(|(_, l)| {
        newest
            .as_deref()
            .is_some_and(|n| l["time"].as_str().is_some_and(|t| t.starts_with(n)))
    });
    same.count() >= 5
}

/// Two keys of one agent, and another agent.
async fn three(server: &Server) -> [Client; 3] {
    let first = server.agent("clerk", &["clerk"]).await;
    let second = server.client(server.enroll("clerk").await);
    [first, second, server.agent("other", &["clerk"]).await]
}

#[tokio::test]
async fn a_token_is_worth_nothing_under_another_certificate() {
    let server = Setup::sqlite().policies(&POLICIES).start().await;
    let [clerk, same_agent, other] = three(&server).await;
    let token = clerk.authenticate().await.expect("a token").access_token;
    for (what, client) in [
        ("the agent's other key", &same_agent),
        ("another agent", &other),
    ] {
        let refused = refused(authorize_with_token(client, call("sign"), &token).await);
        assert_eq!(refused, "TOKEN_BINDING", "{what}");
    }
    clerk.renew().await.expect("renews");
    let refused = refused(authorize_with_token(&clerk, call("sign"), &token).await);
    assert_eq!(
        refused, "TOKEN_BINDING",
        "bound to the certificate, not the key"
    );
    assert_eq!(
        refusals(&server.admin(), "bound to another certificate").await,
        3
    );
}

#[tokio::test]
async fn a_token_expires_on_an_open_connection() {
    let server = Setup::sqlite()
        .policies(&POLICIES)
        .set("ZTA_TOKEN_LIFETIME_S", 10)
        .start()
        .await;
    let clerk = server.agent("clerk", &["clerk"]).await;
    let answer = clerk.authenticate().await.expect("a token");
    let token = answer.access_token;
    let expires = answer.expire_time.expect("a time").seconds;
    assert!(
        (8..=10).contains(&(expires - now().unix_timestamp())),
        "ten seconds"
    );
    let ok = authorize_with_token(&clerk, call("sign"), &token)
        .await
        .expect("a decision");
    assert_eq!(ok.effect(), v1::Effect::Allow);
    while now().unix_timestamp() < expires {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    assert_eq!(
        refused(authorize_with_token(&clerk, call("sign"), &token).await),
        "TOKEN_EXPIRED"
    );
    assert_eq!(refusals(&server.admin(), "token has expired").await, 1);
}
