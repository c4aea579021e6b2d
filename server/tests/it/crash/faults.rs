//! What the log stands on fails under load. What was answered stays on record, once; what
//! could not be put on record was not answered; and the service comes back by itself.

use sqlx::Executor as _;

use super::load::{Load, all_on_record};
use crate::support::{Cluster, Database, Server, Setup, eventually};

/// Answers before and after a fault: enough that batches are in flight.
const ANSWERS: usize = 200;

/// A server on a Postgres of its own, with two agents at work.
async fn under_load() -> (Cluster, Server, Load) {
    let cluster = Cluster::start();
    let database = Database::postgres_at(&cluster.url()).await;
    let server = Setup::on(database).start().await;
    let research = server.agent("research", &["researcher"]).await;
    let analysis = server.agent("analysis", &["researcher"]).await;
    let load = Load::start(&[research, analysis]);
    load.answers(ANSWERS).await;
    (cluster, server, load)
}

#[tokio::test]
async fn a_killed_postgres_lost_no_answered_decision() {
    let (cluster, server, load) = under_load().await;
    for _ in 0..2 {
        cluster.kill();
        load.refusals(20).await;
        cluster.start_again();
        load.answers(ANSWERS).await;
    }
    all_on_record(&server, &load.stop().await).await;
}

#[tokio::test]
async fn a_table_that_cannot_grow_loses_nothing() {
    let (cluster, server, load) = under_load().await;
    // Tables are larger than a WAL segment soon, so the log of the database goes on.
    cluster.limit_files("1048576");
    load.refusals(20).await;
    let log = cluster.log();
    assert!(log.contains("could not extend file"), "{log}");
    assert!(!log.contains("PANIC"), "{log}");
    cluster.limit_files("unlimited");
    load.answers(ANSWERS).await;
    all_on_record(&server, &load.stop().await).await;
}

#[tokio::test]
async fn a_database_that_cannot_write_its_own_log_loses_nothing() {
    let (cluster, server, load) = under_load().await;
    let Database::Postgres(database) = &*server.database else {
        panic!("postgres")
    };
    let mut intruder = database.intruder().await;
    cluster.limit_files("4096");
    // A commit that needs no room in a table: what fails is the log of the database itself.
    let commit = "SELECT pg_logical_emit_message(true, 'zta', 'full')";
    let _ = intruder.execute(commit).await;
    load.refusals(20).await;
    let log = cluster.log();
    assert!(log.contains("PANIC"), "{log}");
    // Such a Postgres ends: whoever runs it makes room and starts it.
    cluster.start_again();
    load.answers(ANSWERS).await;
    all_on_record(&server, &load.stop().await).await;
}

#[tokio::test]
async fn a_replica_killed_among_two_lost_nothing_and_the_other_signs_on() {
    let mut server = Setup::on(Database::postgres().await).start().await;
    let other = server.replica().await;
    let research = server.enrolled("research", &["researcher"]).await;
    let load = Load::start(&[
        server.client(research.clone()),
        other.client(research.clone()),
    ]);
    load.answers(ANSWERS).await;
    let signed = || async {
        let mut audit = other.admin().audit();
        let answer = audit.get_checkpoint(zta_client::v1::GetCheckpointRequest {});
        answer.await.map_or(0, |answer| answer.into_inner().size)
    };
    for _ in 0..2 {
        server.kill();
        let before = signed().await;
        load.answers(ANSWERS).await;
        eventually(
            "a checkpoint by the one that lives",
            async || match signed().await {
                size if size > before + ANSWERS as u64 => Ok(()),
                size => Err(format!("{size} after {before}")),
            },
        )
        .await;
        server.start().await;
        load.answers(ANSWERS).await;
    }
    let answered = load.stop().await;
    all_on_record(&server, &answered).await;
    all_on_record(&other, &answered).await;
}
