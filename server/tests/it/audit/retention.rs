//! Old records go, and everything that was signed stays provable. What was not exported stays,
//! and what was deleted otherwise is found.

mod forged;

use std::path::{Path, PathBuf};

use serde_json::Value;
use zta_client::{Client, LogKey, v1};
use zta_server::audit::merkle::leaf_hash;
use zta_server::audit::proof::{verify_consistency, verify_inclusion};

use super::exported::{copy_folder, go};
use super::following::{from, next, watch};
use super::intruder::Intruder;
use super::proofs::{fill, receipt, signed};
use crate::crash::clock::faketime;
use crate::support::http::get_as;
use crate::support::rpc::{allowed, call, event, events, refused};
use crate::support::server::text;
use crate::support::{Database, Server, Setup};

/// How wide partitions are here: one tile.
const WIDTH: u32 = 256;

/// A server whose log has some 600 records, most of them exported.
struct Kept {
    server: Server,
    admin: Client,
    research: Client,
    /// A checkpoint of about 300 records, and the receipt of one of them.
    early: v1::GetCheckpointResponse,
    receipt: v1::Receipt,
    export: PathBuf,
}

impl Kept {
    async fn on(database: Database) -> Self {
        let server = Setup::on(database).partition_width(WIDTH).start().await;
        let admin = server.admin();
        let research = server.agent("research", &["researcher"]).await;
        fill(&research, 300).await;
        let early = signed(&admin, 300).await;
        let receipt = receipt(&admin, 100).await;
        fill(&research, 300).await;
        signed(&admin, 600).await;
        let export = server.folder().join("export");
        let kept = Self {
            server,
            admin,
            research,
            early,
            receipt,
            export,
        };
        kept.write_export(&kept.export, None);
        kept
    }

    fn write_export(&self, folder: &Path, after: Option<&Path>) {
        let after = after.map(|folder| folder.join("checkpoint"));
        let mut arguments = vec!["audit", "export", path(folder)];
        if let Some(note) = &after {
            arguments.extend(["--from-checkpoint", path(note)]);
        }
        let output = self.server.zta(&arguments);
        assert!(output.status.success(), "{}", text(&output.stderr));
    }

    /// `zta audit prune`, as the owner of the tables.
    fn prune(&self, exports: &[&Path], more: &[&str]) -> (i32, String) {
        let mut arguments = vec!["audit", "prune"];
        for folder in exports {
            arguments.extend(["--export", path(folder)]);
        }
        arguments.extend(more);
        let mut command = self.server.command(&arguments);
        if let Database::Postgres(database) = &*self.server.database {
            command.env("ZTA_DATABASE_URL", database.superuser_url());
        }
        let output = command.output().expect("zta runs");
        let said = text(&output.stdout) + &text(&output.stderr);
        (output.status.code().expect("an exit code"), said)
    }

    fn pruned(&self, exports: &[&Path], more: &[&str]) -> String {
        let (code, said) = self.prune(exports, more);
        assert_eq!(code, 0, "{}: {said}", self.server.database.name());
        said
    }

    /// `zta audit verify` from the checkpoint of somebody.
    fn verified(&self, note: &str, more: &[&str]) -> Value {
        let file = self.server.folder().join("seen");
        std::fs::write(&file, note).expect("a note");
        let arguments = ["audit", "verify", "--json", "--checkpoint", path(&file)];
        let output = self.server.zta(&[&arguments, more].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// It cannot be told whether it verifies, because some of what is to go stands still.
    fn interrupted(&self) {
        let (code, said) = self.server.verify();
        assert_eq!(code, 2, "{}: {said}", self.server.database.name());
        assert!(said.contains("stands still"), "{said}");
    }

    /// It does not verify, and these words say why.
    fn unproved(&self, what: &str, says: &str) {
        let (code, said) = self.server.verify();
        let name = self.server.database.name();
        assert_eq!(code, 1, "{name}: {what}: {said}");
        assert!(said.contains(says), "{name}: {what}: `{says}`: {said}");
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a path")
}

fn root(note: &str) -> [u8; 32] {
    use base64::Engine as _;
    let hash = note.lines().nth(2).expect("a root");
    let hash = base64::engine::general_purpose::STANDARD.decode(hash);
    hash.expect("base64").try_into().expect("32 bytes")
}

fn hashes(hashes: Vec<Vec<u8>>) -> Vec<[u8; 32]> {
    let hash = |hash: Vec<u8>| hash.try_into().expect("32 bytes");
    hashes.into_iter().map(hash).collect()
}

/// Every proof that can be asked for of what is gone.
async fn assert_provable(kept: &Kept) {
    let admin = &kept.admin;
    let newest = signed(admin, 601).await;
    let request = v1::GetInclusionProofRequest {
        sequence: 100,
        size: newest.size,
    };
    let included = admin.audit().get_inclusion_proof(request).await;
    let included = included.expect("a proof").into_inner();
    let leaf = leaf_hash(&kept.receipt.leaf);
    assert_eq!(included.leaf_hash, leaf);
    assert!(verify_inclusion(
        100,
        newest.size,
        leaf,
        &hashes(included.hashes),
        root(&newest.note)
    ));
    let request = v1::GetConsistencyProofRequest {
        first_size: kept.early.size,
        second_size: newest.size,
    };
    let consistent = admin.audit().get_consistency_proof(request).await;
    let consistent = hashes(consistent.expect("a proof").into_inner().hashes);
    assert!(verify_consistency(
        (kept.early.size, root(&kept.early.note)),
        (newest.size, root(&newest.note)),
        &consistent
    ));
    let key = LogKey::parse(&vkey_kept(kept)).expect("the key");
    let recorded = key.verify_receipt(&kept.receipt).expect("on record");
    assert_eq!(recorded.sequence, 100);
}

/// As the export has it: the event that names it is pruned.
fn vkey_kept(kept: &Kept) -> String {
    let vkey = std::fs::read_to_string(kept.export.join("log.vkey"));
    vkey.expect("the key").trim().to_owned()
}

#[tokio::test]
async fn what_is_pruned_stays_provable_while_the_server_goes_on() {
    for database in Database::both().await {
        let mut kept = Kept::on(database).await;
        let old = kept.receipt.leaf.clone();
        let old: Value = serde_json::from_slice(&old).expect("JSON");
        let said = kept.pruned(&[&kept.export], &["--dry-run"]);
        assert!(said.contains("would prune the records 0 to 511"), "{said}");
        assert!(kept.admin.receipt(100).await.is_ok(), "nothing is gone");
        let said = kept.pruned(&[&kept.export], &[]);
        assert!(said.contains("pruned the records 0 to 511"), "{said}");

        let told = events(&kept.admin, &["log_pruned"]).await;
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].1["detail"]["size"], "512");
        assert!(told[0].1.get("actor").is_none());
        let get = |name| v1::GetEventRequest { event: Some(name) };
        let name = v1::get_event_request::Event::Sequence(100);
        let gone = kept.admin.audit().get_event(get(name)).await;
        assert_eq!(refused(gone), "EVENT_PRUNED");
        let id = old["id"].as_str().expect("an id").to_owned();
        let name = v1::get_event_request::Event::EventId(id);
        let gone = kept.admin.audit().get_event(get(name)).await;
        assert_eq!(refused(gone), "EVENT_NOT_FOUND");
        lists_what_is_kept(&kept).await;
        assert_provable(&kept).await;
        let admin = kept.server.data().join("admin");
        let get = async |path: &str| get_as(&kept.server, Some(&admin), path).await;
        assert!(get("/log/tile/0/000").await.0.contains("200"));
        assert!(
            get("/log/tile/entries/002").await.0.contains("404"),
            "not full yet"
        );
        let (head, body) = get("/log/tile/entries/001").await;
        assert!(head.contains("404"), "{head}");
        assert!(text(&body).contains("EVENT_PRUNED"), "{}", text(&body));

        // From every checkpoint on, before and after what is gone.
        let exported = std::fs::read_to_string(kept.export.join("checkpoint")).expect("a note");
        for note in [&kept.early.note, &exported] {
            for more in [&[][..], &["--since"]] {
                let proof = kept.verified(note, more);
                assert_eq!(proof["pruned"], 512, "{proof}");
            }
        }

        // The server goes on, also with tiles that it has to look for again.
        fill(&kept.research, 300).await;
        signed(&kept.admin, 900).await;
        assert!(kept.server.stop().await.success());
        kept.server.start().await;
        kept.admin = kept.server.admin();
        let decision = allowed(&kept.research, call("web_search")).await;
        receipt(&kept.admin, decision.sequence).await;
        receipt(&kept.admin, 600).await;
        assert_provable(&kept).await;
        kept.server.assert_verifies();
        the_next_time(&kept).await;
    }
}

/// A list begins with what is kept, and says so.
async fn lists_what_is_kept(kept: &Kept) {
    let list = async |request| {
        let answer = kept.admin.audit().list_events(request).await;
        answer.map(tonic::Response::into_inner)
    };
    let first = list(v1::ListEventsRequest::default())
        .await
        .expect("a page");
    assert_eq!((first.events[0].sequence, first.kept_from), (512, 512));
    let request = v1::ListEventsRequest {
        start_sequence: 5,
        ..Default::default()
    };
    assert_eq!(refused(list(request).await), "EVENT_PRUNED");
    assert_eq!(refused(watch(&kept.admin, from(5)).await), "CURSOR_TOO_OLD");
    let mut stream = watch(&kept.admin, from(512)).await.expect("a stream");
    let told = next(&mut stream).await.expect("an answer");
    assert_eq!(told.events[0].sequence, 512);
}

/// The next export follows the last one, other software verifies it, and it lets the next
/// records go.
async fn the_next_time(kept: &Kept) {
    let folder = kept.server.folder().join("second");
    let whole = kept.server.zta(&["audit", "export", path(&folder)]);
    let said = text(&whole.stderr);
    assert!(said.contains("below 512 were pruned"), "{said}");
    kept.write_export(&folder, Some(&kept.export));
    let before = kept.export.join("checkpoint");
    let (accepted, said) = go(&["export", &vkey_kept(kept), path(&folder), path(&before)]);
    assert!(accepted, "{said}");
    // Between the first record that is kept and the second export is what only the first holds.
    let (code, said) = kept.prune(&[&folder], &[]);
    assert_ne!(code, 0, "{said}");
    assert!(said.contains("do not hold the records from 512"), "{said}");
    let both = [kept.export.as_path(), &folder];
    let said = kept.pruned(&both, &["--older-than", "1h"]);
    assert!(said.contains("nothing to prune"), "{said}");
    let said = kept.pruned(&both, &["--before", "800"]);
    assert!(said.contains("pruned the records 512 to 767"), "{said}");
    kept.server.assert_verifies();
    let told = events(&kept.admin, &["log_pruned"]).await;
    assert_eq!(told.len(), 1, "that of the first time went with the second");
    assert_eq!(told[0].1["detail"]["size"], "768");
}

#[tokio::test]
async fn nothing_is_pruned_that_no_export_proves() {
    for database in Database::both().await {
        let kept = Kept::on(database).await;
        let name = kept.server.database.name();
        let other = Kept::on(Database::Sqlite).await;
        let late = kept.server.folder().join("late");
        fill(&kept.research, 10).await;
        signed(&kept.admin, 612).await;
        kept.write_export(&late, Some(&kept.export));
        let edited = kept.server.folder().join("edited");
        copy_folder(&kept.export, &edited);
        let bundle = edited.join("tile/entries/001");
        let mut bytes = std::fs::read(&bundle).expect("a bundle");
        let place = bytes.len() / 2;
        bytes[place] ^= 1;
        std::fs::write(&bundle, bytes).expect("written");
        for (what, exports, says) in [
            (
                "a later one",
                vec![late.as_path()],
                "do not hold the records from 0",
            ),
            (
                "of another log",
                vec![other.export.as_path()],
                "another log",
            ),
            ("an edited one", vec![edited.as_path()], "record"),
            ("none", vec![kept.server.folder()], "checkpoint"),
            (
                "an edited one beside a good one",
                vec![kept.export.as_path(), edited.as_path()],
                "record",
            ),
        ] {
            let (code, said) = kept.prune(&exports, &[]);
            assert_ne!(code, 0, "{name}: {what}: {said}");
            assert!(said.contains(says), "{name}: {what}: {said}");
            event(&kept.admin, 0).await;
        }
        if let Database::Postgres(_) = &*kept.server.database {
            // Under the server's own role.
            let arguments = ["audit", "prune", "--export", path(&kept.export)];
            let output = kept.server.zta(&arguments);
            let said = text(&output.stderr);
            assert!(!output.status.success(), "{said}");
            assert!(said.contains("the role that owns the tables"), "{said}");
            event(&kept.admin, 0).await;
        }
        assert!(events(&kept.admin, &["log_pruned"]).await.is_empty());
        kept.server.assert_verifies();
    }
}

#[tokio::test]
async fn acts_of_a_server_that_does_not_run_wait_for_it_to_sign_them() {
    let mut kept = Kept::on(Database::Sqlite).await;
    assert!(kept.server.stop().await.success());
    for (before, offset) in [("300", "+0"), ("600", "+120")] {
        let arguments = ["audit", "prune", "--before", before, "--export"];
        let mut prune = kept.server.command(&arguments);
        prune.arg(&kept.export);
        // Minutes lie between them.
        prune.env("LD_PRELOAD", faketime()).env("FAKETIME", offset);
        let output = prune.output().expect("zta runs");
        assert!(output.status.success(), "{}", text(&output.stderr));
        kept.server.assert_verifies();
    }
    kept.server.start().await;
    kept.admin = kept.server.admin();
    assert_provable(&kept).await;
}

#[tokio::test]
async fn a_prune_that_was_interrupted_goes_on() {
    for database in Database::both().await {
        let mut kept = Kept::on(database).await;
        if let Database::Postgres(database) = &*kept.server.database {
            // Somebody reads all the while.
            let mut reader = database.intruder().await;
            let read = "BEGIN; SELECT count(*) FROM audit_events_256";
            crate::support::database::run(&mut reader, read).await;
            let (code, said) = kept.prune(&[&kept.export], &[]);
            assert_ne!(code, 0, "{said}");
            assert!(said.contains("the same again goes on"), "{said}");
        } else {
            assert!(kept.server.stop().await.success());
            let mut intruder = Intruder::open(&kept.server).await;
            kept.pruned(&[&kept.export], &[]);
            // One that never was there is none that waits to go.
            let forged = "INSERT INTO audit_events SELECT 511, log_id, hex(randomblob(16)), time, \
                type, actor_type, actor_id, instance_id, source, action_type, action_id, \
                resource_type, resource_id, effect, reason, policies, revision, session_id, \
                task_id, user_id, correlation_id, trace_id, leaf, leaf_hash \
                FROM audit_events WHERE sequence = 520";
            intruder.change(forged).await;
            kept.unproved("a forged one", "record 511: was pruned, and stands there");
            let forged = "DELETE FROM audit_events WHERE sequence = 511";
            intruder.change(forged).await;
            let back = "INSERT INTO audit_events SELECT * FROM before_audit_events \
                        WHERE sequence = 511";
            intruder.change(back).await;
        }
        kept.interrupted();
        let said = kept.pruned(&[&kept.export], &["--dry-run"]);
        assert!(said.contains("would drop the records "), "{said}");
        kept.interrupted();
        let said = kept.pruned(&[&kept.export], &[]);
        assert!(said.contains("dropped the records "), "{said}");
        assert!(said.contains("nothing to prune"), "{said}");
        kept.server.assert_verifies();
    }
}
