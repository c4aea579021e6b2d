//! Tests of policy sets, asked for by themselves. Nothing changes.

use std::time::{Duration, Instant};

use super::policies::blocking;
use super::submission::Candidate;
use super::{OperationError, Operations};
use crate::identity::registry::Credential;
use crate::model::SourceFile;
use crate::pdp::PdpError;
use crate::policy::limits::TEST_SECONDS_MAX;
use crate::policy::{Diagnostic, TestReport, compile};

impl Operations {
    /// Runs the tests of a candidate, or of the set in force, or `tests` in their place.
    /// What is wrong with the candidate or with a test file is the inner error.
    pub(crate) async fn test_policy(
        &self,
        credential: &Credential,
        candidate: Option<Candidate>,
        tests: Vec<SourceFile>,
    ) -> Result<Result<TestReport, Vec<Diagnostic>>, OperationError> {
        self.read(credential, "test_policy").await?;
        let base = self.pdp.replica.current().revision.clone();
        let base = base.ok_or(PdpError::NotReady)?;
        blocking(move || {
            let base = &**base.compiled;
            let own;
            let tested = match candidate {
                None => base,
                Some(candidate) => {
                    let source = candidate.over(base.source())?;
                    match compile(&source, Some(base)) {
                        Ok(compiled) => own = compiled,
                        Err(errors) => return Ok(Err(errors)),
                    }
                    &own
                }
            };
            let files = match tests.is_empty() {
                true => &tested.source().tests,
                false => &tests,
            };
            Ok(tested.run_tests(files, true, &time_is_up()))
        })
        .await?
    }
}

/// Whether tests that begin now have taken as long as they may.
pub(super) fn time_is_up() -> impl Fn() -> bool + Sync {
    let end = Instant::now() + Duration::from_secs(TEST_SECONDS_MAX);
    move || Instant::now() > end
}
