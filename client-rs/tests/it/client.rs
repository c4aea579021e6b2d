//! The client's connection: identity, renewal, errors.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use zta_client::{Client, Credential, Error, Guard, v1};

use crate::support::{Fake, seconds_from_now};

/// A folder with a certificate that is good from and until these seconds from now.
fn write_folder(fake: &Fake, folder: &Path, from_s: i64, to_s: i64) {
    let key = rcgen::KeyPair::generate().expect("key");
    let certificate = fake
        .pki
        .certify(&key, seconds_from_now(from_s), seconds_from_now(to_s));
    let facts = format!(
        r#"{{"endpoint":"{}","spiffe_id":"spiffe://zta.local/agent/research","instance_id":"i"}}"#,
        fake.address
    );
    fs::write(folder.join("key.pem"), key.serialize_pem()).expect("key");
    fs::write(folder.join("cert.pem"), certificate).expect("certificate");
    fs::write(folder.join("ca.pem"), fake.pki.ca_pem()).expect("CA");
    fs::write(folder.join("zta.json"), facts).expect("facts");
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(folder.join("key.pem"), fs::Permissions::from_mode(0o600)).expect("mode");
}

fn certificates_seen(fake: &Fake) -> usize {
    fake.seen.certificates.lock().expect("lock").len()
}

#[tokio::test]
async fn errors_carry_the_reason_of_the_server() {
    let fake = Fake::start();
    let status = fake
        .client()
        .agents()
        .register(v1::RegisterRequest::default())
        .await
        .expect_err("exists");
    let error = Error::from(status);
    assert_eq!(error.reason(), Some("AGENT_EXISTS"));
    assert!(!error.is_retriable());
}

#[tokio::test]
async fn a_lost_connection_is_retriable_and_says_why() {
    let fake = Fake::start();
    let client = fake.client();
    drop(fake);
    let error = client
        .authorize(v1::AuthorizeRequest::default())
        .await
        .expect_err("nobody there");
    assert!(error.is_retriable());
    assert_eq!(error.reason(), None);
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_renewed_under_load_and_no_call_fails() {
    let fake = Fake::start();
    let dir = tempfile::tempdir().expect("tempdir");
    // Half of its life is over at once or a second from now, by the jitter.
    write_folder(&fake, dir.path(), -10, 10);
    let key = fs::read(dir.path().join("key.pem")).expect("key");
    let client = Client::new(Credential::load(dir.path()).expect("credential")).expect("client");
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let (guard, stop) = (Guard::new(client.clone()), Arc::clone(&stop));
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    guard
                        .authorize("allowed", "{}")
                        .await
                        .expect("no call fails");
                }
            })
        })
        .collect();
    tokio::time::timeout(Duration::from_secs(20), async {
        while certificates_seen(&fake) < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("calls under the new certificate");
    stop.store(true, Ordering::SeqCst);
    for caller in callers {
        caller.await.expect("no call failed");
    }
    assert_eq!(fake.seen.renews.load(Ordering::SeqCst), 1);
    // Calls use the new certificate at once; the folder follows.
    let current = client.credential().expect("credential").validity();
    let stored = || Credential::load(dir.path()).expect("stored").validity();
    for _ in 0..500 {
        if stored() == current {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(stored(), current);
    assert_eq!(fs::read(dir.path().join("key.pem")).expect("key"), key);
}

#[tokio::test]
async fn clients_of_one_folder_renew_it_once() {
    let fake = Fake::start();
    let dir = tempfile::tempdir().expect("tempdir");
    write_folder(&fake, dir.path(), -20, 10);
    let client = || {
        let credential = Credential::load(dir.path()).expect("credential");
        let builder = Client::builder(credential).without_renewal();
        builder.build().expect("client")
    };
    let (one, two) = (client(), client());
    let (first, second) = tokio::join!(one.renew_if_due(), two.renew_if_due());
    first.expect("renewed");
    second.expect("took over");
    assert_eq!(fake.seen.renews.load(Ordering::SeqCst), 1);
    let validity = |client: &Client| client.credential().expect("credential").validity();
    assert_eq!(validity(&one), validity(&two));
    one.renew_if_due().await.expect("not due");
    assert_eq!(fake.seen.renews.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_proxy_of_another_ca_puts_none_of_its_own_into_the_folder() {
    let (server, proxy) = (Fake::start(), Fake::start());
    let dir = tempfile::tempdir().expect("tempdir");
    write_folder(&server, dir.path(), -20, 10);
    let read = |name: &str| fs::read_to_string(dir.path().join(name)).expect(name);
    let before = read("cert.pem");
    let credential = Credential::load(dir.path()).expect("credential");
    let through = Client::builder(credential)
        .server(&proxy.address.to_string())
        .dpop()
        .server_roots(proxy.pki.ca_pem().as_bytes())
        .without_renewal()
        .build()
        .expect("client");
    // Whoever ends TLS there answers as it likes: here with a bundle of its own.
    through.renew().await.expect("renews");
    assert_ne!(read("cert.pem"), before);
    assert_eq!(read("ca.pem"), server.pki.ca_pem());
    // A client that goes to the server itself does not believe that other one.
    let direct = Credential::load(dir.path()).expect("credential");
    let direct = Client::builder(direct).server(&proxy.address.to_string());
    let direct = direct.without_renewal().build().expect("client");
    let refused = direct.renew().await.expect_err("another CA");
    assert_eq!(refused.reason(), None, "{refused}");
    assert_eq!(proxy.seen.renews.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn renewal_ends_with_the_client() {
    let fake = Fake::start();
    let dir = tempfile::tempdir().expect("tempdir");
    // Due in the future, so that the task is asleep.
    write_folder(&fake, dir.path(), -1, 3);
    drop(Client::new(Credential::load(dir.path()).expect("credential")).expect("client"));
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(fake.seen.connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn an_address_that_is_none_is_refused() {
    let fake = Fake::start();
    let built = Client::builder(fake.credential())
        .server("https://x/")
        .build();
    assert!(matches!(built, Err(Error::Server { .. })));
    assert!(matches!(Client::plaintext(""), Err(Error::Server { .. })));
}
