//! `zta.v1.PolicyService`.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use zta_proto::v1;
use zta_proto::v1::policy_service_server::PolicyService;

use super::{
    consistency_token, entity, page_size, page_token_invalid, timestamp, wire_effect, wire_uid,
};
use crate::api::caller::credential;
use crate::api::status::{field, limit};
use crate::model::revision::{FileDigest, FileKind, Provenance};
use crate::model::{Effect, RevisionMeta, SourceFile};
use crate::operations::Operations;
use crate::operations::submission::{Candidate, Submission};
use crate::policy::limits::FILES_MAX;
use crate::policy::{CedarItem, Diagnostic, PolicyPatch, PolicySource};

/// Requests of one Evaluate.
const EVALUATE_MAX: usize = 1024;

/// The door.
pub(crate) struct PolicyDoor(pub(crate) Arc<Operations>);

/// A candidate of a request: exactly one of the two.
pub(super) fn candidate(
    source: Option<v1::PolicySource>,
    patch: Option<v1::PolicyPatch>,
) -> Result<Candidate, Status> {
    match (source, patch) {
        (Some(source), None) => {
            let policies = PolicySource::new(files(source.policies), files(source.schemas));
            Ok(Candidate::Source(policies.with_tests(files(source.tests))))
        }
        (None, Some(patch)) => {
            // Bounded before anything else is: names are compared one by one.
            let schemas = patch.put_schemas.len();
            let named = patch.put_policies.len() + schemas + patch.put_tests.len();
            if named.max(patch.delete_files.len()) > FILES_MAX {
                let named = named.max(patch.delete_files.len());
                return Err(limit("patch", named, FILES_MAX));
            }
            Ok(Candidate::Patch(PolicyPatch {
                put_policies: files(patch.put_policies),
                put_schemas: files(patch.put_schemas),
                put_tests: files(patch.put_tests),
                delete_files: patch.delete_files,
            }))
        }
        (None, None) => Err(field("source", "is missing: give a source or a patch")),
        (Some(_), Some(_)) => Err(field("patch", "stands beside a source: give one of them")),
    }
}

pub(super) fn files(files: Vec<v1::SourceFile>) -> Vec<SourceFile> {
    let file = |f: v1::SourceFile| SourceFile::new(f.name, f.text);
    files.into_iter().map(file).collect()
}

pub(super) fn wire_files(files: &[SourceFile]) -> Vec<v1::SourceFile> {
    let file = |f: &SourceFile| v1::SourceFile {
        name: f.name.clone(),
        text: f.text().to_string(),
    };
    files.iter().map(file).collect()
}

fn wire_digests(files: Vec<FileDigest>) -> Vec<v1::FileDigest> {
    let digest = |f: FileDigest| v1::FileDigest {
        name: f.name,
        sha256: f.sha256.to_vec(),
        schema: f.kind == FileKind::Schema,
        test: f.kind == FileKind::Test,
    };
    files.into_iter().map(digest).collect()
}

pub(super) fn wire_diagnostics(diagnostics: &[Diagnostic]) -> Vec<v1::Diagnostic> {
    let wire = |d: &Diagnostic| v1::Diagnostic {
        file: d.file.clone(),
        line: d.line,
        column: d.column,
        message: d.message.clone(),
        help: d.help.clone(),
        policy_id: d.policy_id.clone(),
        lint: d.lint.clone(),
    };
    diagnostics.iter().map(wire).collect()
}

/// What a caller says of where a policy set comes from; empty is absent.
pub(super) fn provenance(commit: String, signature: String) -> Provenance {
    let given = |text: String| (!text.is_empty()).then_some(text);
    Provenance {
        commit: given(commit),
        signature: given(signature),
    }
}

/// Who signed it.
pub(super) fn signed_by(provenance: &Provenance) -> String {
    let note = provenance.signature.as_deref();
    note.and_then(crate::policy::signed_by)
        .unwrap_or_default()
        .to_owned()
}

pub(super) fn wire_revision(meta: RevisionMeta, active: u64) -> v1::Revision {
    v1::Revision {
        active: meta.number == active,
        number: meta.number,
        author: Some(wire_uid(&meta.author)),
        message: meta.message,
        apply_time: timestamp(meta.apply_time),
        content_sha256: hex::encode(meta.content_sha256),
        policies: meta.policies,
        approver: meta.approver.as_ref().map(wire_uid),
        signed_by: signed_by(&meta.provenance),
        commit: meta.provenance.commit.unwrap_or_default(),
        base_epoch: meta.base_epoch,
        restores: meta.restores.unwrap_or(0),
    }
}

#[tonic::async_trait]
impl PolicyService for PolicyDoor {
    async fn validate(
        &self,
        request: Request<v1::ValidateRequest>,
    ) -> Result<Response<v1::ValidateResponse>, Status> {
        let credential = credential(&request, (self.0.pdp.clock)());
        let v1::ValidateRequest { source, patch } = request.into_inner();
        let candidate = candidate(source, patch)?;
        let response = match self.0.validate_policy(&credential, candidate).await? {
            Ok(compiled) => v1::ValidateResponse {
                errors: Vec::new(),
                warnings: wire_diagnostics(&compiled.warnings),
                policies: compiled.policy_count(),
            },
            Err(errors) => v1::ValidateResponse {
                errors: wire_diagnostics(&errors),
                warnings: Vec::new(),
                policies: 0,
            },
        };
        Ok(Response::new(response))
    }

    async fn test(
        &self,
        request: Request<v1::TestRequest>,
    ) -> Result<Response<v1::TestResponse>, Status> {
        let credential = credential(&request, (self.0.pdp.clock)());
        super::policy_tests::test(&self.0, &credential, request.into_inner()).await
    }

    async fn apply(
        &self,
        request: Request<v1::ApplyRequest>,
    ) -> Result<Response<v1::ApplyResponse>, Status> {
        let credential = credential(&request, (self.0.pdp.clock)());
        let v1::ApplyRequest {
            source,
            expected_revision,
            message,
            patch,
            commit,
            signature,
        } = request.into_inner();
        let submission = Submission {
            candidate: candidate(source, patch)?,
            expected: expected_revision,
            message,
            provenance: provenance(commit, signature),
            restores: None,
        };
        let (meta, warnings, decision) = self.0.apply_policy(&credential, submission).await?;
        let active = meta.number;
        Ok(Response::new(v1::ApplyResponse {
            revision: Some(wire_revision(meta, active)),
            warnings: wire_diagnostics(&warnings),
            consistency_token: consistency_token(&decision),
        }))
    }

    async fn propose(
        &self,
        request: Request<v1::ProposeRequest>,
    ) -> Result<Response<v1::ProposeResponse>, Status> {
        let credential = credential(&request, (self.0.pdp.clock)());
        super::proposals::propose(&self.0, &credential, request.into_inner()).await
    }

    async fn approve(
        &self,
        request: Request<v1::ApproveRequest>,
    ) -> Result<Response<v1::ApproveResponse>, Status> {
        let credential = credential(&request, (self.0.pdp.clock)());
        super::proposals::approve(&self.0, &credential, request.into_inner()).await
    }

    async fn reject(
        &self,
        request: Request<v1::RejectRequest>,
    ) -> Result<Response<v1::RejectResponse>, Status> {
        let credential = credential(&request, (self.0.pdp.clock)());
        super::proposals::reject(&self.0, &credential, request.into_inner()).await
    }

    async fn get_proposal(
        &self,
        request: Request<v1::GetProposalRequest>,
    ) -> Result<Response<v1::GetProposalResponse>, Status> {
        let credential = credential(&request, (self.0.pdp.clock)());
        super::proposals::get(&self.0, &credential, request.into_inner()).await
    }

    async fn list_proposals(
        &self,
        request: Request<v1::ListProposalsRequest>,
    ) -> Result<Response<v1::ListProposalsResponse>, Status> {
        let credential = credential(&request, (self.0.pdp.clock)());
        super::proposals::list(&self.0, &credential, request.into_inner()).await
    }

    async fn rollback(
        &self,
        request: Request<v1::RollbackRequest>,
    ) -> Result<Response<v1::RollbackResponse>, Status> {
        let credential = credential(&request, (self.0.pdp.clock)());
        super::lifecycle::rollback(&self.0, &credential, request.into_inner()).await
    }

    async fn diff(
        &self,
        request: Request<v1::DiffRequest>,
    ) -> Result<Response<v1::DiffResponse>, Status> {
        let credential = credential(&request, (self.0.pdp.clock)());
        super::lifecycle::diff(&self.0, &credential, request.into_inner()).await
    }

    type WatchRevisionsStream = super::lifecycle::Revisions;

    async fn watch_revisions(
        &self,
        request: Request<v1::WatchRevisionsRequest>,
    ) -> Result<Response<Self::WatchRevisionsStream>, Status> {
        let credential = credential(&request, (self.0.pdp.clock)());
        let after = request.into_inner().after;
        super::lifecycle::watch(&self.0, credential, after).await
    }

    async fn get_status(
        &self,
        request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        let credential = credential(&request, (self.0.pdp.clock)());
        super::lifecycle::get_status(&self.0, &credential).await
    }

    async fn get_revision(
        &self,
        request: Request<v1::GetRevisionRequest>,
    ) -> Result<Response<v1::GetRevisionResponse>, Status> {
        let credential = credential(&request, (self.0.pdp.clock)());
        let v1::GetRevisionRequest {
            number,
            digests_only,
        } = request.into_inner();
        if digests_only {
            let (manifest, active) = self.0.manifest(&credential, number).await?;
            return Ok(Response::new(v1::GetRevisionResponse {
                source: None,
                revision: Some(wire_revision(manifest.meta, active)),
                files: wire_digests(manifest.files),
            }));
        }
        let (meta, source, active) = self.0.revision(&credential, number).await?;
        Ok(Response::new(v1::GetRevisionResponse {
            source: Some(v1::PolicySource {
                policies: wire_files(&source.policies),
                schemas: wire_files(&source.schemas),
                tests: wire_files(&source.tests),
            }),
            revision: Some(wire_revision(meta, active)),
            files: Vec::new(),
        }))
    }

    async fn list_revisions(
        &self,
        request: Request<v1::ListRevisionsRequest>,
    ) -> Result<Response<v1::ListRevisionsResponse>, Status> {
        let credential = credential(&request, (self.0.pdp.clock)());
        let v1::ListRevisionsRequest {
            page_size: size,
            page_token,
        } = request.into_inner();
        let size = page_size(size)?;
        let before = match page_token.as_str() {
            "" => u64::MAX,
            token => token.parse().map_err(|_| page_token_invalid())?,
        };
        let (metas, active) = self.0.revisions(&credential, before, size).await?;
        let full = metas.len() == size as usize;
        let last = metas.last().map(|m| m.number).filter(|n| full && *n > 1);
        Ok(Response::new(v1::ListRevisionsResponse {
            next_page_token: last.map(|n| n.to_string()).unwrap_or_default(),
            revisions: metas
                .into_iter()
                .map(|m| wire_revision(m, active))
                .collect(),
        }))
    }

    type ReplayStream = super::replay::Answers;

    async fn replay(
        &self,
        request: Request<v1::ReplayRequest>,
    ) -> Result<Response<Self::ReplayStream>, Status> {
        super::replay::replay(&self.0, request)
    }

    async fn evaluate(
        &self,
        request: Request<v1::EvaluateRequest>,
    ) -> Result<Response<v1::EvaluateResponse>, Status> {
        let credential = credential(&request, (self.0.pdp.clock)());
        let v1::EvaluateRequest {
            policies,
            schema,
            entities_json,
            requests,
        } = request.into_inner();
        if requests.is_empty() {
            return Err(field("requests", "is empty"));
        }
        if requests.len() > EVALUATE_MAX {
            return Err(limit("requests", requests.len(), EVALUATE_MAX));
        }
        let items = requests
            .into_iter()
            .map(cedar_item)
            .collect::<Result<_, _>>()?;
        let results = self
            .0
            .evaluate_policy(&credential, policies, schema, entities_json, items)
            .await?;
        let results = results.into_iter().map(wire_result).collect();
        Ok(Response::new(v1::EvaluateResponse { results }))
    }
}

/// Here an entity's id may be anything that Cedar takes, the empty one included.
fn cedar_item(item: v1::EvaluateItem) -> Result<CedarItem, Status> {
    let uid = |name: &'static str, reference: Option<v1::EntityRef>| {
        let reference = reference.ok_or_else(|| field(name, "is missing"))?;
        entity(
            name,
            Some(v1::EntityRef {
                id: "_".into(),
                ..reference.clone()
            }),
            None,
        )?;
        Ok::<_, Status>(crate::model::EntityUid::new(reference.r#type, reference.id))
    };
    Ok(CedarItem {
        principal: uid("requests.principal", item.principal)?,
        action: uid("requests.action", item.action)?,
        resource: uid("requests.resource", item.resource)?,
        context_json: item.context_json,
        validate_request: item.validate_request,
    })
}

fn wire_result(result: Result<crate::policy::CedarResult, String>) -> v1::EvaluateResult {
    match result {
        Ok(result) => v1::EvaluateResult {
            effect: wire_effect(result.effect == Effect::Allow).into(),
            policy_ids: result.policies,
            errored_policy_ids: result.errored,
            error: String::new(),
        },
        Err(error) => v1::EvaluateResult {
            error,
            ..v1::EvaluateResult::default()
        },
    }
}
