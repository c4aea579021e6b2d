//! Who is asking: enrolment, certificates, challenges, tokens, and what becomes of an
//! agent that is contained.

mod attack;
mod certificates;
mod contain;
mod continuous;
mod delegation;
mod dpop;
mod enroll;
mod intermediate;
mod keys;
mod lockout;
mod oidc;
mod openssl;
mod profile;
mod recovery;
mod renewal;
mod revocation_list;
mod rotation;
mod rpcs;
mod tokens;

use crate::support::Setup;
use crate::support::http::anonymous;
use crate::support::rpc::{call, events, refused};
use zta_client::v1;

#[tokio::test]
async fn a_flood_of_refused_calls_becomes_a_few_events_and_one_summary_a_second() {
    const FLOOD: u64 = 300;
    let server = Setup::sqlite().start().await;
    let channel = anonymous(&server);
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..FLOOD {
        let mut client =
            v1::authorization_service_client::AuthorizationServiceClient::new(channel.clone());
        calls.spawn(async move { client.authorize(call("web_search")).await });
    }
    while let Some(answer) = calls.join_next().await {
        assert_eq!(refused(answer.expect("a task")), "CREDENTIAL_MISSING");
    }
    let admin = server.admin();
    let (singles, summaries) = crate::support::eventually("the summary", async || {
        let singles = events(&admin, &["login_failed"]).await;
        let summaries = events(&admin, &["login_failed_summary"]).await;
        let summed = summaries.iter().map(|(_, leaf)| {
            assert_eq!(leaf["source"], "127.0.0.1");
            leaf["detail"]["failures"]
                .as_str()
                .expect("a number")
                .parse::<u64>()
                .expect("a number")
        });
        let total = summed.sum::<u64>() + singles.len() as u64;
        if total == FLOOD {
            Ok((singles, summaries))
        } else {
            Err(total)
        }
    })
    .await;
    assert!(!summaries.is_empty(), "{} single events", singles.len());
    let mut per_second = std::collections::BTreeMap::<String, u32>::new();
    for (_, leaf) in &singles {
        let time = leaf["time"].as_str().expect("a time");
        *per_second.entry(time[..19].to_owned()).or_default() += 1;
    }
    assert!(per_second.values().all(|&n| n <= 5), "{per_second:?}");
    let mut seconds: Vec<_> = summaries
        .iter()
        .map(|(_, l)| l["detail"]["second"].clone())
        .collect();
    let before = seconds.len();
    seconds.dedup();
    assert_eq!(seconds.len(), before, "one summary a second: {seconds:?}");
}

#[tokio::test]
async fn secrets_on_disk_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let server = Setup::sqlite().start().await;
    server.register("research", &["researcher"]).await;
    let agent = server.enroll("research").await;
    let agent = agent.folder().expect("a folder").to_owned();
    let data = server.data();
    let mode = |path: &std::path::Path| {
        let metadata =
            std::fs::metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        metadata.permissions().mode() & 0o777
    };
    for folder in [&data, &data.join("admin"), &data.join("keys"), &agent] {
        assert_eq!(mode(folder), 0o700, "{}", folder.display());
    }
    for folder in [&data.join("admin"), &agent] {
        for file in ["key.pem", "cert.pem", "ca.pem", "zta.json"] {
            assert_eq!(
                mode(&folder.join(file)),
                0o600,
                "{}/{file}",
                folder.display()
            );
        }
    }
    for key in ["ca", "log", "token", "server-tls"] {
        assert_eq!(
            mode(&data.join("keys").join(format!("{key}.pem"))),
            0o600,
            "{key}"
        );
    }
    for file in ["zta.db", "zta.db-wal"] {
        assert_eq!(mode(&data.join(file)), 0o600, "{file}");
    }
}
