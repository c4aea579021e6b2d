//! From Cedar's outcome to ours: one reason for each deny, obligations, and what came
//! nearest.

use std::sync::Arc;

use cedar_policy_core::evaluator::EvaluationError;

use super::authorize::{Outcome, evaluator, is_true};
use super::entry::{Entry, source_text};
use super::evaluate::Case;
use crate::model::decision::Nearest;
use crate::model::{AccessRequest, DenyReason, Obligation, Verdict};

/// Permits that a default deny names.
const NEAREST_MAX: usize = 5;

/// What policy says, given what became of the candidates.
pub(super) fn verdict(outcome: &Outcome<'_>, case: &Case<'_>, request: &AccessRequest) -> Verdict {
    let mut determining: Vec<&Arc<Entry>> = outcome.determining().to_vec();
    determining.sort_unstable_by_key(|entry| entry.id());
    let mut errored: Vec<&Arc<Entry>> = outcome.errored.iter().map(|(entry, _)| *entry).collect();
    errored.sort_unstable_by_key(|entry| entry.id());
    let deny = if !outcome.forbids.is_empty() {
        Some(DenyReason::Forbidden)
    } else if errored.iter().any(|entry| entry.forbids()) {
        // Cedar skips a policy that errors. For a permit that is safe, for a forbid not.
        Some(DenyReason::EvaluationError)
    } else if outcome.permits.is_empty() {
        Some(DenyReason::NotPermitted)
    } else {
        let supported = |name: &String| request.supported_obligations.contains(name);
        let all = determining
            .iter()
            .flat_map(|entry| &entry.obligations)
            .all(supported);
        (!all).then_some(DenyReason::ObligationUnsupported)
    };
    if deny == Some(DenyReason::EvaluationError) {
        // What permitted it did not determine the deny.
        determining.clear();
    }
    let ids = |entries: &[&Arc<Entry>]| entries.iter().map(|e| e.id().to_owned()).collect();
    let mut verdict = Verdict {
        deny,
        message: String::new(),
        obligations: obligations(&determining),
        policies: ids(&determining),
        errored: ids(&errored),
        action: case.action.clone(),
        nearest: match deny {
            Some(DenyReason::NotPermitted) => nearest(outcome, case),
            _ => Vec::new(),
        },
        annotations: determining
            .iter()
            .filter_map(|entry| entry.annotations.clone())
            .collect(),
    };
    verdict.message = message(&verdict, &determining, request);
    verdict
}

/// Of all determining policies, sorted by name and then by policy. Two that contradict each
/// other both stand: whoever cannot carry out both does not support both.
fn obligations(determining: &[&Arc<Entry>]) -> Vec<Obligation> {
    let of = |entry: &&Arc<Entry>| {
        let policy = entry.id().to_owned();
        let obligation = move |name: &String| Obligation {
            name: name.clone(),
            policy: policy.clone(),
        };
        entry.obligations.iter().map(obligation).collect::<Vec<_>>()
    };
    let mut all: Vec<Obligation> = determining.iter().flat_map(of).collect();
    all.sort_unstable();
    all
}

/// The permits whose scope holds and a condition does not, each with the first such one.
fn nearest(outcome: &Outcome<'_>, case: &Case<'_>) -> Vec<Nearest> {
    let unmet = outcome.unmet.iter().copied();
    let errored = outcome.errored.iter().map(|(entry, _)| *entry);
    let mut permits: Vec<&Arc<Entry>> = unmet.chain(errored).filter(|e| !e.forbids()).collect();
    permits.sort_unstable_by_key(|entry| entry.id());
    permits.truncate(NEAREST_MAX);
    if permits.is_empty() {
        return Vec::new();
    }
    let evaluator = evaluator(&case.request, &case.entities);
    let failing = |entry: &&Arc<Entry>| {
        entry.conditions().into_iter().find_map(|condition| {
            let error = match is_true(&evaluator, entry, condition) {
                Ok(true) => return None,
                Ok(false) => None,
                Err(error) => Some(kind(&error)),
            };
            Some(Nearest {
                policy: entry.id().to_owned(),
                condition: source_text(condition),
                error,
            })
        })
    };
    permits.iter().filter_map(failing).collect()
}

/// What went wrong in a condition, without the values it went wrong with: the answer goes
/// to the one whom the policy does not permit anything.
pub(super) fn kind(error: &EvaluationError) -> &'static str {
    match error {
        EvaluationError::EntityDoesNotExist(_) => "an entity does not exist",
        EvaluationError::EntityAttrDoesNotExist(_) => {
            "an entity does not have the attribute or tag"
        }
        EvaluationError::RecordAttrDoesNotExist(_) => "the context does not have the attribute",
        EvaluationError::TypeError(_) => "a value is of another type",
        EvaluationError::IntegerOverflow(_) => "a number is out of range",
        EvaluationError::FailedExtensionFunctionExecution(_) => "a function failed",
        EvaluationError::RecursionLimit(_) => "it nests too deep",
        _ => "it could not be evaluated",
    }
}

/// One sentence for a person or a model.
fn message(verdict: &Verdict, determining: &[&Arc<Entry>], request: &AccessRequest) -> String {
    // A declared tool's action has the tool's own name.
    let (action, resource) = (&verdict.action.id, &request.resource.id);
    let what = if action == resource {
        format!("`{resource}`")
    } else {
        format!("`{action}` on `{resource}`")
    };
    let by = || verdict.policies.join("`, `");
    match verdict.deny {
        None => format!("{what} is permitted by `{}`", by()),
        Some(DenyReason::Forbidden) => {
            let reason = determining.iter().find_map(|e| e.annotation("reason"));
            match reason {
                Some(reason) => format!("{what} is forbidden by `{}`: {reason}", by()),
                None => format!("{what} is forbidden by `{}`", by()),
            }
        }
        Some(DenyReason::EvaluationError) => format!(
            "{what} is denied: the forbid policy `{}` could not be evaluated",
            verdict.errored.join("`, `")
        ),
        Some(DenyReason::ObligationUnsupported) => format!(
            "{what} is denied: `{}` asks for an obligation that the PEP does not support",
            by()
        ),
        _ => format!("{what} is not permitted: no policy permits it"),
    }
}
