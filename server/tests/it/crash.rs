//! Crashes and faults under load. Here: kill -9 of the server, on both databases; each
//! decision that was answered is in the log at its sequence, and the log verifies.

pub(crate) mod clock;
mod faults;
mod load;

use std::path::Path;

use zta_bench::{crash, database::Database, device};

/// Enough that batches of the audit writer are in flight; a second or two.
const ANSWERS: usize = 300;

async fn nothing_is_lost(database: Option<Database>) {
    let binary = Path::new(env!("CARGO_BIN_EXE_zta"));
    let survived = crash::run(binary, &device::durable_dir(), database, ANSWERS)
        .await
        .expect("each answered decision is on record");
    assert!(survived.answered >= ANSWERS, "{survived:?}");
    assert!(survived.recorded >= survived.answered, "{survived:?}");
}

#[tokio::test]
async fn a_killed_server_lost_no_answered_decision_on_sqlite() {
    nothing_is_lost(None).await;
}

#[tokio::test]
async fn a_killed_server_lost_no_answered_decision_on_postgres() {
    let url = std::env::var("ZTA_TEST_POSTGRES_URL").expect(
        "ZTA_TEST_POSTGRES_URL is not set: run `make test`, or this test under \
         `tools/with-postgres.sh cargo test`",
    );
    let name = format!("zta_crash_{}", std::process::id());
    let database = Database::create(&url, &name).await.expect("a database");
    nothing_is_lost(Some(database)).await;
}
