//! The full story of one request: every policy whose scope holds, each of its conditions
//! with its outcome, and what Cedar looked at.

use std::sync::Arc;

use cedar_policy_core::ast::{Context, EntityUID};
use cedar_policy_core::evaluator::EvaluationError;
use serde_json::{Map, Value};

use super::authorize::{authorize, evaluator, is_true};
use super::compile::Compiled;
use super::entry::{Entry, source_text};
use super::evaluate::{Case, Facts, NoCase, Pip, PolicyError};
use super::verdict::{kind, verdict};
use crate::model::decision::Annotations;
use crate::model::{AccessRequest, Effect, EntityUid, Principal, Verdict};

/// Policies that an explanation tells of.
pub(super) const POLICIES_MAX: usize = 1000;

/// The story of one request. No decision: nothing is on record as one.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// What policy says.
    pub verdict: Verdict,
    /// The policies whose scope holds, sorted by id, at most [`POLICIES_MAX`].
    pub policies: Vec<ExplainedPolicy>,
    /// How many there are.
    pub matching: usize,
    /// How many policies are in force.
    pub in_force: usize,
    /// The context as policies saw it.
    pub context: Value,
    /// The entities that conditions could look into, sorted.
    pub entities: Vec<ExplainedEntity>,
}

/// What became of a policy or a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It holds.
    Satisfied,
    /// It is false.
    NotSatisfied,
    /// It could not be evaluated, and why.
    Errored(String),
}

/// One policy whose scope holds.
#[derive(Clone, Debug)]
pub struct ExplainedPolicy {
    /// Its `@id`.
    pub id: String,
    /// What it says.
    pub effect: Effect,
    /// What became of it.
    pub outcome: Outcome,
    /// Its conditions up to the first that fails: text and outcome.
    pub conditions: Vec<(String, Outcome)>,
    /// Its annotations but `@id`.
    pub annotations: Option<Arc<Annotations>>,
    /// The file and the line that it begins in.
    pub place: Option<(String, u32)>,
}

/// An entity as policies see it.
#[derive(Clone, Debug, PartialEq)]
pub struct ExplainedEntity {
    /// Which one.
    pub uid: EntityUid,
    /// Its attributes in Cedar's JSON form.
    pub attributes: Value,
    /// Everything above it, sorted.
    pub ancestors: Vec<EntityUid>,
    /// Its tags in Cedar's JSON form.
    pub tags: Value,
}

impl Compiled {
    /// The story of a request.
    ///
    /// # Errors
    /// As [`Compiled::evaluate`].
    pub fn explain(
        &self,
        principal: &Principal,
        request: &AccessRequest,
        facts: &Facts,
        pip: &Pip<'_>,
    ) -> Result<Explanation, PolicyError> {
        let case = match self.case(principal, request, facts, pip) {
            Ok(case) => case,
            Err(NoCase::Error(error)) => return Err(error),
            Err(NoCase::Deny(reason, action, why)) => {
                let verdict = Verdict::deny(reason, why, action.clone());
                return Ok(self.without_policies(verdict));
            }
        };
        let outcome = authorize(case.candidates.clone(), &case.request, &case.entities);
        let verdict = verdict(&outcome, &case, request);
        let mut candidates = case.candidates.clone();
        candidates.sort_unstable_by_key(|entry| entry.id());
        let matching = candidates.len();
        candidates.truncate(POLICIES_MAX);
        Ok(Explanation {
            policies: candidates
                .into_iter()
                .map(|entry| self.explain_policy(entry, &case))
                .collect(),
            matching,
            context: context_json(&case),
            entities: entities(&case),
            ..self.without_policies(verdict)
        })
    }

    /// A story in which no policy was asked.
    pub fn without_policies(&self, verdict: Verdict) -> Explanation {
        Explanation {
            verdict,
            policies: Vec::new(),
            matching: 0,
            in_force: self.policies.len(),
            context: Value::Object(Map::new()),
            entities: Vec::new(),
        }
    }

    fn explain_policy(&self, entry: &Arc<Entry>, case: &Case<'_>) -> ExplainedPolicy {
        let evaluator = evaluator(&case.request, &case.entities);
        let mut conditions = Vec::new();
        let mut whole = Outcome::Satisfied;
        for condition in entry.conditions() {
            let outcome = match is_true(&evaluator, entry, condition) {
                Ok(true) => Outcome::Satisfied,
                Ok(false) => Outcome::NotSatisfied,
                Err(error) => Outcome::Errored(shown(&error)),
            };
            conditions.push((source_text(condition), outcome.clone()));
            if outcome != Outcome::Satisfied {
                whole = outcome;
                break;
            }
        }
        ExplainedPolicy {
            id: entry.id().to_owned(),
            effect: if entry.forbids() {
                Effect::Deny
            } else {
                Effect::Allow
            },
            outcome: whole,
            conditions,
            annotations: entry.annotations.clone(),
            place: self
                .place(entry)
                .map(|(file, line)| (file.to_owned(), line)),
        }
    }
}

/// What went wrong, without the values of the request that it went wrong with: redaction
/// knows paths and would not find them in a sentence.
fn shown(error: &EvaluationError) -> String {
    use EvaluationError::{EntityDoesNotExist, RecordAttrDoesNotExist, TypeError};
    match error {
        EntityDoesNotExist(_) | RecordAttrDoesNotExist(_) | TypeError(_) => error.to_string(),
        _ => kind(error).to_owned(),
    }
}

fn context_json(case: &Case<'_>) -> Value {
    let json = case.request.context().map(Context::to_json_value);
    json.and_then(Result::ok).unwrap_or(Value::Null)
}

fn entities(case: &Case<'_>) -> Vec<ExplainedEntity> {
    let plain = |uid: &EntityUID| {
        let id: &str = uid.eid().as_ref();
        EntityUid::new(uid.entity_type().to_string(), id)
    };
    let mut all: Vec<ExplainedEntity> = case
        .entities
        .iter()
        .map(|entity| {
            let json = entity.to_json_value().unwrap_or_default();
            let part = |name: &str| json.get(name).cloned().unwrap_or_else(|| Map::new().into());
            let mut ancestors: Vec<EntityUid> = entity.ancestors().map(plain).collect();
            ancestors.sort_unstable();
            ExplainedEntity {
                uid: plain(entity.uid()),
                attributes: part("attrs"),
                ancestors,
                tags: part("tags"),
            }
        })
        .collect();
    all.sort_unstable_by(|a, b| a.uid.cmp(&b.uid));
    all
}
