//! Proposals of `zta.v1.PolicyService`.

use tonic::{Response, Status};
use zta_proto::v1;

use super::policies::{
    candidate, provenance, signed_by, wire_diagnostics, wire_files, wire_revision,
};
use super::{consistency_token, page_size, page_token_invalid, timestamp, wire_uid};
use crate::identity::registry::Credential;
use crate::model::proposal::{ProposalMeta, ProposalState};
use crate::operations::Operations;
use crate::operations::submission::Submission;

fn wire_proposal(meta: &ProposalMeta) -> v1::Proposal {
    let state = match meta.state {
        ProposalState::Open => v1::ProposalState::Open,
        ProposalState::Approved => v1::ProposalState::Approved,
        ProposalState::Rejected => v1::ProposalState::Rejected,
    };
    v1::Proposal {
        number: meta.number,
        state: state.into(),
        base_revision: meta.base_revision,
        authors: meta.authors.iter().map(wire_uid).collect(),
        message: meta.message.clone(),
        create_time: timestamp(meta.create_time),
        content_sha256: hex::encode(meta.content_sha256),
        policies: meta.policies,
        decided_by: meta.decided_by.as_ref().map(wire_uid),
        commit: meta.provenance.commit.clone().unwrap_or_default(),
        signed_by: signed_by(&meta.provenance),
    }
}

pub(super) async fn propose(
    operations: &Operations,
    credential: &Credential,
    request: v1::ProposeRequest,
) -> Result<Response<v1::ProposeResponse>, Status> {
    let submission = Submission {
        candidate: candidate(request.source, request.patch)?,
        expected: request.expected_revision,
        message: request.message,
        provenance: provenance(request.commit, request.signature),
        restores: None,
    };
    let (meta, warnings, decision) = operations.propose_policy(credential, submission).await?;
    Ok(Response::new(v1::ProposeResponse {
        proposal: Some(wire_proposal(&meta)),
        warnings: wire_diagnostics(&warnings),
        consistency_token: consistency_token(&decision),
    }))
}

pub(super) async fn approve(
    operations: &Operations,
    credential: &Credential,
    request: v1::ApproveRequest,
) -> Result<Response<v1::ApproveResponse>, Status> {
    let (meta, warnings, decision) = operations
        .approve_policy(credential, request.number)
        .await?;
    let active = meta.number;
    Ok(Response::new(v1::ApproveResponse {
        revision: Some(wire_revision(meta, active)),
        warnings: wire_diagnostics(&warnings),
        consistency_token: consistency_token(&decision),
    }))
}

pub(super) async fn reject(
    operations: &Operations,
    credential: &Credential,
    request: v1::RejectRequest,
) -> Result<Response<v1::RejectResponse>, Status> {
    let (meta, decision) = operations
        .reject_policy(credential, request.number, &request.note)
        .await?;
    Ok(Response::new(v1::RejectResponse {
        proposal: Some(wire_proposal(&meta)),
        consistency_token: consistency_token(&decision),
    }))
}

pub(super) async fn get(
    operations: &Operations,
    credential: &Credential,
    request: v1::GetProposalRequest,
) -> Result<Response<v1::GetProposalResponse>, Status> {
    let (meta, patch) = operations.proposal(credential, request.number).await?;
    Ok(Response::new(v1::GetProposalResponse {
        proposal: Some(wire_proposal(&meta)),
        patch: Some(v1::PolicyPatch {
            put_policies: wire_files(&patch.put_policies),
            put_schemas: wire_files(&patch.put_schemas),
            put_tests: wire_files(&patch.put_tests),
            delete_files: patch.delete_files,
        }),
    }))
}

pub(super) async fn list(
    operations: &Operations,
    credential: &Credential,
    request: v1::ListProposalsRequest,
) -> Result<Response<v1::ListProposalsResponse>, Status> {
    let size = page_size(request.page_size)?;
    let before = match request.page_token.as_str() {
        "" => u64::MAX,
        token => token.parse().map_err(|_| page_token_invalid())?,
    };
    let metas = operations.proposals(credential, before, size).await?;
    let full = metas.len() == size as usize;
    let last = metas.last().map(|m| m.number).filter(|n| full && *n > 1);
    Ok(Response::new(v1::ListProposalsResponse {
        next_page_token: last.map(|n| n.to_string()).unwrap_or_default(),
        proposals: metas.iter().map(wire_proposal).collect(),
    }))
}
