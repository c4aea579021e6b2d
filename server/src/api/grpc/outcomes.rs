//! Reports of what became of permitted calls, from the wire and back.

use tonic::Status;
use tonic_types::StatusExt as _;
use zta_proto::v1;

use crate::api::status::{field, limit};
use crate::audit::sequencer::UNIT_MAX;
use crate::identity::registry::Credential;
use crate::model::outcome::{CallResult, Outcome, OutcomeError};
use crate::operations::Operations;
use crate::operations::outcomes::RecordedOutcome;

/// Outcomes of one call.
const OUTCOMES_MAX: usize = UNIT_MAX;
/// Bytes of a text that is given back: a UUID has fewer.
const ID_BYTES_MAX: usize = 64;

/// Puts what can be read on record, and says of each item what became of it.
pub(super) async fn report(
    operations: &Operations,
    credential: &Credential,
    outcomes: Vec<v1::CallOutcome>,
) -> Result<Vec<v1::ReportOutcomeItem>, Status> {
    if outcomes.is_empty() {
        return Err(field("outcomes", "is empty"));
    }
    if outcomes.len() > OUTCOMES_MAX {
        return Err(limit("outcomes", outcomes.len(), OUTCOMES_MAX));
    }
    let ids: Vec<String> = outcomes.iter().map(|o| echoed(&o.decision_id)).collect();
    let parsed: Vec<Result<Outcome, Status>> = outcomes.into_iter().map(parse).collect();
    let good: Vec<Outcome> = parsed.iter().flatten().cloned().collect();
    // Of an empty list, too, so that what is wrong is told to those who may report.
    let reported = operations.report_outcomes(credential, &good).await?;
    let mut reported = reported.into_iter();
    let missing = || Err(Status::internal("an answer is missing"));
    let item = |(id, parsed): (String, Result<Outcome, Status>)| match parsed {
        Ok(_) => item(
            id,
            reported
                .next()
                .map_or_else(missing, |r| r.map_err(Status::from)),
        ),
        Err(status) => item(id, Err(status)),
    };
    Ok(ids.into_iter().zip(parsed).map(item).collect())
}

fn parse(outcome: v1::CallOutcome) -> Result<Outcome, Status> {
    let decision_id = outcome.decision_id.parse();
    let decision_id = decision_id.map_err(|_| field("decision_id", "must be a UUID"))?;
    let result = match outcome.result() {
        v1::CallResult::Ok => CallResult::Ok,
        v1::CallResult::Error => CallResult::Error,
        v1::CallResult::Unspecified => return Err(field("result", "must be OK or ERROR")),
    };
    Outcome::new(decision_id, result)
        .with_error_class(&outcome.error_class)
        .and_then(|o| o.with_counts(outcome.size_bytes, outcome.duration_us))
        .and_then(|o| o.with_labels(outcome.labels.into_iter()))
        .map_err(|OutcomeError { field: name, why }| field(name, why))
}

/// What was sent as an id, if it is short enough to be one.
fn echoed(id: &str) -> String {
    match id.len() <= ID_BYTES_MAX {
        true => id.to_owned(),
        false => String::new(),
    }
}

fn item(decision_id: String, reported: Result<RecordedOutcome, Status>) -> v1::ReportOutcomeItem {
    use v1::report_outcome_item::Result as Item;
    let result = match reported {
        Ok(recorded) => Item::Recorded(v1::RecordedOutcome {
            event_id: recorded.event_id.to_string(),
            sequence: recorded.sequence,
            repeated_report: recorded.repeated,
        }),
        Err(status) => Item::Error(item_error(&status)),
    };
    v1::ReportOutcomeItem {
        decision_id,
        result: Some(result),
    }
}

/// The error of one item of a batch.
pub(super) fn item_error(status: &Status) -> v1::ItemError {
    let info = status.get_details_error_info();
    v1::ItemError {
        code: status.code() as i32,
        message: status.message().to_owned(),
        reason: info.map(|info| info.reason).unwrap_or_default(),
    }
}
