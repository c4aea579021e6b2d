//! Agents that ask all the time, whatever happens to what answers them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tonic::Code;
use zta_client::{Client, v1};

use crate::support::rpc::{authorize, call};
use crate::support::{Server, eventually};

/// An answered decision: its place in the log and its id.
pub(crate) type Answered = (u64, String);

/// Requests in flight, of each client.
const IN_FLIGHT: usize = 8;

/// A load that goes on until it is stopped. While nobody decides, each call is refused and
/// tried again; anything but "not now" fails the test.
pub(crate) struct Load {
    answered: Arc<Mutex<Vec<Answered>>>,
    refused: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    callers: JoinSet<()>,
}

impl Load {
    pub(crate) fn start(clients: &[Client]) -> Self {
        let mut load = Self {
            answered: Arc::default(),
            refused: Arc::default(),
            stop: Arc::default(),
            callers: JoinSet::new(),
        };
        for client in clients
            .iter()
            .flat_map(|c| std::iter::repeat_n(c, IN_FLIGHT))
        {
            let (client, stop) = (client.clone(), Arc::clone(&load.stop));
            let (answered, refused) = (Arc::clone(&load.answered), Arc::clone(&load.refused));
            load.callers.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    match authorize(&client, call("web_search")).await {
                        Ok(answer) => {
                            assert_eq!(answer.effect(), v1::Effect::Allow, "{answer:?}");
                            let answer = (answer.sequence, answer.decision_id);
                            let mut all = answered.lock().unwrap_or_else(PoisonError::into_inner);
                            all.push(answer);
                        }
                        Err(status) => {
                            // Unknown: the connection broke in the middle of an answer.
                            let not_now =
                                [Code::Unavailable, Code::DeadlineExceeded, Code::Unknown];
                            assert!(not_now.contains(&status.code()), "{status:?}");
                            refused.fetch_add(1, Ordering::Relaxed);
                            tokio::time::sleep(Duration::from_millis(10)).await;
                        }
                    }
                }
            });
        }
        load
    }

    fn count(&self) -> usize {
        let all = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        all.len()
    }

    /// Waits for so many more answers.
    pub(crate) async fn answers(&self, more: usize) {
        let wanted = self.count() + more;
        eventually("more decisions", async || match self.count() {
            now if now >= wanted => Ok(()),
            now => Err(format!("{now} of {wanted}")),
        })
        .await;
    }

    /// Waits for so many more refusals.
    pub(crate) async fn refusals(&self, more: usize) {
        let wanted = self.refused.load(Ordering::Relaxed) + more;
        eventually("refusals", async || {
            match self.refused.load(Ordering::Relaxed) {
                now if now >= wanted => Ok(()),
                now => Err(format!("{now} of {wanted}")),
            }
        })
        .await;
    }

    /// Ends it; every answer that anybody got.
    pub(crate) async fn stop(mut self) -> Vec<Answered> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(caller) = self.callers.join_next().await {
            caller.expect("a caller met nothing but answers and refusals");
        }
        let mut all = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *all)
    }
}

/// Each answered decision is on record at the place that was answered, none is there twice,
/// and the log verifies.
pub(crate) async fn all_on_record(server: &Server, answered: &[Answered]) {
    let recorded = decisions(server).await;
    let mut ids: Vec<&String> = recorded.values().collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), recorded.len(), "a decision is on record twice");
    for (sequence, id) in answered {
        assert_eq!(recorded.get(sequence), Some(id), "the answer of {sequence}");
    }
    let mut places: Vec<u64> = answered.iter().map(|(sequence, _)| *sequence).collect();
    places.sort_unstable();
    places.dedup();
    assert_eq!(places.len(), answered.len(), "one place was answered twice");
    server.assert_verifies();
}

/// Every decision in the log: its id by its place.
async fn decisions(server: &Server) -> BTreeMap<u64, String> {
    let mut audit = server.admin().audit();
    let (mut found, mut page_token) = (BTreeMap::new(), String::new());
    loop {
        let request = v1::ListEventsRequest {
            page_size: 1000,
            page_token,
            types: vec!["decision".to_owned()],
            ..Default::default()
        };
        let page = audit
            .list_events(request)
            .await
            .expect("a page")
            .into_inner();
        for event in page.events {
            let leaf: serde_json::Value = serde_json::from_slice(&event.leaf).expect("a leaf");
            found.insert(
                event.sequence,
                leaf["id"].as_str().expect("an id").to_owned(),
            );
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return found;
        }
    }
}
