//! Renewal: a lost answer locks nobody out, and a copied key is found by its generation.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use zta_client::v1::agent_service_client::AgentServiceClient;
use zta_client::{Client, Credential, v1};

use crate::support::http::channel_as;
use crate::support::pki::Forger;
use crate::support::rpc::{allowed, authorize_with_token, call, denied, events, refused};
use crate::support::{Database, Server, Setup};

const RESEARCH: &str = "spiffe://zta.local/agent/research";

fn folder(client: &Client) -> PathBuf {
    let credential = client.credential().expect("a credential");
    credential.folder().expect("a folder").to_owned()
}

fn key_of(client: &Client) -> String {
    client
        .credential()
        .expect("a credential")
        .instance_id()
        .to_owned()
}

/// Somebody else with a copy of the folder as it is now, at another replica maybe.
pub(super) fn copy(client: &Client, server: &Server, to: &str) -> Client {
    let target = server.folder().join(to);
    copy_folder(&folder(client), &target);
    server.client(Credential::load(target).expect("a copy"))
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        std::fs::copy(&path, to.join(path.file_name().expect("a name"))).expect("copies");
    }
}

async fn keys(server: &Server) -> Vec<v1::Instance> {
    let request = v1::ListInstancesRequest {
        agent: "research".to_owned(),
        ..Default::default()
    };
    let answer = server.admin().agents().list_instances(request).await;
    answer.expect("keys").into_inner().instances
}

/// Generation, used generation.
async fn counts(server: &Server) -> (u64, u64) {
    let keys = keys(server).await;
    (keys[0].generation, keys[0].used_generation)
}

pub(super) async fn conflicts(client: &Client) {
    let error = client.renew().await.expect_err("another copy has gone on");
    assert_eq!(error.reason(), Some("GENERATION_CONFLICT"), "{error}");
}

async fn reinstate(server: &Server, instance_id: &str) -> Result<(), tonic::Status> {
    let request = v1::ReinstateRequest {
        agent: "research".to_owned(),
        note: "looked at it".to_owned(),
        instance_id: instance_id.to_owned(),
    };
    server.admin().agents().reinstate(request).await.map(drop)
}

/// Neither holder does anything any more, wherever it calls.
pub(super) async fn both_are_locked_out(servers: [&Server; 2], holders: [&Client; 2]) {
    for client in holders {
        for server in servers {
            let credential = Credential::clone(&client.credential().expect("a credential"));
            let client = server.client(credential);
            let reason = denied(&client, call("web_search")).await;
            assert_eq!(reason, v1::DenyReason::Locked);
            let error = client.renew().await.expect_err("no renewal");
            assert_eq!(error.reason(), Some("INSTANCE_LOCKED"), "{error}");
            let error = client.authenticate().await.expect_err("no login");
            assert_eq!(error.reason(), Some("INSTANCE_LOCKED"), "{error}");
        }
    }
    let [server, _] = servers;
    assert_eq!(keys(server).await[0].state(), v1::InstanceState::Locked);
    let found = events(&server.admin(), &["clone_detected"]).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].1["actor"]["id"], RESEARCH);
    assert_eq!(found[0].1["instance"], key_of(holders[0]));
}

pub(super) async fn two() -> (Server, Server) {
    let first = Setup::on(Database::postgres().await).start().await;
    let second = first.replica().await;
    (first, second)
}

#[tokio::test]
async fn the_rightful_one_goes_on_and_the_copy_locks_the_key_everywhere() {
    let (first, second) = two().await;
    let owner = first.agent("research", &["researcher"]).await;
    let token = owner.authenticate().await.expect("a token").access_token;
    let thief = copy(&owner, &second, "stolen");
    allowed(&thief, call("web_search")).await;
    owner.renew().await.expect("renews");
    allowed(&owner, call("web_search")).await;
    conflicts(&thief).await;
    both_are_locked_out([&first, &second], [&owner, &thief]).await;
    let by_token = authorize_with_token(&thief, call("web_search"), &token).await;
    let reason = by_token.expect("a decision").reason();
    assert_eq!(
        reason,
        v1::DenyReason::Locked,
        "tokens of the key are worth nothing"
    );

    // An operator looked at it: the newest goes on, the copy locks it again.
    reinstate(&second, &key_of(&owner)).await.expect("unlocks");
    allowed(&owner, call("web_search")).await;
    owner.renew().await.expect("renews");
    allowed(&owner, call("web_search")).await;
    conflicts(&thief).await;
    assert_eq!(
        denied(&owner, call("web_search")).await,
        v1::DenyReason::Locked
    );
    first.assert_verifies();
}

#[tokio::test]
async fn the_copy_goes_on_and_the_rightful_one_finds_it_out() {
    let (first, second) = two().await;
    let owner = first.agent("research", &["researcher"]).await;
    let thief = copy(&owner, &second, "stolen");
    thief.renew().await.expect("nobody can tell yet");
    allowed(&thief, call("web_search")).await;
    conflicts(&owner).await;
    both_are_locked_out([&first, &second], [&owner, &thief]).await;
}

#[tokio::test]
async fn two_that_renew_at_once_are_told_apart_at_the_next_turn() {
    let (first, second) = two().await;
    let owner = first.agent("research", &["researcher"]).await;
    let thief = copy(&owner, &second, "stolen");
    let (one, other) = tokio::join!(owner.renew(), thief.renew());
    one.and(other)
        .expect("the second could be one whose answer was lost");
    assert_eq!(counts(&first).await, (3, 1));
    allowed(&owner, call("web_search")).await;
    allowed(&thief, call("web_search")).await;
    // Whichever of the two has the older one is found by it.
    let (one, other) = (thief.renew().await, owner.renew().await);
    let reasons = [one, other].map(|done| done.err()?.reason().map(str::to_owned));
    let found = Some("GENERATION_CONFLICT".to_owned());
    assert!(reasons.contains(&found), "{reasons:?}");
    both_are_locked_out([&first, &second], [&owner, &thief]).await;
}

#[tokio::test]
async fn a_lost_answer_locks_nobody_out() {
    let server = Setup::sqlite().start().await;
    let owner = server.agent("research", &["researcher"]).await;
    assert_eq!(counts(&server).await, (1, 0));
    allowed(&owner, call("web_search")).await;
    assert_eq!(counts(&server).await, (1, 1), "used by its first call");
    let proxy = Proxy::start(&server).await;
    let fresh = || {
        let credential = Credential::load(folder(&owner)).expect("a credential");
        let builder = Client::builder(credential).server(&proxy.endpoint);
        let builder = builder.timeout(std::time::Duration::from_secs(3));
        builder.without_renewal().build().expect("a client")
    };
    for _ in 0..3 {
        let through = fresh();
        allowed(&through, call("web_search")).await;
        proxy.silent.store(true, Ordering::SeqCst);
        through.renew().await.expect_err("no answer");
        proxy.silent.store(false, Ordering::SeqCst);
    }
    let through = fresh();
    assert_eq!(
        counts(&server).await,
        (4, 1),
        "given three times, used by nobody"
    );
    // The old certificate is good for calls all the time.
    allowed(&owner, call("web_search")).await;
    through.renew().await.expect("renews");
    allowed(&through, call("web_search")).await;
    assert_eq!(counts(&server).await, (5, 5));
    through.renew().await.expect("and again");
    assert_eq!(counts(&server).await, (6, 5));
    assert!(
        events(&server.admin(), &["clone_detected"])
            .await
            .is_empty()
    );
}

#[tokio::test]
async fn a_certificate_that_says_no_generation_is_not_renewed() {
    let server = Setup::sqlite().start().await;
    let owner = server.agent("research", &["researcher"]).await;
    let key = std::fs::read_to_string(folder(&owner).join("key.pem")).expect("a key");
    let thief = Forger::thief(&server);
    let forged = thief.credential(&server, &key, RESEARCH, Duration::HOUR);
    let forged = server.client(forged);
    allowed(&forged, call("web_search")).await;
    let error = forged.renew().await.expect_err("no renewal");
    assert_eq!(error.reason(), Some("GENERATION_CONFLICT"), "{error}");
    owner.renew().await.expect("the key is not locked for it");
}

#[tokio::test]
async fn one_key_ends_and_the_other_goes_on() {
    let server = Setup::sqlite().start().await;
    let lost = server.agent("research", &["researcher"]).await;
    let kept = server.client(server.enroll("research").await);
    let revoke = |instance_id: String| v1::RevokeRequest {
        agent: "research".to_owned(),
        note: String::new(),
        instance_id,
    };
    let mut admin = server.admin().agents();
    admin.revoke(revoke(key_of(&lost))).await.expect("revokes");
    assert_eq!(
        denied(&lost, call("web_search")).await,
        v1::DenyReason::Revoked
    );
    allowed(&kept, call("web_search")).await;
    let back = reinstate(&server, &key_of(&lost)).await;
    assert_eq!(refused(back), "STATE_CONFLICT", "revoked is for good");
    let nobodys = admin.revoke(revoke(uuid::Uuid::nil().to_string())).await;
    assert_eq!(refused(nobodys), "AGENT_NOT_FOUND");
    let no_id = admin.revoke(revoke("1".to_owned())).await;
    assert_eq!(refused(no_id), "FIELD_INVALID");
    server.register("writing", &["writer"]).await;
    let anothers = v1::RevokeRequest {
        agent: "writing".to_owned(),
        note: String::new(),
        instance_id: key_of(&kept),
    };
    assert_eq!(refused(admin.revoke(anothers).await), "AGENT_NOT_FOUND");
    allowed(&kept, call("web_search")).await;
}

#[tokio::test]
async fn a_copied_administrator_gets_no_certificate_and_locks_nobody_out() {
    let server = Setup::sqlite().start().await;
    let admin = server.admin();
    let copied = copy(&admin, &server, "admin-copy");
    copied.renew().await.expect("renews");
    let list = v1::AgentServiceListRequest::default();
    copied.agents().list(list.clone()).await.expect("uses it");
    conflicts(&admin).await;
    let found = events(&copied, &["clone_detected"]).await;
    assert_eq!(found[0].1["detail"]["locked"], false);
    admin
        .agents()
        .list(list)
        .await
        .expect("still an administrator");
}

#[tokio::test]
async fn a_restart_keeps_generations_and_locks() {
    for database in Database::both().await {
        let mut server = Setup::on(database).start().await;
        let owner = server.agent("research", &["researcher"]).await;
        let thief = copy(&owner, &server, "stolen");
        owner.renew().await.expect("renews");
        allowed(&owner, call("web_search")).await;
        server.stop().await;
        server.start().await;
        assert_eq!(counts(&server).await, (2, 2));
        conflicts(&thief).await;
        server.kill();
        server.start().await;
        assert_eq!(
            denied(&owner, call("web_search")).await,
            v1::DenyReason::Locked
        );
        reinstate(&server, &key_of(&owner)).await.expect("unlocks");
        server.stop().await;
        server.start().await;
        allowed(&owner, call("web_search")).await;
    }
}

#[tokio::test]
async fn what_is_renewed_in_vain_costs_no_one_else_a_decision() {
    // A renewal whose answer nobody keeps, again and again, by an agent that is permitted
    // to: nobody else's decisions become stale by it.
    let server = Setup::sqlite().start().await;
    let owner = server.agent("research", &["researcher"]).await;
    let mut raw = AgentServiceClient::new(channel_as(&server, &folder(&owner)));
    for _ in 0..20 {
        raw.renew(v1::RenewRequest::default())
            .await
            .expect("renews");
        allowed(&owner, call("web_search")).await;
    }
    assert_eq!(counts(&server).await, (21, 1));
}

/// Passes bytes on, and keeps the server's from the client while it is silent: the request
/// arrives, the answer does not.
struct Proxy {
    endpoint: String,
    silent: Arc<AtomicBool>,
}

impl Proxy {
    async fn start(server: &Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = listener.local_addr().expect("an address").to_string();
        let silent = Arc::new(AtomicBool::new(false));
        let (target, quiet) = (server.endpoint().to_owned(), Arc::clone(&silent));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&target).await.expect("the server");
                tokio::spawn(pass(client, server, Arc::clone(&quiet)));
            }
        });
        Self { endpoint, silent }
    }
}

async fn pass(client: TcpStream, server: TcpStream, silent: Arc<AtomicBool>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let up = tokio::io::copy(&mut from_client, &mut to_server);
    let down = async {
        let mut piece = vec![0; 65_536];
        // A connection on which something was swallowed is of no more use.
        let mut swallowed = false;
        loop {
            let read = from_server.read(&mut piece).await?;
            swallowed |= silent.load(Ordering::SeqCst);
            match (read, swallowed) {
                (0, _) => return std::io::Result::Ok(()),
                (_, true) => {}
                (read, false) => to_client.write_all(&piece[..read]).await?,
            }
        }
    };
    tokio::select! {
        _ = up => {}
        _ = down => {}
    }
}
