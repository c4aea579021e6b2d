//! What the tests of a set have reached: which policies determined a decision, and which
//! conditions were both true and false. What no test has reached may say anything.

use std::collections::{HashMap, HashSet};

use super::case::Case;
use super::compare::Answer;
use crate::model::Principal;
use crate::policy::authorize::{evaluator, is_true};
use crate::policy::compile::Compiled;
use crate::policy::entry::source_text;
use crate::policy::evaluate::Pip;

/// Policies that a report names.
const MISSING_MAX: usize = 1000;

/// What tests have reached of a set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Policies of the set.
    pub policies: usize,
    /// Those that determined at least one decision.
    pub policies_covered: usize,
    /// Conditions of all policies: each `when` and `unless`, cut at `&&`.
    pub conditions: usize,
    /// Those that were true in one test and false in another.
    pub conditions_covered: usize,
    /// The policies that are not wholly covered, by id; at most 1000.
    pub missing: Vec<PolicyCoverage>,
    /// How many of those there are.
    pub missing_total: usize,
}

/// What is missing of a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyCoverage {
    /// Its `@id`.
    pub id: String,
    /// Its file, and the line that it begins in.
    pub place: Option<(String, u32)>,
    /// Tests in which its scope held.
    pub matched: u32,
    /// Tests that it determined.
    pub determined: u32,
    /// Those of its conditions that were not both true and false.
    pub conditions: Vec<ConditionCoverage>,
}

/// A condition that was not both true and false.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConditionCoverage {
    /// Its source text.
    pub text: String,
    /// Tests in which it was true.
    pub held: u32,
    /// Tests in which it was false.
    pub failed: u32,
}

impl Coverage {
    /// Policies and conditions that are covered, of a hundred. Rounded down, so that 100
    /// means all.
    pub fn percent(&self) -> u32 {
        let (covered, all) = (
            self.policies_covered + self.conditions_covered,
            self.policies + self.conditions,
        );
        let percent = (covered * 100).checked_div(all).unwrap_or(100);
        u32::try_from(percent).unwrap_or(100)
    }
}

/// Counts of one policy.
#[derive(Debug, Default)]
struct Counts {
    matched: u32,
    determined: u32,
    /// Of each condition: true, false.
    conditions: Vec<(u32, u32)>,
}

/// What cases have reached so far, by policy.
#[derive(Debug, Default)]
pub(super) struct Seen(HashMap<String, Counts>);

impl Seen {
    /// Notes what a case reached. Each condition is asked up to the first that does not
    /// hold, as Cedar does.
    pub(super) fn note(&mut self, set: &Compiled, case: &Case, pip: &Pip<'_>, answer: &Answer) {
        let others = case.facts.delegation.iter().flat_map(|d| d.others());
        let mut matched: HashSet<&str> = HashSet::new();
        for principal in std::iter::once(&case.principal).chain(others) {
            self.note_conditions(set, case, principal, pip, &mut matched);
        }
        if let Ok((verdict, denier)) = answer {
            let denied = denier.iter().flat_map(|denier| &denier.policies);
            for id in verdict.policies.iter().chain(denied) {
                self.0.entry(id.clone()).or_default().determined += 1;
            }
        }
    }

    fn note_conditions<'s>(
        &mut self,
        set: &'s Compiled,
        case: &Case,
        principal: &Principal,
        pip: &Pip<'_>,
        matched: &mut HashSet<&'s str>,
    ) {
        let Ok(asked) = set.case(principal, &case.request, &case.facts, pip) else {
            return;
        };
        let evaluator = evaluator(&asked.request, &asked.entities);
        for entry in &asked.candidates {
            let conditions = entry.conditions();
            let counts = self.0.entry(entry.id().to_owned()).or_default();
            counts.matched += u32::from(matched.insert(entry.id()));
            counts.conditions.resize(conditions.len(), (0, 0));
            for (condition, count) in conditions.into_iter().zip(&mut counts.conditions) {
                match is_true(&evaluator, entry, condition) {
                    Ok(true) => count.0 += 1,
                    Ok(false) => {
                        count.1 += 1;
                        break;
                    }
                    Err(_) => break,
                }
            }
        }
    }

    /// Adds what other cases reached.
    pub(super) fn add(&mut self, other: Self) {
        for (id, more) in other.0 {
            let counts = self.0.entry(id).or_default();
            counts.matched += more.matched;
            counts.determined += more.determined;
            let length = counts.conditions.len().max(more.conditions.len());
            counts.conditions.resize(length, (0, 0));
            for (count, more) in counts.conditions.iter_mut().zip(more.conditions) {
                count.0 += more.0;
                count.1 += more.1;
            }
        }
    }

    /// All of it beside all that there is.
    pub(super) fn coverage(&self, set: &Compiled) -> Coverage {
        let mut coverage = Coverage::default();
        let nothing = Counts::default();
        for (file, line, entry) in set.placed() {
            let counts = self.0.get(entry.id()).unwrap_or(&nothing);
            let mut missing = PolicyCoverage {
                id: entry.id().to_owned(),
                place: Some((file.to_owned(), line)),
                matched: counts.matched,
                determined: counts.determined,
                conditions: Vec::new(),
            };
            coverage.policies += 1;
            coverage.policies_covered += usize::from(counts.determined > 0);
            for (n, condition) in entry.conditions().into_iter().enumerate() {
                let (held, failed) = counts.conditions.get(n).copied().unwrap_or_default();
                coverage.conditions += 1;
                if held > 0 && failed > 0 {
                    coverage.conditions_covered += 1;
                } else {
                    let text = source_text(condition);
                    missing
                        .conditions
                        .push(ConditionCoverage { text, held, failed });
                }
            }
            if missing.determined == 0 || !missing.conditions.is_empty() {
                coverage.missing_total += 1;
                if coverage.missing.len() < MISSING_MAX {
                    coverage.missing.push(missing);
                }
            }
        }
        coverage.missing.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        coverage
    }
}
