//! The life of policy sets: validate, apply, read, and evaluate for testing.

use super::submission::{Candidate, Gates, Submission, gates};
use super::{OperationError, Operations};
use crate::identity::registry::{Caller, Credential};
use crate::model::revision::{Digest, FileChange, FileDigest, Manifest};
use crate::model::{AccessRequest, Decision, EntityUid, RevisionMeta, SourceFile};
use crate::pdp::PdpError;
use crate::policy::{CedarItem, CedarResult, CedarSetup, Diagnostic, PolicySource, evaluate_cedar};
use crate::store::{SharedStore, StoreError};

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
        submission: Submission,
    ) -> Result<(RevisionMeta, Vec<Diagnostic>, Decision), OperationError> {
        submission.require_fields()?;
        let request = AccessRequest::new(EntityUid::action("apply_policy"), self.zone());
        if self.four_eyes {
            // On record like every act that was tried, permitted or not.
            let fail = |_: &_, _: &Caller, _| Err(PdpError::ApprovalRequired);
            let decision = self.pdp.operate(credential, &request, &fail).await?;
            return Err(OperationError::Denied(Box::new(decision)));
        }
        let passed = self.pass(credential, &request, submission).await?;
        let (meta, decision) = self.activate(credential, &request, &passed, None).await?;
        Ok((meta, passed.compiled.warnings.clone(), decision))
    }

    /// The files of a revision by name and digest; 0 means the one in force. Says which
    /// one is.
    pub(crate) async fn manifest(
        &self,
        credential: &Credential,
        number: u64,
    ) -> Result<(Manifest, u64), OperationError> {
        self.read(credential, "read_policy").await?;
        self.find(number).await
    }

    async fn find(&self, number: u64) -> Result<(Manifest, u64), OperationError> {
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
        let meta = manifest.meta.clone();
        Ok((meta, self.source_of(manifest).await?, in_force))
    }

    /// The number and the content of a revision; 0 means the one in force.
    pub(super) async fn content(&self, number: u64) -> Result<(u64, PolicySource), OperationError> {
        let (manifest, _) = self.find(number).await?;
        Ok((manifest.meta.number, self.source_of(manifest).await?))
    }

    /// The content of a revision.
    pub(super) async fn source_of(
        &self,
        manifest: Manifest,
    ) -> Result<PolicySource, OperationError> {
        let active = self.pdp.replica.current().revision.clone();
        if let Some(active) = active.filter(|a| a.meta == manifest.meta) {
            return Ok(active.compiled.source().clone());
        }
        Ok(source_of(&self.store, manifest.files).await?)
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
