//! A join token becomes an identity, at the server that made it and nowhere else.

use std::{fs, os::unix::fs::PermissionsExt as _, sync::atomic::Ordering};

use zta_client::{Client, Credential, Error, enroll};

use crate::support::{Fake, Pki};

#[tokio::test]
async fn a_token_becomes_a_credential_that_works() {
    let fake = Fake::start();
    let dir = tempfile::tempdir().expect("tempdir");
    let folder = dir.path().join("research");
    let server = fake.address.to_string();
    let enrolled = enroll(&server, &fake.pki.join_token(), &folder)
        .await
        .expect("enrolled");
    assert_eq!(enrolled.spiffe_id(), "spiffe://zta.local/agent/research");
    assert_eq!(
        (enrolled.endpoint(), enrolled.instance_id()),
        (server.as_str(), "instance-1")
    );
    for file in ["key.pem", "cert.pem", "ca.pem", "zta.json"] {
        let mode = fs::metadata(folder.join(file))
            .expect(file)
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let loaded = Credential::load(&folder).expect("loads");
    assert_eq!(loaded.validity(), enrolled.validity());
    let token = Client::new(loaded).expect("client").authenticate().await;
    assert_eq!(token.expect("authenticated").access_token, "a.jwt.token");
}

#[tokio::test]
async fn a_token_is_not_shown_to_a_server_that_did_not_make_it() {
    let fake = Fake::start();
    let dir = tempfile::tempdir().expect("tempdir");
    let foreign = Pki::new().join_token();
    let error = enroll(&fake.address.to_string(), &foreign, dir.path().join("a"))
        .await
        .expect_err("refused");
    assert!(matches!(error, Error::WrongServer { .. }), "{error}");
    assert_eq!(fake.seen.enrolls.load(Ordering::SeqCst), 0);
    assert!(!dir.path().join("a").exists());
}

#[tokio::test]
async fn a_refused_token_leaves_no_key_behind() {
    let fake = Fake::start();
    let dir = tempfile::tempdir().expect("tempdir");
    let good = fake.pki.join_token();
    let spent = good.replace("dG9rZW4tc2VjcmV0", "c3BlbnQtc2VjcmV0");
    assert_ne!(spent, good);
    let server = fake.address.to_string();
    let error = enroll(&server, &spent, dir.path())
        .await
        .expect_err("refused");
    assert_eq!(error.reason(), Some("JOIN_TOKEN_INVALID"));
    assert!(!dir.path().join("key.pem").exists());
    enroll(&server, &good, dir.path())
        .await
        .expect("the folder is free again");
    let error = enroll(&server, &good, dir.path()).await.expect_err("taken");
    assert!(error.to_string().contains("already holds a key"), "{error}");
    assert_eq!(fake.seen.enrolls.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn an_unreachable_server_is_named() {
    let free = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("bind");
    let address = free.local_addr().expect("address").to_string();
    drop(free);
    let dir = tempfile::tempdir().expect("tempdir");
    let error = enroll(&address, &Pki::new().join_token(), dir.path().join("a"))
        .await
        .expect_err("nobody there");
    assert!(
        error.is_retriable() && error.to_string().contains(&address),
        "{error}"
    );
}

#[tokio::test]
async fn files_that_do_not_belong_together_are_refused() {
    let fake = Fake::start();
    let dir = tempfile::tempdir().expect("tempdir");
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    for folder in [&one, &two] {
        enroll(&fake.address.to_string(), &fake.pki.join_token(), folder)
            .await
            .expect("enrolled");
    }
    fs::copy(two.join("cert.pem"), one.join("cert.pem")).expect("copied");
    let error = Credential::load(&one).expect_err("mixed").to_string();
    assert!(
        error.contains("cert.pem does not belong to key.pem"),
        "{error}"
    );

    let facts = fs::read_to_string(two.join("zta.json")).expect("facts");
    fs::write(two.join("zta.json"), facts.replace("research", "writing")).expect("written");
    let error = Credential::load(&two)
        .expect_err("another name")
        .to_string();
    assert!(
        error.contains("does not name spiffe://zta.local/agent/writing"),
        "{error}"
    );
}
