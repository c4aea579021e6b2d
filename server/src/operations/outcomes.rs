//! What became of permitted calls, as their PEPs report it. Each report is a fact beside the
//! decision that it names: it is the caller's own decision, an allow, and not long ago.
//! Nothing is decided by it, and no decision waits for it.

use std::collections::HashMap;

use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::{OperationError, Operations};
use crate::audit::AppendError;
use crate::identity::registry::{Caller, Credential};
use crate::model::outcome::Outcome;
use crate::model::{Columns, Effect, EntityUid, Event, EventType, Standing};
use crate::pdp::PdpError;
use crate::store::{StoreError, StoredEvent};

/// A report that is on record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordedOutcome {
    /// The id of its event.
    pub(crate) event_id: Uuid,
    /// The place of its event.
    pub(crate) sequence: u64,
    /// Whether it was on record already.
    pub(crate) repeated: bool,
}

/// What is known of reports and their decisions, by event id.
type Known = HashMap<Uuid, StoredEvent>;
type Reported = Result<RecordedOutcome, OperationError>;

impl Operations {
    /// Puts reports of the caller on record; what became of each, in their order.
    ///
    /// # Errors
    /// When the credential proves nobody, the caller may not report, or the log could not
    /// be read.
    pub(crate) async fn report_outcomes(
        &self,
        credential: &Credential,
        reports: &[Outcome],
    ) -> Result<Vec<Reported>, OperationError> {
        let state = self.pdp.replica.current();
        let now = (self.pdp.clock)();
        let caller = self.pdp.authenticate(credential, &state, now).await?;
        may_report(&caller)?;
        if reports.is_empty() {
            return Ok(Vec::new());
        }
        let log_id = self.pdp.audit.log_id();
        // Committed before the look at the log, so seen by it; the writer looks at what comes after.
        let since = self.pdp.audit.tail().end().size;
        let ids = reports
            .iter()
            .map(|r| [r.decision_id(), r.event_id(log_id)]);
        let known = self.named(&ids.flatten().collect::<Vec<_>>()).await?;
        let report = Reporting {
            caller: &caller,
            credential,
            log_id,
            window: self.outcome_window,
            now,
        };
        let mut results = Vec::with_capacity(reports.len());
        let (mut places, mut events) = (Vec::new(), Vec::new());
        for (place, outcome) in reports.iter().enumerate() {
            results.push(report.place(&known, outcome));
            if let Ok(None) = results[place] {
                events.push(report.event(&known[&outcome.decision_id()].columns, outcome));
                places.push(place);
            }
        }
        let appended = self.pdp.audit.report(events, since, caller.rider()).await;
        if appended.iter().any(Result::is_ok) {
            caller.on_record();
        }
        // Somebody was quicker: the same caller, over another connection or in this very call.
        let quicker = places.iter().zip(&appended);
        let quicker = quicker.filter(|(_, a)| matches!(a, Err(AppendError::OnRecord)));
        let quicker: Vec<Uuid> = quicker.map(|(p, _)| reports[*p].event_id(log_id)).collect();
        let known = match quicker.is_empty() {
            true => Known::new(),
            false => self.named(&quicker).await?,
        };
        for (place, appended) in places.into_iter().zip(appended) {
            let event_id = reports[place].event_id(log_id);
            results[place] = match appended {
                Ok(appended) => Ok(Some(RecordedOutcome {
                    event_id,
                    sequence: appended.sequence,
                    repeated: false,
                })),
                Err(AppendError::OnRecord) => recorded(&known, &reports[place], event_id),
                Err(error) => Err(PdpError::Append(error).into()),
            };
        }
        let lost = || StoreError::Corrupt("an outcome that is on record and is not".to_owned());
        let settle = |result: Result<Option<_>, _>| result?.ok_or_else(|| lost().into());
        Ok(results.into_iter().map(settle).collect())
    }

    async fn named(&self, ids: &[Uuid]) -> Result<Known, StoreError> {
        let found = self.store.named(ids).await?;
        Ok(found.into_iter().map(|e| (e.columns.event_id, e)).collect())
    }
}

/// What the reports of one call have in common.
struct Reporting<'a> {
    caller: &'a Caller,
    credential: &'a Credential,
    log_id: Uuid,
    window: Duration,
    now: OffsetDateTime,
}

impl Reporting<'_> {
    /// Where the report is on record, if it is; `None` where it may be put on record.
    ///
    /// # Errors
    /// When it is no report that the caller may make.
    fn place(
        &self,
        known: &Known,
        outcome: &Outcome,
    ) -> Result<Option<RecordedOutcome>, OperationError> {
        let decision = known.get(&outcome.decision_id()).map(|e| &e.columns);
        // Of somebody else's decision no more is said than of one that is none.
        let decision = decision
            .filter(|decision| self.is_own(decision))
            .ok_or(OperationError::DecisionNotFound)?;
        if decision.effect.as_deref() != Some(Effect::Allow.as_str()) {
            return Err(OperationError::DecisionDenied);
        }
        let found = recorded(known, outcome, outcome.event_id(self.log_id))?;
        if found.is_none() && self.now - decision.time > self.window {
            return Err(OperationError::OutcomeLate(self.window));
        }
        Ok(found)
    }

    /// Whether it is a decision of the caller, made for the same key.
    fn is_own(&self, event: &Columns) -> bool {
        let principal = &self.caller.principal;
        event.kind == EventType::Decision.as_str()
            && uid(&event.actor_type, &event.actor_id) == Some(principal.uid())
            && event.instance_id == principal.instance
    }

    /// The event of a report: what it is about is the decision's word, not the caller's.
    fn event(&self, decision: &Columns, outcome: &Outcome) -> Event {
        let id = outcome.event_id(self.log_id);
        let mut event = Event::new(EventType::Outcome, self.log_id, id, self.now);
        event.actor = Some(self.caller.principal.uid());
        event.instance = self.caller.principal.instance;
        event.source = self.credential.source;
        event.action = uid(&decision.action_type, &decision.action_id);
        event.resource = uid(&decision.resource_type, &decision.resource_id);
        event.session.clone_from(&decision.session_id);
        event.task.clone_from(&decision.task_id);
        event.user.clone_from(&decision.user_id);
        event.correlation_id.clone_from(&decision.correlation_id);
        event.trace_id.clone_from(&decision.trace_id);
        event.detail = outcome.detail();
        event
    }
}

/// A contained agent may say how its last calls ended; one whose key is in doubt may not.
fn may_report(caller: &Caller) -> Result<(), OperationError> {
    match caller.principal.state {
        _ if caller.proof_missed => Err(OperationError::Contained(Standing::Suspended)),
        Standing::Active | Standing::Suspended | Standing::Isolated => Ok(()),
        standing => Err(OperationError::Contained(standing)),
    }
}

/// Where an outcome is on record.
///
/// # Errors
/// When what is on record is another outcome.
fn recorded(
    known: &Known,
    outcome: &Outcome,
    event_id: Uuid,
) -> Result<Option<RecordedOutcome>, OperationError> {
    let Some(stored) = known.get(&event_id) else {
        return Ok(None);
    };
    let event = Event::from_leaf(&stored.leaf);
    let event = event.map_err(|error| StoreError::Corrupt(error.to_string()))?;
    if event.detail != outcome.detail() {
        return Err(OperationError::OutcomeConflict);
    }
    Ok(Some(RecordedOutcome {
        event_id,
        sequence: stored.sequence,
        repeated: true,
    }))
}

fn uid(ty: &Option<String>, id: &Option<String>) -> Option<EntityUid> {
    Some(EntityUid::new(ty.as_ref()?, id.as_ref()?))
}

#[cfg(test)]
mod tests;
