//! Recovery: a certificate for a key whose last one has ended, a few times, for whoever has
//! the key; and renewal under load with a restart in the middle.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::time::{Instant, sleep};
use tonic::Status;
use zta_client::v1::agent_service_client::AgentServiceClient;
use zta_client::{Client, Credential, v1};

use crate::support::dpop::{AUTHENTICATE, Holder, with};
use crate::support::http::anonymous;
use crate::support::pki::{Forger, new_key};
use crate::support::rpc::{allowed, authorize, call, events, reason, refusals, refused};
use crate::support::{Database, SOON, Server, Setup, eventually};

const RECOVER: &str = "/zta.v1.AgentService/Recover";
const RESEARCH: &str = "spiffe://zta.local/agent/research";

fn short_lived() -> Setup {
    Setup::sqlite().set("ZTA_CERTIFICATE_LIFETIME_S", 2)
}

/// Until a certificate of two seconds has ended.
async fn expires() {
    sleep(Duration::from_secs(3)).await;
}

async fn instance(server: &Server) -> v1::Instance {
    let request = v1::ListInstancesRequest {
        agent: "research".to_owned(),
        ..Default::default()
    };
    let answer = server.admin().agents().list_instances(request).await;
    answer.expect("keys").into_inner().instances.remove(0)
}

fn key_pem(credential: &Credential) -> String {
    let folder = credential.folder().expect("a folder");
    std::fs::read_to_string(folder.join("key.pem")).expect("a key")
}

fn certificate_der(credential: &Credential) -> Vec<u8> {
    let folder = credential.folder().expect("a folder");
    let leaf = CertificateDer::from_pem_file(folder.join("cert.pem"));
    leaf.expect("a certificate").to_vec()
}

/// Somebody with this key, before any nonce.
fn holder(server: &Server, key_pem: &str) -> Holder {
    Holder::new(key_pem, anonymous(server), server.endpoint())
}

/// Asks with a proof, and once more with the nonce that is asked for.
async fn recover(
    holder: &mut Holder,
    path: &str,
    certificate_der: &[u8],
) -> Result<v1::RecoverResponse, Status> {
    loop {
        let message = v1::RecoverRequest {
            certificate_der: certificate_der.to_vec(),
        };
        let request = with(message, None, &holder.proof(path, None));
        let mut agents = AgentServiceClient::new(holder.channel.clone());
        match agents.recover(request).await {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) => {
                let first = holder.nonce.is_none();
                holder.learn(status.metadata());
                if !first || reason(&status) != "NONCE_REQUIRED" {
                    return Err(status);
                }
            }
        }
    }
}

#[tokio::test]
async fn an_expired_certificate_is_recovered_a_few_times_and_then_no_more() {
    let server = short_lived().set("ZTA_RECOVERIES_MAX", 2).start().await;
    server.register("research", &["researcher"]).await;
    let owner = server.client(server.enroll("research").await);
    allowed(&owner, call("web_search")).await;
    for recovery in 1..=2 {
        expires().await;
        let error = owner
            .authorize(call("web_search"))
            .await
            .expect_err("expired");
        assert_eq!(error.reason(), Some("CERTIFICATE_EXPIRED"), "{error}");
        owner.renew().await.expect("recovers");
        allowed(&owner, call("web_search")).await;
        let key = instance(&server).await;
        assert_eq!(
            (key.recoveries, key.generation),
            (recovery, u64::from(recovery) + 1)
        );
    }
    expires().await;
    let error = owner.renew().await.expect_err("that was the last time");
    assert_eq!(error.reason(), Some("RECOVERY_REFUSED"), "{error}");
    let admin = server.admin();
    assert_eq!(refusals(&admin, "as often as it may be").await, 1);
    let found = events(&admin, &["recovered"]).await;
    assert_eq!(found.len(), 2);
    assert_eq!(found[0].1["actor"]["id"], RESEARCH);
    assert_eq!(found[0].1["detail"]["generation"], "3");
    // A new join token is the way out.
    let again = server.client(server.enroll("research").await);
    allowed(&again, call("web_search")).await;
    server.assert_verifies();
}

#[tokio::test]
async fn a_call_right_after_a_long_sleep_waits_for_the_recovery() {
    let server = short_lived().start().await;
    server.register("research", &["researcher"]).await;
    let credential = server.enroll("research").await;
    expires().await;
    let client = Client::builder(credential).server(server.endpoint());
    let client = client.timeout(SOON).build().expect("a client");
    // Many at once: one recovery serves them all, whichever of their stubs they use.
    let calls = (0..8).map(|_| async { allowed(&client, call("web_search")).await });
    futures_util::future::join_all(calls).await;
    assert_eq!(instance(&server).await.recoveries, 1);
}

#[tokio::test]
async fn a_public_certificate_without_its_key_recovers_nothing() {
    let server = short_lived().start().await;
    let admin = server.admin();
    server.register("research", &["researcher"]).await;
    let credential = server.enroll("research").await;
    let (key, der) = (key_pem(&credential), certificate_der(&credential));
    expires().await;

    let mut bare = AgentServiceClient::new(anonymous(&server));
    let request = v1::RecoverRequest {
        certificate_der: der.clone(),
    };
    assert_eq!(refused(bare.recover(request).await), "CREDENTIAL_MISSING");

    let mut thief = holder(&server, &new_key());
    assert_eq!(
        refused(recover(&mut thief, RECOVER, &der).await),
        "RECOVERY_REFUSED"
    );
    assert_eq!(
        refusals(&admin, "another one than the certificate's").await,
        1
    );

    // The owner's proof for something else, and the owner's proof again.
    let mut owner = holder(&server, &key);
    let elsewhere = recover(&mut owner, AUTHENTICATE, &der).await;
    assert_eq!(refused(elsewhere), "PROOF_INVALID");
    recover(&mut owner, RECOVER, &der).await.expect("its own");
    let claims = owner.claims(RECOVER, None);
    let proof = owner.proof_of(&claims);
    for expected in [None, Some("PROOF_INVALID")] {
        let message = v1::RecoverRequest {
            certificate_der: der.clone(),
        };
        let answer = bare.recover(with(message, None, &proof)).await;
        match expected {
            None => drop(answer.expect("the answer was lost: another one")),
            Some(expected) => assert_eq!(refused(answer), expected),
        }
    }
    let key = instance(&server).await;
    assert_eq!((key.generation, key.recoveries), (3, 2));
}

#[tokio::test]
async fn every_refusal_says_the_same_and_the_record_says_why() {
    let server = short_lived()
        .set("ZTA_LIMITS__LOGIN_FAILURES_MAX", 1000)
        .start()
        .await;
    let admin = server.admin();
    server.register("research", &["researcher"]).await;
    let credential = server.enroll("research").await;
    let (key, der) = (key_pem(&credential), certificate_der(&credential));
    let mut owner = holder(&server, &key);
    let refuse = async |owner: &mut Holder, der: &[u8], why: &str| {
        let status = recover(owner, RECOVER, der).await.expect_err(why);
        assert_eq!(reason(&status), "RECOVERY_REFUSED", "{why}");
        assert_eq!(status.code(), tonic::Code::Unauthenticated);
        let told = status.message().to_owned();
        eventually(why, async || match refusals(&admin, why).await {
            0 => Err("not on record"),
            _ => Ok(()),
        })
        .await;
        told
    };
    let mut told = Vec::new();
    let pem_der = |pem: String| {
        let der = CertificateDer::from_pem_slice(pem.as_bytes());
        der.expect("a certificate").to_vec()
    };
    let lifetime = time::Duration::seconds(-1);
    let stranger = Forger::stranger().certificate(&key, RESEARCH, lifetime);
    told.push(
        refuse(
            &mut owner,
            &pem_der(stranger),
            "not signed by this server's CA",
        )
        .await,
    );
    let forged = Forger::thief(&server).certificate(&key, RESEARCH, lifetime);
    told.push(refuse(&mut owner, &pem_der(forged), "does not say its generation").await);
    told.push(refuse(&mut owner, b"nonsense", "no principal's").await);
    // Five refusals a second and source are events of their own.
    sleep(Duration::from_secs(1)).await;
    let (agent, note) = (|| "research".to_owned(), String::new);
    let suspend = v1::SuspendRequest {
        agent: agent(),
        note: note(),
    };
    admin.agents().suspend(suspend).await.expect("suspends");
    told.push(refuse(&mut owner, &der, "the agent is suspended").await);
    let reinstate = v1::ReinstateRequest {
        agent: agent(),
        ..Default::default()
    };
    admin
        .agents()
        .reinstate(reinstate)
        .await
        .expect("reinstates");
    // The key is in two hands: found here as at a renewal, and locked.
    recover(&mut owner, RECOVER, &der).await.expect("goes on");
    let client = server.client(credential);
    expires().await;
    client.renew().await.expect("as one whose answer was lost");
    allowed(&client, call("web_search")).await;
    told.push(refuse(&mut owner, &der, "older generation").await);
    assert_eq!(events(&admin, &["clone_detected"]).await.len(), 1);
    told.push(refuse(&mut owner, &der, "key is locked").await);
    sleep(Duration::from_secs(1)).await;
    let ban = v1::BanRequest {
        agent: agent(),
        note: note(),
    };
    admin.agents().ban(ban).await.expect("bans");
    told.push(refuse(&mut owner, &der, "the agent is banned").await);
    told.dedup();
    assert_eq!(told.len(), 1, "{told:?}");
}

#[tokio::test]
async fn where_it_is_off_and_where_the_store_is_away_nothing_is_recovered() {
    let server = short_lived().set("ZTA_RECOVERIES_MAX", 0).start().await;
    server.register("research", &["researcher"]).await;
    let owner = server.client(server.enroll("research").await);
    expires().await;
    let error = owner.renew().await.expect_err("off");
    assert_eq!(error.reason(), Some("RECOVERY_REFUSED"), "{error}");

    let setup = Setup::on(Database::postgres().await);
    let setup = setup.set("ZTA_CERTIFICATE_LIFETIME_S", 2);
    let server = setup.start().await;
    server.register("research", &["researcher"]).await;
    let owner = server.client(server.enroll("research").await);
    expires().await;
    let Database::Postgres(database) = &*server.database else {
        panic!("postgres")
    };
    database.allow_connections(false).await;
    database.terminate_connections().await;
    let error = owner.renew().await.expect_err("the store is away");
    assert_eq!(error.reason(), Some("STORE_UNAVAILABLE"), "{error}");
    database.allow_connections(true).await;
    eventually("recovers", async || owner.renew().await).await;
    eventually("a decision", async || {
        authorize(&owner, call("web_search")).await
    })
    .await;
    assert_eq!(instance(&server).await.recoveries, 1);
}

/// What became of calls that were made one after the other.
#[derive(Default)]
struct Calls {
    made: usize,
    failed: Vec<(Instant, zta_client::Error)>,
}

#[tokio::test]
async fn thirty_renewals_with_a_restart_in_the_middle_fail_no_call() {
    const RENEWALS: u64 = 30;
    let mut server = Setup::sqlite()
        .set("ZTA_CERTIFICATE_LIFETIME_S", 6)
        .start()
        .await;
    server.register("research", &["researcher"]).await;
    let credential = server.enroll("research").await;
    let client = Client::builder(credential).server(server.endpoint());
    let client = client.timeout(SOON).build().expect("a client");
    let done = Arc::new(AtomicBool::new(false));
    let calling = tokio::spawn({
        let (client, done) = (client.clone(), Arc::clone(&done));
        async move {
            let mut calls = Calls::default();
            while !done.load(Ordering::SeqCst) {
                calls.made += 1;
                match client.authorize(call("web_search")).await {
                    Ok(decision) => assert!(decision.is_allowed(), "{decision:?}"),
                    Err(error) => calls.failed.push((Instant::now(), error)),
                }
                sleep(Duration::from_millis(10)).await;
            }
            calls
        }
    });
    let renewed = async |server: &Server, times: u64| {
        let deadline = Instant::now() + Duration::from_secs(240);
        while instance(server).await.generation <= times {
            assert!(Instant::now() < deadline, "no {times} renewals");
            sleep(Duration::from_millis(250)).await;
        }
    };
    renewed(&server, RENEWALS / 2).await;
    let stopped = Instant::now();
    server.stop().await;
    server.start().await;
    let started = Instant::now();
    renewed(&server, RENEWALS).await;
    done.store(true, Ordering::SeqCst);
    let calls = calling.await.expect("the calls");
    for (at, error) in &calls.failed {
        let meanwhile = (stopped..=started + Duration::from_secs(1)).contains(at);
        assert!(meanwhile && error.is_retriable(), "{error}");
    }
    assert!(calls.made > 500, "{} calls", calls.made);
    let key = instance(&server).await;
    assert!(key.generation > RENEWALS, "{key:?}");
    assert_eq!(key.state(), v1::InstanceState::Active);
    assert!(
        events(&server.admin(), &["clone_detected"])
            .await
            .is_empty()
    );
    server.assert_verifies();
}
