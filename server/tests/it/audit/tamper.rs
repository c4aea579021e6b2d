//! Manipulations of the stored log, on both databases, by somebody who can do anything
//! there: `zta audit verify` finds each and names the record.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zta_client::v1;
use zta_server::audit::merkle::leaf_hash;

use super::intruder::Intruder;
use crate::support::rpc::{authorize, call, call_with, events};
use crate::support::{Database, Server, Setup};

/// A stopped server with a log in which `target` is a decision with every column filled.
struct Log {
    server: Server,
    intruder: Intruder,
    target: u64,
    /// The last sequence.
    last: u64,
    /// An event that has no inputs.
    bare: u64,
}

async fn log(database: Database) -> Log {
    let mut server = Setup::on(database).start().await;
    let admin = server.admin();
    let analysis = server.agent("analysis", &["analyst"]).await;
    authorize(&analysis, call("summarize"))
        .await
        .expect("a decision");
    let full = v1::AuthorizeRequest {
        session_id: "run-7".to_owned(),
        task_id: "task-7".to_owned(),
        user: "alice".to_owned(),
        correlation_id: "c-7".to_owned(),
        traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned(),
        ..call_with("read_document", r#"{"collection":"secret","path":"x"}"#)
    };
    let target = authorize(&analysis, full)
        .await
        .expect("a decision")
        .sequence;
    for _ in 0..5 {
        authorize(&analysis, call("summarize"))
            .await
            .expect("a decision");
    }
    let bare = events(&admin, &["enrolled"]).await[0].0;
    assert!(server.stop().await.success());
    server.assert_verifies();
    let mut intruder = Intruder::open(&server).await;
    let last = intruder
        .number("SELECT max(sequence) FROM audit_events")
        .await;
    let last = u64::try_from(last).expect("a sequence");
    Log {
        server,
        intruder,
        target,
        last,
        bare,
    }
}

impl Log {
    /// After these statements the log must not verify, and the verifier must say this.
    async fn found(&mut self, what: &str, statements: &[String], says: &str) {
        for sql in statements {
            self.intruder.change(sql).await;
        }
        self.must_be_found(what, says).await;
    }

    async fn must_be_found(&mut self, what: &str, says: &str) {
        let (code, said) = self.server.verify();
        let name = self.server.database.name();
        assert_eq!(code, 1, "{name}: {what} was not found: {said}");
        assert!(said.contains("does NOT verify"), "{name}: {what}: {said}");
        assert!(
            said.contains(says),
            "{name}: {what}: expected `{says}`: {said}"
        );
        self.intruder.restore().await;
    }
}

const COLUMNS: [(&str, &str); 20] = [
    ("event_id", "'00000000-0000-7000-8000-000000000000'"),
    ("time", "'2026-01-01T00:00:00.000000Z'"),
    ("type", "'login'"),
    ("actor_type", "'ZTA::User'"),
    ("actor_id", "'spiffe://zta.local/agent/writing'"),
    ("instance_id", "'00000000-0000-7000-8000-000000000000'"),
    ("source", "'192.0.2.9'"),
    ("action_type", "'ZTA::Action'"),
    ("action_id", "'call_tool'"),
    ("resource_type", "'ZTA::Model'"),
    ("resource_id", "'web_search'"),
    ("effect", "'allow'"),
    ("reason", "'NOT_PERMITTED'"),
    ("policies", "'[]'"),
    ("revision", "7"),
    ("session_id", "'run-8'"),
    ("task_id", "'task-8'"),
    ("user_id", "'bob'"),
    ("correlation_id", "'c-8'"),
    ("trace_id", "'0af7651916cd43dd8448eb211c80319d'"),
];

/// Columns that may not be NULL.
const REQUIRED: [&str; 4] = ["event_id", "time", "type", "policies"];

#[tokio::test]
async fn each_edited_column_is_found() {
    for database in Database::both().await {
        let mut log = log(database).await;
        let n = log.target;
        for (column, value) in COLUMNS {
            let value = match (column, log.intruder.is_postgres()) {
                ("policies", true) => "'{}'",
                _ => value,
            };
            let says = format!("record {n}: the column `{column}` is not what the leaf says");
            let edit =
                |v: &str| format!("UPDATE audit_events SET {column} = {v} WHERE sequence = {n}");
            log.found(column, &[edit(value)], &says).await;
            if !REQUIRED.contains(&column) {
                log.found(column, &[edit("NULL")], &says).await;
            }
        }
        let another = "'00000000-0000-4000-8000-000000000000'";
        let edit = format!("UPDATE audit_events SET log_id = {another} WHERE sequence = {n}");
        log.found("log_id", &[edit], &format!("record {n}: ")).await;
        log.server.assert_verifies();
    }
}

#[tokio::test]
async fn columns_that_no_longer_parse_are_found() {
    // Postgres has types that refuse these.
    let mut log = log(Database::Sqlite).await;
    let n = log.target;
    for edit in [
        "event_id = 'x'",
        "time = 'yesterday'",
        "instance_id = 'x'",
        "policies = 'x'",
        "revision = -1",
        "leaf_hash = x'00'",
        "leaf = x'00'",
        "log_id = 'x'",
    ] {
        let sql = format!("UPDATE audit_events SET {edit} WHERE sequence = {n}");
        log.found(edit, &[sql], &format!("record {n}: ")).await;
    }
    log.found(
        "head",
        &["UPDATE log_head SET frontier = x'00'".to_owned()],
        "",
    )
    .await;
    log.found(
        "salt",
        &[format!(
            "UPDATE audit_inputs SET salt = x'00' WHERE sequence = {n}"
        )],
        &format!("record {n}: "),
    )
    .await;
}

#[tokio::test]
async fn an_edited_leaf_is_found_however_careful_the_forger() {
    for database in Database::both().await {
        let mut log = log(database).await;
        let n = log.target;
        let leaf = log
            .intruder
            .bytes(&format!(
                "SELECT leaf FROM audit_events WHERE sequence = {n}"
            ))
            .await;
        let leaf = String::from_utf8(leaf[0].clone()).expect("JSON");
        let forged = leaf.replace(r#""effect":"deny""#, r#""effect":"allow""#);
        assert_ne!(forged, leaf);
        let set_leaf = |log: &Log, text: &str| {
            let leaf = log.intruder.literal(text.as_bytes());
            format!("UPDATE audit_events SET leaf = {leaf} WHERE sequence = {n}")
        };
        let set_hash = |log: &Log, text: &str| {
            let hash = log.intruder.literal(&leaf_hash(text.as_bytes()));
            format!("UPDATE audit_events SET leaf_hash = {hash} WHERE sequence = {n}")
        };
        let column = format!("UPDATE audit_events SET effect = 'allow' WHERE sequence = {n}");

        let edit = [set_leaf(&log, &forged)];
        log.found(
            "the leaf",
            &edit,
            &format!("record {n}: the stored leaf hash"),
        )
        .await;
        let edit = [set_hash(&log, &forged)];
        log.found(
            "the hash",
            &edit,
            &format!("record {n}: the stored leaf hash"),
        )
        .await;
        let edit = [set_leaf(&log, &forged), set_hash(&log, &forged)];
        log.found(
            "leaf and hash",
            &edit,
            &format!("record {n}: the column `effect`"),
        )
        .await;
        let edit = [set_leaf(&log, &forged), set_hash(&log, &forged), column];
        log.found(
            "leaf, hash and column",
            &edit,
            "not the tree that the head row describes",
        )
        .await;
        for sql in &edit {
            log.intruder.change(sql).await;
        }
        log.intruder.rewrite_head().await;
        log.must_be_found("and the head", "are not those that the checkpoint signs")
            .await;

        // Not the canonical form: the same to a reader of JSON, another leaf to the tree.
        let spaced = leaf.replacen("{\"", "{ \"", 1);
        let edit = [set_leaf(&log, &spaced), set_hash(&log, &spaced)];
        log.found("white space", &edit, &format!("record {n}: "))
            .await;
        log.server.assert_verifies();
    }
}

#[tokio::test]
async fn deleted_swapped_truncated_and_appended_rows_are_found() {
    for database in Database::both().await {
        let mut log = log(database).await;
        let (n, last) = (log.target, log.last);
        let delete = |from: u64| format!("DELETE FROM audit_events WHERE sequence = {from}");
        log.found(
            "a deleted row",
            &[delete(n)],
            &format!("record {n}: is missing"),
        )
        .await;
        log.found(
            "the first row deleted",
            &[delete(0)],
            "record 0: is missing",
        )
        .await;
        log.found(
            "the last row deleted",
            &[delete(last)],
            &format!("record {last}: is missing"),
        )
        .await;
        let all = "DELETE FROM audit_events".to_owned();
        log.found("all rows deleted", &[all], "record 0: is missing")
            .await;

        let moved = |from: u64, to: u64| {
            format!("UPDATE audit_events SET sequence = {to} WHERE sequence = {from}")
        };
        let swap = [moved(n, 9999), moved(n + 1, n), moved(9999, n + 1)];
        log.found("swapped rows", &swap, &format!("record {n}: "))
            .await;
        let inputs = |from: u64, to: u64| moved(from, to).replace("audit_events", "audit_inputs");
        let with_inputs = [inputs(n, 9999), inputs(n + 1, n), inputs(9999, n + 1)];
        let all: Vec<String> = swap.iter().chain(&with_inputs).cloned().collect();
        log.found(
            "rows swapped with their inputs",
            &all,
            "not the tree that the head row describes",
        )
        .await;

        for sequence in last - 2..=last {
            log.intruder.change(&delete(sequence)).await;
        }
        log.intruder.rewrite_head().await;
        log.must_be_found("a truncated tail with its head", "a checkpoint signs")
            .await;

        let columns = COLUMNS.map(|(column, _)| column).join(", ");
        let id = "CAST('00000000-0000-7000-8000-00000000000a' AS UUID)";
        let id = if log.intruder.is_postgres() {
            id
        } else {
            "'00000000-0000-7000-8000-00000000000a'"
        };
        let values = columns.replacen("event_id", id, 1);
        let append = format!(
            "INSERT INTO audit_events (sequence, log_id, {columns}, leaf, leaf_hash) \
             SELECT {last} + 1, log_id, {values}, leaf, leaf_hash FROM audit_events WHERE sequence = {n}"
        );
        log.found(
            "an appended row",
            &[append],
            &format!("record {}: stands beyond the head", last + 1),
        )
        .await;
        log.server.assert_verifies();
    }
}

#[tokio::test]
async fn a_changed_head_or_checkpoint_is_found() {
    for database in Database::both().await {
        let mut log = log(database).await;
        let last = log.last;
        log.found(
            "a larger head",
            &["UPDATE log_head SET size = size + 1".to_owned()],
            &format!("record {}: is missing", last + 1),
        )
        .await;
        log.found(
            "a smaller head",
            &["UPDATE log_head SET size = size - 1".to_owned()],
            "",
        )
        .await;
        let roots = log.intruder.bytes("SELECT frontier FROM log_head").await;
        let mut roots = roots[0].clone();
        roots[0] ^= 1;
        let roots = log.intruder.literal(&roots);
        let edit = format!("UPDATE log_head SET frontier = {roots}");
        log.found(
            "another frontier",
            &[edit],
            "not the tree that the head row describes",
        )
        .await;

        let as_bytes = match log.intruder.is_postgres() {
            true => "convert_to(note, 'UTF8')",
            false => "CAST(note AS BLOB)",
        };
        let newest = format!("SELECT {as_bytes} FROM checkpoints ORDER BY size DESC LIMIT 1");
        let note = log.intruder.bytes(&newest).await;
        let note = String::from_utf8(note[0].clone()).expect("a note");
        for (what, forged) in forged_notes(&note) {
            let edit = format!(
                "UPDATE checkpoints SET note = '{forged}' WHERE size = (SELECT max(size) FROM checkpoints)"
            );
            log.found(what, &[edit], "checkpoint").await;
        }
        let hide = "INSERT INTO checkpoints SELECT 1000000, log_id, note FROM checkpoints \
                    ORDER BY size LIMIT 1";
        log.found(
            "an old note in front of the newest",
            &[hide.to_owned()],
            "stands at another size than it signs",
        )
        .await;
        let edit = "UPDATE log_head SET log_id = '00000000-0000-4000-8000-000000000000'";
        log.intruder.change(edit).await;
        let (code, said) = log.server.verify();
        // Postgres: the keys are sealed to the log's id, so that none of them opens.
        assert_ne!(code, 0, "another log_id: {said}");
        log.intruder.restore().await;
        log.server.assert_verifies();
    }
}

/// Notes that are not what the log's key signed.
fn forged_notes(note: &str) -> Vec<(&'static str, String)> {
    let lines: Vec<&str> = note.lines().collect();
    let [origin, size, root, "", signature] = lines.as_slice() else {
        panic!("five lines: {note:?}");
    };
    let other_root = STANDARD.encode([7; 32]);
    let (name, encoded) = signature.rsplit_once(' ').expect("a signature");
    let mut bytes = STANDARD.decode(encoded).expect("base64");
    *bytes.last_mut().expect("bytes") ^= 1;
    let flipped = STANDARD.encode(&bytes);
    let zero = STANDARD.encode([&bytes[..4], &[0; 64]].concat());
    let make = |origin: &str, size: &str, root: &str, signature: &str| {
        format!("{origin}\n{size}\n{root}\n\n{signature}\n")
    };
    vec![
        ("another root", make(origin, size, &other_root, signature)),
        ("another size", make(origin, "1", root, signature)),
        (
            "another log",
            make("zta.local/log/x", size, root, signature),
        ),
        (
            "a flipped signature",
            make(origin, size, root, &format!("{name} {flipped}")),
        ),
        (
            "a zero signature",
            make(origin, size, root, &format!("{name} {zero}")),
        ),
        ("no signature", format!("{origin}\n{size}\n{root}\n\n")),
        ("no note", "trust me, a checkpoint".to_owned()),
    ]
}

#[tokio::test]
async fn edited_inputs_are_found_and_destroyed_ones_are_counted() {
    for database in Database::both().await {
        let mut log = log(database).await;
        let (n, bare) = (log.target, log.bare);
        let harmless = log.intruder.literal(b"{}");
        let salt = log.intruder.literal(&[7; 16]);
        let says = format!("record {n}: the inputs are not those of the commitment");
        let edit = format!("UPDATE audit_inputs SET inputs = {harmless} WHERE sequence = {n}");
        log.found("edited inputs", &[edit], &says).await;
        let edit = format!("UPDATE audit_inputs SET salt = {salt} WHERE sequence = {n}");
        log.found("another salt", &[edit], &says).await;
        let edit = format!(
            "INSERT INTO audit_inputs (sequence, log_id, salt, inputs) \
             SELECT {bare}, log_id, {salt}, {harmless} FROM log_head"
        );
        log.found(
            "inputs beside an event that has none",
            &[edit],
            &format!("record {bare}: "),
        )
        .await;

        let before: serde_json::Value = serde_json::from_str(&log.server.verify().1).expect("JSON");
        let total = before["inputs"].as_u64().expect("a number");
        assert!(total > 5, "{before}");
        log.intruder
            .change(&format!("DELETE FROM audit_inputs WHERE sequence = {n}"))
            .await;
        for (left, missing) in [(total - 1, 1), (0, total)] {
            let (code, said) = log.server.verify();
            assert_eq!(code, 0, "every proof still holds: {said}");
            let proof: serde_json::Value = serde_json::from_str(&said).expect("JSON");
            assert_eq!(
                (&proof["inputs"], &proof["inputs_missing"]),
                (&left.into(), &missing.into())
            );
            assert_eq!(
                (&proof["root"], &proof["verified"]),
                (&before["root"], &true.into())
            );
            log.intruder.run("DELETE FROM audit_inputs").await;
        }
        let output = log.server.zta(&["audit", "verify"]);
        let said = crate::support::server::text(&output.stdout);
        assert!(said.contains(&format!("removed: {total}")), "{said}");
    }
}

#[tokio::test]
async fn edited_tiles_are_found_and_made_again() {
    for database in Database::both().await {
        let mut server = Setup::on(database).start().await;
        let research = server.agent("research", &["researcher"]).await;
        super::proofs::fill(&research, 600).await;
        assert!(server.stop().await.success());
        server.assert_verifies();
        let mut intruder = Intruder::open(&server).await;
        let hash = intruder.literal(&[7; 32]);
        let edit = format!("UPDATE log_tiles SET root = {hash} WHERE number = 1");
        intruder.change(&edit).await;
        let (code, said) = server.verify();
        assert_eq!(code, 1, "{said}");
        assert!(said.contains("the stored tile 0/1 is not"), "{said}");
        intruder.change("DELETE FROM log_tiles").await;
        server.assert_verifies();
        server.start().await;
        super::proofs::receipt(&server.admin(), 300).await;
        assert!(server.stop().await.success());
        let tiles = intruder.number("SELECT count(*) FROM log_tiles").await;
        assert_eq!(tiles, 2, "made again");
        server.assert_verifies();
    }
}
