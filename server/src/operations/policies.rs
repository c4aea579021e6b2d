//! The life of policy sets: validate, apply, read, and evaluate for testing.

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::json;

use super::policy_tests::time_is_up;
use super::{OperationError, Operations, allowed, detail, text_field};
use crate::identity::registry::{Caller, Credential};
use crate::model::event::{LEAF_BYTES_MAX, to_micros};
use crate::model::proposal::ProposalMeta;
use crate::model::revision::{Digest, FileChange, FileDigest, Manifest, NewRevision};
use crate::model::{
    AccessRequest, Change, Conflict, Decision, Effect, EntityUid, RevisionMeta, SourceFile,
    Standing,
};
use crate::pdp::{Act, PdpError, facts};
use crate::policy::{
    CedarItem, CedarResult, CedarSetup, Compiled, Diagnostic, PolicyPatch, PolicySource, SharedSet,
    content_sha256, evaluate_cedar, gates_id, pass_gates,
};
use crate::replica::State;
use crate::store::{SharedStore, StoreError};

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
}

impl Operations {
    /// Runs the gates on a candidate.
    pub(crate) async fn validate_policy(
        &self,
        credential: &Credential,
        candidate: Candidate,
    ) -> Result<Gates, OperationError> {
        self.read(credential, "validate_policy").await?;
        let base = self.pdp.replica.current().revision.clone();
        let base = base.ok_or(PdpError::NotReady)?;
        blocking(move || gates(candidate, &base.compiled)).await?
    }

    /// Applies a candidate as the next revision, if the expected one is in force.
    pub(crate) async fn apply_policy(
        &self,
        credential: &Credential,
        candidate: Candidate,
        expected: u64,
        message: String,
    ) -> Result<(RevisionMeta, Vec<Diagnostic>, Decision), OperationError> {
        text_field("message", &message, 4096)?;
        let request = AccessRequest::new(EntityUid::action("apply_policy"), self.zone());
        if self.four_eyes {
            // On record like every act that was tried, permitted or not.
            let fail = |_: &_, _: &Caller, _| Err(PdpError::ApprovalRequired);
            let decision = self.pdp.operate(credential, &request, &fail).await?;
            return Err(OperationError::Denied(Box::new(decision)));
        }
        let passed = self
            .pass(credential, &request, candidate, expected, message)
            .await?;
        let (meta, decision) = self.activate(credential, &request, &passed, None).await?;
        Ok((meta, passed.compiled.warnings.clone(), decision))
    }

    /// Runs the gates on a candidate of somebody who may do what is asked for.
    pub(super) async fn pass(
        &self,
        credential: &Credential,
        request: &AccessRequest,
        candidate: Candidate,
        expected: u64,
        message: String,
    ) -> Result<Passed, OperationError> {
        // Compiling is dear, so it is not done for a caller who may not apply anyway;
        // the deny is decided and recorded like any other.
        if !self.may(credential, request).await? {
            let nothing = |_: &_, _: &Caller, _| Ok(Act::default());
            let decision = self.pdp.operate(credential, request, &nothing).await?;
            return Err(OperationError::Denied(Box::new(decision)));
        }
        let base = match self.in_force(expected).await? {
            Ok(base) => base,
            // Nor for a change of what is not in force: on record as permitted and failed.
            Err(conflict) => {
                let fail = |_: &_, _: &Caller, _| Err(PdpError::Conflict(conflict.clone()));
                let decision = self.pdp.operate(credential, request, &fail).await?;
                return Err(OperationError::Denied(Box::new(decision)));
            }
        };
        blocking(move || -> Result<_, OperationError> {
            let compiled = gates(candidate, &base)?.map_err(OperationError::PolicyInvalid)?;
            Ok(Passed {
                sha256: content_sha256(compiled.source()),
                changes: compiled.source().changes_from(base.source()),
                compiled,
                expected,
                message,
            })
        })
        .await?
    }

    /// Decides the act and makes the candidate the revision in force: the caller's own, or
    /// what somebody else has proposed.
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
                let approver = proposal.map(|_| caller.principal.uid());
                let author = proposal.and_then(|p| p.authors.first()).cloned();
                let meta = RevisionMeta {
                    number: passed.expected.saturating_add(1),
                    author: author.unwrap_or_else(|| caller.principal.uid()),
                    approver,
                    message: passed.message.clone(),
                    apply_time: to_micros(now),
                    content_sha256: passed.sha256,
                    gates: gates_id(),
                    policies: passed.compiled.policy_count(),
                };
                *applied.lock().unwrap_or_else(PoisonError::into_inner) = Some(meta.clone());
                let mut detail = detail([
                    ("revision", json!(meta.number.to_string())),
                    ("content_sha256", json!(hex::encode(passed.sha256))),
                    ("message", json!(passed.message)),
                ]);
                if let Some(proposal) = proposal {
                    let number = proposal.number.to_string();
                    detail.insert("proposal".to_owned(), json!(number));
                    detail.insert("authors".to_owned(), json!(proposal.authors));
                }
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
    async fn in_force(
        &self,
        expected: u64,
    ) -> Result<Result<Arc<SharedSet>, Conflict>, OperationError> {
        let mut state = self.pdp.replica.current();
        if self.active_revision() < expected {
            self.pdp.replica.is_newer_than(state.epoch).await?;
            state = self.pdp.replica.current();
        }
        let revision = state.revision.clone().ok_or(PdpError::NotReady)?;
        let in_force = revision.meta.number;
        Ok(match in_force == expected {
            true => Ok(Arc::clone(&revision.compiled)),
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

    /// The files of a revision by name and digest; 0 means the one in force. Says which
    /// one is.
    pub(crate) async fn manifest(
        &self,
        credential: &Credential,
        number: u64,
    ) -> Result<(Manifest, u64), OperationError> {
        self.read(credential, "read_policy").await?;
        let active = self.pdp.replica.current().revision.clone();
        let active = active.ok_or(PdpError::NotReady)?;
        let in_force = active.meta.number;
        if number == 0 || number == in_force {
            let manifest = Manifest {
                meta: active.meta.clone(),
                files: active.compiled.source().digests(),
            };
            return Ok((manifest, in_force));
        }
        let manifest = self.store.revision(number).await?;
        let manifest = manifest.ok_or(OperationError::RevisionNotFound(number))?;
        Ok((manifest, in_force))
    }

    /// A revision with its content; 0 means the one in force. Says which one is.
    pub(crate) async fn revision(
        &self,
        credential: &Credential,
        number: u64,
    ) -> Result<(RevisionMeta, PolicySource, u64), OperationError> {
        let (manifest, in_force) = self.manifest(credential, number).await?;
        let active = self.pdp.replica.current().revision.clone();
        if let Some(active) = active.filter(|a| a.meta == manifest.meta) {
            return Ok((manifest.meta, active.compiled.source().clone(), in_force));
        }
        let source = source_of(&self.store, manifest.files).await?;
        Ok((manifest.meta, source, in_force))
    }

    /// Revisions below `before`, newest first, and the number of the one in force.
    pub(crate) async fn revisions(
        &self,
        credential: &Credential,
        before: u64,
        limit: u32,
    ) -> Result<(Vec<RevisionMeta>, u64), OperationError> {
        self.read(credential, "read_policy").await?;
        Ok((
            self.store.revisions(before, limit).await?,
            self.active_revision(),
        ))
    }

    pub(crate) fn active_revision(&self) -> u64 {
        self.pdp
            .replica
            .current()
            .revision
            .as_ref()
            .map_or(0, |r| r.meta.number)
    }

    /// Exactly Cedar's own semantics over the given test.
    pub(crate) async fn evaluate_policy(
        &self,
        credential: &Credential,
        policies: String,
        schema: String,
        entities_json: String,
        items: Vec<CedarItem>,
    ) -> Result<Vec<Result<CedarResult, String>>, OperationError> {
        self.read(credential, "evaluate_policy").await?;
        blocking(move || {
            let setup = CedarSetup::parse(&policies, &schema, &entities_json)?;
            Ok(items
                .iter()
                .map(|item| evaluate_cedar(&setup, item))
                .collect())
        })
        .await?
        .map_err(|why: String| {
            let message = why;
            OperationError::PolicyInvalid(vec![Diagnostic {
                message,
                ..Diagnostic::default()
            }])
        })
    }
}

impl Passed {
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

/// Why a candidate did not come into force.
pub(super) fn refused(error: PdpError) -> OperationError {
    match error {
        PdpError::Lockout => OperationError::Lockout,
        PdpError::Misfits(misfits) => super::entities::do_not_fit(misfits),
        other => other.into(),
    }
}

/// The files of a stored revision with their texts.
///
/// # Errors
/// When one cannot be read.
pub(super) async fn source_of(
    store: &SharedStore,
    files: Vec<FileDigest>,
) -> Result<PolicySource, StoreError> {
    let digests: Vec<Digest> = files.iter().map(|f| f.sha256).collect();
    let texts = store.texts(&digests).await?;
    let files = files.into_iter().zip(texts);
    let files = files.map(|(file, text)| FileChange {
        kind: file.kind,
        content: Some(SourceFile::new(file.name.as_str(), text)),
        name: file.name,
    });
    Ok(PolicySource::default().with_changes(files.collect()))
}

/// # Errors
/// A patch that does not fit the base.
pub(super) fn gates(candidate: Candidate, base: &Compiled) -> Result<Gates, OperationError> {
    let source = whole_of(candidate, base)?;
    let passed = pass_gates(&source, Some(base), &time_is_up());
    Ok(passed.map(SharedSet::new))
}

/// The whole of a candidate.
///
/// # Errors
/// A patch that does not fit the base.
pub(super) fn whole_of(
    candidate: Candidate,
    base: &Compiled,
) -> Result<PolicySource, OperationError> {
    match candidate {
        Candidate::Source(source) => Ok(source),
        Candidate::Patch(patch) => {
            let field = |e: crate::policy::PatchError| OperationError::Field {
                field: "patch",
                why: e.to_string(),
            };
            patch.apply(base.source()).map_err(field)
        }
    }
}

/// Runs what takes long beside the calls of others.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, OperationError> {
    tokio::task::spawn_blocking(work).await.map_err(|e| {
        PdpError::Store(crate::store::StoreError::Unavailable(format!(
            "a worker failed: {e}"
        )))
        .into()
    })
}
