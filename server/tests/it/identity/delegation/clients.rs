//! The clients and the command line act for others.

use super::{allowed, serve};
use crate::support::Database;
use crate::support::proxy::Proxy;
use crate::support::rpc::{call, events};

#[tokio::test]
async fn clients_act_for_others_and_never_by_mistake_for_themselves() {
    let server = serve(Database::Sqlite).await;
    let admin = server.admin();
    let hr = server.agent("payroll-bot", &["hr"]).await;
    let hour = std::time::Duration::from_secs(3600);
    let grant = admin.delegate("payroll-bot", &["call_tool"], hour).await;
    let acting = hr.act_for(&grant.expect("a grant"));
    let decision = acting.authorize(call("payroll")).await.expect("a decision");
    assert!(!decision.is_allowed(), "the person may not: {decision:?}");
    let decision = hr.authorize(call("payroll")).await.expect("a decision");
    assert!(decision.is_allowed(), "for itself it may: {decision:?}");
    let decision = acting.authorize(call("search")).await.expect("a decision");
    assert!(decision.is_allowed(), "{decision:?}");
    // A renewed certificate means another token, and no failed call.
    hr.renew().await.expect("renews");
    let decision = acting.authorize(call("search")).await.expect("a decision");
    assert!(decision.is_allowed(), "{decision:?}");
    let exchanged = events(&admin, &["token_exchanged"]).await;
    assert_eq!(exchanged.len(), 2, "one token for each certificate");
    // What cannot be redeemed is no call, though the client itself may.
    let broken = hr.act_for("no grant");
    let error = broken
        .authorize(call("payroll"))
        .await
        .expect_err("no call");
    assert_eq!(error.reason(), Some("DELEGATION_INVALID"), "{error:?}");
    assert!(!format!("{acting:?}").contains("eyJ"));
}

#[tokio::test]
async fn a_client_behind_a_proxy_acts_for_others_by_its_key() {
    let server = serve(Database::Sqlite).await;
    let proxy = Proxy::before(&server).await;
    let hr = server.agent("payroll-bot", &["hr"]).await;
    let minute = std::time::Duration::from_secs(60);
    let admin = server.admin();
    let grant = admin.delegate("payroll-bot", &["call_tool"], minute);
    let grant = grant.await.expect("a grant");
    let credential = hr.credential().expect("a credential");
    let credential = zta_client::Credential::load(credential.folder().expect("a folder"));
    let roots = std::fs::read(&proxy.ca).expect("the proxy's CA");
    let client = zta_client::Client::builder(credential.expect("loads"))
        .server(&proxy.endpoint)
        .dpop()
        .server_roots(&roots)
        .without_renewal()
        .build()
        .expect("a client");
    let acting = client.act_for(&grant);
    let decision = acting.authorize(call("search")).await.expect("a decision");
    assert!(decision.is_allowed(), "{decision:?}");
    let decision = acting.authorize(call("payroll")).await.expect("a decision");
    assert!(!decision.is_allowed(), "the person may not: {decision:?}");
    let decision = client.authorize(call("payroll")).await.expect("a decision");
    assert!(decision.is_allowed(), "for itself it may: {decision:?}");
    let exchanged = events(&admin, &["token_exchanged"]).await;
    assert_eq!(exchanged.len(), 1);
}

#[tokio::test]
async fn the_command_line_delegates_and_acts() {
    use std::io::Write as _;
    let server = serve(Database::Sqlite).await;
    server.register("research", &[]).await;
    let credential = server.enroll("research").await;
    let output = server.zta(&["token", "delegate", "research", "--scope", "call_tool"]);
    assert!(output.status.success(), "{output:?}");
    let mut act = server.command(&["token", "act", "--json"]);
    act.env("ZTA_CREDENTIAL", credential.folder().expect("a folder"));
    let mut act = act
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("runs");
    let mut stdin = act.stdin.take().expect("stdin");
    stdin.write_all(&output.stdout).expect("written");
    drop(stdin);
    let output = act.wait_with_output().expect("ends");
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(said["subject"]["id"], "spiffe://zta.local#admin");
    assert_eq!(said["actors"][0], "spiffe://zta.local/agent/research");
    assert_eq!(said["scope"][0], "call_tool");
    let research = server.client(credential);
    allowed(
        &research,
        "search",
        said["access_token"].as_str().expect("a token"),
    )
    .await;
}
