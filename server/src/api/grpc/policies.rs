//! `zta.v1.PolicyService`.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use zta_proto::v1;
use zta_proto::v1::policy_service_server::PolicyService;

use super::{consistency_token, entity, page_size, page_token_invalid, timestamp, wire_uid};
use crate::api::caller::credential;
use crate::api::status::{field, limit};
use crate::model::{Effect, RevisionMeta, SourceFile};
use crate::operations::Operations;
use crate::policy::{CedarItem, Diagnostic, PolicySource};

/// Requests of one Evaluate.
const EVALUATE_MAX: usize = 1024;

/// The door.
pub(crate) struct PolicyDoor(pub(crate) Arc<Operations>);

fn source(source: Option<v1::PolicySource>) -> Result<PolicySource, Status> {
    let source = source.ok_or_else(|| field("source", "is missing"))?;
    let files = |files: Vec<v1::SourceFile>| {
        let mut files: Vec<SourceFile> = files
            .into_iter()
            .map(|f| SourceFile {
                name: f.name,
                text: f.text,
            })
            .collect();
        files.sort_by(|a, b| a.name.cmp(&b.name));
        files
    };
    Ok(PolicySource {
        policies: files(source.policies),
        schemas: files(source.schemas),
    })
}

fn wire_files(files: Vec<SourceFile>) -> Vec<v1::SourceFile> {
    files
        .into_iter()
        .map(|f| v1::SourceFile {
            name: f.name,
            text: f.text,
        })
        .collect()
}

fn wire_diagnostics(diagnostics: &[Diagnostic]) -> Vec<v1::Diagnostic> {
    let wire = |d: &Diagnostic| v1::Diagnostic {
        file: d.file.clone(),
        line: d.line,
        column: d.column,
        message: d.message.clone(),
        help: d.help.clone(),
        policy_id: d.policy_id.clone(),
    };
    diagnostics.iter().map(wire).collect()
}

fn wire_revision(meta: RevisionMeta, active: u64) -> v1::Revision {
    v1::Revision {
        active: meta.number == active,
        number: meta.number,
        author: Some(wire_uid(&meta.author)),
        message: meta.message,
        apply_time: timestamp(meta.apply_time),
        content_sha256: hex::encode(meta.content_sha256),
        policies: meta.policies,
    }
}

#[tonic::async_trait]
impl PolicyService for PolicyDoor {
    async fn validate(
        &self,
        request: Request<v1::ValidateRequest>,
    ) -> Result<Response<v1::ValidateResponse>, Status> {
        let credential = credential(&request, (self.0.pdp.clock)());
        let source = source(request.into_inner().source)?;
        let response = match self.0.validate_policy(&credential, source).await? {
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

    async fn apply(
        &self,
        request: Request<v1::ApplyRequest>,
    ) -> Result<Response<v1::ApplyResponse>, Status> {
        let credential = credential(&request, (self.0.pdp.clock)());
        let v1::ApplyRequest {
            source: candidate,
            expected_revision,
            message,
            patch: _,
        } = request.into_inner();
        let candidate = source(candidate)?;
        let (meta, warnings, decision) = self
            .0
            .apply_policy(&credential, candidate, expected_revision, &message)
            .await?;
        let active = meta.number;
        Ok(Response::new(v1::ApplyResponse {
            revision: Some(wire_revision(meta, active)),
            warnings: wire_diagnostics(&warnings),
            consistency_token: consistency_token(&decision),
        }))
    }

    async fn get_revision(
        &self,
        request: Request<v1::GetRevisionRequest>,
    ) -> Result<Response<v1::GetRevisionResponse>, Status> {
        let credential = credential(&request, (self.0.pdp.clock)());
        let number = request.into_inner().number;
        let (revision, active) = self.0.revision(&credential, number).await?;
        Ok(Response::new(v1::GetRevisionResponse {
            source: Some(v1::PolicySource {
                policies: wire_files(revision.policy_files()),
                schemas: wire_files(revision.schema_files),
            }),
            revision: Some(wire_revision(revision.meta, active)),
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
            effect: match result.effect {
                Effect::Allow => v1::Effect::Allow.into(),
                Effect::Deny => v1::Effect::Deny.into(),
            },
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
