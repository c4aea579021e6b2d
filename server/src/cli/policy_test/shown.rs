//! Test results as people and scripts see them, whoever ran them.

use serde_json::{Value, json};
use zta_client::v1;
use zta_server::model::DenyReason;
use zta_server::policy::{ConditionCoverage, Coverage, PolicyCoverage, TestResult};

/// One result.
pub(super) struct Shown {
    pub(super) file: String,
    pub(super) line: u32,
    pub(super) column: u32,
    pub(super) name: String,
    /// What, what was expected, what came.
    pub(super) mismatches: Vec<[String; 3]>,
    /// `allow`, `deny`, or `error` where the request was refused.
    pub(super) decision: &'static str,
    /// Of a deny, else empty.
    pub(super) reason: String,
    pub(super) policies: Vec<String>,
    pub(super) obligations: Vec<String>,
    pub(super) message: String,
}

impl From<TestResult> for Shown {
    fn from(result: TestResult) -> Self {
        let mismatches = result.mismatches.into_iter();
        Self {
            file: result.file,
            line: result.line,
            column: result.column,
            name: result.name,
            mismatches: mismatches
                .map(|m| [m.what.to_owned(), m.expected, m.actual])
                .collect(),
            decision: result.effect.map_or("error", |effect| effect.as_str()),
            reason: result.reason.map_or("", DenyReason::as_str).to_owned(),
            policies: result.policies,
            obligations: result.obligations,
            message: result.message,
        }
    }
}

/// A result of a server.
pub(super) fn shown_result(result: v1::TestResult) -> Shown {
    let decision = match result.effect() {
        v1::Effect::Allow => "allow",
        v1::Effect::Deny => "deny",
        v1::Effect::Unspecified => "error",
    };
    let reason = match result.reason() {
        v1::DenyReason::Unspecified => "",
        reason => reason.as_str_name().trim_start_matches("DENY_REASON_"),
    };
    Shown {
        decision,
        reason: reason.to_owned(),
        file: result.file,
        line: result.line,
        column: result.column,
        name: result.name,
        mismatches: result
            .mismatches
            .into_iter()
            .map(|m| [m.what, m.expected, m.actual])
            .collect(),
        policies: result.policy_ids,
        obligations: result.obligations,
        message: result.message,
    }
}

impl Shown {
    /// Whether everything came as expected.
    pub(super) fn passed(&self) -> bool {
        self.mismatches.is_empty()
    }

    /// Where it stands: `file:line:column`.
    pub(super) fn place(&self) -> String {
        format!("{}:{}:{}", self.file, self.line, self.column)
    }

    /// What was expected and what came, a line each.
    pub(super) fn differences(&self) -> String {
        let lines = self.mismatches.iter().map(|[what, expected, actual]| {
            let blank = " ".repeat(what.len());
            format!("    {what}  expected {expected}\n    {blank}  came     {actual}\n")
        });
        let mut text: String = lines.collect();
        if !self.policies.is_empty() {
            text.push_str(&format!("    by      {}\n", self.policies.join(", ")));
        }
        if !self.message.is_empty() {
            text.push_str(&format!("    because {}\n", self.message));
        }
        text
    }

    /// A failed test for people.
    pub(super) fn text(&self) -> String {
        let text = format!(
            "{}: FAIL {}\n{}",
            self.place(),
            self.name,
            self.differences()
        );
        text.trim_end().to_owned()
    }

    /// For scripts.
    pub(super) fn json(&self) -> Value {
        let mismatches = self.mismatches.iter();
        json!({
            "file": self.file,
            "line": self.line,
            "column": self.column,
            "name": self.name,
            "passed": self.passed(),
            "mismatches": mismatches
                .map(|[what, expected, actual]| json!({
                    "what": what, "expected": expected, "actual": actual,
                }))
                .collect::<Vec<_>>(),
            "decision": self.decision,
            "reason": self.reason,
            "policies": self.policies,
            "obligations": self.obligations,
            "message": self.message,
        })
    }
}

/// What is missing of a policy, for people.
pub(super) fn coverage_of(missing: &PolicyCoverage) -> String {
    let place = match &missing.place {
        Some((file, line)) => format!("{file}:{line}: "),
        None => String::new(),
    };
    let mut text = match (missing.determined, missing.matched) {
        (0, 0) => format!("{place}{}: its scope held in no test", missing.id),
        (0, n) => format!(
            "{place}{}: determined nothing; its scope held in {n} tests",
            missing.id
        ),
        (n, _) => format!("{place}{}: determined {n} tests", missing.id),
    };
    for condition in &missing.conditions {
        let never = match (condition.held, condition.failed) {
            (0, 0) => "never asked",
            (0, _) => "never true ",
            _ => "never false",
        };
        text.push_str(&format!("\n    {never}: {}", condition.text));
    }
    text
}

/// Coverage for scripts.
pub(super) fn shown_coverage(coverage: &Coverage, missing: bool) -> Value {
    let mut shown = json!({
        "percent": coverage.percent(),
        "policies": coverage.policies,
        "policies_covered": coverage.policies_covered,
        "conditions": coverage.conditions,
        "conditions_covered": coverage.conditions_covered,
    });
    if missing {
        let condition =
            |c: &ConditionCoverage| json!({"text": c.text, "held": c.held, "failed": c.failed});
        let list = coverage.missing.iter().map(|m| {
            let conditions: Vec<Value> = m.conditions.iter().map(condition).collect();
            json!({
                "policy_id": m.id,
                "file": m.place.as_ref().map(|(file, _)| file),
                "line": m.place.as_ref().map(|(_, line)| line),
                "matched": m.matched,
                "determined": m.determined,
                "conditions": conditions,
            })
        });
        shown["missing"] = list.collect();
        shown["missing_total"] = json!(coverage.missing_total);
    }
    shown
}

/// The coverage that a server found.
pub(super) fn coverage_from(coverage: v1::TestCoverage) -> Coverage {
    let missing = coverage.missing.into_iter().map(|m| PolicyCoverage {
        id: m.policy_id,
        place: Some((m.file, m.line)),
        matched: m.matched,
        determined: m.determined,
        conditions: m
            .conditions
            .into_iter()
            .map(|c| ConditionCoverage {
                text: c.text,
                held: c.held,
                failed: c.failed,
            })
            .collect(),
    });
    Coverage {
        policies: coverage.policies as usize,
        policies_covered: coverage.policies_covered as usize,
        conditions: coverage.conditions as usize,
        conditions_covered: coverage.conditions_covered as usize,
        missing: missing.collect(),
        missing_total: coverage.missing_total as usize,
    }
}
