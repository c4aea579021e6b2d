//! What came beside what a test expects. No part that a test names is left out.

use super::case::{Case, CedarExpect, Expect, sorted};
use super::{Mismatch, TestResult};
use crate::model::{DenyReason, Effect, Verdict};
use crate::policy::chain::Denier;
use crate::policy::entities::EntityError;
use crate::policy::evaluate::PolicyError;

/// What the engine said.
pub(super) type Answer = Result<(Verdict, Option<Box<Denier>>), PolicyError>;

/// The result of a case.
pub(super) fn compare(case: &Case, answer: Answer) -> TestResult {
    let result = TestResult {
        file: case.at.file.to_string(),
        line: case.at.line,
        column: case.at.column,
        name: case.name.clone(),
        ..TestResult::default()
    };
    match answer {
        Ok((verdict, _)) => compare_verdict(&case.expect, verdict, result),
        Err(error) => compare_error(&case.expect, &error, result),
    }
}

fn compare_verdict(expect: &Expect, verdict: Verdict, result: TestResult) -> TestResult {
    let names = verdict.obligations.iter().map(|o| o.name.clone()).collect();
    let mut result = TestResult {
        effect: Some(verdict.effect()),
        reason: verdict.deny,
        policies: verdict.policies,
        errored: verdict.errored,
        obligations: sorted(names),
        message: verdict.message,
        ..result
    };
    let mut found = Vec::new();
    match expect {
        Expect::Error(error) => {
            let actual = decision(result.effect, result.reason);
            found.push(mismatch("error", error, &actual));
        }
        Expect::Decision {
            effect,
            reason,
            policies,
            errored,
            obligations,
            message,
            cedar,
        } => {
            if result.effect != Some(*effect) {
                let actual = decision(result.effect, result.reason);
                found.push(mismatch("decision", effect.as_str(), &actual));
            }
            let actual = result.reason.map_or("none", DenyReason::as_str);
            if let Some(reason) = reason.as_deref().filter(|reason| *reason != actual) {
                found.push(mismatch("reason", reason, actual));
            }
            for (what, expected, actual) in [
                ("policies", policies, &result.policies),
                ("errored", errored, &result.errored),
                ("obligations", obligations, &result.obligations),
            ] {
                if let Some(expected) = expected.as_ref().filter(|e| *e != actual) {
                    found.push(mismatch(what, &list(expected), &list(actual)));
                }
            }
            if let Some(part) = message.as_ref().filter(|m| !result.message.contains(*m)) {
                found.push(mismatch("message", part, &result.message));
            }
            found.extend(cedar.iter().flat_map(|cedar| as_cedar(cedar, &result)));
        }
    }
    result.mismatches = found;
    result
}

fn compare_error(expect: &Expect, error: &PolicyError, result: TestResult) -> TestResult {
    let name = error_name(error);
    let found = match expect {
        Expect::Error(expected) if expected == name => None,
        Expect::Error(expected) => Some(mismatch("error", expected, name)),
        Expect::Decision { effect, .. } => {
            let actual = format!("the error {name}");
            Some(mismatch("request", effect.as_str(), &actual))
        }
    };
    TestResult {
        mismatches: found.into_iter().collect(),
        message: error.to_string(),
        ..result
    }
}

/// As Cedar's command line compares: its reasons must be among the determining policies.
fn as_cedar(expect: &CedarExpect, result: &TestResult) -> Vec<Mismatch> {
    let missing = expect.among.iter().any(|id| !result.policies.contains(id));
    let errors = result.errored.len();
    let among = missing.then(|| {
        let expected = format!("among them {}", list(&expect.among));
        mismatch("policies", &expected, &list(&result.policies))
    });
    let count = (errors != expect.errors).then(|| {
        let expected = format!("{} policies", expect.errors);
        mismatch("errored", &expected, &list(&result.errored))
    });
    among.into_iter().chain(count).collect()
}

/// The reason that an RPC would be refused with.
fn error_name(error: &PolicyError) -> &'static str {
    match error {
        PolicyError::ActionUnknown(_) => "ACTION_UNKNOWN",
        PolicyError::ResourceType { .. } | PolicyError::ToolMismatch { .. } => {
            "RESOURCE_TYPE_INVALID"
        }
        PolicyError::Entity(EntityError::Reserved(_)) => "ENTITY_TYPE_RESERVED",
        PolicyError::Entity(EntityError::Invalid(_)) => "ENTITY_INVALID",
        PolicyError::Entity(EntityError::Stored(_)) => "ENTITY_STORED",
        PolicyError::Entity(EntityError::Limit { .. }) => "LIMIT_EXCEEDED",
        PolicyError::Internal(_) => "INTERNAL",
    }
}

fn decision(effect: Option<Effect>, reason: Option<DenyReason>) -> String {
    match (effect, reason) {
        (Some(Effect::Allow), _) => "allow".to_owned(),
        (_, Some(reason)) => format!("deny ({})", reason.as_str()),
        _ => "deny".to_owned(),
    }
}

fn mismatch(what: &'static str, expected: &str, actual: &str) -> Mismatch {
    Mismatch {
        what,
        expected: expected.to_owned(),
        actual: actual.to_owned(),
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    names.join(", ")
}
