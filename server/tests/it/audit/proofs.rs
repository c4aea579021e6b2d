//! Events are proved by receipts and proofs, over gRPC and as static files; who may not read
//! the log is given none.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zta_client::v1::get_event_request::Event;
use zta_client::{Client, Error, LogError, LogKey, LogView, v1};
use zta_server::audit::merkle::leaf_hash;
use zta_server::audit::proof::{verify_consistency, verify_inclusion};
use zta_server::audit::tile::unbundle;

use crate::support::http::{get_as, get_raw};
use crate::support::rpc::{allowed, authorize, call, events, refused};
use crate::support::{Database, Setup, eventually};

/// The log's public key, as the log's first event names it.
pub(super) async fn vkey(admin: &Client) -> String {
    let created = events(admin, &["log_created"]).await;
    let vkey = created[0].1["detail"]["vkey"].as_str();
    vkey.expect("the key").to_owned()
}

async fn log_key(admin: &Client) -> LogKey {
    LogKey::parse(&vkey(admin).await).expect("the log's key")
}

/// The newest checkpoint, once it signs so many records.
pub(super) async fn signed(admin: &Client, size: u64) -> v1::GetCheckpointResponse {
    eventually("a checkpoint", async || {
        let request = v1::GetCheckpointRequest {};
        let answer = admin.audit().get_checkpoint(request).await;
        let answer = answer.map_err(|e| e.to_string())?.into_inner();
        match answer.size >= size {
            true => Ok(answer),
            false => Err(format!("{} records", answer.size)),
        }
    })
    .await
}

/// A decision's receipt, once it is signed.
pub(super) async fn receipt(admin: &Client, sequence: u64) -> v1::Receipt {
    eventually("a receipt", async || admin.receipt(sequence).await).await
}

#[tokio::test]
async fn each_event_has_a_receipt_that_proves_it_without_the_server() {
    for database in Database::both().await {
        let mut server = Setup::on(database).start().await;
        let admin = server.admin();
        let research = server.agent("research", &["researcher"]).await;
        let decision = allowed(&research, call("web_search")).await;
        let key = log_key(&admin).await;
        let by_place = receipt(&admin, decision.sequence).await;
        let request = v1::GetEventRequest {
            event: Some(Event::EventId(decision.decision_id.clone())),
        };
        let by_id = admin.audit().get_event(request).await.expect("an event");
        let by_id = by_id.into_inner();
        let event = by_id.event.expect("an event");
        assert_eq!(event.sequence, decision.sequence);
        assert_eq!(event.leaf, by_place.leaf);
        let first = receipt(&admin, 0).await;
        assert!(server.stop().await.success());

        // All that follows needs no server.
        for (receipt, sequence) in [
            (&by_place, decision.sequence),
            (&by_id.receipt.expect("a receipt"), decision.sequence),
            (&first, 0),
        ] {
            let recorded = key.verify_receipt(receipt).expect("on record");
            assert_eq!(recorded.sequence, sequence);
        }
        let mut forged = by_place;
        let text = String::from_utf8(forged.leaf).expect("JSON");
        forged.leaf = text.replace("web_search", "web_serach").into_bytes();
        let sequence = decision.sequence;
        let refused = key.verify_receipt(&forged);
        assert_eq!(refused, Err(LogError::NotIncluded { sequence }));
    }
}

#[tokio::test]
async fn proofs_hold_at_every_size_and_between_all() {
    for database in Database::both().await {
        let server = Setup::on(database).start().await;
        let admin = server.admin();
        let research = server.agent("research", &["researcher"]).await;
        fill(&research, 300).await;
        let checkpoint = signed(&admin, 300).await;
        let key = log_key(&admin).await;
        let newest = key.open(&checkpoint.note).expect("signed");
        let size = newest.size();
        let mut audit = admin.audit();
        for sequence in [0, 1, 255, 256, size - 1] {
            let request = v1::GetInclusionProofRequest { sequence, size };
            let proof = audit.get_inclusion_proof(request).await.expect("a proof");
            let proof = proof.into_inner();
            assert_eq!((proof.size, &proof.checkpoint), (size, &checkpoint.note));
            let leaf = hashes(&[proof.leaf_hash])[0];
            let (proof, root) = (hashes(&proof.hashes), newest.root());
            assert!(verify_inclusion(sequence, size, leaf, &proof, root));
        }
        for first in [1, 200, 256, 257, size - 1] {
            let request = v1::GetConsistencyProofRequest {
                first_size: first,
                second_size: size,
            };
            let proof = audit.get_consistency_proof(request).await.expect("a proof");
            let proof = hashes(&proof.into_inner().hashes);
            let old = root_at(&admin, first).await;
            let new = (size, newest.root());
            assert!(verify_consistency((first, old), new, &proof), "{first}");
        }
        wrong_requests(&admin, size).await;
    }
}

fn hashes(hashes: &[Vec<u8>]) -> Vec<[u8; 32]> {
    let hash = |h: &Vec<u8>| h.as_slice().try_into().expect("32 bytes");
    hashes.iter().map(hash).collect()
}

/// The root over the first records, from the leaves as they are listed.
async fn root_at(admin: &Client, size: u64) -> [u8; 32] {
    let mut tree = zta_server::audit::merkle::Frontier::default();
    let request = v1::ListEventsRequest {
        page_size: 1000,
        ..Default::default()
    };
    let page = admin.audit().list_events(request).await.expect("events");
    for event in page.into_inner().events.iter().take(size as usize) {
        tree.push(leaf_hash(&event.leaf));
    }
    assert_eq!(tree.size(), size);
    tree.root()
}

/// Puts so many decisions on record, in batches.
pub(super) async fn fill(client: &Client, decisions: usize) {
    let mut requests = Vec::new();
    for _ in 0..decisions.div_ceil(50) {
        let request = v1::BatchAuthorizeRequest {
            requests: vec![call("web_search"); 50],
        };
        requests.push(request);
    }
    for request in requests {
        let answer = client.authorization().batch_authorize(request).await;
        answer.expect("decisions");
    }
}

async fn wrong_requests(admin: &Client, size: u64) {
    let mut audit = admin.audit();
    let inclusion = |sequence, size| v1::GetInclusionProofRequest { sequence, size };
    let beyond = audit.get_inclusion_proof(inclusion(size, size)).await;
    assert_eq!(refused(beyond), "EVENT_NOT_FOUND");
    let beyond = audit.get_inclusion_proof(inclusion(0, u64::MAX)).await;
    assert_eq!(refused(beyond), "FIELD_INVALID");
    for (first_size, second_size) in [(0, size), (size, size - 1), (1, u64::MAX)] {
        let request = v1::GetConsistencyProofRequest {
            first_size,
            second_size,
        };
        let wrong = audit.get_consistency_proof(request).await;
        assert_eq!(refused(wrong), "FIELD_INVALID");
    }
    let get = |event| v1::GetEventRequest { event };
    for (event, reason) in [
        (None, "FIELD_INVALID"),
        (Some(Event::EventId("x".to_owned())), "FIELD_INVALID"),
        (Some(Event::Sequence(u64::MAX)), "EVENT_NOT_FOUND"),
        (
            Some(Event::EventId(uuid::Uuid::nil().to_string())),
            "EVENT_NOT_FOUND",
        ),
    ] {
        assert_eq!(refused(audit.get_event(get(event)).await), reason);
    }
}

#[tokio::test]
async fn the_log_is_served_as_static_files_to_whoever_may_read_it() {
    for database in Database::both().await {
        let server = Setup::on(database).start().await;
        let admin = server.admin();
        let research = server.agent("research", &["researcher"]).await;
        let agent = server.enroll("research").await;
        fill(&research, 300).await;
        let size = signed(&admin, 300).await.size;
        let key = log_key(&admin).await;
        let folder = server.data().join("admin");

        let (head, note) = get_as(&server, Some(&folder), "/log/checkpoint").await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(head.contains("cache-control: no-cache"), "{head}");
        let note = String::from_utf8(note).expect("a note");
        assert!(key.open(&note).expect("signed").size() >= size);

        let (head, tile) = get_as(&server, Some(&folder), "/log/tile/0/000").await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(
            head.contains("private, max-age=31536000, immutable"),
            "{head}"
        );
        assert_eq!(tile.len(), 8192);
        let (_, entries) = get_as(&server, Some(&folder), "/log/tile/entries/000").await;
        let leaves = unbundle(&entries).expect("a bundle");
        assert!(
            leaves
                .iter()
                .zip(tile.as_chunks::<32>().0)
                .all(|(l, h)| leaf_hash(l) == *h)
        );
        assert_eq!(leaves.len(), 256);
        let width = size - 256;
        for (path, bytes) in [
            (format!("/log/tile/0/001.p/{width}"), width * 32),
            ("/log/tile/0/001.p/1".to_owned(), 32),
            ("/log/tile/1/000.p/1".to_owned(), 32),
        ] {
            let (head, partial) = get_as(&server, Some(&folder), &path).await;
            assert!(head.starts_with("HTTP/1.1 200"), "{path}: {head}");
            assert_eq!(partial.len() as u64, bytes, "{path}");
        }
        for path in [
            "0/001",
            "0/002",
            "1/000",
            "2/000.p/1",
            "0/1",
            "entries/001",
            "x",
            "0/../0/000",
        ] {
            let (head, _) = get_as(&server, Some(&folder), &format!("/log/tile/{path}")).await;
            assert!(head.starts_with("HTTP/1.1 404"), "{path}: {head}");
        }
        let reads = events(&admin, &["admin"]).await;
        let reads = reads
            .iter()
            .filter(|(_, l)| l["action"]["id"] == "read_audit");
        assert!(reads.count() > 6, "each reading is itself on record");

        for path in [
            "/log/checkpoint",
            "/log/tile/0/000",
            "/log/tile/entries/000",
        ] {
            let (head, body) = get_raw(&server, path).await;
            assert!(head.starts_with("HTTP/1.1 401"), "{path}: {head}");
            let body = String::from_utf8(body).expect("text");
            assert!(body.starts_with("CREDENTIAL_MISSING"), "{body}");
            let (head, body) = get_as(&server, agent.folder(), path).await;
            assert!(head.starts_with("HTTP/1.1 403"), "{path}: {head}");
            assert!(head.contains("no-store"), "{head}");
            let body = String::from_utf8(body).expect("text");
            assert!(body.starts_with("NOT_PERMITTED"), "{body}");
        }
    }
}

#[tokio::test]
async fn a_public_log_shows_hashes_and_no_entries() {
    let server = Setup::sqlite().set("ZTA_PUBLIC_LOG", true).start().await;
    let admin = server.admin();
    let research = server.agent("research", &["researcher"]).await;
    fill(&research, 300).await;
    signed(&admin, 300).await;
    let before = events(&admin, &[]).await[0].0;
    for path in ["/log/checkpoint", "/log/tile/0/000"] {
        let (head, _) = get_raw(&server, path).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{path}: {head}");
        assert!(
            path.ends_with("checkpoint") || head.contains("public, max-age"),
            "{head}"
        );
    }
    let after = events(&admin, &[]).await[0].0;
    assert_eq!(after, before + 1, "what anybody may read is not on record");
    for path in ["/log/tile/entries/000", "/log/tile/entries/001.p/1"] {
        let (head, _) = get_raw(&server, path).await;
        assert!(head.starts_with("HTTP/1.1 401"), "{path}: {head}");
    }
}

#[tokio::test]
async fn clients_keep_what_they_saw_and_name_what_does_not_extend_it() {
    for database in Database::both().await {
        let mut server = Setup::on(database).start().await;
        let admin = server.admin();
        let key = log_key(&admin).await;
        let view = LogView::new(key, server.folder().join("seen"));
        let research = server.agent("research", &["researcher"]).await;
        let first = allowed(&research, call("web_search")).await.sequence;
        receipt(&admin, first).await;
        let recorded = admin
            .verify_recorded(&view, first)
            .await
            .expect("on record");
        assert_eq!(recorded.sequence, first);
        let kept = view.last().expect("kept").expect("a checkpoint");
        let next = allowed(&research, call("web_search")).await.sequence;
        receipt(&admin, next).await;
        admin.verify_recorded(&view, next).await.expect("extends");
        let later = view.last().expect("kept").expect("a checkpoint");
        assert!(later.size() > kept.size());
        let again = admin.verify_recorded(&view, first).await;
        assert_eq!(again.expect("still").sequence, first);

        // Somebody puts an older state of the log back, and the server goes on from there.
        assert!(server.stop().await.success());
        let mut intruder = super::intruder::Intruder::open(&server).await;
        let from = kept.size();
        for table in ["audit_events", "audit_inputs"] {
            let sql = format!("DELETE FROM {table} WHERE sequence >= {from}");
            intruder.run(&sql).await;
        }
        let sql = format!("DELETE FROM checkpoints WHERE size > {from}");
        intruder.change(&sql).await;
        intruder.rewrite_head().await;
        server.start().await;
        let admin = server.admin();
        let found = admin.follow_log(&view).await;
        let rolled_back = |error: &Error| matches!(error, Error::Log(LogError::RolledBack { .. }));
        assert!(found.as_ref().is_err_and(rolled_back), "{found:?}");
        for _ in 0..later.size() {
            authorize(&research, call("x")).await.expect("a decision");
        }
        signed(&admin, later.size() + 1).await;
        let found = admin.follow_log(&view).await;
        let split = |error: &Error| matches!(error, Error::Log(LogError::SplitView { .. }));
        assert!(found.as_ref().is_err_and(split), "{found:?}");
        let last = view.last().expect("kept").expect("a checkpoint");
        assert_eq!(last, later, "the evidence stays");
    }
}

#[tokio::test]
async fn of_two_replicas_one_signs_and_the_other_takes_over() {
    let mut one = Setup::on(Database::postgres().await).start().await;
    let two = one.replica().await;
    let research = one.agent("research", &["researcher"]).await;
    let sequence = allowed(&research, call("web_search")).await.sequence;
    signed(&two.admin(), sequence + 1).await;
    one.kill();
    // Nobody gave the turn back: it ends by itself.
    let admin = two.admin();
    let after = events(&admin, &[]).await[0].0;
    let checkpoint = signed(&admin, after + 1).await;
    let key = log_key(&admin).await;
    key.open(&checkpoint.note).expect("signed by the one key");
    two.assert_verifies();
}

#[tokio::test]
async fn an_altered_record_gets_no_receipt() {
    for database in Database::both().await {
        let mut server = Setup::on(database).start().await;
        let admin = server.admin();
        let research = server.agent("research", &["researcher"]).await;
        let sequence = allowed(&research, call("web_search")).await.sequence;
        receipt(&admin, sequence).await;
        assert!(server.stop().await.success());
        let mut intruder = super::intruder::Intruder::open(&server).await;
        let leaf = format!("SELECT leaf FROM audit_events WHERE sequence = {sequence}");
        let leaf = intruder.bytes(&leaf).await.remove(0);
        let text = String::from_utf8(leaf).expect("JSON");
        let forged = intruder.literal(text.replace("web_search", "web_serach").as_bytes());
        let edit = format!("UPDATE audit_events SET leaf = {forged} WHERE sequence = {sequence}");
        intruder.change(&edit).await;
        server.start().await;
        let refused = server
            .admin()
            .receipt(sequence)
            .await
            .expect_err("no proof");
        assert_eq!(refused.reason(), Some("LOG_ALTERED"), "{refused}");
        let encoded = STANDARD.encode(&text);
        assert!(
            !server.log().contains(&encoded),
            "no payload in the log lines"
        );
    }
}
