//! Cedar's decision over the policies whose scope holds: each is asked for its conditions.
//!
//! Exactly Cedar's own: a satisfied forbid denies, else a satisfied permit allows, else
//! deny; a policy that errs is neither. The scope is not asked again, for the index has
//! said that it holds. A property test and Cedar's corpus compare this with
//! `Authorizer::is_authorized` over all policies.

use std::sync::Arc;

use cedar_policy_core::ast::{Expr, Literal, Request, ValueKind};
use cedar_policy_core::entities::Entities;
use cedar_policy_core::evaluator::{EvaluationError, Evaluator};
use cedar_policy_core::extensions::Extensions;

use super::entry::Entry;

/// Cedar's error, boxed: it is large, and rare.
type Failed = Box<EvaluationError>;

/// What became of the candidates.
#[derive(Debug, Default)]
pub(super) struct Outcome<'p> {
    /// Permits whose conditions hold.
    pub(super) permits: Vec<&'p Arc<Entry>>,
    /// Forbids whose conditions hold.
    pub(super) forbids: Vec<&'p Arc<Entry>>,
    /// Policies with a condition that is false.
    pub(super) unmet: Vec<&'p Arc<Entry>>,
    /// Policies with a condition that could not be evaluated.
    pub(super) errored: Vec<(&'p Arc<Entry>, Failed)>,
}

impl<'p> Outcome<'p> {
    /// Cedar's decision.
    pub(super) fn allows(&self) -> bool {
        self.forbids.is_empty() && !self.permits.is_empty()
    }

    /// The policies that determined it: what Cedar calls its reasons.
    pub(super) fn determining(&self) -> &[&'p Arc<Entry>] {
        if self.forbids.is_empty() {
            &self.permits
        } else {
            &self.forbids
        }
    }
}

/// Evaluates the conditions of policies whose scope holds.
pub(super) fn authorize<'p>(
    candidates: Vec<&'p Arc<Entry>>,
    request: &Request,
    entities: &Entities,
) -> Outcome<'p> {
    let evaluator = evaluator(request, entities);
    let mut outcome = Outcome::default();
    for entry in candidates {
        match holds(&evaluator, entry) {
            Ok(true) if entry.forbids() => outcome.forbids.push(entry),
            Ok(true) => outcome.permits.push(entry),
            Ok(false) => outcome.unmet.push(entry),
            Err(error) => outcome.errored.push((entry, error)),
        }
    }
    outcome
}

/// Evaluates expressions of policies for one request.
pub(super) fn evaluator<'e>(request: &Request, entities: &'e Entities) -> Evaluator<'e> {
    Evaluator::new(request.clone(), entities, Extensions::all_available())
}

/// Whether a policy's conditions hold.
fn holds(evaluator: &Evaluator<'_>, entry: &Entry) -> Result<bool, Failed> {
    match entry.policy.non_scope_constraints() {
        None => Ok(true),
        Some(conditions) => is_true(evaluator, entry, conditions),
    }
}

/// The value of a condition.
///
/// # Errors
/// What Cedar says where it cannot be evaluated or is no boolean.
pub(super) fn is_true(
    evaluator: &Evaluator<'_>,
    entry: &Entry,
    condition: &Expr,
) -> Result<bool, Failed> {
    let env = entry.policy.env();
    let value = evaluator.interpret(condition, env).map_err(Box::new)?;
    match value.value_kind() {
        ValueKind::Lit(Literal::Bool(holds)) => Ok(*holds),
        // As operand of `&&` it is the type error that Cedar reports.
        _ => {
            let operand = Expr::and(Expr::val(true), condition.clone());
            let error = evaluator.interpret(&operand, env);
            error.map(|_| false).map_err(Box::new)
        }
    }
}
