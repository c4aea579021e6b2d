//! One CA takes the place of another, and nobody notices.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;
use zta_client::{Client, Credential};

use crate::support::http::get;
use crate::support::openssl::{INTERMEDIATE, OpenSsl, leaf_of};
use crate::support::rpc::{allowed, call, events, refused};
use crate::support::server::text;
use crate::support::{Database, Server, Setup, eventually};

/// Runs `zta ca …`; the exit code, and what it said.
fn ca(server: &Server, arguments: &[&str]) -> (Option<i32>, String) {
    let output = server.zta(&[&["ca", "--json"], arguments].concat());
    let said = text(&output.stdout) + &text(&output.stderr);
    (output.status.code(), said)
}

/// Likewise, of what must be done.
fn done(server: &Server, arguments: &[&str]) -> Value {
    let (code, said) = ca(server, arguments);
    assert_eq!(code, Some(0), "{arguments:?}: {said}");
    serde_json::from_str(&said).expect("JSON")
}

/// Likewise, of what must be refused.
fn no(server: &Server, arguments: &[&str], says: &str) {
    let (code, said) = ca(server, arguments);
    assert_eq!(code, Some(1), "{arguments:?}: {said}");
    assert!(
        said.contains(says),
        "{arguments:?}: expected `{says}`: {said}"
    );
}

/// The states on record, in order.
fn states(server: &Server) -> Vec<String> {
    let (code, said) = ca(server, &["list"]);
    assert_eq!(code, Some(0), "{said}");
    let lines = said.lines().map(serde_json::from_str::<Value>);
    lines
        .map(|line| {
            line.expect("JSON")["state"]
                .as_str()
                .expect("one")
                .to_owned()
        })
        .collect()
}

fn certificates(pem: &str) -> usize {
    pem.matches("BEGIN CERTIFICATE").count()
}

fn bundle_of(credential: &Credential) -> String {
    let folder = credential.folder().expect("a folder");
    std::fs::read_to_string(folder.join("ca.pem")).expect("ca.pem")
}

/// Waits until each replica, and the administrator, has a bundle of so many anchors that
/// begins with this one.
async fn settled(replicas: &[&Server], anchors: usize, first: &str) {
    for replica in replicas {
        eventually("the bundle", async || {
            let (_, served) = get(replica, "/ca.pem").await;
            let admin = replicas[0].data().join("admin/ca.pem");
            let admin = std::fs::read_to_string(admin).expect("ca.pem");
            let fits = |pem: &str| certificates(pem) == anchors && pem.starts_with(first);
            if fits(&served) && fits(&admin) {
                Ok(())
            } else {
                Err(served)
            }
        })
        .await;
    }
}

/// Calls without a pause until it is told to stop, and counts.
struct Caller {
    stop: Arc<AtomicBool>,
    calls: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<Vec<String>>,
}

impl Caller {
    fn start(client: &Client) -> Self {
        let (stop, calls) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (client, stopped, counted) = (client.clone(), Arc::clone(&stop), Arc::clone(&calls));
        let task = tokio::spawn(async move {
            let mut failures = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                // Without the client's own second try.
                let answer = client.authorization().authorize(call("web_search")).await;
                if let Err(error) = answer {
                    failures.push(error.to_string());
                }
                counted.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            failures
        });
        Self { stop, calls, task }
    }

    /// Returns after a few more calls.
    async fn lives(&self) {
        let seen = self.calls.load(Ordering::Relaxed);
        while self.calls.load(Ordering::Relaxed) < seen + 5 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        let failures = self.task.await.expect("a task");
        assert!(failures.is_empty(), "{failures:?}");
    }
}

#[tokio::test]
async fn a_client_lives_through_a_rotation_without_a_failed_call() {
    for database in Database::both().await {
        let mut server = Setup::on(database).start().await;
        let replica = match server.database.name() {
            "postgres" => Some(server.replica().await),
            _ => None,
        };
        let replicas: Vec<&Server> = std::iter::once(&server).chain(&replica).collect();
        rotate(&replicas).await;
        assert!(server.stop().await.success());
        server.start().await;
        assert_eq!(states(&server), ["retired", "active"], "as it was left");
        let late = server.agent("late", &["researcher"]).await;
        allowed(&late, call("web_search")).await;
        server.assert_verifies();
    }
}

async fn rotate(replicas: &[&Server]) {
    let server = replicas[0];
    let (_, old) = get(server, "/ca.pem").await;
    let mut clients = Vec::new();
    for (n, replica) in replicas.iter().enumerate() {
        let name = format!("agent{n}");
        server.register(&name, &["researcher"]).await;
        clients.push(replica.client(server.enroll(&name).await));
    }
    let slow = server.agent("slow", &["researcher"]).await;
    let callers: Vec<Caller> = clients.iter().map(Caller::start).collect();
    let lives = async || {
        for caller in &callers {
            caller.lives().await;
        }
    };
    let renew = async || {
        for client in &clients {
            client.renew().await.expect("renews");
        }
        lives().await;
    };
    lives().await;
    assert_eq!(states(server), ["active"]);
    no(server, &["activate"], "no CA is prepared");

    let new = done(server, &["prepare", "--note", "yearly"]);
    let id = new["id"].as_str().expect("an id").to_owned();
    let new = new["chain_pem"].as_str().expect("PEM").to_owned();
    settled(replicas, 2, &old).await;
    renew().await;
    slow.renew().await.expect("renews");
    let bundle = bundle_of(&clients[0].credential().expect("one"));
    assert_eq!(bundle, format!("{old}{new}"), "clients know both");
    no(server, &["prepare"], "prepared already");
    no(server, &["activate"], "have not renewed");

    done(server, &["activate", &id[..8], "--force"]);
    settled(replicas, 2, &new).await;
    assert_eq!(states(server), ["superseded", "active"]);
    lives().await;
    shows_a_certificate_of(replicas, &new);
    renew().await;
    allowed(&slow, call("web_search")).await;
    let folder = clients[0]
        .credential()
        .expect("one")
        .folder()
        .expect("one")
        .to_owned();
    assert!(is_from(&folder, &new) && !is_from(&folder, &old));

    let list: Vec<Value> = ca(server, &["list"])
        .1
        .lines()
        .map(|l| serde_json::from_str(l).expect("JSON"))
        .collect();
    let old_id = list[0]["id"].as_str().expect("an id").to_owned();
    no(server, &["retire", &old_id], "may hold until");
    no(server, &["retire", &id], "signs");
    no(server, &["retire", "12345678"], "no CA has an id");
    done(server, &["retire", &old_id, "--force", "--note", "leaked"]);
    settled(replicas, 1, &new).await;
    lives().await;
    renew().await;
    assert_eq!(bundle_of(&clients[0].credential().expect("one")), new);
    // Its connection is open, and its certificate holds for an hour.
    let answer = slow.authorization().authorize(call("web_search")).await;
    assert_eq!(refused(answer), "ISSUER_RETIRED");
    for caller in callers {
        caller.end().await;
    }
    on_record(server, &id, &old_id).await;
}

fn is_from(folder: &Path, ca: &str) -> bool {
    let openssl = OpenSsl::new();
    std::fs::write(openssl.path("ca.pem"), ca).expect("written");
    leaf_of(&folder.join("cert.pem"), &openssl.path("leaf.pem"));
    let output = openssl.output("verify -CAfile ca.pem leaf.pem");
    output.status.success()
}

fn shows_a_certificate_of(replicas: &[&Server], ca: &str) {
    let openssl = OpenSsl::new();
    std::fs::write(openssl.path("ca.pem"), ca).expect("written");
    for replica in replicas {
        let endpoint = replica.endpoint();
        openssl.run(&format!(
            "s_client -connect {endpoint} -CAfile ca.pem -verify_return_error -alpn http/1.1"
        ));
    }
}

/// Each step is on record with what it did, and whether it was forced.
async fn on_record(server: &Server, new: &str, old: &str) {
    let acts = events(&server.admin(), &["admin"]).await;
    let mut steps: Vec<_> = acts
        .iter()
        .filter(|(_, leaf)| {
            let action = leaf["action"]["id"].as_str().unwrap_or_default();
            action.ends_with("_ca") && leaf["detail"]["authority"].is_string()
        })
        .map(|(sequence, leaf)| {
            let step = [
                leaf["action"]["id"].clone(),
                leaf["detail"]["authority"].clone(),
                leaf["detail"]["force"].clone(),
                leaf["detail"]["note"].clone(),
            ];
            (*sequence, step)
        })
        .collect();
    steps.sort_by_key(|(sequence, _)| *sequence);
    let steps: Vec<_> = steps
        .into_iter()
        .map(|(_, step)| Value::from(step.to_vec()))
        .collect();
    let expected = serde_json::json!([
        ["prepare_ca", new, null, "yearly"],
        ["activate_ca", new, true, ""],
        ["retire_ca", old, true, "leaked"],
    ]);
    assert_eq!(Value::from(steps), expected);
}

#[tokio::test]
async fn from_a_root_of_its_own_to_the_operators_and_on_to_his_next() {
    let openssl = OpenSsl::new();
    for root in ["root", "other"] {
        openssl.root(root);
    }
    openssl.intermediate("zta", "root", INTERMEDIATE);
    openssl.intermediate("next", "other", INTERMEDIATE);
    let mut server = Setup::sqlite().start().await;
    let agent = server.agent("research", &["researcher"]).await;
    let file = |name: &str| openssl.path(name).to_string_lossy().into_owned();
    let pem =
        |name: &str| std::fs::read_to_string(openssl.path(&format!("{name}.pem"))).expect("PEM");
    server.set("ZTA_CA_CERTIFICATE_FILE", file("zta-chain.pem"));
    server.set("ZTA_CA_KEY_FILE", file("zta.key"));
    let (_, own) = get(&server, "/ca.pem").await;
    restart(&mut server).await;
    assert_eq!(
        get(&server, "/ca.pem").await.1,
        own,
        "it waits for the administrator"
    );
    allowed(&agent, call("web_search")).await;

    replace(&server, &agent, &own, &pem("root")).await;
    let folder = agent
        .credential()
        .expect("one")
        .folder()
        .expect("one")
        .to_owned();
    assert!(
        std::fs::read_to_string(folder.join("cert.pem"))
            .expect("one")
            .contains(&pem("zta"))
    );
    no(&server, &["prepare"], "ca_next_certificate_file");

    server.set("ZTA_CA_NEXT_CERTIFICATE_FILE", file("next-chain.pem"));
    server.set("ZTA_CA_NEXT_KEY_FILE", file("next.key"));
    restart(&mut server).await;
    allowed(&agent, call("web_search")).await;
    replace(&server, &agent, &pem("root"), &pem("other")).await;

    // The files change places, and those of the retired one are not needed any more.
    server.set("ZTA_CA_CERTIFICATE_FILE", file("next-chain.pem"));
    server.set("ZTA_CA_KEY_FILE", file("next.key"));
    restart(&mut server).await;
    allowed(&agent, call("web_search")).await;
    let fresh = server.agent("fresh", &["researcher"]).await;
    allowed(&fresh, call("web_search")).await;
    server.assert_verifies();
}

async fn restart(server: &mut Server) {
    assert!(server.stop().await.success());
    server.start().await;
}

/// All steps, with a client that renews between them.
async fn replace(server: &Server, client: &Client, old: &str, new: &str) {
    done(server, &["prepare"]);
    settled(&[server], 2, old).await;
    client.renew().await.expect("renews");
    done(server, &["activate", "--force"]);
    settled(&[server], 2, new).await;
    client.renew().await.expect("renews");
    let list = ca(server, &["list"]).1;
    let mut superseded = list
        .lines()
        .map(|l| serde_json::from_str::<Value>(l).expect("JSON"));
    let superseded = superseded.rfind(|ca| ca["state"] == "superseded");
    let id = superseded.expect("one")["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    done(server, &["retire", &id, "--force"]);
    settled(&[server], 1, new).await;
    client.renew().await.expect("renews");
    allowed(client, call("web_search")).await;
}

#[tokio::test]
async fn only_an_administrator_replaces_the_ca() {
    let server = Setup::sqlite().start().await;
    let agent = server.agent("research", &["researcher"]).await;
    let mut authorities = agent.certificate_authorities();
    use zta_client::v1;
    let list = authorities
        .list(v1::CertificateAuthorityServiceListRequest {})
        .await;
    assert_eq!(refused(list), "NOT_PERMITTED");
    let prepare = authorities.prepare(v1::PrepareRequest::default()).await;
    assert_eq!(refused(prepare), "NOT_PERMITTED");
    let prepared = done(&server, &["prepare"]);
    let id = prepared["id"].as_str().expect("an id");
    let activate = authorities.activate(v1::ActivateRequest {
        force: true,
        ..Default::default()
    });
    assert_eq!(refused(activate.await), "NOT_PERMITTED");
    let retire = v1::RetireRequest {
        id: id.to_owned(),
        ..Default::default()
    };
    assert_eq!(refused(authorities.retire(retire).await), "NOT_PERMITTED");
    assert_eq!(states(&server), ["active", "prepared"]);
}
