//! `zta.v1.AgentService`.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use uuid::Uuid;
use zta_proto::v1;
use zta_proto::v1::agent_service_server::AgentService;

use super::{bounded, consistency_token, page_size, page_token_invalid, timestamp, token_of};
use crate::api::caller::credential;
use crate::api::status::{field, limit};
use crate::model::{AgentProfile, AgentRecord, AgentState, Decision, Instance, InstanceState};
use crate::operations::Operations;
use crate::operations::agents::{KeyChange, StateChange};
use crate::operations::keys::Issued;
use crate::operations::profile::ProfileField;

/// Bytes of a certificate signing request.
const CSR_BYTES_MAX: usize = 16 * 1024;
/// Bytes of a certificate.
const CERTIFICATE_BYTES_MAX: usize = 16 * 1024;

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
        Ok((self.wire(record), decision))
    }

    async fn change_key<T>(
        &self,
        request: &Request<T>,
        (agent, instance_id): (&str, &str),
        note: &str,
        change: KeyChange,
    ) -> Result<(v1::Agent, Decision), Status> {
        named(agent)?;
        let id = Uuid::parse_str(instance_id);
        let id = id.map_err(|_| field("instance_id", "is not a UUID"))?;
        let credential = self.credential(request);
        let (record, decision) = self
            .0
            .change_key_state(&credential, agent, id, change, note)
            .await?;
        Ok((self.wire(record), decision))
    }

    /// An agent with the number of its keys.
    fn wire(&self, record: AgentRecord) -> v1::Agent {
        let state = self.0.pdp.replica.current();
        let keys = state.registry.instance_count(&record.id);
        wire_agent(record, keys)
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
        AgentState::Banned => v1::AgentState::Banned,
    };
    let profile = record.profile;
    v1::Agent {
        name: record.name,
        spiffe_id: record.id,
        state: state.into(),
        roles: profile.roles,
        create_time: timestamp(record.create_time),
        instances,
        owner: profile.owner,
        zone: profile.zone,
        attributes: Arc::unwrap_or_clone(profile.attributes)
            .into_iter()
            .collect(),
        audiences: profile.audiences,
        certificate_lifetime_max_s: profile.certificate_lifetime_max_s,
        token_lifetime_max_s: profile.token_lifetime_max_s,
        delegation_depth_max: profile.delegation_depth_max,
    }
}

pub(super) fn wire_instance(instance: Instance) -> v1::Instance {
    let state = match instance.state {
        InstanceState::Active => v1::InstanceState::Active,
        InstanceState::Locked => v1::InstanceState::Locked,
        InstanceState::Revoked => v1::InstanceState::Revoked,
    };
    v1::Instance {
        instance_id: instance.id.to_string(),
        state: state.into(),
        generation: instance.generation,
        used_generation: instance.used_generation,
        recoveries: instance.recoveries,
        create_time: timestamp(instance.create_time),
        key_sha256: instance.key_sha256.to_vec(),
    }
}

/// What a mask of the wire names: at least one field, and nothing that cannot be changed.
fn masked(mask: Option<prost_types::FieldMask>) -> Result<Vec<ProfileField>, Status> {
    let known = || ProfileField::ALL.map(ProfileField::name).join(", ");
    let wrong = |what: &str| field("update_mask", format!("{what}: name some of {}", known()));
    let paths = mask.unwrap_or_default().paths;
    if paths.is_empty() || paths.len() > ProfileField::ALL.len() {
        return Err(wrong("names too few fields or too many"));
    }
    let parse = |path: &String| ProfileField::parse(path).ok_or_else(|| wrong("cannot be used"));
    paths.iter().map(parse).collect()
}

#[tonic::async_trait]
impl AgentService for AgentDoor {
    async fn register(
        &self,
        request: Request<v1::RegisterRequest>,
    ) -> Result<Response<v1::RegisterResponse>, Status> {
        let credential = self.credential(&request);
        let request = request.into_inner();
        let profile = AgentProfile {
            owner: request.owner,
            roles: request.roles,
            zone: request.zone,
            attributes: Arc::new(request.attributes.into_iter().collect()),
            audiences: request.audiences,
            certificate_lifetime_max_s: request.certificate_lifetime_max_s,
            token_lifetime_max_s: request.token_lifetime_max_s,
            delegation_depth_max: request.delegation_depth_max,
        };
        let (agent, decision) = self.0.register(&credential, &request.name, profile).await?;
        Ok(Response::new(v1::RegisterResponse {
            agent: Some(wire_agent(agent, 0)),
            consistency_token: consistency_token(&decision),
        }))
    }

    async fn update(
        &self,
        request: Request<v1::UpdateRequest>,
    ) -> Result<Response<v1::UpdateResponse>, Status> {
        let credential = self.credential(&request);
        let v1::UpdateRequest {
            agent,
            update_mask,
            note,
        } = request.into_inner();
        let agent = agent.unwrap_or_default();
        let name = match agent.spiffe_id.as_str() {
            "" => &agent.name,
            id => id,
        };
        named(name)?;
        let fields = masked(update_mask)?;
        let profile = AgentProfile {
            owner: agent.owner,
            roles: agent.roles,
            zone: agent.zone,
            attributes: Arc::new(agent.attributes.into_iter().collect()),
            audiences: agent.audiences,
            certificate_lifetime_max_s: agent.certificate_lifetime_max_s,
            token_lifetime_max_s: agent.token_lifetime_max_s,
            delegation_depth_max: agent.delegation_depth_max,
        };
        let (record, decision) = self
            .0
            .update(&credential, name, &fields, &profile, &note)
            .await?;
        Ok(Response::new(v1::UpdateResponse {
            agent: Some(self.wire(record)),
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
        Ok(Response::new(v1::EnrollResponse {
            certificate: Some(self.certificate(&issued)),
            agent: agent.map(|agent| self.wire(agent)),
            consistency_token: self.token(&issued),
        }))
    }

    async fn renew(
        &self,
        request: Request<v1::RenewRequest>,
    ) -> Result<Response<v1::RenewResponse>, Status> {
        let credential = self.credential(&request);
        let der = request.into_inner().certificate_der;
        let issued = self.0.renew(&credential, &der).await?;
        Ok(Response::new(v1::RenewResponse {
            certificate: Some(self.certificate(&issued)),
            consistency_token: self.token(&issued),
        }))
    }

    async fn recover(
        &self,
        request: Request<v1::RecoverRequest>,
    ) -> Result<Response<v1::RecoverResponse>, Status> {
        let credential = self.credential(&request);
        let certificate = request.into_inner().certificate_der;
        if certificate.len() > CERTIFICATE_BYTES_MAX {
            return Err(limit(
                "certificate_der",
                certificate.len(),
                CERTIFICATE_BYTES_MAX,
            ));
        }
        let proof = credential.proof.as_deref();
        let recover = self.0.recover(&credential, &certificate, proof);
        let issued = self.0.attempt(&credential, recover).await?;
        Ok(Response::new(v1::RecoverResponse {
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

    async fn list_instances(
        &self,
        request: Request<v1::ListInstancesRequest>,
    ) -> Result<Response<v1::ListInstancesResponse>, Status> {
        let credential = self.credential(&request);
        let v1::ListInstancesRequest {
            agent,
            page_size: size,
            page_token,
        } = request.into_inner();
        named(&agent)?;
        let size = page_size(size)?;
        let after = match page_token.as_str() {
            "" => None,
            token => Some(Uuid::parse_str(token).map_err(|_| page_token_invalid())?),
        };
        let found = self
            .0
            .list_instances(&credential, &agent, after, size)
            .await?;
        let last = found.last().filter(|_| found.len() == size as usize);
        let next_page_token = last.map(|i| i.id.to_string()).unwrap_or_default();
        Ok(Response::new(v1::ListInstancesResponse {
            instances: found.into_iter().map(wire_instance).collect(),
            next_page_token,
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
        let v1::ReinstateRequest {
            agent,
            note,
            instance_id,
        } = request.get_ref();
        let (agent, decision) = match instance_id.as_str() {
            "" => {
                let change = StateChange::Reinstate;
                self.change(&request, agent, note, change).await?
            }
            id => {
                let change = KeyChange::Unlock;
                self.change_key(&request, (agent, id), note, change).await?
            }
        };
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
        let v1::RevokeRequest {
            agent,
            note,
            instance_id,
        } = request.get_ref();
        let (agent, decision) = match instance_id.as_str() {
            "" => {
                let change = StateChange::Revoke;
                self.change(&request, agent, note, change).await?
            }
            id => {
                let change = KeyChange::Revoke;
                self.change_key(&request, (agent, id), note, change).await?
            }
        };
        let consistency_token = consistency_token(&decision);
        Ok(Response::new(v1::RevokeResponse {
            agent: Some(agent),
            consistency_token,
        }))
    }

    async fn ban(
        &self,
        request: Request<v1::BanRequest>,
    ) -> Result<Response<v1::BanResponse>, Status> {
        let v1::BanRequest { agent, note } = request.get_ref();
        let (agent, decision) = self.change(&request, agent, note, StateChange::Ban).await?;
        let consistency_token = consistency_token(&decision);
        Ok(Response::new(v1::BanResponse {
            agent: Some(agent),
            consistency_token,
        }))
    }
}
