//! Join tokens and certificate requests.

use rcgen::{
    BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose, PublicKeyData as _,
    SanType,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use sqlx::Connection as _;
use tonic::Status;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zta_client::v1;
use zta_client::v1::agent_service_client::AgentServiceClient;

use crate::support::http::anonymous;
use crate::support::rpc::{allowed, call, events, refusals, refused};
use crate::support::{Server, Setup};

/// A request for a certificate as an honest agent makes it.
fn csr() -> Vec<u8> {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(Vec::<String>::new()).expect("params");
    params
        .serialize_request(&key)
        .expect("a CSR")
        .der()
        .to_vec()
}

async fn enroll(server: &Server, token: &str, csr: Vec<u8>) -> Result<v1::EnrollResponse, Status> {
    let request = v1::EnrollRequest {
        join_token: token.to_owned(),
        csr_der: csr,
    };
    let answer = AgentServiceClient::new(anonymous(server))
        .enroll(request)
        .await;
    answer.map(tonic::Response::into_inner)
}

#[tokio::test]
async fn a_join_token_is_good_once_for_ten_minutes_and_with_its_secret() {
    let server = Setup::sqlite().start().await;
    server.register("research", &["researcher"]).await;
    let token = server.join_token("research").await;

    let mut parts: Vec<&str> = token.split('.').collect();
    let other = server.join_token("research").await;
    parts[2] = other.split('.').nth(2).expect("a secret");
    let with_anothers_secret = parts.join(".");
    for wrong in [
        with_anothers_secret.as_str(),
        "",
        "zta-join-1.x",
        "zta-join-1.YQ.YQ.YQ",
    ] {
        assert_eq!(
            refused(enroll(&server, wrong, csr()).await),
            "JOIN_TOKEN_INVALID",
            "{wrong}"
        );
    }
    enroll(&server, &token, csr())
        .await
        .expect("a wrong secret does not spend it");
    assert_eq!(
        refused(enroll(&server, &token, csr()).await),
        "JOIN_TOKEN_INVALID"
    );

    let file = format!("sqlite://{}", server.data().join("zta.db").display());
    let mut store = sqlx::SqliteConnection::connect(&file)
        .await
        .expect("the store");
    let expired = sqlx::query(
        "UPDATE join_tokens SET expire_time = '2026-01-01T00:00:00.000000Z' WHERE used = 0",
    );
    assert_eq!(
        expired
            .execute(&mut store)
            .await
            .expect("expires")
            .rows_affected(),
        1
    );
    assert_eq!(
        refused(enroll(&server, &other, csr()).await),
        "JOIN_TOKEN_INVALID"
    );

    let admin = server.admin();
    crate::support::eventually("all six on record", async || {
        let single = refusals(&admin, "the join token is refused").await;
        let summed: usize = events(&admin, &["login_failed_summary"])
            .await
            .iter()
            .filter_map(|(_, leaf)| leaf["detail"]["failures"].as_str()?.parse::<usize>().ok())
            .sum();
        if single + summed == 6 {
            Ok(())
        } else {
            Err((single, summed))
        }
    })
    .await;
    // Only a hash of a secret is stored.
    let stored: Vec<Vec<u8>> = sqlx::query_scalar("SELECT secret_sha256 FROM join_tokens")
        .fetch_all(&mut store)
        .await
        .expect("rows");
    assert_eq!(stored.len(), 2);
    server.assert_verifies();
}

#[tokio::test]
async fn two_that_race_with_one_join_token_get_one_certificate() {
    let server = Setup::sqlite().start().await;
    server.register("research", &["researcher"]).await;
    let token = server.join_token("research").await;
    let answers =
        futures_util::future::join_all((0..8).map(|_| enroll(&server, &token, csr()))).await;
    let (won, lost): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!(won.len(), 1);
    for answer in lost {
        assert_eq!(refused(answer), "JOIN_TOKEN_INVALID");
    }
}

#[tokio::test]
async fn a_certificate_request_gives_its_key_and_nothing_else() {
    let server = Setup::sqlite().start().await;
    server.register("research", &["researcher"]).await;
    let key = KeyPair::generate().expect("a key");
    let mut greedy = CertificateParams::new(vec!["localhost".to_owned()]).expect("params");
    greedy.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    greedy.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    for id in [
        "spiffe://zta.local/agent/writing",
        "spiffe://zta.local/user/admin",
    ] {
        let id = SanType::URI(id.try_into().expect("IA5"));
        greedy.subject_alt_names.push(id);
    }
    let csr = greedy
        .serialize_request(&key)
        .expect("a CSR")
        .der()
        .to_vec();
    let token = server.join_token("research").await;
    let issued = enroll(&server, &token, csr)
        .await
        .expect("enrols")
        .certificate
        .expect("one");

    assert_eq!(issued.spiffe_id, "spiffe://zta.local/agent/research");
    let der = CertificateDer::from_pem_slice(issued.certificate_pem.as_bytes()).expect("PEM");
    let (_, certificate) = X509Certificate::from_der(&der).expect("a certificate");
    assert!(!certificate.is_ca());
    let usage = certificate
        .key_usage()
        .expect("readable")
        .expect("a key usage")
        .value;
    assert!(usage.digital_signature() && !usage.key_cert_sign() && !usage.crl_sign());
    let names = certificate
        .subject_alternative_name()
        .expect("readable")
        .expect("names")
        .value;
    let names: Vec<String> = names
        .general_names
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(names, ["URI(spiffe://zta.local/agent/research)"]);
    assert_eq!(certificate.public_key().raw, key.subject_public_key_info());
    let lifetime = certificate.validity().not_after - certificate.validity().not_before;
    assert!(
        lifetime.expect("a lifetime") <= time::Duration::minutes(70),
        "{lifetime:?}"
    );
}

#[tokio::test]
async fn a_certificate_request_that_proves_no_p256_key_costs_no_token() {
    let server = Setup::sqlite().start().await;
    server.register("research", &["researcher"]).await;
    let token = server.join_token("research").await;
    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).expect("a key");
    let params = CertificateParams::new(Vec::<String>::new()).expect("params");
    let p384 = params
        .serialize_request(&p384)
        .expect("a CSR")
        .der()
        .to_vec();
    let mut altered = csr();
    *altered.last_mut().expect("a signature") ^= 1;
    for (what, csr) in [
        ("another kind of key", p384),
        ("another signature", altered),
        ("nothing", Vec::new()),
        ("garbage", b"-----BEGIN CERTIFICATE REQUEST-----".to_vec()),
    ] {
        assert_eq!(
            refused(enroll(&server, &token, csr).await),
            "CSR_INVALID",
            "{what}"
        );
    }
    let huge = enroll(&server, &token, vec![0x30; 16 * 1024 + 1]).await;
    assert_eq!(refused(huge), "LIMIT_EXCEEDED");
    enroll(&server, &token, csr())
        .await
        .expect("the token is still good");
}

#[tokio::test]
async fn registering_again_changes_nothing_and_replaces_no_key() {
    let server = Setup::sqlite().start().await;
    let research = server.agent("research", &["researcher"]).await;
    let again = v1::RegisterRequest {
        name: "research".to_owned(),
        roles: vec!["writer".to_owned()],
        owner: "mallory".to_owned(),
        ..Default::default()
    };
    let admin = server.admin();
    assert_eq!(
        refused(admin.agents().register(again).await),
        "AGENT_EXISTS"
    );
    let request = v1::AgentServiceGetRequest {
        agent: "research".to_owned(),
    };
    let agent = admin
        .agents()
        .get(request)
        .await
        .expect("found")
        .into_inner()
        .agent
        .expect("one");
    assert_eq!(
        (agent.roles, agent.owner),
        (vec!["researcher".to_owned()], "owner".to_owned())
    );
    assert_eq!(agent.instances, 1);
    allowed(&research, call("web_search")).await;
}

#[tokio::test]
async fn names_that_are_no_names_are_refused() {
    let server = Setup::sqlite().start().await;
    let admin = server.admin();
    for name in [
        "",
        "a/b",
        "../x",
        "UPPER",
        "a b",
        "a\nb",
        "é",
        "-a",
        &"x".repeat(64),
        "a\0",
    ] {
        let request = v1::RegisterRequest {
            name: name.to_owned(),
            ..Default::default()
        };
        assert_eq!(
            refused(admin.agents().register(request).await),
            "FIELD_INVALID",
            "{name:?}"
        );
    }
    for agent in [
        "spiffe://other.example/agent/x",
        "spiffe://zta.local/user/admin",
        "nobody",
    ] {
        let request = v1::RevokeRequest {
            agent: agent.to_owned(),
            note: String::new(),
            ..Default::default()
        };
        assert_eq!(
            refused(admin.agents().revoke(request).await),
            "AGENT_NOT_FOUND",
            "{agent}"
        );
    }
}
