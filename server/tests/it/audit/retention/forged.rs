//! Records that were deleted, or whose hashes were changed, by somebody who has the database: none
//! of it passes for pruning.

use zta_client::v1;

use super::{Kept, WIDTH, path};
use crate::audit::intruder::Intruder;
use crate::audit::proofs::signed;
use crate::support::rpc::{allowed, call, events};
use crate::support::server::text;
use crate::support::{Database, eventually};

/// Takes records away as somebody would who owns the database and has no export of them.
async fn take_away(intruder: &mut Intruder, below: u64) {
    if !intruder.is_postgres() {
        let delete = format!("DELETE FROM audit_events WHERE sequence < {below}");
        intruder.change(&delete).await;
        return;
    }
    for first in (0..below).step_by(WIDTH as usize) {
        let drop = format!("DROP TABLE audit_events_{first}");
        intruder.run(&drop).await;
    }
}

#[tokio::test]
async fn records_that_were_deleted_are_no_pruned_ones() {
    for database in Database::both().await {
        let mut kept = Kept::on(database).await;
        assert!(kept.server.stop().await.success());
        let mut intruder = Intruder::open(&kept.server).await;
        take_away(&mut intruder, 256).await;
        kept.unproved("deleted", "record 0: is missing");
        // And a row that says that they were pruned, by an event that says something else.
        let row = "INSERT INTO audit_pruned (size, log_id, event_id) \
                   SELECT 256, log_id, event_id FROM audit_events WHERE sequence = 300";
        intruder.change(row).await;
        kept.unproved(
            "said to be pruned",
            "no `log_pruned` event that the log's key signed",
        );
        let event = "UPDATE audit_pruned SET event_id = '00000000-0000-4000-8000-000000000000'";
        intruder.change(event).await;
        kept.unproved(
            "by no event",
            "no `log_pruned` event that the log's key signed",
        );
    }
}

/// Whoever has the database and not the log's key writes an event of their own, as `zta audit
/// prune` would, moves the head, and takes the records away.
#[tokio::test]
async fn an_act_that_the_logs_key_did_not_sign_is_none() {
    for database in Database::both().await {
        let mut kept = Kept::on(database).await;
        assert!(kept.server.stop().await.success());
        let note = std::fs::read_to_string(kept.export.join("checkpoint")).expect("a note");
        let other = Kept::on(Database::Sqlite).await;
        other.pruned(&[&other.export], &[]);
        let others = events(&other.admin, &["log_pruned"]).await.remove(0).1;
        let others = others["detail"]["statement"].as_str().expect("a text");
        let mut intruder = Intruder::open(&kept.server).await;
        for (what, statement) in [
            ("a checkpoint", note.as_str()),
            ("another log's statement", others),
            ("nothing", ""),
        ] {
            let id = uuid::Uuid::new_v4();
            intruder.append_pruned(id, 512, statement).await;
            let row = format!(
                "INSERT INTO audit_pruned (size, log_id, event_id) \
                 SELECT 512, log_id, '{id}' FROM log_head"
            );
            intruder.change(&row).await;
            // Not a record goes by a prune that trusts it.
            let (code, said) = kept.prune(&[&kept.export], &["--before", "1"]);
            assert_ne!(code, 0, "{what}: {said}");
            assert_eq!(
                intruder
                    .number("SELECT min(sequence) FROM audit_events")
                    .await,
                0,
                "{what}"
            );
            take_away(&mut intruder, 512).await;
            kept.unproved(what, "no `log_pruned` event that the log's key signed");
            let file = kept.server.folder().join("seen");
            std::fs::write(&file, &note).expect("a note");
            let since = ["audit", "verify", "--since", "--checkpoint", path(&file)];
            let said = kept.server.zta(&since);
            assert_eq!(
                said.status.code(),
                Some(1),
                "{what}: {}",
                text(&said.stderr)
            );
            if intruder.is_postgres() {
                // Its partitions are gone for good.
                break;
            }
            intruder.restore().await;
        }
    }
}

#[tokio::test]
async fn what_is_left_of_pruned_records_is_guarded_and_missed() {
    for database in Database::both().await {
        let mut kept = Kept::on(database).await;
        kept.pruned(&[&kept.export], &["--before", "300"]);
        assert!(kept.server.stop().await.success());
        kept.server.assert_verifies();
        let mut intruder = Intruder::open(&kept.server).await;
        let more = "INSERT INTO audit_pruned (size, log_id, event_id) \
                    SELECT 512, log_id, event_id FROM audit_pruned";
        intruder.change(more).await;
        kept.unproved(
            "further than the event says",
            "no `log_pruned` event that the log's key signed",
        );
        intruder.restore().await;

        let hash = intruder.literal(&[7; 32 * 256]);
        let edit = format!("UPDATE log_tiles SET hashes = {hash} WHERE level = 0 AND number = 0");
        intruder.change(&edit).await;
        kept.unproved("an edited tile", "the tile 0/0 is missing or altered");
        intruder.restore().await;
        let delete = "DELETE FROM log_tiles WHERE level = 0 AND number = 0";
        intruder.change(delete).await;
        kept.unproved("no tile", "the tile 0/0 is missing or altered");
        // It is not made of what is not there, and what is not proved is not signed.
        kept.server.start().await;
        kept.admin = kept.server.admin();
        let decision = allowed(&kept.research, call("web_search")).await;
        eventually("the server says so", async || {
            match kept
                .server
                .log()
                .contains("hashes of the tile 1/0 are missing")
            {
                true => Ok(()),
                false => Err("not yet"),
            }
        })
        .await;
        let request = v1::GetCheckpointRequest {};
        let newest = kept.admin.audit().get_checkpoint(request).await;
        let size = newest.expect("the last one").into_inner().size;
        assert!(size <= decision.sequence, "signed {size}");
        let back = "INSERT INTO log_tiles SELECT * FROM before_log_tiles \
                    WHERE level = 0 AND number = 0";
        intruder.change(back).await;
        signed(&kept.admin, decision.sequence + 1).await;
        kept.server.assert_verifies();
    }
}
