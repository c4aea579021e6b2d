//! The CA that an operator brings: an intermediate below a root that this server never
//! sees the key of. OpenSSL makes them and judges what is issued.

use std::path::Path;

use crate::support::openssl::{INTERMEDIATE, OpenSsl, leaf_of};
use crate::support::rpc::{allowed, call, refusals};
use crate::support::server::text;
use crate::support::{Database, Server, Setup, eventually};

fn certificates(file: &Path) -> usize {
    let text = std::fs::read_to_string(file).expect("certificates");
    text.matches("BEGIN CERTIFICATE").count()
}

fn with(setup: Setup, openssl: &OpenSsl, name: &str) -> Setup {
    let chain = openssl.path(&format!("{name}-chain.pem"));
    let key = openssl.path(&format!("{name}.key"));
    setup
        .set("ZTA_CA_CERTIFICATE_FILE", chain.display())
        .set("ZTA_CA_KEY_FILE", key.display())
}

/// What `zta serve` says when it refuses this chain and this key.
fn refusal(chain: &Path, key: &Path) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let output = std::process::Command::new("timeout")
        .args(["20", env!("CARGO_BIN_EXE_zta"), "serve"])
        .env_clear()
        .env("ZTA_DATA_DIR", folder.path().join("data"))
        .env("ZTA_LISTEN", "127.0.0.1:0")
        .env("ZTA_CA_CERTIFICATE_FILE", chain)
        .env("ZTA_CA_KEY_FILE", key)
        .output()
        .expect("zta");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    said
}

/// The agent's certificate in a file of its own.
fn svid(openssl: &OpenSsl, agent: &zta_client::Credential) {
    let folder = agent.folder().expect("a folder");
    leaf_of(&folder.join("cert.pem"), &openssl.path("svid.pem"));
}

#[tokio::test]
async fn what_is_issued_leads_to_the_operators_root() {
    let openssl = OpenSsl::new();
    openssl.root("root");
    openssl.intermediate("zta", "root", INTERMEDIATE);
    for database in Database::both().await {
        let name = database.name();
        let mut server = with(Setup::on(database), &openssl, "zta").start().await;
        server.register("research", &["researcher"]).await;
        let agent = server.enroll("research").await;
        let folder = agent.folder().expect("a folder").to_owned();
        assert_eq!(certificates(&folder.join("cert.pem")), 2, "{name}");
        assert_eq!(certificates(&folder.join("ca.pem")), 1, "the root alone");

        svid(&openssl, &agent);
        openssl.run("verify -x509_strict -CAfile root.pem -untrusted zta.pem svid.pem");
        openssl.fails("verify -CAfile root.pem svid.pem");
        let shown = openssl.run("x509 -in svid.pem -noout -ext subjectAltName,basicConstraints");
        assert!(shown.contains("URI:spiffe://zta.local/agent/research"));
        assert_eq!(shown.matches("URI:").count(), 1);
        let endpoint = server.endpoint().to_owned();
        let shown = openssl.run(&format!(
            "s_client -connect {endpoint} -CAfile root.pem -verify_return_error -verify_ip \
             127.0.0.1 -alpn http/1.1 -showcerts"
        ));
        assert!(shown.contains("Verify return code: 0"), "{shown}");
        assert_eq!(shown.matches("BEGIN CERTIFICATE").count(), 2, "{shown}");

        let client = server.client(agent);
        allowed(&client, call("web_search")).await;
        client.renew().await.expect("renews");
        assert_eq!(certificates(&folder.join("cert.pem")), 2);
        assert!(server.stop().await.success());
        server.start().await;
        allowed(&client, call("web_search")).await;
        server.assert_verifies();
    }
}

#[tokio::test]
async fn another_ca_below_the_same_root_certifies_nobody_here() {
    let openssl = OpenSsl::new();
    openssl.root("root");
    openssl.intermediate("zta", "root", INTERMEDIATE);
    openssl.intermediate("other", "root", INTERMEDIATE);
    let server = with(Setup::sqlite(), &openssl, "zta").start().await;
    let agent = server.agent("research", &["researcher"]).await;
    let folder = agent
        .credential()
        .expect("one")
        .folder()
        .expect("one")
        .to_owned();
    std::fs::copy(folder.join("key.pem"), openssl.path("stolen.key")).expect("copied");
    openssl.issue(
        "stolen",
        "other",
        "subjectAltName=URI:spiffe://zta.local/agent/research\nkeyUsage=critical,digitalSignature\n\
         extendedKeyUsage=clientAuth\nbasicConstraints=critical,CA:FALSE\n",
        1,
    );
    openssl.run("verify -CAfile root.pem -untrusted other.pem stolen.pem");
    openssl.chain("stolen-chain.pem", &["stolen", "other"]);
    let read = |file: &str| std::fs::read(openssl.path(file)).expect("a file");
    let forged = zta_client::Credential::from_pem(
        server.endpoint(),
        &read("stolen.key"),
        &read("stolen-chain.pem"),
        &read("root.pem"),
    );
    let forged = server.client(forged.expect("a credential"));
    let error = forged.authorization().authorize(call("web_search")).await;
    error.expect_err("no connection");
    let admin = server.admin();
    eventually("the handshake is on record", async || {
        match refusals(&admin, "TLS handshake: certificate_untrusted").await {
            0 => Err("not yet"),
            _ => Ok(()),
        }
    })
    .await;
}

#[test]
fn a_chain_that_cannot_issue_refuses_the_start_and_says_why() {
    let openssl = OpenSsl::new();
    openssl.root("root");
    openssl.root("stranger");
    openssl.intermediate("good", "root", INTERMEDIATE);
    let usage = "keyUsage=critical,keyCertSign,cRLSign\n";
    let ca = "basicConstraints=critical,CA:TRUE\n";
    let with = |extra: &str| format!("{INTERMEDIATE}{extra}\n");
    let cases = [
        (
            "leaf",
            "basicConstraints=critical,CA:FALSE\n".to_owned(),
            "is not a CA's",
        ),
        ("no-usage", ca.to_owned(), "keyCertSign"),
        (
            "signs-data",
            format!("{ca}keyUsage=critical,digitalSignature\n"),
            "keyCertSign",
        ),
        (
            "no-crl",
            format!("{ca}keyUsage=critical,keyCertSign\n"),
            "cRLSign",
        ),
        (
            "other-uri",
            with("subjectAltName=URI:spiffe://other.example"),
            "spiffe://zta.local",
        ),
        (
            "path-uri",
            with("subjectAltName=URI:spiffe://zta.local/agent/a"),
            "spiffe://zta.local",
        ),
        (
            "constrained",
            with("nameConstraints=critical,permitted;URI:other.example"),
            "name constraints",
        ),
        (
            "excluded",
            with("nameConstraints=critical,excluded;URI:zta.local"),
            "name constraints",
        ),
        (
            "no-localhost",
            with("nameConstraints=critical,permitted;DNS:other.example"),
            "does not verify",
        ),
    ];
    for (name, extensions, says) in &cases {
        let chain = openssl.intermediate(name, "root", extensions);
        let said = refusal(&chain, &openssl.path(&format!("{name}.key")));
        assert!(said.contains(says), "{name}: expected `{says}`: {said}");
        assert!(said.contains("ca_certificate_file"), "{name}: {said}");
    }
    // A path length further up, and a chain of three.
    openssl.intermediate(
        "narrow",
        "root",
        &format!("{ca}{usage}").replace("TRUE", "TRUE,pathlen:0"),
    );
    openssl.intermediate("below", "narrow", INTERMEDIATE);
    let chain = openssl.chain("deep.pem", &["below", "narrow", "root"]);
    let said = refusal(&chain, &openssl.path("below.key"));
    assert!(
        said.contains("pathlen") && said.contains("certificate 2"),
        "{said}"
    );

    openssl.key("expired");
    openssl.issue("expired", "root", INTERMEDIATE, -1);
    openssl.run("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out p384.key");
    openssl.private("p384.key");
    openssl.run("ec -in good.key -out sec1.key");
    openssl.private("sec1.key");
    std::fs::copy(openssl.path("good.key"), openssl.path("open.key")).expect("copied");
    openssl.run("pkey -in good.key -aes256 -passout pass:secret-secret -out pbes2.key");
    openssl.private("pbes2.key");
    // A root of the same name that did not sign it.
    openssl.key("twin");
    openssl.run(
        "req -x509 -config openssl.cnf -key twin.key -out twin.pem -subj /O=Example/CN=root \
         -days 9 -addext basicConstraints=critical,CA:TRUE",
    );
    let read_by_others: std::fs::Permissions = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(openssl.path("open.key"), read_by_others).expect("chmod");
    for (chain, key, says) in [
        (&["good", "root"][..], "stranger", "does not belong"),
        (&["good", "stranger"], "good", "not the next one"),
        (&["good", "twin"], "good", "does not verify"),
        (&["root", "good"], "root", "not the next one"),
        (&["good"], "good", "append that of"),
        (&["expired", "root"], "expired", "has expired"),
        (&["good", "root"], "p384", "ECDSA P-256"),
        (&["good", "root"], "sec1", "openssl pkcs8"),
        (&["good", "root"], "pbes2", "openssl pkcs8"),
        (&["good", "root"], "open", "chmod 600"),
        (&["good", "root"], "nowhere", "no such file"),
    ] {
        let file = openssl.chain("case.pem", chain);
        let said = refusal(&file, &openssl.path(&format!("{key}.key")));
        assert!(
            said.contains(says),
            "{chain:?} {key}: expected `{says}`: {said}"
        );
    }
    std::fs::write(openssl.path("none.pem"), "nothing").expect("written");
    for (file, says) in [("none.pem", "in PEM"), ("missing.pem", "missing.pem")] {
        let said = refusal(&openssl.path(file), &openssl.path("good.key"));
        assert!(said.contains(says), "{file}: {said}");
    }
}

#[tokio::test]
async fn a_constraint_on_the_trust_domain_and_a_chain_of_three_are_fine() {
    let openssl = OpenSsl::new();
    openssl.root("root");
    let policy =
        "basicConstraints=critical,CA:TRUE,pathlen:1\nkeyUsage=critical,keyCertSign,cRLSign\n";
    openssl.intermediate("policy", "root", policy);
    let extensions = format!(
        "{INTERMEDIATE}nameConstraints=critical,permitted;URI:zta.local\n\
         subjectAltName=URI:spiffe://zta.local\n"
    );
    openssl.intermediate("zta", "policy", &extensions);
    openssl.chain("zta-chain.pem", &["zta", "policy", "root"]);
    let server = with(Setup::sqlite(), &openssl, "zta").start().await;
    server.register("research", &["researcher"]).await;
    let agent = server.enroll("research").await;
    svid(&openssl, &agent);
    openssl.chain("between.pem", &["zta", "policy"]);
    openssl.run("verify -CAfile root.pem -untrusted between.pem svid.pem");
    let client = server.client(agent);
    allowed(&client, call("web_search")).await;
}

#[tokio::test]
async fn the_operators_key_is_encrypted_by_the_same_passphrase() {
    let openssl = OpenSsl::new();
    openssl.root("root");
    openssl.intermediate("zta", "root", INTERMEDIATE);
    let passphrase = openssl.path("passphrase");
    std::fs::write(&passphrase, "correct horse battery staple").expect("written");
    let mut server = with(Setup::sqlite(), &openssl, "zta").start().await;
    assert!(server.stop().await.success());
    server.set("ZTA_KEY_PASSPHRASE_FILE", passphrase.display());
    let output = server.zta(&["keys", "encrypt"]);
    let said = text(&output.stdout) + &text(&output.stderr);
    assert!(said.contains("zta.key"), "{said}");
    let key = std::fs::read_to_string(openssl.path("zta.key")).expect("the key");
    assert!(key.contains("ZTA ENCRYPTED PRIVATE KEY"));
    server.start().await;
    let agent = server.agent("research", &["researcher"]).await;
    allowed(&agent, call("web_search")).await;
}

#[tokio::test]
async fn a_log_keeps_the_ca_that_its_agents_know() {
    let openssl = OpenSsl::new();
    openssl.root("root");
    openssl.intermediate("zta", "root", INTERMEDIATE);
    let mut server = with(Setup::sqlite(), &openssl, "zta").start().await;
    assert!(server.stop().await.success());
    let serve = |server: &Server, unset: bool| {
        let mut command = server.command(&["serve"]);
        command.env("ZTA_LISTEN", "127.0.0.1:0");
        if unset {
            command
                .env_remove("ZTA_CA_CERTIFICATE_FILE")
                .env_remove("ZTA_CA_KEY_FILE");
        }
        let output = command.output().expect("zta");
        assert_eq!(output.status.code(), Some(2));
        text(&output.stderr)
    };
    let said = serve(&server, true);
    assert!(said.contains("ca_certificate_file"), "{said}");
}
