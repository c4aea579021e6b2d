//! Decisions of the log, made again under a candidate policy set. Pure: what was known at
//! the time comes in as values, and nothing goes on record.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use time::OffsetDateTime;
use uuid::Uuid;

use super::recorded::{NotReplayable, Outcome, RecordedDecision};
use crate::model::{EntityUid, Party, PartyVersion, Verdict};
use crate::policy::{Compiled, EntityMap, Facts, Parties, Pip, PolicyError};

/// The reason of what a candidate would not even decide. To a PEP that is a deny.
pub(crate) const NOT_DECIDED: &str = "NOT_DECIDED";
/// Groups of changed decisions that are told apart.
pub(crate) const GROUPS_MAX: usize = 1_000;
/// Examples of each.
const EXAMPLES_MAX: usize = 3;

/// What was stored in one epoch.
#[derive(Clone, Debug, Default)]
pub(crate) struct Past {
    /// The entities, read by the candidate's schema.
    pub(crate) entities: EntityMap,
    parties: Arc<HashMap<EntityUid, Party>>,
}

impl Past {
    /// Moves on to what a version says.
    pub(crate) fn follow(&mut self, versions: Vec<PartyVersion>) {
        if versions.is_empty() {
            return;
        }
        let parties = Arc::make_mut(&mut self.parties);
        parties.extend(versions.into_iter().map(|v| (v.uid, v.party)));
    }
}

impl Parties for Past {
    fn party(&self, ty: &str, id: &str) -> Option<Party> {
        self.parties.get(&EntityUid::new(ty, id)).cloned()
    }
}

/// What would come of a decision under a candidate.
pub(crate) fn decide_again(
    candidate: &Compiled,
    past: &Past,
    decision: &RecordedDecision,
) -> Outcome {
    let request = &decision.request;
    let facts = Facts {
        resource: past.party(&request.resource.ty, &request.resource.id),
        ..decision.facts.clone()
    };
    let pip = Pip {
        stored: &past.entities,
        parties: past,
    };
    match candidate.evaluate_chain(&decision.principal, request, &facts, &pip) {
        Ok((verdict, _)) => outcome(verdict),
        // The candidate does not have the action, say.
        Err(PolicyError::ActionUnknown(_) | PolicyError::ResourceType { .. }) => not_decided(),
        Err(PolicyError::ToolMismatch { .. } | PolicyError::Entity(_)) => not_decided(),
        Err(PolicyError::Internal(_)) => not_decided(),
    }
}

fn outcome(verdict: Verdict) -> Outcome {
    Outcome {
        allowed: verdict.deny.is_none(),
        reason: verdict.deny.map_or("", |reason| reason.as_str()).to_owned(),
        policies: verdict.policies,
        obligations: verdict.obligations,
    }
}

fn not_decided() -> Outcome {
    Outcome {
        allowed: false,
        reason: NOT_DECIDED.to_owned(),
        policies: Vec::new(),
        obligations: Vec::new(),
    }
}

/// Decisions that change alike.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Group {
    /// Who asked.
    pub(crate) actor: EntityUid,
    /// What for.
    pub(crate) action: EntityUid,
    /// What is on record.
    pub(crate) before: Outcome,
    /// What would be.
    pub(crate) after: Outcome,
}

impl Group {
    /// Whether an allow becomes a deny or the reverse; else only what it rests on changes.
    pub(crate) fn flips(&self) -> bool {
        self.before.allowed != self.after.allowed
    }
}

/// One of them.
#[derive(Clone, Debug)]
pub(crate) struct Example {
    /// Its place in the log.
    pub(crate) sequence: u64,
    /// The decision's id.
    pub(crate) id: Uuid,
    /// When it was made.
    pub(crate) time: OffsetDateTime,
    /// What it was about.
    pub(crate) resource: EntityUid,
    /// Which revision made it.
    pub(crate) revision: u64,
}

/// How many, and some of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Members {
    /// How many.
    pub(crate) count: u64,
    /// The first ones in the order of the log.
    pub(crate) examples: Vec<Example>,
}

/// What a replay found. The same log, selection and candidate give the same one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// Decisions that were made again.
    pub(crate) replayed: u64,
    /// Of these, whose effect changes.
    pub(crate) flipped: u64,
    /// Of these, that keep their effect and change in reason, policies or obligations.
    pub(crate) changed: u64,
    /// Decisions that could not be made again, by why.
    pub(crate) skipped: BTreeMap<NotReplayable, u64>,
    /// What changes, at most [`GROUPS_MAX`] groups.
    pub(crate) groups: BTreeMap<Group, Members>,
    /// Decisions that change and are in none of the groups.
    pub(crate) ungrouped: u64,
}

impl Tally {
    /// Counts a decision that could not be made again.
    pub(crate) fn skip(&mut self, why: NotReplayable) {
        *self.skipped.entry(why).or_default() += 1;
    }

    /// Counts a decision and what would become of it. In the order of the log.
    pub(crate) fn count(&mut self, decision: RecordedDecision, after: Outcome) {
        self.replayed += 1;
        if decision.outcome == after {
            return;
        }
        let event = decision.event;
        let (Some(actor), Some(action), Some(resource)) =
            (event.actor, event.action, event.resource)
        else {
            return;
        };
        let group = Group {
            actor,
            action,
            before: decision.outcome,
            after,
        };
        match group.flips() {
            true => self.flipped += 1,
            false => self.changed += 1,
        }
        if self.groups.len() >= GROUPS_MAX && !self.groups.contains_key(&group) {
            self.ungrouped += 1;
            return;
        }
        let members = self.groups.entry(group).or_default();
        members.count += 1;
        if members.examples.len() < EXAMPLES_MAX {
            members.examples.push(Example {
                sequence: decision.sequence,
                id: event.id,
                time: event.time,
                resource,
                revision: event.revision.unwrap_or_default(),
            });
        }
    }
}
