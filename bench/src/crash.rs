//! Kill the server under load; what it had answered must be on record.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use tokio::{sync::mpsc, task::JoinSet};
use zta_client::{Client, Credential};
use zta_proto::v1;

use crate::{
    Result,
    database::Database,
    requests::{self, Case},
    server::RealServer,
    setup,
};

const CONNECTIONS: usize = 2;
const IN_FLIGHT: usize = 16;
const PAGE: u32 = 1000;
/// How long the load may take to reach the number of answers that the crash waits for.
const LOAD_TIMEOUT: Duration = Duration::from_secs(60);

/// What a crash left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Survived {
    /// Decisions that were answered before the server was killed.
    pub answered: usize,
    /// Decisions in the log after it was started again.
    pub recorded: usize,
}

/// An answered decision: its place in the log and its id.
type Answered = (u64, String);

/// Starts a server, loads it, kills it with SIGKILL after `answers` answers while requests
/// are in flight, starts it again, looks every answered decision up in the log and
/// verifies the log.
///
/// # Errors
/// A decision is missing or another than was answered, or the log does not verify.
pub async fn run(
    binary: &Path,
    parent_dir: &Path,
    database: Option<Database>,
    answers: usize,
) -> Result<Survived> {
    let mut server = RealServer::start(binary, parent_dir, database).await?;
    let agent = setup::prepare(&server).await?;
    let answered = load_and_kill(&mut server, &agent, answers).await?;

    server.launch().await?;
    let recorded = decisions(&server).await?;
    find_all(&answered, &recorded)?;
    still_decides(&server, &agent).await?;
    server.stop().await?;
    server.verify_audit()?;
    Ok(Survived {
        answered: answered.len(),
        recorded: recorded.len(),
    })
}

/// Every answered decision, at its sequence.
fn find_all(answered: &[Answered], recorded: &BTreeMap<u64, String>) -> Result<()> {
    for (sequence, id) in answered {
        match recorded.get(sequence) {
            Some(found) if found == id => {}
            Some(found) => {
                return Err(format!("event {sequence} is {found}, the answer was {id}").into());
            }
            None => return Err(format!("answered decision {id} ({sequence}) is lost").into()),
        }
    }
    Ok(())
}

async fn load_and_kill(
    server: &mut RealServer,
    agent: &Credential,
    answers: usize,
) -> Result<Vec<Answered>> {
    let pool = Arc::new(requests::pool()?);
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let mut callers = JoinSet::new();
    for nth in 0..CONNECTIONS {
        let client = Client::builder(agent.clone()).without_renewal().build()?;
        for mth in 0..IN_FLIGHT {
            let first = (nth * IN_FLIGHT + mth) * 7;
            let (client, pool, sender) = (client.clone(), Arc::clone(&pool), sender.clone());
            callers.spawn(async move { call(&client, &pool, first, &sender).await });
        }
    }
    drop(sender);
    let mut answered = Vec::new();
    let loaded = tokio::time::timeout(LOAD_TIMEOUT, async {
        while answered.len() < answers {
            let Some(answer) = receiver.recv().await else {
                break;
            };
            answered.push(answer);
        }
    });
    let in_time = loaded.await.is_ok();
    // The callers go on asking: the server dies with requests in its hands.
    server.kill()?;
    while let Some(caller) = callers.join_next().await {
        caller??;
    }
    while let Some(answer) = receiver.recv().await {
        answered.push(answer);
    }
    if !in_time || answered.len() < answers {
        let found = answered.len();
        return Err(format!("only {found} of {answers} answers before the crash").into());
    }
    Ok(answered)
}

/// Asks until the server is gone. Only a wrong answer is an error.
async fn call(
    client: &Client,
    pool: &[Case],
    first: usize,
    answered: &mpsc::UnboundedSender<Answered>,
) -> Result<()> {
    let mut authorization = client.authorization();
    let mut after = None;
    for n in first.. {
        let case = &pool[n % pool.len()];
        let correlation_id = format!("{first}-{n}");
        let request = v1::AuthorizeRequest {
            correlation_id: correlation_id.clone(),
            ..case.request.clone()
        };
        let Ok(answer) = authorization.authorize(request).await else {
            return Ok(());
        };
        let answer = answer.into_inner();
        requests::verify(case, &correlation_id, after, &answer)?;
        after = Some(answer.sequence);
        if answered
            .send((answer.sequence, answer.decision_id))
            .is_err()
        {
            return Ok(());
        }
    }
    Ok(())
}

/// Every decision in the log: its id by its sequence.
async fn decisions(server: &RealServer) -> Result<BTreeMap<u64, String>> {
    let mut audit = server.admin()?.audit();
    let mut found = BTreeMap::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListEventsRequest {
            page_size: PAGE,
            page_token,
            types: vec!["decision".to_owned()],
            ..Default::default()
        };
        let page = audit.list_events(request).await?.into_inner();
        for event in page.events {
            let leaf: serde_json::Value = serde_json::from_slice(&event.leaf)?;
            let id = leaf["id"].as_str().ok_or("a leaf without an id")?;
            found.insert(event.sequence, id.to_owned());
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(found);
        }
    }
}

async fn still_decides(server: &RealServer, agent: &Credential) -> Result<()> {
    let client = Client::builder(agent.clone())
        .server(server.endpoint())
        .build()?;
    let case = requests::pool()?.swap_remove(0);
    let answer = client
        .authorization()
        .authorize(case.request.clone())
        .await?;
    requests::verify(&case, "", None, &answer.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_or_replaced_decision_is_found() {
        let recorded = BTreeMap::from([(3, "a".to_owned()), (4, "b".to_owned())]);
        let answered = |sequence, id: &str| [(sequence, id.to_owned())];
        assert!(find_all(&answered(4, "b"), &recorded).is_ok());
        let replaced = find_all(&answered(3, "b"), &recorded).expect_err("replaced");
        assert!(replaced.to_string().contains("event 3 is a"), "{replaced}");
        let lost = find_all(&answered(5, "c"), &recorded).expect_err("lost");
        assert!(lost.to_string().contains("is lost"), "{lost}");
    }
}
