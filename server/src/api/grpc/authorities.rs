//! `zta.v1.CertificateAuthorityService`.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use zta_proto::v1;
use zta_proto::v1::certificate_authority_service_server::CertificateAuthorityService;

use super::{bounded, consistency_token, timestamp};
use crate::api::caller::credential;
use crate::identity::ca::CaChain;
use crate::model::{AuthorityRecord, AuthorityState};
use crate::operations::Operations;
use crate::operations::authorities::next_step_time;

/// Bytes of an id: SHA-256 in hex.
const ID_BYTES_MAX: usize = 64;

/// The door.
pub(crate) struct AuthorityDoor(pub(crate) Arc<Operations>);

impl AuthorityDoor {
    fn credential<T>(&self, request: &Request<T>) -> crate::identity::registry::Credential {
        credential(request, (self.0.pdp.clock)())
    }
}

fn wire_authority(record: AuthorityRecord) -> v1::CertificateAuthority {
    let state = match record.state {
        AuthorityState::Prepared => v1::CertificateAuthorityState::Prepared,
        AuthorityState::Active => v1::CertificateAuthorityState::Active,
        AuthorityState::Superseded => v1::CertificateAuthorityState::Superseded,
        AuthorityState::Retired => v1::CertificateAuthorityState::Retired,
    };
    let chain = CaChain::from_pem(record.chain_pem.as_bytes()).ok();
    let ends = chain.as_ref().and_then(|chain| chain.validity().ok());
    v1::CertificateAuthority {
        state: state.into(),
        subject: chain.map(|chain| chain.subject()).unwrap_or_default(),
        prepare_time: timestamp(record.prepare_time),
        activate_time: record.activate_time.and_then(timestamp),
        supersede_time: record.supersede_time.and_then(timestamp),
        retire_time: record.retire_time.and_then(timestamp),
        not_after: ends.and_then(|(_, not_after)| timestamp(not_after)),
        next_step_time: next_step_time(&record).and_then(timestamp),
        id: record.id,
        chain_pem: record.chain_pem,
        key_name: record.key,
    }
}

#[tonic::async_trait]
impl CertificateAuthorityService for AuthorityDoor {
    async fn list(
        &self,
        request: Request<v1::CertificateAuthorityServiceListRequest>,
    ) -> Result<Response<v1::CertificateAuthorityServiceListResponse>, Status> {
        let credential = self.credential(&request);
        let authorities = self.0.list_authorities(&credential).await?;
        Ok(Response::new(v1::CertificateAuthorityServiceListResponse {
            authorities: authorities.into_iter().map(wire_authority).collect(),
        }))
    }

    async fn prepare(
        &self,
        request: Request<v1::PrepareRequest>,
    ) -> Result<Response<v1::PrepareResponse>, Status> {
        let credential = self.credential(&request);
        let v1::PrepareRequest { own_root, note } = request.into_inner();
        let done = self
            .0
            .prepare_authority(&credential, own_root, &note)
            .await?;
        Ok(Response::new(v1::PrepareResponse {
            consistency_token: consistency_token(&done.1),
            authority: Some(wire_authority(done.0)),
        }))
    }

    async fn activate(
        &self,
        request: Request<v1::ActivateRequest>,
    ) -> Result<Response<v1::ActivateResponse>, Status> {
        let credential = self.credential(&request);
        let v1::ActivateRequest { id, force, note } = request.into_inner();
        bounded("id", &id, ID_BYTES_MAX)?;
        let done = self.0.activate_authority(&credential, &id, force, &note);
        let done = done.await?;
        Ok(Response::new(v1::ActivateResponse {
            consistency_token: consistency_token(&done.1),
            authority: Some(wire_authority(done.0)),
        }))
    }

    async fn retire(
        &self,
        request: Request<v1::RetireRequest>,
    ) -> Result<Response<v1::RetireResponse>, Status> {
        let credential = self.credential(&request);
        let v1::RetireRequest { id, force, note } = request.into_inner();
        bounded("id", &id, ID_BYTES_MAX)?;
        let done = self.0.retire_authority(&credential, &id, force, &note);
        let done = done.await?;
        Ok(Response::new(v1::RetireResponse {
            consistency_token: consistency_token(&done.1),
            authority: Some(wire_authority(done.0)),
        }))
    }
}
