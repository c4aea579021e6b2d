//! `zta policy status` and `zta policy watch`.

use serde_json::{Value, json};
use zta_client::v1;

use super::log::revision_json;
use crate::cli::{Failure, Options, line, printable, table, time_text};

/// Which replica runs which revision. Exit code 1 while one that runs is behind.
pub(super) async fn status(options: &Options) -> Result<(), Failure> {
    let answer = options
        .client()?
        .policies()
        .get_status(v1::GetStatusRequest {})
        .await?
        .into_inner();
    let behind: Vec<&v1::Replica> = answer
        .replicas
        .iter()
        .filter(|r| r.lagging && r.state() == v1::ReplicaState::Running)
        .collect();
    if options.json {
        let replicas: Vec<Value> = answer.replicas.iter().map(replica_json).collect();
        line(json!({
            "revision": answer.revision,
            "time": time_text(answer.time),
            "replicas": replicas,
        }))?;
    } else {
        line(format!("revision {} is in force", answer.revision))?;
        let rows: Vec<Vec<String>> = answer.replicas.iter().map(row).collect();
        let head = [
            "REPLICA",
            "STATE",
            "REVISION",
            "SINCE",
            "LAST SEEN",
            "VERSION",
            "ID",
        ];
        table(&head, &rows)?;
    }
    match behind.as_slice() {
        [] => Ok(()),
        behind => Err(Failure::No(format!(
            "{} replicas run an older revision; their next decision brings them up to date",
            behind.len()
        ))),
    }
}

fn state(replica: &v1::Replica) -> String {
    let name = replica.state().as_str_name();
    name.trim_start_matches("REPLICA_STATE_")
        .to_ascii_lowercase()
}

fn row(replica: &v1::Replica) -> Vec<String> {
    let here = if replica.answering { " (this one)" } else { "" };
    let lag = if replica.lagging { ", behind" } else { "" };
    vec![
        printable(&format!("{}{here}", replica.name)),
        format!("{}{lag}", state(replica)),
        replica.revision.to_string(),
        time_text(replica.revision_time),
        time_text(replica.seen_time),
        replica.version.clone(),
        replica.id.clone(),
    ]
}

fn replica_json(replica: &v1::Replica) -> Value {
    json!({
        "id": replica.id,
        "name": replica.name,
        "version": replica.version,
        "state": state(replica),
        "revision": replica.revision,
        "revision_time": time_text(replica.revision_time),
        "start_time": time_text(replica.start_time),
        "seen_time": time_text(replica.seen_time),
        "lagging": replica.lagging,
        "answering": replica.answering,
    })
}

/// Tells of each revision as it comes, until it is stopped or refused.
pub(super) async fn watch(options: &Options, after: u64) -> Result<(), Failure> {
    let request = v1::WatchRevisionsRequest { after };
    let answer = options
        .client()?
        .policies()
        .watch_revisions(request)
        .await?;
    let mut stream = answer.into_inner();
    while let Some(news) = stream.message().await? {
        for revision in &news.revisions {
            line(match options.json {
                true => revision_json(revision).to_string(),
                false => printable(&format!(
                    "revision {}: {} policies, {}, {}",
                    revision.number,
                    revision.policies,
                    time_text(revision.apply_time),
                    revision.message.lines().next().unwrap_or_default()
                )),
            })?;
        }
    }
    Ok(())
}
