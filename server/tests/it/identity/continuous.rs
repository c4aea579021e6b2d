//! A key that was proved long ago has to be proved again.

use std::time::Duration;

use zta_client::{Client, v1};

use crate::support::dpop::{AUTHORIZE, Holder, with};
use crate::support::http::anonymous;
use crate::support::pki::new_key;
use crate::support::rpc::{allowed, authorize, call, denied, events, refused};
use crate::support::{SOON, Setup};

#[tokio::test]
async fn an_open_connection_counts_as_suspended_until_its_key_is_proved_again() {
    let server = Setup::sqlite()
        .set("ZTA_KEY_PROOF_INTERVAL_S", 2)
        .start()
        .await;
    let research = server.agent("research", &["researcher"]).await;
    allowed(&research, call("web_search")).await;
    tokio::time::sleep(Duration::from_millis(2300)).await;
    for _ in 0..3 {
        let answer = authorize(&research, call("web_search"))
            .await
            .expect("a decision");
        assert_eq!(answer.reason(), v1::DenyReason::Suspended);
        assert!(answer.message.contains("proved again"), "{answer:?}");
    }
    // Nor does a proof of some other key help, which whoever has the connection can make.
    let mut stranger = Holder::new(&new_key(), anonymous(&server), server.endpoint());
    let over = async |stranger: &Holder| {
        let proof = stranger.proof(AUTHORIZE, None);
        let request = with(call("web_search"), None, &proof);
        research.authorization().authorize(request).await
    };
    let first = over(&stranger).await.expect_err("no nonce yet");
    assert!(stranger.learn(first.metadata()), "{first:?}");
    let answer = over(&stranger).await.expect("a decision").into_inner();
    assert_eq!(answer.reason(), v1::DenyReason::Suspended, "{answer:?}");
    let renew = v1::RenewRequest::default();
    assert_eq!(refused(research.agents().renew(renew).await), "SUSPENDED");
    // A new connection proves the key by its handshake; the old one is none the better.
    let credential = (*research.credential().expect("a credential")).clone();
    allowed(&server.client(credential), call("web_search")).await;
    assert_eq!(
        denied(&research, call("web_search")).await,
        v1::DenyReason::Suspended
    );
    research.authenticate().await.expect("a proof");
    allowed(&research, call("web_search")).await;
    let missed = events(&server.admin(), &["proof_missed"]).await;
    assert_eq!(missed.len(), 1, "once, not for each call: {missed:?}");
    assert_eq!(
        missed[0].1["actor"]["id"],
        "spiffe://zta.local/agent/research"
    );
    server.assert_verifies();
}

#[tokio::test]
async fn a_client_proves_its_key_by_itself() {
    let server = Setup::sqlite()
        // Proved again at half of it, so a machine that stands still for three seconds is fine.
        .set("ZTA_KEY_PROOF_INTERVAL_S", 6)
        .start()
        .await;
    server.register("research", &["researcher"]).await;
    let credential = server.enroll("research").await;
    let client = Client::builder(credential)
        .server(server.endpoint())
        .timeout(SOON)
        .build()
        .expect("a client");
    let begin = std::time::Instant::now();
    while begin.elapsed() < Duration::from_secs(14) {
        allowed(&client, call("web_search")).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let logins = events(&server.admin(), &["login"]).await;
    assert!((3..=12).contains(&logins.len()), "{}", logins.len());
    assert!(events(&server.admin(), &["proof_missed"]).await.is_empty());
}
