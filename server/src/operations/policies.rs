//! The life of policy sets: validate, apply, read, and evaluate for testing.

use serde_json::json;

use super::{OperationError, Operations, allowed, detail, text_field};
use crate::identity::registry::{Caller, Credential};
use crate::model::event::LEAF_BYTES_MAX;
use crate::model::{
    AccessRequest, AgentState, Change, Decision, Effect, EntityUid, Principal, Revision,
    RevisionMeta,
};
use crate::pdp::{Act, PdpError, facts};
use crate::policy::{
    CedarItem, CedarResult, CedarSetup, Compiled, Diagnostic, PolicySource, compile,
    content_sha256, evaluate_cedar,
};

/// What the names of policies may take of the record of the next apply; the rest is for
/// its message and the other fields.
const RECORD_BYTES_MAX: usize = LEAF_BYTES_MAX / 2;

/// What the gates say about a candidate.
pub(crate) type Gates = Result<Compiled, Vec<Diagnostic>>;

impl Operations {
    /// Runs the gates on a candidate.
    pub(crate) async fn validate_policy(
        &self,
        credential: &Credential,
        source: PolicySource,
    ) -> Result<Gates, OperationError> {
        self.read(credential, "validate_policy").await?;
        gates(source).await
    }

    /// Applies a candidate as the next revision, if the expected one is in force.
    pub(crate) async fn apply_policy(
        &self,
        credential: &Credential,
        source: PolicySource,
        expected: u64,
        message: &str,
    ) -> Result<(RevisionMeta, Vec<Diagnostic>, Decision), OperationError> {
        text_field("message", message, 4096)?;
        let request = AccessRequest::new(EntityUid::action("apply_policy"), self.zone());
        // Compiling is dear, so it is not done for a caller who may not apply anyway;
        // the deny is decided and recorded like any other.
        if !self.may(credential, &request).await? {
            let nothing = |_: &_, _: &Caller, _| Ok(Act::default());
            let decision = self.pdp.operate(credential, &request, &nothing).await?;
            return Err(OperationError::Denied(Box::new(decision)));
        }
        let sha256 = content_sha256(&source);
        let schema_files = source.schemas.clone();
        let compiled = gates(source)
            .await?
            .map_err(OperationError::PolicyInvalid)?;
        let revision = |principal: &Principal, now| Revision {
            meta: RevisionMeta {
                number: expected.saturating_add(1),
                author: principal.uid(),
                message: message.to_owned(),
                apply_time: now,
                content_sha256: sha256,
                policies: compiled.policy_count(),
            },
            schema_files: schema_files.clone(),
            chunks: compiled
                .source()
                .policies
                .iter()
                .map(|f| crate::model::revision::PolicyChunk {
                    file: f.name.clone(),
                    policy_id: None,
                    text: f.text.clone(),
                })
                .collect(),
        };
        let decision = self
            .pdp
            .operate(credential, &request, &|state, caller, now| {
                let facts = facts(state, caller, credential, &request, now);
                let next = compiled.evaluate(&caller.principal, &request, &facts)?;
                // What cannot be put on record cannot be done either.
                if next.effect() == Effect::Deny || next.record_bytes() > RECORD_BYTES_MAX {
                    return Err(PdpError::Lockout);
                }
                super::entities::fit(state, &compiled)?;
                let revision = revision(&caller.principal, now);
                Ok(Act {
                    detail: detail([
                        ("revision", json!(revision.meta.number.to_string())),
                        ("content_sha256", json!(hex::encode(sha256))),
                        ("message", json!(message)),
                    ]),
                    change: Some(Change::ApplyRevision(Box::new(revision))),
                })
            })
            .await;
        let decision = allowed(decision.map_err(|e| match e {
            PdpError::Lockout => OperationError::Lockout,
            PdpError::Misfits(misfits) => super::entities::do_not_fit(misfits),
            other => other.into(),
        })?)?;
        let applied = self.store.revision(expected.saturating_add(1)).await?;
        let meta = applied
            .ok_or(OperationError::RevisionNotFound(expected + 1))?
            .meta;
        Ok((meta, compiled.warnings.clone(), decision))
    }

    /// Whether policy would permit a request now. Not a decision: nothing is answered
    /// on the strength of it.
    async fn may(
        &self,
        credential: &Credential,
        request: &AccessRequest,
    ) -> Result<bool, OperationError> {
        let now = (self.pdp.clock)();
        let state = self.pdp.replica.current();
        let caller = self.pdp.authenticate(credential, &state, now).await?;
        if caller.principal.state != AgentState::Active {
            return Ok(false);
        }
        let revision = state.revision.as_ref().ok_or(PdpError::NotReady)?;
        let facts = facts(&state, &caller, credential, request, now);
        let verdict = revision
            .compiled
            .evaluate(&caller.principal, request, &facts)
            .map_err(PdpError::Policy)?;
        Ok(verdict.effect() == Effect::Allow)
    }

    /// A revision with its content; 0 means the one in force. Says whether it is.
    pub(crate) async fn revision(
        &self,
        credential: &Credential,
        number: u64,
    ) -> Result<(Revision, u64), OperationError> {
        self.read(credential, "read_policy").await?;
        let active = self.active_revision();
        let number = if number == 0 { active } else { number };
        let revision = self.store.revision(number).await?;
        Ok((
            revision.ok_or(OperationError::RevisionNotFound(number))?,
            active,
        ))
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

async fn gates(source: PolicySource) -> Result<Gates, OperationError> {
    blocking(move || compile(&source, None)).await
}

/// Runs what takes long beside the calls of others.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, OperationError> {
    tokio::task::spawn_blocking(work).await.map_err(|e| {
        PdpError::Store(crate::store::StoreError::Unavailable(format!(
            "a worker failed: {e}"
        )))
        .into()
    })
}
