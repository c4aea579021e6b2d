//! Tests of a policy set: cases in files beside the policies, each a request and what must
//! come of it. They are part of the set, so nobody can apply a change without them, and
//! they are asked of the very engine that decides: [`Compiled::evaluate_chain`].
//!
//! A file is read strictly. What is not known in it is an error with its line and column,
//! for a test that is not understood would be a test that passes.

mod case;
mod cedar;
mod compare;
mod coverage;
mod file;
mod merge;
#[cfg(test)]
mod tests;
mod world;

use std::collections::HashSet;

use self::case::Case;
use self::compare::compare;
pub use self::coverage::{ConditionCoverage, Coverage, PolicyCoverage};
use super::compile::Compiled;
use super::diagnostic::Diagnostic;
use super::evaluate::Pip;
use super::limits::{TEST_CASES_MAX, TEST_FILE_BYTES_MAX};
use super::parallel::parallel;
use crate::model::{DenyReason, Effect, SourceFile};

/// Cases that one thread runs without looking at anything else.
const PIECE: usize = 32;

/// What the tests of a set found.
#[derive(Clone, Debug)]
pub struct TestReport {
    /// One for each case, in the order of the files and of the cases in them.
    pub results: Vec<TestResult>,
    /// What the tests reached, where that was asked for.
    pub coverage: Option<Coverage>,
}

/// What became of one case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TestResult {
    /// The file.
    pub file: String,
    /// Where the case begins, 1-based.
    pub line: u32,
    /// 1-based.
    pub column: u32,
    /// Its name; of a row, the case's name and the row's.
    pub name: String,
    /// What came otherwise than expected; empty where it passed.
    pub mismatches: Vec<Mismatch>,
    /// What was decided; `None` where the request was refused.
    pub effect: Option<Effect>,
    /// Why, of a deny.
    pub reason: Option<DenyReason>,
    /// The policies that determined it, sorted.
    pub policies: Vec<String>,
    /// The policies that could not be evaluated, sorted.
    pub errored: Vec<String>,
    /// The names of the obligations, sorted.
    pub obligations: Vec<String>,
    /// One sentence: why it was decided so, or refused.
    pub message: String,
}

/// Something that came otherwise than a test expects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// `decision`, `reason`, `policies`, `errored`, `obligations`, `message`, `error` or
    /// `request`.
    pub what: &'static str,
    /// As the test says.
    pub expected: String,
    /// As it was.
    pub actual: String,
}

impl TestResult {
    /// Whether everything came as expected.
    pub fn passed(&self) -> bool {
        self.mismatches.is_empty()
    }
}

impl TestReport {
    /// The cases that did not pass, as what is wrong with the set.
    pub fn failures(&self) -> Vec<Diagnostic> {
        let failed = self.results.iter().filter(|result| !result.passed());
        failed.map(failure).collect()
    }
}

/// A case that did not pass.
fn failure(result: &TestResult) -> Diagnostic {
    let mismatches = result.mismatches.iter();
    let parts: Vec<String> = mismatches
        .map(|m| format!("{}: expected {}, got {}", m.what, m.expected, m.actual))
        .collect();
    let why = match result.message.as_str() {
        "" => String::new(),
        message => format!(" ({message})"),
    };
    Diagnostic {
        file: result.file.clone(),
        line: result.line,
        column: result.column,
        message: format!(
            "the test `{}` fails: {}{why}",
            result.name,
            parts.join("; ")
        ),
        help: "change the policies, or what the test expects; `zta policy test` shows more"
            .to_owned(),
        ..Diagnostic::default()
    }
}

impl Compiled {
    /// Runs the cases of test files. `stop` is asked between cases, by several threads.
    ///
    /// # Errors
    /// What is wrong with the files, each with its place; or that it was stopped.
    pub fn run_tests(
        &self,
        files: &[SourceFile],
        with_coverage: bool,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<TestReport, Vec<Diagnostic>> {
        let cases = self.cases(files, stop)?;
        let pieces: Vec<&[Case]> = cases.chunks(PIECE).collect();
        let run = |piece: &&[Case]| -> Option<(Vec<TestResult>, coverage::Seen)> {
            let mut seen = coverage::Seen::default();
            let mut results = Vec::with_capacity(piece.len());
            for case in *piece {
                if stop() {
                    return None;
                }
                results.push(self.run_test(case, with_coverage.then_some(&mut seen)));
            }
            Some((results, seen))
        };
        let (mut results, mut seen) = (Vec::new(), coverage::Seen::default());
        for piece in parallel(&pieces, 2, run) {
            let (more, reached) = piece.ok_or_else(|| vec![stopped()])?;
            results.extend(more);
            seen.add(reached);
        }
        let coverage = with_coverage.then(|| seen.coverage(self));
        Ok(TestReport { results, coverage })
    }

    /// The cases of all files.
    fn cases(
        &self,
        files: &[SourceFile],
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Vec<Case>, Vec<Diagnostic>> {
        let (mut cases, mut errors) = (Vec::new(), Vec::new());
        for file in files {
            if stop() {
                return Err(vec![stopped()]);
            }
            if file.text().len() > TEST_FILE_BYTES_MAX {
                errors.push(too_large(file));
                continue;
            }
            let read = match file.name.ends_with(".json") {
                true => cedar::cases(self, file),
                false => case::cases(self, file),
            };
            match read {
                Ok(more) => cases.extend(more),
                Err(more) => errors.extend(more),
            }
            if cases.len() > TEST_CASES_MAX {
                return Err(vec![too_many(file)]);
            }
        }
        errors.extend(twice(&cases));
        if errors.is_empty() {
            Ok(cases)
        } else {
            Err(errors)
        }
    }

    fn run_test(&self, case: &Case, seen: Option<&mut coverage::Seen>) -> TestResult {
        let pip = Pip {
            stored: &case.stored,
            parties: &*case.registry,
        };
        let answer = self.evaluate_chain(&case.principal, &case.request, &case.facts, &pip);
        if let Some(seen) = seen {
            seen.note(self, case, &pip, &answer);
        }
        compare(case, answer)
    }
}

/// Two cases of one name in one file: a report would not tell which of them failed.
fn twice(cases: &[Case]) -> Vec<Diagnostic> {
    let mut names = HashSet::new();
    let again = cases
        .iter()
        .filter(|case| !names.insert((&*case.at.file, &case.name)));
    again
        .map(|case| {
            case.at.wrong(
                format!("a test named `{}` stands before this one", case.name),
                "give each test of a file a name of its own",
            )
        })
        .collect()
}

fn stopped() -> Diagnostic {
    Diagnostic {
        message: "the tests took too long and were stopped".to_owned(),
        help: "split the policy set's tests, or make them fewer".to_owned(),
        ..Diagnostic::default()
    }
}

fn too_large(file: &SourceFile) -> Diagnostic {
    let bytes = file.text().len();
    Diagnostic {
        file: file.name.clone(),
        message: format!(
            "the test file has {bytes} bytes, at most {TEST_FILE_BYTES_MAX} are allowed"
        ),
        help: "split it into several files".to_owned(),
        ..Diagnostic::default()
    }
}

fn too_many(file: &SourceFile) -> Diagnostic {
    Diagnostic {
        file: file.name.clone(),
        message: format!("up to here there are more than {TEST_CASES_MAX} test cases and rows"),
        help: "leave out rows that test the same".to_owned(),
        ..Diagnostic::default()
    }
}
