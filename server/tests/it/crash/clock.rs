//! The clock of a running server jumps. Order on record is by sequence and not by time, so
//! nothing of it is lost; whatever a wrong clock makes unsure is refused.

use std::path::PathBuf;

use super::load::{Answered, all_on_record};
use crate::support::rpc::{allowed, authorize, call};
use crate::support::{Database, Setup, eventually};
use tempfile::TempDir;

/// The library that stands between a process and its clock.
pub(crate) fn faketime() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").expect("/usr/lib");
    let found = folders
        .filter_map(Result::ok)
        .map(|folder| folder.path().join("faketime/libfaketime.so.1"))
        .chain([PathBuf::from("/usr/local/lib/faketime/libfaketime.so.1")])
        .find(|library| library.exists());
    found.expect("libfaketime is not installed: `make test` installs it")
}

/// What the wall clock of a server is off by. Its durations are real.
struct Offset(TempDir);

impl Offset {
    fn setup(&self, database: Database) -> Setup {
        self.jump("+0");
        Setup::on(database)
            .set("FAKETIME_TIMESTAMP_FILE", self.file().display())
            .set("FAKETIME_NO_CACHE", 1)
            .set("FAKETIME_DONT_FAKE_MONOTONIC", 1)
            .set("LD_PRELOAD", faketime().display())
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("offset")
    }

    /// In seconds, signed.
    fn jump(&self, offset: &str) {
        let new = self.file().with_extension("new");
        std::fs::write(&new, offset).expect("an offset");
        std::fs::rename(new, self.file()).expect("an offset in place");
    }
}

#[tokio::test]
async fn a_clock_that_jumps_back_loses_nothing() {
    for database in Database::both().await {
        let offset = Offset(tempfile::tempdir().expect("a folder"));
        let server = offset.setup(database).start().await;
        let credential = server.enrolled("research", &["researcher"]).await;
        let research = server.client(credential.clone());
        let mut answered: Vec<Answered> = Vec::new();
        for jump in ["+0", "-2", "+3", "-1", "+0"] {
            offset.jump(jump);
            for _ in 0..5 {
                let answer = allowed(&research, call("web_search")).await;
                answered.push((answer.sequence, answer.decision_id));
            }
        }
        assert!(answered.is_sorted(), "{answered:?}");
        // By so much that the key's certificate does not hold yet: no decision by guess.
        offset.jump("-86400");
        let late = server.client(credential);
        let refused = authorize(&late, call("web_search")).await;
        refused.expect_err("no decision a day before the key was certified");
        offset.jump("+0");
        eventually("decisions again", async || {
            authorize(&research, call("web_search")).await
        })
        .await;
        all_on_record(&server, &answered).await;
    }
}
