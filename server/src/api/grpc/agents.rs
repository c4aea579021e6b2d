//! `zta.v1.AgentService`.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use zta_proto::v1;
use zta_proto::v1::agent_service_server::AgentService;

use super::{bounded, consistency_token, page_size, page_token_invalid, timestamp, token_of};
use crate::api::caller::credential;
use crate::api::status::{field, limit};
use crate::model::{AgentRecord, AgentState, Decision};
use crate::operations::Operations;
use crate::operations::agents::{Issued, StateChange};

/// Bytes of a certificate signing request.
const CSR_BYTES_MAX: usize = 16 * 1024;

/// The door.
pub(crate) struct AgentDoor(pub(crate) Arc<Operations>);

impl AgentDoor {
    fn credential<T>(&self, request: &Request<T>) -> crate::identity::registry::Credential {
        credential(request, (self.0.pdp.clock)())
    }

    async fn change<T>(
        &self,
        request: &Request<T>,
        agent: &str,
        note: &str,
        change: StateChange,
    ) -> Result<(v1::Agent, Decision), Status> {
        named(agent)?;
        let credential = self.credential(request);
        let (record, decision) = self
            .0
            .change_state(&credential, agent, change, note)
            .await?;
        let keys = self
            .0
            .pdp
            .replica
            .current()
            .registry
            .instance_count(&record.id);
        Ok((wire_agent(record, keys), decision))
    }

    fn token(&self, issued: &Issued) -> Option<v1::ConsistencyToken> {
        token_of(self.0.pdp.audit.log_id(), issued.sequence + 1)
    }

    fn certificate(&self, issued: &Issued) -> v1::Certificate {
        v1::Certificate {
            certificate_pem: issued.certificate.pem(),
            ca_bundle_pem: self.0.ca.current().bundle_pem(),
            not_before: timestamp(issued.certificate.not_before),
            not_after: timestamp(issued.certificate.not_after),
            spiffe_id: issued.spiffe_id.clone(),
            instance_id: issued.instance_id.to_string(),
        }
    }
}

fn named(agent: &str) -> Result<(), Status> {
    if agent.is_empty() {
        return Err(field("agent", "is missing: give a name or a SPIFFE ID"));
    }
    bounded("agent", agent, 512)
}

fn wire_agent(record: AgentRecord, instances: u32) -> v1::Agent {
    let state = match record.state {
        AgentState::Active => v1::AgentState::Active,
        AgentState::Suspended => v1::AgentState::Suspended,
        AgentState::Isolated => v1::AgentState::Isolated,
        AgentState::Revoked => v1::AgentState::Revoked,
    };
    v1::Agent {
        name: record.name,
        spiffe_id: record.id,
        state: state.into(),
        roles: record.roles,
        create_time: timestamp(record.create_time),
        instances,
        owner: record.owner,
    }
}

#[tonic::async_trait]
impl AgentService for AgentDoor {
    async fn register(
        &self,
        request: Request<v1::RegisterRequest>,
    ) -> Result<Response<v1::RegisterResponse>, Status> {
        let credential = self.credential(&request);
        let v1::RegisterRequest { name, roles, owner } = request.into_inner();
        let (agent, decision) = self.0.register(&credential, &name, roles, owner).await?;
        Ok(Response::new(v1::RegisterResponse {
            agent: Some(wire_agent(agent, 0)),
            consistency_token: consistency_token(&decision),
        }))
    }

    async fn create_join_token(
        &self,
        request: Request<v1::CreateJoinTokenRequest>,
    ) -> Result<Response<v1::CreateJoinTokenResponse>, Status> {
        let credential = self.credential(&request);
        let agent = request.into_inner().agent;
        named(&agent)?;
        let (token, expire_time, decision) = self.0.create_join_token(&credential, &agent).await?;
        Ok(Response::new(v1::CreateJoinTokenResponse {
            join_token: token.encode().to_string(),
            expire_time: timestamp(expire_time),
            consistency_token: consistency_token(&decision),
        }))
    }

    async fn enroll(
        &self,
        request: Request<v1::EnrollRequest>,
    ) -> Result<Response<v1::EnrollResponse>, Status> {
        let credential = self.credential(&request);
        let v1::EnrollRequest {
            join_token,
            csr_der,
        } = request.into_inner();
        if csr_der.len() > CSR_BYTES_MAX {
            return Err(limit("csr_der", csr_der.len(), CSR_BYTES_MAX));
        }
        let enroll = self.0.enroll(&credential, &join_token, &csr_der);
        let (issued, agent) = self.0.attempt(&credential, enroll).await?;
        let keys = self
            .0
            .pdp
            .replica
            .current()
            .registry
            .instance_count(&agent.id);
        Ok(Response::new(v1::EnrollResponse {
            certificate: Some(self.certificate(&issued)),
            agent: Some(wire_agent(agent, keys)),
            consistency_token: self.token(&issued),
        }))
    }

    async fn renew(
        &self,
        request: Request<v1::RenewRequest>,
    ) -> Result<Response<v1::RenewResponse>, Status> {
        let issued = self.0.renew(&self.credential(&request)).await?;
        Ok(Response::new(v1::RenewResponse {
            certificate: Some(self.certificate(&issued)),
            consistency_token: self.token(&issued),
        }))
    }

    async fn list(
        &self,
        request: Request<v1::AgentServiceListRequest>,
    ) -> Result<Response<v1::AgentServiceListResponse>, Status> {
        let credential = self.credential(&request);
        let v1::AgentServiceListRequest {
            page_size: size,
            page_token,
        } = request.into_inner();
        let size = page_size(size)?;
        // The token is the last id of the page before: stable under changes.
        if !page_token.is_empty() && !page_token.starts_with("spiffe://") {
            return Err(page_token_invalid());
        }
        bounded("page_token", &page_token, 512)?;
        let agents = self.0.list_agents(&credential, &page_token, size).await?;
        let full = agents.len() == size as usize;
        let next_page_token = agents
            .last()
            .filter(|_| full)
            .map(|(a, _)| a.id.clone())
            .unwrap_or_default();
        let agents = agents
            .into_iter()
            .map(|(agent, keys)| wire_agent(agent, keys))
            .collect();
        Ok(Response::new(v1::AgentServiceListResponse {
            agents,
            next_page_token,
        }))
    }

    async fn get(
        &self,
        request: Request<v1::AgentServiceGetRequest>,
    ) -> Result<Response<v1::AgentServiceGetResponse>, Status> {
        let credential = self.credential(&request);
        let agent = request.into_inner().agent;
        named(&agent)?;
        let (record, keys) = self.0.get_agent(&credential, &agent).await?;
        Ok(Response::new(v1::AgentServiceGetResponse {
            agent: Some(wire_agent(record, keys)),
        }))
    }

    async fn suspend(
        &self,
        request: Request<v1::SuspendRequest>,
    ) -> Result<Response<v1::SuspendResponse>, Status> {
        let v1::SuspendRequest { agent, note } = request.get_ref();
        let (agent, decision) = self
            .change(&request, agent, note, StateChange::Suspend)
            .await?;
        let consistency_token = consistency_token(&decision);
        Ok(Response::new(v1::SuspendResponse {
            agent: Some(agent),
            consistency_token,
        }))
    }

    async fn isolate(
        &self,
        request: Request<v1::IsolateRequest>,
    ) -> Result<Response<v1::IsolateResponse>, Status> {
        let v1::IsolateRequest { agent, note } = request.get_ref();
        let (agent, decision) = self
            .change(&request, agent, note, StateChange::Isolate)
            .await?;
        let consistency_token = consistency_token(&decision);
        Ok(Response::new(v1::IsolateResponse {
            agent: Some(agent),
            consistency_token,
        }))
    }

    async fn reinstate(
        &self,
        request: Request<v1::ReinstateRequest>,
    ) -> Result<Response<v1::ReinstateResponse>, Status> {
        let v1::ReinstateRequest { agent, note } = request.get_ref();
        let (agent, decision) = self
            .change(&request, agent, note, StateChange::Reinstate)
            .await?;
        let consistency_token = consistency_token(&decision);
        Ok(Response::new(v1::ReinstateResponse {
            agent: Some(agent),
            consistency_token,
        }))
    }

    async fn revoke(
        &self,
        request: Request<v1::RevokeRequest>,
    ) -> Result<Response<v1::RevokeResponse>, Status> {
        let v1::RevokeRequest { agent, note } = request.get_ref();
        let (agent, decision) = self
            .change(&request, agent, note, StateChange::Revoke)
            .await?;
        let consistency_token = consistency_token(&decision);
        Ok(Response::new(v1::RevokeResponse {
            agent: Some(agent),
            consistency_token,
        }))
    }
}
