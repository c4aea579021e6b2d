//! The gates that a candidate passes before it can be in force: it compiles under strict
//! validation, no lint finds what must not be in force, and its own tests pass.

use super::compile::{Compiled, compile};
use super::diagnostic::Diagnostic;
use super::source::PolicySource;

/// Takes a candidate through the gates. What it has in common with `before` is not
/// compiled again; its tests run whole, for a policy elsewhere can fail any of them.
/// `stop` is asked between tests, by several threads.
///
/// # Errors
/// Everything that is wrong with it, each with its place.
pub fn pass_gates(
    source: &PolicySource,
    before: Option<&Compiled>,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Compiled, Vec<Diagnostic>> {
    let mut compiled = compile(source, before)?;
    compiled.lint(before)?;
    let failures = compiled.run_tests(&source.tests, false, stop)?.failures();
    if failures.is_empty() {
        Ok(compiled)
    } else {
        Err(failures)
    }
}
