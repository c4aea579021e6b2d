//! Rollback: what was in force before is in force again, as a new revision.
//!
//! The content goes through the gates like any other: an upgraded server, or entities that
//! were put since, may refuse it. Where it passes, decisions are what they were, given the
//! same entities, because a revision is nothing but its content.
//!
//! Under four eyes one person may roll back, because an emergency does not wait for a second
//! one, but only to what needs no second look: to a revision that somebody else approved, or
//! to the one that the last change replaced.

use super::submission::{Candidate, Submission};
use super::{OperationError, Operations, text_field};
use crate::identity::registry::Credential;
use crate::model::revision::Manifest;
use crate::model::{AccessRequest, Conflict, Decision, EntityUid, RevisionMeta};
use crate::pdp::PdpError;
use crate::policy::Diagnostic;

impl Operations {
    /// Brings the content of revision `number` back as the next revision, if the expected
    /// one is in force. 0 means the one before.
    pub(crate) async fn rollback_policy(
        &self,
        credential: &Credential,
        number: u64,
        expected: u64,
        message: String,
    ) -> Result<(RevisionMeta, Vec<Diagnostic>, Decision), OperationError> {
        text_field("message", &message, 4096)?;
        let request = AccessRequest::new(EntityUid::action("rollback_policy"), self.zone());
        self.require_may(credential, &request).await?;
        let base = match self.in_force(expected).await? {
            Ok(base) => base,
            Err(conflict) => {
                let why = || PdpError::Conflict(conflict.clone());
                return Err(self.fail(credential, &request, why).await);
            }
        };
        let number = match number {
            0 => before(&base.meta),
            number => number,
        };
        let target = match self.target(number, &base.meta).await? {
            Ok(target) => target,
            Err(why) => return Err(self.fail(credential, &request, why).await),
        };
        let meta = target.meta.clone();
        let submission = Submission {
            candidate: Candidate::Source(self.source_of(target).await?),
            expected,
            message,
            provenance: meta.provenance.clone(),
            restores: Some(meta.number),
        };
        let passed = self.pass(credential, &request, submission).await?;
        // The same files make the same content; anything else is a damaged database.
        if passed.sha256 != meta.content_sha256 {
            let what = format!("revision {number} is not what was applied");
            return Err(crate::store::StoreError::Corrupt(what).into());
        }
        let (revision, decision) = self.activate(credential, &request, &passed, None).await?;
        Ok((revision, passed.compiled.warnings.clone(), decision))
    }

    /// The revision that is meant: of a rollback the one that it restored.
    async fn target(
        &self,
        number: u64,
        in_force: &RevisionMeta,
    ) -> Result<Result<Manifest, impl Fn() -> PdpError + Sync + use<>>, OperationError> {
        let refuse = |error: fn(u64) -> PdpError| Ok(Err(move || error(number)));
        let unknown = |number| PdpError::Conflict(Conflict::RevisionNotFound(number));
        if number == in_force.number {
            return refuse(|number| PdpError::Conflict(Conflict::RevisionInForce(number)));
        }
        let Some(mut found) = self.store.revision(number).await? else {
            return refuse(unknown);
        };
        if let Some(origin) = found.meta.restores {
            let Some(restored) = self.store.revision(origin).await? else {
                return refuse(unknown);
            };
            found = restored;
        }
        let undo = in_force.restores.is_none() && number == before(in_force);
        if self.four_eyes && found.meta.approver.is_none() && !undo {
            return refuse(PdpError::RollbackUnapproved);
        }
        Ok(Ok(found))
    }
}

/// The revision that the newest change of content replaced; 0 if there was none. A rollback
/// after a rollback goes further back, never forth to what was rolled back from.
fn before(in_force: &RevisionMeta) -> u64 {
    in_force.restores.unwrap_or(in_force.number) - 1
}
