//! Exports are verified by us and by software that is not ours, the code of Go's checksum
//! database (`tools/log-verifier`). Both accept what is right and refuse each manipulation.

use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zta_client::{Client, v1};
use zta_server::audit::merkle::leaf_hash;
use zta_server::audit::tile::{bundle, unbundle};

use super::intruder::Intruder;
use super::proofs::{fill, receipt, signed, vkey};
use crate::support::rpc::{allowed, call};
use crate::support::server::text;
use crate::support::{Database, Server, Setup};

/// Go's verdict: whether it accepts, and what it says.
pub(super) fn go(arguments: &[&str]) -> (bool, String) {
    let verifier = std::env::var("ZTA_TEST_LOG_VERIFIER").expect(
        "ZTA_TEST_LOG_VERIFIER is not set: run `make test`, or this test under \
         `tools/with-postgres.sh cargo test`",
    );
    let output = Command::new(verifier).args(arguments).output();
    let output = output.expect("the verifier runs: `make test` builds it");
    let said = text(&output.stdout) + &text(&output.stderr);
    (output.status.success(), said)
}

/// A running server's log, exported.
struct Export {
    server: Server,
    vkey: String,
    folder: PathBuf,
    /// Records of its checkpoint.
    size: u64,
}

impl Export {
    /// Of so many records at least.
    async fn new(database: Database, records: usize) -> Self {
        let server = Setup::on(database).start().await;
        let admin = server.admin();
        let research = server.agent("research", &["researcher"]).await;
        fill(&research, records).await;
        signed(&admin, records as u64).await;
        let vkey = vkey(&admin).await;
        let folder = server.folder().join("export");
        let mut export = Self {
            server,
            vkey,
            folder,
            size: 0,
        };
        export.write(&export.folder.clone(), &[]);
        export.size = export.checkpoint_size();
        export
    }

    fn write(&self, folder: &Path, more: &[&str]) {
        let folder = folder.to_str().expect("a path");
        let arguments = [&["audit", "export", folder], more].concat();
        let output = self.server.zta(&arguments);
        assert!(output.status.success(), "{}", text(&output.stderr));
    }

    fn checkpoint_size(&self) -> u64 {
        let note = std::fs::read_to_string(self.folder.join("checkpoint")).expect("a note");
        note.lines()
            .nth(1)
            .and_then(|l| l.parse().ok())
            .expect("a size")
    }

    /// Our verdict of a folder.
    fn ours(&self, folder: &Path, seen: Option<&Path>) -> (i32, String) {
        let folder = folder.to_str().expect("a path");
        let mut arguments = vec!["audit", "verify", "--export", folder, "--vkey", &self.vkey];
        // A copy: what verifies takes its place.
        let copy = self.server.folder().join("seen-copy");
        if let Some(seen) = seen {
            std::fs::copy(seen, &copy).expect("a copy");
            arguments.extend(["--checkpoint", copy.to_str().expect("a path")]);
        }
        let output = self.server.zta(&arguments);
        let said = text(&output.stdout) + &text(&output.stderr);
        (output.status.code().expect("an exit code"), said)
    }

    fn gos(&self, folder: &Path, seen: Option<&Path>) -> (bool, String) {
        let folder = folder.to_str().expect("a path");
        let mut arguments = vec!["export", &self.vkey, folder];
        arguments.extend(seen.map(|path| path.to_str().expect("a path")));
        go(&arguments)
    }

    /// Both accept it.
    fn accepted(&self, folder: &Path, seen: Option<&Path>) {
        let (code, said) = self.ours(folder, seen);
        assert_eq!(code, 0, "{said}");
        let (accepted, said) = self.gos(folder, seen);
        assert!(accepted, "{said}");
    }

    /// Both refuse it, and we say why.
    fn refused(&self, what: &str, folder: &Path, seen: Option<&Path>, says: &str) {
        let (code, said) = self.ours(folder, seen);
        assert_ne!(code, 0, "{what}: {said}");
        assert!(said.contains(says), "{what}: expected `{says}`: {said}");
        let (accepted, said) = self.gos(folder, seen);
        assert!(!accepted && said.contains("refused"), "{what}: {said}");
    }

    /// A copy to be manipulated.
    fn copy(&self, name: &str) -> PathBuf {
        let copy = self.server.folder().join(name);
        copy_folder(&self.folder, &copy);
        copy
    }
}

pub(super) fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).expect("a copy");
        }
    }
}

const BUNDLE: &str = "tile/entries/000";
const TILE: &str = "tile/0/000";

/// Changes the leaves of a bundle.
fn edit(folder: &Path, change: impl FnOnce(&mut Vec<Vec<u8>>)) {
    let path = folder.join(BUNDLE);
    let bytes = std::fs::read(&path).expect("a bundle");
    let leaves = unbundle(&bytes).expect("whole");
    let mut leaves = leaves.into_iter().map(<[u8]>::to_vec).collect();
    change(&mut leaves);
    std::fs::write(path, bundle(&leaves).expect("short leaves")).expect("written");
}

/// A decision that never was: somebody else asked.
fn forged(leaf: &[u8]) -> Vec<u8> {
    let text = String::from_utf8(leaf.to_vec()).expect("JSON");
    let forged = text.replace("agent/research", "agent/analysis");
    assert_ne!(forged, text);
    forged.into_bytes()
}

#[tokio::test]
async fn an_export_verifies_and_each_manipulation_of_it_is_refused() {
    for database in Database::both().await {
        let export = Export::new(database, 300).await;
        export.accepted(&export.folder, None);
        let n = 200;
        let at = |what: &str| format!("record {n}: {what}");

        let folder = export.copy("edited");
        edit(&folder, |leaves| leaves[n] = forged(&leaves[n]));
        export.refused(
            "an edited leaf",
            &folder,
            None,
            &at("the leaf does not have"),
        );
        let mut tile = std::fs::read(folder.join(TILE)).expect("a tile");
        edit(&folder, |leaves| {
            tile[n * 32..][..32].copy_from_slice(&leaf_hash(&leaves[n]));
        });
        std::fs::write(folder.join(TILE), tile).expect("written");
        export.refused("and its tile", &folder, None, "the records from 0 on");

        let folder = export.copy("spaced");
        edit(&folder, |leaves| leaves[n].insert(1, b' '));
        export.refused("white space", &folder, None, &at("not a leaf of this log"));
        let folder = export.copy("deleted");
        edit(&folder, |leaves| drop(leaves.remove(n)));
        export.refused(
            "a deleted leaf",
            &folder,
            None,
            &at("the leaf does not have"),
        );
        let folder = export.copy("swapped");
        edit(&folder, |leaves| leaves.swap(n, n + 1));
        export.refused(
            "swapped leaves",
            &folder,
            None,
            &at("the leaf does not have"),
        );
        let folder = export.copy("truncated");
        edit(&folder, |leaves| leaves.truncate(n));
        export.refused("truncated", &folder, None, &at("is missing"));
        let folder = export.copy("doubled");
        edit(&folder, |leaves| leaves.insert(n, leaves[n].clone()));
        export.refused("a doubled leaf", &folder, None, "record 201: ");
        let folder = export.copy("without");
        std::fs::remove_file(folder.join(BUNDLE)).expect("removed");
        export.refused("a bundle that is gone", &folder, None, BUNDLE);
        forged_checkpoints(&export);
    }
}

fn forged_checkpoints(export: &Export) {
    let note = std::fs::read_to_string(export.folder.join("checkpoint")).expect("a note");
    let (size, root) = (
        export.size.to_string(),
        note.lines().nth(2).expect("a root"),
    );
    let smaller = (export.size - 1).to_string();
    let other_root = STANDARD.encode([7; 32]);
    let signature = note.trim_end().rsplit(' ').next().expect("a signature");
    let mut bytes = STANDARD.decode(signature).expect("base64");
    bytes[20] ^= 1;
    for (name, from, to) in [
        ("root", root, other_root.as_str()),
        ("size", size.as_str(), smaller.as_str()),
        ("signature", signature, &STANDARD.encode(bytes)),
        ("origin", "zta.local/log", "zta.locaI/log"),
    ] {
        let folder = export.copy(&format!("forged-{name}"));
        std::fs::write(folder.join("checkpoint"), note.replacen(from, to, 1)).expect("written");
        export.refused(name, &folder, None, "checkpoint");
    }
}

#[tokio::test]
async fn a_log_that_goes_back_or_is_another_one_is_named() {
    for database in Database::both().await {
        let mut export = Export::new(database, 300).await;
        let seen = export.server.folder().join("seen");
        std::fs::copy(export.folder.join("checkpoint"), &seen).expect("a copy");
        export.accepted(&export.folder, Some(&seen));
        let admin = export.server.admin();
        let research = export.server.agent("writing", &["researcher"]).await;
        allowed(&research, call("web_search")).await;
        signed(&admin, export.size + 1).await;
        let (longer, later) = (export.server.folder().join("longer"), Path::new("later"));
        export.write(&longer, &[]);
        export.accepted(&longer, Some(&seen));
        let later = export.server.folder().join(later);
        std::fs::copy(longer.join("checkpoint"), &later).expect("a copy");
        export.refused("rolled back", &export.folder, Some(&later), "rolled back");

        // The rest alone, from what was seen on.
        let rest = export.server.folder().join("rest");
        export.write(
            &rest,
            &["--from-checkpoint", seen.to_str().expect("a path")],
        );
        assert!(!rest.join(BUNDLE).exists(), "only what is new");
        let (code, said) = export.ours(&rest, Some(&seen));
        assert_eq!(code, 0, "{said}");
        assert!(
            said.contains(&format!("records {} to", export.size)),
            "{said}"
        );
        let tile = rest.join(format!("tile/entries/001.p/{}", width(&longer)));
        let mut bytes = std::fs::read(&tile).expect("a bundle");
        *bytes.last_mut().expect("bytes") ^= 1;
        std::fs::write(&tile, bytes).expect("written");
        let (code, said) = export.ours(&rest, Some(&seen));
        assert_eq!(code, 1, "{said}");

        split_view(&mut export, &later).await;
    }
}

/// The width of the last bundle.
fn width(folder: &Path) -> u64 {
    let note = std::fs::read_to_string(folder.join("checkpoint")).expect("a note");
    let size: u64 = note
        .lines()
        .nth(1)
        .and_then(|l| l.parse().ok())
        .expect("a size");
    size % 256
}

/// Somebody with the database and, through the server, its key rewrites a record and has the
/// log signed anew: whoever kept a checkpoint finds it, and nobody else could.
async fn split_view(export: &mut Export, seen: &Path) {
    assert!(export.server.stop().await.success());
    let mut intruder = Intruder::open(&export.server).await;
    let leaf = "SELECT leaf FROM audit_events WHERE sequence = 200";
    let leaf = forged(&intruder.bytes(leaf).await[0]);
    let (hash, leaf) = (intruder.literal(&leaf_hash(&leaf)), intruder.literal(&leaf));
    intruder
        .change(&format!(
            "UPDATE audit_events SET leaf = {leaf}, leaf_hash = {hash}, \
             actor_id = 'spiffe://zta.local/agent/analysis' WHERE sequence = 200"
        ))
        .await;
    intruder.change("DELETE FROM checkpoints").await;
    intruder.change("DELETE FROM log_tiles").await;
    intruder.rewrite_head().await;
    export.server.start().await;
    signed(&export.server.admin(), 302).await;
    let folder = export.server.folder().join("split");
    export.write(&folder, &[]);
    export.accepted(&folder, None);
    let says = "a split view";
    export.refused("a split view", &folder, Some(seen), says);
    // And where the log is stored, likewise.
    let seen = seen.to_str().expect("a path");
    for more in [&[][..], &["--since"]] {
        let arguments = [&["audit", "verify", "--checkpoint", seen], more].concat();
        let output = export.server.zta(&arguments);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(says), "{said}");
    }
    let rest = export.server.folder().join("split-rest");
    let rest = rest.to_str().expect("a path");
    let output = export
        .server
        .zta(&["audit", "export", rest, "--from-checkpoint", seen]);
    assert!(text(&output.stderr).contains(says), "{output:?}");
}

#[tokio::test]
async fn the_stored_log_is_held_against_the_checkpoint_that_was_seen() {
    for database in Database::both().await {
        let server = Setup::on(database).start().await;
        let research = server.agent("research", &["researcher"]).await;
        let verify = |more: &[&str]| {
            let all = [&["audit", "verify", "--json", "--checkpoint", "seen"], more].concat();
            let output = server.zta(&all);
            let said = text(&output.stdout) + &text(&output.stderr);
            assert_eq!(output.status.code(), Some(0), "{said}");
            serde_json::from_str::<serde_json::Value>(&said).expect("JSON")
        };
        let missing = server.zta(&["audit", "verify", "--checkpoint", "seen", "--since"]);
        assert_eq!(missing.status.code(), Some(2), "nothing to go on from");
        fill(&research, 300).await;
        signed(&server.admin(), 300).await;
        assert_eq!(verify(&[])["extends_checkpoint"], false);
        let kept = std::fs::read_to_string(server.folder().join("seen")).expect("kept");
        fill(&research, 300).await;
        signed(&server.admin(), 600).await;
        let all = verify(&["--since"]);
        assert_eq!(all["extends_checkpoint"], true);
        let later = std::fs::read_to_string(server.folder().join("seen")).expect("kept");
        assert_ne!(kept, later, "the newest one is kept");
        let broken = server.folder().join("seen");
        std::fs::write(&broken, kept.replacen("\n3", "\n4", 1)).expect("written");
        let output = server.zta(&["audit", "verify", "--checkpoint", "seen"]);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    }
}

#[tokio::test]
async fn gos_code_verifies_receipts_and_consistency() {
    for database in Database::both().await {
        let server = Setup::on(database).start().await;
        let admin = server.admin();
        let research = server.agent("research", &["researcher"]).await;
        let sequence = allowed(&research, call("web_search")).await.sequence;
        let vkey = vkey(&admin).await;
        let early = receipt(&admin, sequence).await;
        let (_, old) = early.proof.split_once("\n\n").expect("a checkpoint");
        fill(&research, 300).await;
        let new = signed(&admin, 300).await;
        let file = |name: &str, bytes: &[u8]| {
            let path = server.folder().join(name);
            std::fs::write(&path, bytes).expect("written");
            path.to_str().expect("a path").to_owned()
        };
        let accepts = |receipt: &v1::Receipt| {
            let leaf = file("leaf", &receipt.leaf);
            go(&[
                "receipt",
                &vkey,
                &leaf,
                &file("proof", receipt.proof.as_bytes()),
            ])
        };
        for receipt in [
            &early,
            &receipt(&admin, sequence).await,
            &receipt(&admin, 0).await,
        ] {
            let (accepted, said) = accepts(receipt);
            assert!(accepted, "{said}");
            for (leaf, proof) in [
                (forged_any(&receipt.leaf), receipt.proof.clone()),
                (
                    receipt.leaf.clone(),
                    receipt.proof.replacen("index ", "index 1", 1),
                ),
                (
                    receipt.leaf.clone(),
                    receipt.proof.replacen("zta.local", "zta.locaI", 1),
                ),
            ] {
                let (accepted, said) = accepts(&v1::Receipt { leaf, proof });
                assert!(!accepted, "{said}");
            }
        }
        consistency(&admin, &vkey, (old, &new.note), &file).await;
    }
}

fn forged_any(leaf: &[u8]) -> Vec<u8> {
    let mut leaf = leaf.to_vec();
    leaf[20] ^= 1;
    leaf
}

async fn consistency(
    admin: &Client,
    vkey: &str,
    (old, new): (&str, &str),
    file: &impl Fn(&str, &[u8]) -> String,
) {
    let size = |note: &str| note.lines().nth(1).and_then(|l| l.parse().ok());
    let request = v1::GetConsistencyProofRequest {
        first_size: size(old).expect("a size"),
        second_size: size(new).expect("a size"),
    };
    let answer = admin.audit().get_consistency_proof(request).await;
    let mut hashes = answer.expect("a proof").into_inner().hashes;
    let verdict = |hashes: &[Vec<u8>]| {
        let lines: Vec<String> = hashes.iter().map(|h| STANDARD.encode(h)).collect();
        let (old, new) = (file("old", old.as_bytes()), file("new", new.as_bytes()));
        go(&[
            "consistency",
            vkey,
            &old,
            &new,
            &file("hashes", lines.join("\n").as_bytes()),
        ])
    };
    let (accepted, said) = verdict(&hashes);
    assert!(accepted, "{said}");
    hashes[0][0] ^= 1;
    let (accepted, said) = verdict(&hashes);
    assert!(!accepted, "{said}");
}
