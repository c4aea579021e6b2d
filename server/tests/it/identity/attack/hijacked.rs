//! Somebody holds a connection of an agent's, and its owner proves the key over its own.

use std::time::Duration;

use zta_client::v1;

use crate::support::Setup;
use crate::support::rpc::{allowed, authorize_with_token, call, denied};

#[tokio::test]
async fn the_owners_proofs_keep_no_hijacked_connection_good() {
    let server = Setup::sqlite()
        .set("ZTA_KEY_PROOF_INTERVAL_S", 2)
        .start()
        .await;
    let owner = server.agent("research", &["researcher"]).await;
    let credential = (*owner.credential().expect("a credential")).clone();
    let hijacked = server.client(credential);
    for client in [&owner, &hijacked] {
        allowed(client, call("web_search")).await;
    }
    tokio::time::sleep(Duration::from_millis(2300)).await;
    let token = owner.authenticate().await.expect("a proof").access_token;
    allowed(&owner, call("web_search")).await;
    let reason = denied(&hijacked, call("web_search")).await;
    assert_eq!(reason, v1::DenyReason::Suspended);
    // Nor does the owner's fresh token, stolen with the connection.
    let by_token = authorize_with_token(&hijacked, call("web_search"), &token).await;
    let reason = by_token.expect("a decision").reason();
    assert_eq!(reason, v1::DenyReason::Suspended);
    server.assert_verifies();
}
