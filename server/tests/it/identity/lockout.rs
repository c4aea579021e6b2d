//! Whoever keeps failing to log in waits, and learns nothing meanwhile.

use std::time::Duration;

use tonic_types::StatusExt as _;
use zta_client::{Client, v1};

use crate::support::Setup;
use crate::support::dpop::Holder;
use crate::support::http::{anonymous, channel_as};
use crate::support::pki::new_key;
use crate::support::rpc::{allowed, call, events, reason, refused};

async fn prove(client: &Client, right: bool) -> Result<String, tonic::Status> {
    let challenge = client
        .authentication()
        .get_challenge(v1::GetChallengeRequest {})
        .await?
        .into_inner()
        .challenge;
    let credential = client.credential().expect("a credential");
    let signed = match right {
        true => challenge.clone(),
        false => vec![7; 32],
    };
    let signature = credential.sign_challenge(&signed).expect("signs");
    let proof = v1::authenticate_request::Proof::SignedChallenge(v1::SignedChallenge {
        challenge,
        signature,
    });
    let request = v1::AuthenticateRequest { proof: Some(proof) };
    let answer = client.authentication().authenticate(request).await?;
    Ok(answer.into_inner().access_token)
}

#[tokio::test]
async fn a_key_that_keeps_failing_waits_and_nobody_else_does() {
    let server = Setup::sqlite().start().await;
    let admin = server.admin();
    let research = server.agent("research", &["researcher"]).await;
    let writing = server.agent("writing", &["writer"]).await;
    for _ in 0..6 {
        assert_eq!(refused(prove(&research, false).await), "SIGNATURE_INVALID");
    }
    // The right answer is not even looked at: a guess learns nothing.
    let status = prove(&research, true).await.expect_err("locked out");
    assert_eq!(reason(&status), "RATE_LIMITED");
    let retry = status.get_details_retry_info().expect("RetryInfo");
    let retry = retry.retry_delay.expect("a delay");
    assert!(
        retry <= Duration::from_secs(1) && !retry.is_zero(),
        "{retry:?}"
    );
    prove(&writing, true).await.expect("another key logs in");
    // What it does by its certificate goes on: it has proved that key.
    allowed(&research, call("web_search")).await;
    tokio::time::sleep(retry + Duration::from_millis(50)).await;
    prove(&research, true)
        .await
        .expect("logs in after its time");
    // And a success makes good what was counted.
    for _ in 0..5 {
        assert_eq!(refused(prove(&research, false).await), "SIGNATURE_INVALID");
    }
    prove(&research, true).await.expect("logs in");
    let lockouts = events(&admin, &["locked_out"]).await;
    assert_eq!(lockouts.len(), 1);
    let detail = &lockouts[0].1["detail"];
    assert_eq!(
        (&detail["of"], &detail["seconds"]),
        (&"key".into(), &"1".into())
    );
}

#[tokio::test]
async fn a_source_that_guesses_join_tokens_waits_longer_each_time() {
    let server = Setup::sqlite()
        .set("ZTA_LIMITS__LOGIN_FAILURES_MAX", 1)
        .start()
        .await;
    server.register("research", &[]).await;
    let token = server.join_token("research").await;
    let csr = {
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::default();
        params
            .serialize_request(&key)
            .expect("a request")
            .der()
            .to_vec()
    };
    let mut guesser = v1::agent_service_client::AgentServiceClient::new(anonymous(&server));
    let mut guess = async |join_token: &str| {
        let request = v1::EnrollRequest {
            join_token: join_token.to_owned(),
            csr_der: csr.clone(),
        };
        guesser.enroll(request).await.map(|_| ())
    };
    for _ in 0..11 {
        assert_eq!(
            refused(guess("zta-join-1.a.b.c").await),
            "JOIN_TOKEN_INVALID"
        );
    }
    // The right token neither works nor is spent.
    assert_eq!(refused(guess(&token).await), "RATE_LIMITED");
    tokio::time::sleep(Duration::from_millis(1050)).await;
    assert_eq!(
        refused(guess("zta-join-1.a.b.c").await),
        "JOIN_TOKEN_INVALID"
    );
    let status = guess(&token).await.expect_err("longer now");
    let retry = status.get_details_retry_info().expect("RetryInfo");
    let retry = retry.retry_delay.expect("a delay");
    assert!(retry > Duration::from_secs(1), "{retry:?}");
    tokio::time::sleep(retry).await;
    guess(&token).await.expect("enrols");
    let lockouts = events(&server.admin(), &["locked_out"]).await;
    let seconds: Vec<_> = lockouts
        .iter()
        .map(|e| e.1["detail"]["seconds"].clone())
        .collect();
    assert_eq!(seconds, ["2", "1"], "newest first");
    assert_eq!(lockouts[0].1["source"], "127.0.0.1");
}

#[tokio::test]
async fn failures_of_those_behind_a_proxy_with_a_certificate_are_not_the_proxys() {
    let server = Setup::sqlite()
        .set("ZTA_LIMITS__LOGIN_FAILURES_MAX", 2)
        .start()
        .await;
    let gateway = server.agent("gateway", &[]).await;
    let credential = gateway.credential().expect("a credential");
    let own = channel_as(&server, credential.folder().expect("a folder"));
    let mut stranger = Holder::new(&new_key(), own.clone(), server.endpoint());
    let guess = async |who: &mut Holder| {
        let token = v1::IdentityToken {
            token: "none".to_owned(),
        };
        refused(
            who.login(v1::authenticate_request::Proof::IdentityToken(token))
                .await,
        )
    };
    for _ in 0..3 {
        assert_eq!(guess(&mut stranger).await, "IDENTITY_TOKEN_INVALID");
    }
    assert_eq!(guess(&mut stranger).await, "RATE_LIMITED");
    prove(&gateway, true)
        .await
        .expect("the proxy itself logs in");
    let mut other = Holder::new(&new_key(), own, server.endpoint());
    assert_eq!(guess(&mut other).await, "IDENTITY_TOKEN_INVALID");
}
