//! Four eyes: one person proposes a policy set, another one approves it.
//!
//! What is approved is exactly what was proposed: a proposal never changes, goes through
//! the gates again, and becomes the revision after the one that it was written against, or
//! none. Nobody approves what they wrote themselves, nor what was written on their behalf.

use std::sync::{Mutex, PoisonError};

use serde_json::json;

use super::submission::{Candidate, Submission, provenance_detail, refused};
use super::{OperationError, Operations, allowed, detail, text_field};
use crate::identity::registry::{Caller, Credential};
use crate::model::event::to_micros;
use crate::model::proposal::{Proposal, ProposalMeta, ProposalState};
use crate::model::revision::{Digest, FileChange, FileKind};
use crate::model::{
    AccessRequest, Change, Conflict, Decision, EntityUid, RevisionMeta, SourceFile,
};
use crate::pdp::{Act, PdpError};
use crate::policy::{Diagnostic, PolicyPatch};

impl Operations {
    /// Runs the gates on a candidate and stores it for somebody else to approve.
    pub(crate) async fn propose_policy(
        &self,
        credential: &Credential,
        submission: Submission,
    ) -> Result<(ProposalMeta, Vec<Diagnostic>, Decision), OperationError> {
        submission.require_fields()?;
        let request = AccessRequest::new(EntityUid::action("propose_policy"), self.zone());
        let passed = self.pass(credential, &request, submission).await?;
        let proposed = Mutex::new(None);
        // The number is taken outside of the transaction, which refuses one that is gone.
        for attempt in 1.. {
            let newest = self.store.proposals(u64::MAX, 1).await?;
            let number = newest.first().map_or(1, |newest| newest.number + 1);
            let decision = self
                .pdp
                .operate(credential, &request, &|state, caller, now| {
                    passed.require_fit(state, caller, credential, &request, now)?;
                    let meta = ProposalMeta {
                        number,
                        state: ProposalState::Open,
                        base_revision: passed.expected,
                        authors: parties(caller),
                        message: passed.message.clone(),
                        create_time: to_micros(now),
                        content_sha256: passed.sha256,
                        policies: passed.compiled.policy_count(),
                        decided_by: None,
                        provenance: passed.provenance.clone(),
                    };
                    *proposed.lock().unwrap_or_else(PoisonError::into_inner) = Some(meta.clone());
                    let mut detail = detail([
                        ("proposal", json!(number.to_string())),
                        ("base_revision", json!(passed.expected.to_string())),
                        ("content_sha256", json!(hex::encode(passed.sha256))),
                        ("message", json!(passed.message)),
                    ]);
                    provenance_detail(&passed.provenance, &mut detail);
                    Ok(Act {
                        detail,
                        change: Some(Change::Propose(Box::new(Proposal {
                            meta,
                            changes: passed.changes.clone(),
                        }))),
                    })
                })
                .await;
            let decision = match decision {
                Err(PdpError::Conflict(Conflict::ProposalMoved)) if attempt < 3 => continue,
                decision => allowed(decision.map_err(refused)?)?,
            };
            let meta = proposed
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            let meta = meta.ok_or(PdpError::Stale)?;
            return Ok((meta, passed.compiled.warnings.clone(), decision));
        }
        Err(PdpError::Stale.into())
    }

    /// Makes a proposal of somebody else the revision in force.
    pub(crate) async fn approve_policy(
        &self,
        credential: &Credential,
        number: u64,
    ) -> Result<(RevisionMeta, Vec<Diagnostic>, Decision), OperationError> {
        let request = AccessRequest::new(EntityUid::action("approve_policy"), self.zone());
        // What cannot be approved is not compiled; the transaction asks again.
        let proposal = match self.store.proposal(number).await? {
            Some(proposal) if proposal.meta.state == ProposalState::Open => proposal,
            Some(Proposal { meta, .. }) => {
                let decided = || PdpError::Conflict(Conflict::ProposalDecided(meta.state));
                return Err(self.fail(credential, &request, decided).await);
            }
            None => {
                let unknown = || PdpError::Conflict(Conflict::ProposalNotFound);
                return Err(self.fail(credential, &request, unknown).await);
            }
        };
        let meta = proposal.meta.clone();
        let submission = Submission {
            candidate: Candidate::Patch(self.patch(proposal).await?),
            expected: meta.base_revision,
            message: meta.message.clone(),
            provenance: meta.provenance.clone(),
            restores: None,
        };
        let passed = self.pass(credential, &request, submission).await?;
        // The same files make the same content; anything else is a damaged database.
        if passed.sha256 != meta.content_sha256 {
            let what = format!("proposal {number} is not what was proposed");
            return Err(crate::store::StoreError::Corrupt(what).into());
        }
        let (revision, decision) = self
            .activate(credential, &request, &passed, Some(&meta))
            .await?;
        Ok((revision, passed.compiled.warnings.clone(), decision))
    }

    /// Ends a proposal. Its author may do so, too: nothing comes into force by it.
    pub(crate) async fn reject_policy(
        &self,
        credential: &Credential,
        number: u64,
        note: &str,
    ) -> Result<(ProposalMeta, Decision), OperationError> {
        text_field("note", note, 1024)?;
        let request = AccessRequest::new(EntityUid::action("reject_policy"), self.zone());
        let decision = self
            .pdp
            .operate(credential, &request, &|_, caller, _| {
                Ok(Act {
                    change: Some(Change::Reject {
                        proposal: number,
                        by: caller.principal.uid(),
                    }),
                    detail: detail([
                        ("proposal", json!(number.to_string())),
                        ("note", json!(note)),
                    ]),
                })
            })
            .await?;
        let decision = allowed(decision)?;
        let proposal = self.store.proposal(number).await?;
        let proposal = proposal.ok_or(PdpError::Conflict(Conflict::ProposalNotFound))?;
        Ok((proposal.meta, decision))
    }

    /// A proposal with what it would change.
    pub(crate) async fn proposal(
        &self,
        credential: &Credential,
        number: u64,
    ) -> Result<(ProposalMeta, PolicyPatch), OperationError> {
        self.read(credential, "read_policy").await?;
        let proposal = self.store.proposal(number).await?;
        let proposal = proposal.ok_or(PdpError::Conflict(Conflict::ProposalNotFound))?;
        let meta = proposal.meta.clone();
        Ok((meta, self.patch(proposal).await?))
    }

    /// Proposals below `before`, the newest first.
    pub(crate) async fn proposals(
        &self,
        credential: &Credential,
        before: u64,
        limit: u32,
    ) -> Result<Vec<ProposalMeta>, OperationError> {
        self.read(credential, "read_policy").await?;
        Ok(self.store.proposals(before, limit).await?)
    }

    /// The texts of what a proposal changes.
    async fn patch(&self, proposal: Proposal<Digest>) -> Result<PolicyPatch, OperationError> {
        let digests = proposal.changes.iter().filter_map(|change| change.content);
        let mut texts = self
            .store
            .texts(&digests.collect::<Vec<_>>())
            .await?
            .into_iter();
        let mut patch = PolicyPatch::default();
        for FileChange {
            kind,
            name,
            content,
        } in proposal.changes
        {
            let Some(text) = content.and_then(|_| texts.next()) else {
                patch.delete_files.push(name);
                continue;
            };
            let file = SourceFile::new(name, text);
            match kind {
                FileKind::Policy => patch.put_policies.push(file),
                FileKind::Schema => patch.put_schemas.push(file),
                FileKind::Test => patch.put_tests.push(file),
            }
        }
        Ok(patch)
    }
}

/// The caller, and on whose behalf it acts.
fn parties(caller: &Caller) -> Vec<EntityUid> {
    let behind = caller.delegation.iter().flat_map(|d| d.others());
    std::iter::once(&caller.principal)
        .chain(behind)
        .map(crate::model::Principal::uid)
        .collect()
}

/// # Errors
/// When the caller, or somebody on whose behalf it acts, has a part in the proposal.
pub(super) fn require_another(proposal: &ProposalMeta, caller: &Caller) -> Result<(), PdpError> {
    let own = parties(caller);
    match proposal.authors.iter().any(|author| own.contains(author)) {
        true => Err(PdpError::OwnProposal),
        false => Ok(()),
    }
}
