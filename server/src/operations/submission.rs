//! The one way into force: a candidate, the gates that it has to pass, and the act that
//! makes it the next revision. Applying, approving and rolling back are this.

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value, json};

use super::policies::blocking;
use super::policy_tests::time_is_up;
use super::{OperationError, Operations, allowed, detail, text_field};
use crate::identity::registry::{Caller, Credential};
use crate::model::event::{LEAF_BYTES_MAX, to_micros};
use crate::model::proposal::ProposalMeta;
use crate::model::revision::{Digest, FileChange, NewRevision, Provenance, is_commit};
use crate::model::{
    AccessRequest, Change, Conflict, Decision, Effect, RevisionMeta, SourceFile, Standing,
};
use crate::pdp::{Act, PdpError, facts};
use crate::policy::{
    Bundle, Compiled, Diagnostic, PolicyPatch, PolicySource, SharedSet, SignatureError, Signing,
    content_sha256, gates_id, pass_gates,
};
use crate::replica::{ActiveRevision, State};

/// What the names of policies may take of the record of the next apply; the rest is for
/// its message and the other fields.
const RECORD_BYTES_MAX: usize = LEAF_BYTES_MAX / 2;

/// A policy set that somebody would like to be in force.
pub(crate) enum Candidate {
    /// The whole of it.
    Source(PolicySource),
    /// What it has different from the one in force.
    Patch(PolicyPatch),
}

/// A candidate with what its author says of it.
pub(crate) struct Submission {
    pub(crate) candidate: Candidate,
    /// The revision that must be in force.
    pub(crate) expected: u64,
    /// Why, for the record.
    pub(crate) message: String,
    pub(crate) provenance: Provenance,
    /// Of a rollback: the revision that the candidate is.
    pub(crate) restores: Option<u64>,
}

/// What the gates say about a candidate.
pub(crate) type Gates = Result<Arc<SharedSet>, Vec<Diagnostic>>;

/// A candidate that has passed the gates, with what its record will say.
pub(super) struct Passed {
    pub(super) compiled: Arc<SharedSet>,
    pub(super) sha256: Digest,
    /// Against the revision that was in force, whose number is `expected`. Revisions never
    /// change, so this holds whenever that number is in force.
    pub(super) changes: Vec<FileChange<SourceFile>>,
    pub(super) expected: u64,
    pub(super) message: String,
    pub(super) provenance: Provenance,
    restores: Option<u64>,
}

impl Operations {
    /// # Errors
    /// When policy does not permit the request now; the deny is decided and recorded like
    /// any other.
    pub(super) async fn require_may(
        &self,
        credential: &Credential,
        request: &AccessRequest,
    ) -> Result<(), OperationError> {
        if self.may(credential, request).await? {
            return Ok(());
        }
        let nothing = |_: &_, _: &Caller, _| Ok(Act::default());
        let decision = self.pdp.operate(credential, request, &nothing).await?;
        Err(OperationError::Denied(Box::new(decision)))
    }

    /// Puts an act on record that cannot be done; whoever may not do it does not learn why.
    pub(super) async fn fail(
        &self,
        credential: &Credential,
        request: &AccessRequest,
        why: impl Fn() -> PdpError + Sync,
    ) -> OperationError {
        let fail = |_: &_, _: &Caller, _| Err(why());
        match self.pdp.operate(credential, request, &fail).await {
            Ok(denied) => OperationError::Denied(Box::new(denied)),
            Err(error) => error.into(),
        }
    }

    /// Runs the gates on a candidate of somebody who may do what is asked for.
    pub(super) async fn pass(
        &self,
        credential: &Credential,
        request: &AccessRequest,
        submission: Submission,
    ) -> Result<Passed, OperationError> {
        // Compiling is dear, so it is not done for a caller who may not apply anyway, nor for
        // a change of what is not in force.
        self.require_may(credential, request).await?;
        let base = match self.in_force(submission.expected).await? {
            Ok(base) => base,
            Err(conflict) => {
                let why = || PdpError::Conflict(conflict.clone());
                return Err(self.fail(credential, request, why).await);
            }
        };
        let (signing, zone) = (self.signing.clone(), self.zone().id);
        let passed = blocking(move || submission.pass(&base, &signing, &zone)).await??;
        match passed {
            Ok(passed) => Ok(passed),
            Err(unsigned) => {
                let why = || PdpError::Signature(unsigned.clone());
                Err(self.fail(credential, request, why).await)
            }
        }
    }

    /// Decides the act and makes the candidate the revision in force.
    pub(super) async fn activate(
        &self,
        credential: &Credential,
        request: &AccessRequest,
        passed: &Passed,
        proposal: Option<&ProposalMeta>,
    ) -> Result<(RevisionMeta, Decision), OperationError> {
        self.pdp.replica.offer(passed.sha256, &passed.compiled);
        let applied = Mutex::new(None);
        let decision = self
            .pdp
            .operate(credential, request, &|state, caller, now| {
                if let Some(proposal) = proposal {
                    super::proposals::require_another(proposal, caller)?;
                }
                passed.require_fit(state, caller, credential, request, now)?;
                let meta = passed.meta(state, caller, proposal, now);
                *applied.lock().unwrap_or_else(PoisonError::into_inner) = Some(meta.clone());
                let detail = passed.detail(&meta, proposal);
                let revision = Box::new(NewRevision {
                    meta,
                    changes: passed.changes.clone(),
                });
                let change = match proposal {
                    None => Change::ApplyRevision(revision),
                    Some(proposal) => Change::Approve {
                        proposal: proposal.number,
                        revision,
                    },
                };
                Ok(Act {
                    detail,
                    change: Some(change),
                })
            })
            .await;
        let decision = allowed(decision.map_err(refused)?)?;
        let applied = applied.into_inner().unwrap_or_else(PoisonError::into_inner);
        let meta = applied.ok_or(OperationError::RevisionNotFound(passed.expected + 1))?;
        Ok((meta, decision))
    }

    /// The set in force if its number is the expected one. A replica that does not know of
    /// that one yet looks again first.
    pub(super) async fn in_force(
        &self,
        expected: u64,
    ) -> Result<Result<Arc<ActiveRevision>, Conflict>, OperationError> {
        let mut state = self.pdp.replica.current();
        if self.active_revision() < expected {
            self.pdp.replica.is_newer_than(state.epoch).await?;
            state = self.pdp.replica.current();
        }
        let revision = state.revision.clone().ok_or(PdpError::NotReady)?;
        let in_force = revision.meta.number;
        Ok(match in_force == expected {
            true => Ok(revision),
            false => Err(Conflict::Revision { in_force }),
        })
    }

    /// Whether policy would permit a request now. Not a decision: nothing is answered
    /// on the strength of it.
    pub(super) async fn may(
        &self,
        credential: &Credential,
        request: &AccessRequest,
    ) -> Result<bool, OperationError> {
        let now = (self.pdp.clock)();
        let state = self.pdp.replica.current();
        let caller = self.pdp.authenticate(credential, &state, now).await?;
        if caller.principal.state != Standing::Active {
            return Ok(false);
        }
        let revision = state.revision.as_ref().ok_or(PdpError::NotReady)?;
        let facts = facts(&state, &caller, credential, request, now);
        let compiled = &revision.compiled;
        let (verdict, _) = compiled
            .evaluate_chain(&caller.principal, request, &facts, &state.pip())
            .map_err(PdpError::Policy)?;
        Ok(verdict.effect() == Effect::Allow)
    }
}

impl Submission {
    /// # Errors
    /// What its author says of it is no good.
    pub(super) fn require_fields(&self) -> Result<(), OperationError> {
        text_field("message", &self.message, 4096)?;
        if let Some(commit) = &self.provenance.commit
            && !is_commit(commit)
        {
            return Err(OperationError::Field {
                field: "commit",
                why: "must be 7 to 64 lower-case hex digits, perhaps with `-dirty` behind them"
                    .to_owned(),
            });
        }
        Ok(())
    }

    /// Runs the gates: what it takes to come into force, whoever asks for it. The one place
    /// where signatures are demanded.
    fn pass(
        self,
        base: &ActiveRevision,
        signing: &Signing,
        zone: &str,
    ) -> Result<Result<Passed, SignatureError>, OperationError> {
        let before = &base.compiled;
        let compiled = gates(self.candidate, before)?.map_err(OperationError::PolicyInvalid)?;
        let sha256 = content_sha256(compiled.source());
        let bundle = Bundle {
            zone: zone.to_owned(),
            base: self.expected,
            base_sha256: base.meta.content_sha256,
            sha256,
        };
        let mut provenance = self.provenance;
        let signature = match self.restores {
            None => signing.admit(provenance.signature.as_deref(), &bundle),
            // What it changed back then is not what it changes now.
            Some(_) => signing.admit_again(provenance.signature.as_deref(), &bundle),
        };
        provenance.signature = match signature {
            Ok(signature) => signature.map(str::to_owned),
            Err(error) => return Ok(Err(error)),
        };
        Ok(Ok(Passed {
            sha256,
            changes: compiled.source().changes_from(before.source()),
            compiled,
            expected: self.expected,
            message: self.message,
            provenance,
            restores: self.restores,
        }))
    }
}

impl Passed {
    /// What will be known of the revision.
    fn meta(
        &self,
        state: &State,
        caller: &Caller,
        proposal: Option<&ProposalMeta>,
        now: time::OffsetDateTime,
    ) -> RevisionMeta {
        let caller = caller.principal.uid();
        let author = proposal.and_then(|p| p.authors.first()).cloned();
        let approver = proposal.map(|_| caller.clone());
        RevisionMeta {
            number: self.expected.saturating_add(1),
            author: author.unwrap_or(caller),
            approver,
            message: self.message.clone(),
            apply_time: to_micros(now),
            content_sha256: self.sha256,
            gates: gates_id(),
            policies: self.compiled.policy_count(),
            provenance: self.provenance.clone(),
            // The commit requires this very epoch.
            base_epoch: state.epoch,
            restores: self.restores,
        }
    }

    /// What the record says of it.
    fn detail(&self, meta: &RevisionMeta, proposal: Option<&ProposalMeta>) -> Map<String, Value> {
        let mut detail = detail([
            ("revision", json!(meta.number.to_string())),
            ("content_sha256", json!(hex::encode(self.sha256))),
            ("message", json!(self.message)),
        ]);
        if let Some(proposal) = proposal {
            let number = proposal.number.to_string();
            detail.insert("proposal".to_owned(), json!(number));
            detail.insert("authors".to_owned(), json!(proposal.authors));
        }
        if let Some(restores) = self.restores {
            detail.insert("restores".to_owned(), json!(restores.to_string()));
        }
        provenance_detail(&self.provenance, &mut detail);
        detail
    }

    /// Whether the candidate can follow what is in force, and would still permit to the
    /// caller what it asks for now.
    pub(super) fn require_fit(
        &self,
        state: &State,
        caller: &Caller,
        credential: &Credential,
        request: &AccessRequest,
        now: time::OffsetDateTime,
    ) -> Result<(), PdpError> {
        let in_force = state.revision.as_ref().map_or(0, |r| r.meta.number);
        if in_force != self.expected {
            return Err(PdpError::Conflict(Conflict::Revision { in_force }));
        }
        let facts = facts(state, caller, credential, request, now);
        let (principal, pip) = (&caller.principal, state.pip());
        let (next, _) = (self.compiled).evaluate_chain(principal, request, &facts, &pip)?;
        // What cannot be put on record cannot be done either.
        if next.effect() == Effect::Deny || next.record_bytes() > RECORD_BYTES_MAX {
            return Err(PdpError::Lockout);
        }
        super::entities::beside(|| state.fits(&self.compiled)).map_err(PdpError::Misfits)
    }
}

/// Where a candidate comes from, for its record.
pub(super) fn provenance_detail(provenance: &Provenance, detail: &mut Map<String, Value>) {
    let Provenance { commit, signature } = provenance;
    for (name, value) in [("commit", commit), ("signature", signature)] {
        if let Some(value) = value {
            detail.insert(name.to_owned(), json!(value));
        }
    }
}

/// Why a candidate did not come into force.
pub(super) fn refused(error: PdpError) -> OperationError {
    match error {
        PdpError::Lockout => OperationError::Lockout,
        PdpError::Misfits(misfits) => super::entities::do_not_fit(misfits),
        other => other.into(),
    }
}

impl Candidate {
    /// The whole set that it is, over a given one.
    ///
    /// # Errors
    /// A patch that does not fit that one.
    pub(super) fn over(self, base: &PolicySource) -> Result<PolicySource, OperationError> {
        match self {
            Self::Source(source) => Ok(source),
            Self::Patch(patch) => patch.apply(base).map_err(|e| OperationError::Field {
                field: "patch",
                why: e.to_string(),
            }),
        }
    }
}

/// # Errors
/// A patch that does not fit the base.
pub(super) fn gates(candidate: Candidate, base: &Compiled) -> Result<Gates, OperationError> {
    let source = candidate.over(base.source())?;
    let passed = pass_gates(&source, Some(base), &time_is_up());
    Ok(passed.map(SharedSet::new))
}
