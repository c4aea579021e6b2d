//! What is different between two policy sets.

use super::policies::blocking;
use super::submission::Candidate;
use super::{OperationError, Operations};
use crate::identity::registry::Credential;
use crate::policy::limits::COMPARED_MAX;
use crate::policy::{Difference, DifferenceError, difference};

/// What a revision is compared with.
pub(crate) enum Other {
    /// Another one; 0 is the one in force.
    Revision(u64),
    /// What is not in force yet; a patch is against the first revision.
    Candidate(Candidate),
}

/// The outcome, with the numbers of what was compared; 0 is a candidate.
pub(crate) struct Compared {
    pub(crate) before: u64,
    pub(crate) after: u64,
    pub(crate) difference: Difference,
}

impl Operations {
    /// Compares revision `before` with another policy set; 0 is the one in force. Tells
    /// nothing that reading both would not.
    pub(crate) async fn diff_policy(
        &self,
        credential: &Credential,
        before: u64,
        other: Other,
        texts: bool,
    ) -> Result<Compared, OperationError> {
        self.read(credential, "read_policy").await?;
        let (before, old) = self.content(before).await?;
        let (after, new) = match other {
            Other::Revision(number) => self.content(number).await?,
            Other::Candidate(candidate) => (0, candidate.over(&old)?),
        };
        let difference = blocking(move || difference(&old, &new, texts)).await?;
        let difference = difference.map_err(|error| match error {
            DifferenceError::Invalid(diagnostics) => OperationError::PolicyInvalid(diagnostics),
            DifferenceError::TooMany(size) => OperationError::Limit {
                name: "compared_policies",
                size,
                max: COMPARED_MAX,
            },
        })?;
        Ok(Compared {
            before,
            after,
            difference,
        })
    }
}
