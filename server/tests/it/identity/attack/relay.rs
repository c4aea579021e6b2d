//! A server that an agent was led to passes the agent's proofs on: a proof is good for the
//! server that it names, and the server knows its own names.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use zta_client::v1;
use zta_client::v1::authenticate_request::Proof;

use crate::support::Setup;
use crate::support::dpop::Holder;
use crate::support::proxy::Proxy;
use crate::support::rpc::{refusals, refused};

#[tokio::test]
async fn a_proof_that_was_made_for_another_server_is_not_good_here() {
    let server = Setup::sqlite().start().await;
    server.register("research", &["researcher"]).await;
    let agent = server.enroll("research").await;
    let folder = agent.folder().expect("a folder").to_owned();
    let proxy = Proxy::before(&server).await;
    let key = std::fs::read_to_string(folder.join("key.pem")).expect("a key");
    let certificate = Proof::Certificate(v1::CertificateProof {
        certificate_der: CertificateDer::from_pem_file(folder.join("cert.pem"))
            .expect("cert.pem")
            .to_vec(),
    });
    // By a name of the server's own the key logs in.
    let port = proxy.endpoint.rsplit(':').next().expect("a port");
    let own = format!("localhost:{port}");
    let mut direct = Holder::new(&key, proxy.channel_to(&own), &own);
    direct.login(certificate.clone()).await.expect("logs in");
    // The agent believes that it talks to this one, which sends `:authority` on as it came.
    let evil = "evil.example:7443";
    let mut lured = Holder::new(&key, proxy.channel_to(evil), evil);
    lured.nonce = direct.nonce.clone();
    let relayed = lured.try_login(certificate).await;
    assert_eq!(refused(relayed), "PROOF_INVALID");
    assert!(refusals(&server.admin(), "another address").await > 0);
}
