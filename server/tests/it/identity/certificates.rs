//! The client certificate is the identity: nothing in a body is, and nothing else will do.

use std::time::Duration as StdDuration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use time::Duration;
use zta_client::{Client, v1};

use super::rpcs;
use crate::support::descriptors;
use crate::support::http::anonymous;
use crate::support::pki::{Forger, new_key, now};
use crate::support::rpc::{allowed, authorize, call, denied, event, events, refusals, refused};
use crate::support::{Server, Setup, eventually};

const RESEARCH: &str = "spiffe://zta.local/agent/research";

/// What a key calls that has no certificate yet, or none any more.
const OPEN: [&str; 1] = ["AgentService.Enroll"];

fn key_of(client: &Client) -> String {
    let credential = client.credential().expect("a credential");
    let folder = credential.folder().expect("a folder");
    std::fs::read_to_string(folder.join("key.pem")).expect("key.pem")
}

#[tokio::test]
async fn without_a_certificate_only_enrolment_is_open() {
    let server = Setup::sqlite().start().await;
    let mut answers = rpcs::of_agents(anonymous(&server)).await;
    answers.extend(rpcs::of_administrators(anonymous(&server)).await);
    assert_eq!(answers.len(), 33);
    for (what, answer) in answers {
        let status = answer.expect_err(what);
        assert_eq!(status.code(), tonic::Code::Unauthenticated, "{what}");
        let reason = crate::support::rpc::reason(&status);
        assert_eq!(reason, "CREDENTIAL_MISSING", "{what}");
    }
    // The list above is written by hand; this one comes from the protos.
    for rpc in descriptors::rpcs() {
        let answer = descriptors::call(&anonymous(&server), &rpc, Vec::new()).await;
        let status = answer.expect_err(&rpc.name);
        let open = OPEN.contains(&rpc.name.as_str());
        let expected = match open {
            true => tonic::Code::InvalidArgument,
            false => tonic::Code::Unauthenticated,
        };
        assert_eq!(status.code(), expected, "{}: {status:?}", rpc.name);
    }
    let on_record = refusals(&server.admin(), "no client certificate").await;
    assert!(on_record > 0);
}

#[tokio::test]
async fn a_body_that_names_another_agent_changes_nothing() {
    let server = Setup::sqlite().start().await;
    let research = server.agent("research", &["researcher"]).await;
    let _writing = server.agent("writing", &["writer"]).await;
    let request = v1::AuthorizeRequest {
        user: "spiffe://zta.local/agent/writing".to_owned(),
        context_json: br#"{"agent_name": "writing"}"#.to_vec(),
        arguments_json: br#"{"title": "t", "body": "b"}"#.to_vec(),
        ..call("publish_report")
    };
    let answer = authorize(&research, request).await.expect("a decision");
    assert_eq!(answer.reason(), v1::DenyReason::NotPermitted);
    let leaf = event(&server.admin(), answer.sequence).await;
    assert_eq!(leaf["actor"]["id"], RESEARCH);
    assert_eq!(leaf["actor"]["type"], "ZTA::Agent");
    assert_eq!(
        leaf["user"], "spiffe://zta.local/agent/writing",
        "kept as what it is: unproven"
    );
    let instance = research
        .credential()
        .expect("a credential")
        .instance_id()
        .to_owned();
    assert_eq!(leaf["instance"], instance);
}

#[tokio::test]
async fn a_certificate_proves_an_enrolled_key_under_its_own_name() {
    let server = Setup::sqlite().start().await;
    let research = server.agent("research", &["researcher"]).await;
    server.register("writing", &["writer"]).await;
    let thief = Forger::thief(&server);
    let research_key = key_of(&research);
    for (what, key, id, expected) in [
        (
            "a key that nobody enrolled",
            new_key(),
            RESEARCH,
            "KEY_UNKNOWN",
        ),
        (
            "the name of another agent",
            research_key.clone(),
            "spiffe://zta.local/agent/writing",
            "PRINCIPAL_UNKNOWN",
        ),
        (
            "the administrator's name",
            research_key.clone(),
            "spiffe://zta.local/user/admin",
            "PRINCIPAL_UNKNOWN",
        ),
    ] {
        let credential = thief.credential(&server, &key, id, Duration::HOUR);
        let refused = refused(authorize(&server.client(credential), call("web_search")).await);
        assert_eq!(refused, expected, "{what}");
    }
    let good = thief.credential(&server, &research_key, RESEARCH, Duration::HOUR);
    allowed(&server.client(good), call("web_search")).await;
    let admin = server.admin();
    assert_eq!(refusals(&admin, "is not enrolled here").await, 1);
    assert_eq!(refusals(&admin, "names no principal").await, 2);
    let refused = events(&admin, &["login_failed"]).await;
    let claimed: Vec<_> = refused
        .iter()
        .map(|(_, l)| l["detail"]["claimed"].clone())
        .collect();
    assert!(
        claimed.contains(&"spiffe://zta.local/agent/writing".into()),
        "{claimed:?}"
    );
    assert!(
        refused.iter().all(|(_, leaf)| leaf.get("actor").is_none()),
        "nobody proved a name"
    );
}

/// Handshakes that must fail, and the name under which each is on record.
async fn refused_handshakes(server: &Server, research: &Client) -> Vec<(Client, &'static str)> {
    let (thief, stranger) = (Forger::thief(server), Forger::stranger());
    let key = key_of(research);
    let cases = [
        (&stranger, RESEARCH, Duration::HOUR, "certificate_untrusted"),
        (&thief, RESEARCH, -Duration::MINUTE, "certificate_expired"),
        (
            &thief,
            "spiffe://other.example/agent/research",
            Duration::HOUR,
            "foreign_trust_domain",
        ),
        (
            &thief,
            "https://zta.local/agent/research",
            Duration::HOUR,
            "no_principal",
        ),
    ];
    let client = |(forger, id, lifetime, why): (&Forger, _, _, _)| {
        (
            server.client(forger.credential(server, &key, id, lifetime)),
            why,
        )
    };
    cases.map(client).into_iter().collect()
}

#[tokio::test]
async fn a_certificate_that_is_not_ours_fails_the_handshake_and_is_on_record() {
    let server = Setup::sqlite().start().await;
    let research = server.agent("research", &["researcher"]).await;
    let admin = server.admin();
    for (client, why) in refused_handshakes(&server, &research).await {
        let error = client.authorize(call("web_search")).await.expect_err(why);
        assert_eq!(error.reason(), None, "{why}: no RPC got through: {error}");
        eventually(why, async || match refusals(&admin, why).await {
            0 => Err("not on record"),
            _ => Ok(()),
        })
        .await;
        // A client tries twice, and only five failures of a second are listed singly.
        tokio::time::sleep(StdDuration::from_millis(1100)).await;
    }
    allowed(&research, call("web_search")).await;
}

#[tokio::test]
async fn a_public_certificate_without_its_key_is_nobody() {
    let server = Setup::sqlite().start().await;
    let research = server.agent("research", &["researcher"]).await;
    let folder = research
        .credential()
        .expect("one")
        .folder()
        .expect("a folder")
        .to_owned();
    let chain: Vec<_> = CertificateDer::pem_file_iter(folder.join("cert.pem"))
        .expect("cert.pem")
        .map(|der| der.expect("PEM"))
        .collect();
    // The thief signs the handshake with a key of its own.
    let key =
        rustls::pki_types::PrivateKeyDer::from_pem_slice(new_key().as_bytes()).expect("a key");
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let signing = provider.key_provider.load_private_key(key).expect("a key");
    let certified = rustls::sign::CertifiedKey::new(chain, signing);
    let resolver = std::sync::Arc::new(rustls::sign::SingleCertAndKey::from(certified));
    let outcome = crate::support::http::handshake_with(&server, resolver).await;
    assert!(outcome.is_err(), "a certificate is public");
    eventually("on record", async || {
        match refusals(&server.admin(), "certificate_untrusted").await {
            0 => Err("not on record"),
            _ => Ok(()),
        }
    })
    .await;
}

#[tokio::test]
async fn a_certificate_that_expires_ends_an_open_connection() {
    let server = Setup::sqlite().start().await;
    let research = server.agent("research", &["researcher"]).await;
    let thief = Forger::thief(&server);
    let credential = thief.credential(&server, &key_of(&research), RESEARCH, Duration::seconds(3));
    let ends = now() + Duration::seconds(4);
    let client = zta_client::Client::builder(credential)
        .without_renewal()
        .build()
        .expect("a client");
    allowed(&client, call("web_search")).await;
    let wait = StdDuration::try_from(ends - now()).unwrap_or_default();
    tokio::time::sleep(wait).await;
    assert_eq!(
        refused(authorize(&client, call("web_search")).await),
        "CERTIFICATE_EXPIRED"
    );
    assert_eq!(refusals(&server.admin(), "has expired").await, 1);
    // The connection is not to blame: another agent's calls go on.
    allowed(&research, call("web_search")).await;
}

#[tokio::test]
async fn renewal_keeps_the_key_and_the_name() {
    let server = Setup::sqlite().start().await;
    let research = server.agent("research", &["researcher"]).await;
    let before = research.credential().expect("one");
    let key = key_of(&research);
    research.renew().await.expect("renews");
    let after = research.credential().expect("one");
    assert_eq!(
        (after.spiffe_id(), after.instance_id()),
        (before.spiffe_id(), before.instance_id())
    );
    assert_eq!(key_of(&research), key);
    allowed(&research, call("web_search")).await;
    let renewed = events(&server.admin(), &["renewed"]).await;
    assert_eq!(renewed[0].1["actor"]["id"], RESEARCH);
    assert_eq!(
        denied(&research, call("nothing")).await,
        v1::DenyReason::NotPermitted
    );
}
