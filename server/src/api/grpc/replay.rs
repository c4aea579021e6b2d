//! The stream of a replay.

use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use zta_proto::v1;
use zta_proto::v1::replay_response::Step;

use super::policies::candidate;
use super::{optional, time, timestamp, wire_effect, wire_uid};
use crate::api::caller::credential;
use crate::api::status::field;
use crate::operations::Operations;
use crate::operations::replay::{Progress, Replayed, Subject, selection};
use crate::pdp::recorded::{NotReplayable, Outcome};
use crate::pdp::replay::{Group, Members};
use crate::store::EventFilter;

/// Messages that wait for a reader; a slow one slows its own replay and nothing else.
const WAITING_MAX: usize = 4;

/// What the door answers with.
pub(super) type Answers = Pin<Box<dyn futures_util::Stream<Item = Answer> + Send>>;
type Answer = Result<v1::ReplayResponse, Status>;

/// Begins a replay; it ends with its reader.
pub(super) fn replay(
    operations: &Arc<Operations>,
    request: Request<v1::ReplayRequest>,
) -> Result<Response<Answers>, Status> {
    let credential = credential(&request, (operations.pdp.clock)());
    let v1::ReplayRequest {
        source,
        patch,
        revision,
        start_time,
        end_time,
        actor_id,
        action_id,
        sample,
        decisions_max,
    } = request.into_inner();
    let subject = match (source, patch, revision) {
        (None, None, 0) => {
            let why = "is missing: give a source, a patch or a revision";
            return Err(field("source", why));
        }
        (None, None, number) => Subject::Revision(number),
        (source, patch, 0) => Subject::Candidate(candidate(source, patch)?),
        _ => return Err(field("revision", "stands beside a source or a patch")),
    };
    let filter = EventFilter {
        actor_id: optional("actor_id", actor_id, 1024)?,
        action_id: optional("action_id", action_id, 1024)?,
        start_time: time("start_time", start_time)?,
        end_time: time("end_time", end_time)?,
        ..EventFilter::default()
    };
    let selection = selection(filter, sample, decisions_max)?;
    let (answers, stream) = mpsc::channel::<Answer>(WAITING_MAX);
    let operations = Arc::clone(operations);
    tokio::spawn(async move {
        let (tell, mut told) = mpsc::channel::<Progress>(1);
        let run = async {
            let found = operations
                .replay(&credential, subject, selection, &tell)
                .await;
            drop(tell);
            found
        };
        // Whoever does not read any more closes `told`, and so ends the run.
        let forward = async {
            while let Some(progress) = told.recv().await {
                let step = Step::Progress(wire_progress(progress));
                if answers.send(Ok(response(step))).await.is_err() {
                    told.close();
                }
            }
        };
        let (found, ()) = tokio::join!(run, forward);
        let last = match found {
            Ok(found) => Ok(response(Step::Report(wire_report(found)))),
            Err(error) => Err(Status::from(error)),
        };
        let _ = answers.send(last).await;
    });
    Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
}

fn response(step: Step) -> v1::ReplayResponse {
    v1::ReplayResponse { step: Some(step) }
}

fn wire_progress(progress: Progress) -> v1::ReplayProgress {
    v1::ReplayProgress {
        replayed: progress.replayed,
        sequence: progress.sequence,
        end_sequence: progress.end_sequence,
    }
}

fn wire_report(found: Replayed) -> v1::ReplayReport {
    let Replayed { tally, truncated } = found;
    let mut groups: Vec<(Group, Members)> = tally.groups.into_iter().collect();
    groups.sort_by(|(a, of_a), (b, of_b)| {
        let rank = |group: &Group, members: &Members| {
            (
                std::cmp::Reverse((group.flips(), members.count)),
                group.clone(),
            )
        };
        rank(a, of_a).cmp(&rank(b, of_b))
    });
    let skipped = tally.skipped.into_iter();
    v1::ReplayReport {
        replayed: tally.replayed,
        flipped: tally.flipped,
        changed: tally.changed,
        skipped: skipped.map(|(why, n)| (name(why).to_owned(), n)).collect(),
        groups: groups.into_iter().map(wire_group).collect(),
        ungrouped: tally.ungrouped,
        truncated,
    }
}

fn name(why: NotReplayable) -> &'static str {
    match why {
        NotReplayable::Destroyed => "DESTROYED",
        NotReplayable::Redacted => "REDACTED",
        NotReplayable::Altered => "ALTERED",
        NotReplayable::Contained => "CONTAINED",
        NotReplayable::Unreadable => "UNREADABLE",
        NotReplayable::Misfit => "MISFIT",
    }
}

fn wire_group((group, members): (Group, Members)) -> v1::ReplayGroup {
    let examples = members.examples.into_iter();
    v1::ReplayGroup {
        actor: Some(wire_uid(&group.actor)),
        action: Some(wire_uid(&group.action)),
        before: Some(wire_outcome(group.before)),
        after: Some(wire_outcome(group.after)),
        count: members.count,
        examples: examples
            .map(|example| v1::ReplayExample {
                sequence: example.sequence,
                decision_id: example.id.to_string(),
                decide_time: timestamp(example.time),
                resource: Some(wire_uid(&example.resource)),
                revision: example.revision,
            })
            .collect(),
    }
}

fn wire_outcome(outcome: Outcome) -> v1::ReplayOutcome {
    let obligations = outcome.obligations.into_iter();
    v1::ReplayOutcome {
        effect: wire_effect(outcome.allowed).into(),
        reason: outcome.reason,
        policy_ids: outcome.policies,
        obligations: obligations
            .map(|obligation| v1::Obligation {
                name: obligation.name,
                policy_id: obligation.policy,
            })
            .collect(),
    }
}
