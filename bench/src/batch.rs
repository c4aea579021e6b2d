//! Batches: many requests in one call, one answer to each of them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::task::JoinSet;
use zta_client::Client;
use zta_proto::v1::{self, batch_authorize_item::Result as Item};

use crate::{
    Result,
    load::{self, Round, Shape},
    requests::{self, Case},
};

/// As [`load::drive`], by batches of `size`. The rate counts decisions, the latencies are
/// those of whole batches.
///
/// # Errors
/// An error, or the first wrong answer.
pub async fn drive(
    clients: &[Client],
    pool: &Arc<Vec<Case>>,
    shape: Shape,
    size: usize,
    warm_up: Duration,
    duration: Duration,
) -> Result<Round> {
    let begin = Instant::now() + warm_up;
    let end = begin + duration;
    let mut callers = JoinSet::new();
    for (nth, client) in clients.iter().take(shape.connections).enumerate() {
        for mth in 0..shape.in_flight {
            let first = (nth * shape.in_flight + mth) * size;
            let (client, pool) = (client.clone(), Arc::clone(pool));
            callers.spawn(call(client, pool, first, size, begin, end));
        }
    }
    let mut latencies_us = Vec::new();
    while let Some(caller) = callers.join_next().await {
        latencies_us.extend(caller??);
    }
    let mut round = load::summarize(latencies_us, duration);
    round.per_s *= size as f64;
    Ok(round)
}

async fn call(
    client: Client,
    pool: Arc<Vec<Case>>,
    first: usize,
    size: usize,
    begin: Instant,
    end: Instant,
) -> Result<Vec<u32>> {
    let mut authorization = client.authorization();
    let mut latencies_us = Vec::new();
    for n in (first..).step_by(size) {
        let cases: Vec<&Case> = (n..n + size).map(|n| &pool[n % pool.len()]).collect();
        let request = |(nth, case): (usize, &&Case)| v1::AuthorizeRequest {
            correlation_id: format!("{first}-{n}-{nth}"),
            ..case.request.clone()
        };
        let requests: Vec<v1::AuthorizeRequest> = cases.iter().enumerate().map(request).collect();
        let ids: Vec<String> = requests.iter().map(|r| r.correlation_id.clone()).collect();
        let asked = Instant::now();
        let answer = authorization
            .batch_authorize(v1::BatchAuthorizeRequest { requests })
            .await
            .map_err(zta_client::Error::from)?
            .into_inner();
        let answered = Instant::now();
        verify(&cases, &ids, answer)?;
        if answered > end {
            break;
        }
        if answered >= begin {
            let latency_us = answered.duration_since(asked).as_micros();
            latencies_us.push(u32::try_from(latency_us).unwrap_or(u32::MAX));
        }
    }
    Ok(latencies_us)
}

/// Each item answers its own request, in order, and the log has that order too.
fn verify(cases: &[&Case], ids: &[String], answer: v1::BatchAuthorizeResponse) -> Result<()> {
    if answer.items.len() != cases.len() {
        let (found, asked) = (answer.items.len(), cases.len());
        return Err(format!("{found} answers to a batch of {asked}").into());
    }
    let mut sequence = None;
    for ((case, id), item) in cases.iter().zip(ids).zip(answer.items) {
        match item.result {
            Some(Item::Decision(decision)) => {
                requests::verify(case, id, sequence, &decision)?;
                sequence = Some(decision.sequence);
            }
            Some(Item::Error(error)) => {
                return Err(format!("an item of a batch: {}", error.message).into());
            }
            None => return Err("an item of a batch has no result".into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_out_of_order_is_found() {
        let pool = requests::pool().expect("pool");
        let cases = [&pool[0], &pool[1]];
        let ids = ["a".to_owned(), "b".to_owned()];
        let item = |id: &str, sequence| v1::BatchAuthorizeItem {
            correlation_id: id.to_owned(),
            result: Some(Item::Decision(v1::AuthorizeResponse {
                effect: v1::Effect::Allow.into(),
                decision_id: "id".to_owned(),
                correlation_id: id.to_owned(),
                sequence,
                ..Default::default()
            })),
        };
        let answer = |items: Vec<_>| v1::BatchAuthorizeResponse { items };
        let verify = |items| verify(&cases, &ids, answer(items));
        assert!(verify(vec![item("a", 1), item("b", 2)]).is_ok());
        assert!(verify(vec![item("b", 1), item("a", 2)]).is_err());
        assert!(verify(vec![item("a", 2), item("b", 1)]).is_err());
        assert!(verify(vec![item("a", 1)]).is_err());
        let nothing = v1::BatchAuthorizeItem {
            correlation_id: "b".to_owned(),
            result: None,
        };
        assert!(verify(vec![item("a", 1), nothing]).is_err());
    }
}
