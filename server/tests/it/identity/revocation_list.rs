//! The revocation list, read by OpenSSL.

use zta_client::{Credential, v1};

use crate::support::http::get_raw;
use crate::support::openssl::{INTERMEDIATE, OpenSsl, leaf_of};
use crate::support::{Database, Server, Setup, eventually};

/// The server's list, in `crl.pem`; its number.
async fn fetch(server: &Server, openssl: &OpenSsl) -> u128 {
    let (head, body) = get_raw(server, "/crl.pem").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    std::fs::write(openssl.path("crl.pem"), body).expect("written");
    let shown = openssl.run("crl -in crl.pem -noout -crlnumber");
    let number = shown.trim().strip_prefix("crlNumber=0x").expect("a number");
    u128::from_str_radix(number, 16).expect("hex")
}

async fn revoke(server: &Server, agent: &str) {
    let request = v1::RevokeRequest {
        agent: agent.to_owned(),
        note: "gone".to_owned(),
        ..Default::default()
    };
    let answer = server.admin().agents().revoke(request).await;
    answer.expect("revokes");
}

fn svid(openssl: &OpenSsl, agent: &Credential, file: &str) {
    let folder = agent.folder().expect("a folder");
    leaf_of(&folder.join("cert.pem"), &openssl.path(file));
}

/// Waits until the server's list refuses this certificate.
async fn lists(server: &Server, openssl: &OpenSsl, verify: &str, file: &str) -> u128 {
    eventually("the list names the certificate", async || {
        let number = fetch(server, openssl).await;
        let output = openssl.output(&format!("{verify} {file}"));
        let said = crate::support::server::text(&output.stderr);
        if said.contains("certificate revoked") {
            Ok(number)
        } else {
            Err(said)
        }
    })
    .await
}

#[tokio::test]
async fn a_verifier_with_the_list_refuses_a_revoked_agent_and_no_other() {
    for database in Database::both().await {
        let name = database.name();
        let openssl = OpenSsl::new();
        let mut server = Setup::on(database).start().await;
        let replica = match name {
            "postgres" => Some(server.replica().await),
            _ => None,
        };
        for agent in ["good", "bad"] {
            server.register(agent, &["researcher"]).await;
        }
        let (good, bad) = (server.enroll("good").await, server.enroll("bad").await);
        svid(&openssl, &good, "good.pem");
        svid(&openssl, &bad, "bad.pem");
        let client = server.client(bad);
        client.renew().await.expect("renews");
        svid(&openssl, &client.credential().expect("one"), "bad2.pem");
        let ca = server.data().join("ca.pem");
        let verify = format!(
            "verify -x509_strict -crl_check -CAfile {} -CRLfile crl.pem",
            ca.display()
        );
        let first = fetch(&server, &openssl).await;
        openssl.run(&format!("{verify} good.pem bad.pem bad2.pem"));

        revoke(&server, "bad").await;
        let second = lists(&server, &openssl, &verify, "bad.pem").await;
        assert!(second > first, "{name}");
        openssl.run(&format!("{verify} good.pem"));
        let said = openssl.fails(&format!("{verify} bad2.pem"));
        assert!(said.contains("certificate revoked"), "{said}");
        if let Some(replica) = replica {
            lists(&replica, &openssl, &verify, "bad2.pem").await;
            openssl.run(&format!("{verify} good.pem"));
        }

        let shown = openssl.run("crl -in crl.pem -noout -text");
        assert!(shown.contains("Version 2 (0x1)"), "{shown}");
        let (head, der) = get_raw(&server, "/crl.der").await;
        assert!(
            head.to_ascii_lowercase()
                .contains("content-type: application/pkix-crl")
        );
        std::fs::write(openssl.path("crl.der"), der).expect("written");
        let ca = ca.display();
        openssl.run(&format!("crl -inform DER -in crl.der -noout -CAfile {ca}"));

        assert!(server.stop().await.success());
        server.start().await;
        let third = eventually("a list after the start", async || {
            let (head, _) = get_raw(&server, "/crl.pem").await;
            if head.starts_with("HTTP/1.1 200") {
                Ok(())
            } else {
                Err(head)
            }
        });
        third.await;
        assert!(
            fetch(&server, &openssl).await > second,
            "it goes on after a restart"
        );
        openssl.fails(&format!("{verify} bad.pem"));
    }
}

#[tokio::test]
async fn an_operators_intermediate_signs_the_list_of_what_it_issued() {
    let openssl = OpenSsl::new();
    openssl.root("root");
    let chain = openssl.intermediate("zta", "root", INTERMEDIATE);
    let server = Setup::sqlite()
        .set("ZTA_CA_CERTIFICATE_FILE", chain.display())
        .set("ZTA_CA_KEY_FILE", openssl.path("zta.key").display())
        .start()
        .await;
    for agent in ["good", "bad"] {
        server.register(agent, &["researcher"]).await;
        svid(
            &openssl,
            &server.enroll(agent).await,
            &format!("{agent}.pem"),
        );
    }
    let verify = "verify -crl_check -CAfile root.pem -untrusted zta.pem -CRLfile crl.pem";
    fetch(&server, &openssl).await;
    openssl.run(&format!("{verify} good.pem bad.pem"));
    revoke(&server, "bad").await;
    lists(&server, &openssl, verify, "bad.pem").await;
    openssl.run(&format!("{verify} good.pem"));
}
