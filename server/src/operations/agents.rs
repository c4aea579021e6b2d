//! Agents: register, update, contain, revoke, ban; what their keys are is in `keys`.

use serde_json::json;
use time::OffsetDateTime;
use uuid::Uuid;

use super::profile::{self, ProfileField};
use super::{OperationError, Operations, allowed, detail, text_field};
use crate::identity::join_token::{JOIN_TOKEN_LIFETIME, JoinToken};
use crate::identity::registry::Credential;
use crate::identity::spiffe::{PrincipalName, SpiffeId, SpiffeKind};
use crate::model::change::JoinTokenRecord;
use crate::model::event::to_micros;
use crate::model::{
    AccessRequest, AgentProfile, AgentRecord, AgentState, Change, Conflict, Decision, EntityUid,
    Instance, InstanceState,
};
use crate::pdp::{Act, PdpError};

/// A change of an agent's state.
#[derive(Clone, Copy, Debug)]
pub(crate) enum StateChange {
    Suspend,
    Isolate,
    Reinstate,
    Revoke,
    Ban,
}

impl StateChange {
    fn action(self) -> &'static str {
        match self {
            Self::Suspend => "suspend_agent",
            Self::Isolate => "isolate_agent",
            Self::Reinstate => "reinstate_agent",
            Self::Revoke => "revoke_agent",
            Self::Ban => "ban_agent",
        }
    }

    /// The states that allow it. Asking for the state that is there already is fine.
    fn from(self) -> Vec<AgentState> {
        use AgentState::{Active, Banned, Isolated, Revoked, Suspended};
        match self {
            Self::Suspend => vec![Active, Suspended],
            Self::Isolate => vec![Active, Suspended, Isolated],
            // A revoked agent has no key left: only a new one makes it active.
            Self::Reinstate => vec![Active, Suspended, Isolated],
            Self::Revoke => vec![Active, Suspended, Isolated, Revoked],
            Self::Ban => vec![Active, Suspended, Isolated, Revoked, Banned],
        }
    }

    fn to(self) -> AgentState {
        match self {
            Self::Suspend => AgentState::Suspended,
            Self::Isolate => AgentState::Isolated,
            Self::Reinstate => AgentState::Active,
            Self::Revoke => AgentState::Revoked,
            Self::Ban => AgentState::Banned,
        }
    }
}

/// A change of the state of one key.
#[derive(Clone, Copy, Debug)]
pub(crate) enum KeyChange {
    Unlock,
    Revoke,
}

impl KeyChange {
    fn action(self) -> &'static str {
        match self {
            Self::Unlock => StateChange::Reinstate.action(),
            Self::Revoke => StateChange::Revoke.action(),
        }
    }

    fn from(self) -> Vec<InstanceState> {
        use InstanceState::{Active, Locked, Revoked};
        match self {
            Self::Unlock => vec![Active, Locked],
            Self::Revoke => vec![Active, Locked, Revoked],
        }
    }

    fn to(self) -> InstanceState {
        match self {
            Self::Unlock => InstanceState::Active,
            Self::Revoke => InstanceState::Revoked,
        }
    }
}

impl Operations {
    /// The id that a name or an id of the API means.
    pub(super) fn agent_id(&self, agent: &str) -> Result<String, OperationError> {
        if agent.starts_with("spiffe://") {
            let id = SpiffeId::parse(agent).map_err(|e| OperationError::Field {
                field: "agent",
                why: e.to_string(),
            })?;
            // A user's id would name somebody whom these acts are not about.
            return match id.kind() {
                SpiffeKind::Agent(_) if id.is_in(self.ca.trust_domain()) => {
                    Ok(id.as_str().to_owned())
                }
                _ => Err(OperationError::AgentNotFound(agent.to_owned())),
            };
        }
        Ok(self.spiffe_id(agent, "agent")?.as_str().to_owned())
    }

    fn spiffe_id(&self, name: &str, field: &'static str) -> Result<SpiffeId, OperationError> {
        let name = PrincipalName::parse(name).map_err(|e| OperationError::Field {
            field,
            why: e.to_string(),
        })?;
        Ok(SpiffeId::agent(self.ca.trust_domain(), &name))
    }

    /// Registers an agent. An id that exists or existed is never touched.
    pub(crate) async fn register(
        &self,
        credential: &Credential,
        name: &str,
        profile: AgentProfile,
    ) -> Result<(AgentRecord, Decision), OperationError> {
        let id = self.spiffe_id(name, "name")?.as_str().to_owned();
        profile::bounded(&profile)?;
        let record = |now| AgentRecord {
            id: id.clone(),
            name: name.to_owned(),
            state: AgentState::Active,
            create_time: to_micros(now),
            profile: profile.clone(),
        };
        let request = AccessRequest::new(
            EntityUid::action("register_agent"),
            EntityUid::new("ZTA::Agent", &id),
        );
        let decision = self
            .pdp
            .operate(credential, &request, &|_, _, now| {
                Ok(Act {
                    change: Some(Change::RegisterAgent(record(now))),
                    detail: profile::told(&profile, &profile::spoken(&profile)),
                })
            })
            .await?;
        let decision = allowed(decision)?;
        Ok((record(decision.time), decision))
    }

    /// Changes some of what is known of an agent; bites on its next call, on every
    /// replica. Nobody changes their own record, whatever policy says.
    pub(crate) async fn update(
        &self,
        credential: &Credential,
        agent: &str,
        fields: &[ProfileField],
        profile: &AgentProfile,
        note: &str,
    ) -> Result<(AgentRecord, Decision), OperationError> {
        let agent_id = self.agent_id(agent)?;
        text_field("note", note, 1024)?;
        profile::bounded(profile)?;
        let request = AccessRequest::new(
            EntityUid::action("update_agent"),
            EntityUid::new("ZTA::Agent", &agent_id),
        );
        let decision = self
            .pdp
            .operate(credential, &request, &|state, caller, _| {
                let delegation = caller.delegation.iter();
                let behind = delegation.flat_map(|delegation| delegation.parties());
                if behind.chain([&caller.principal]).any(|p| p.id == agent_id) {
                    return Err(PdpError::OwnRecord);
                }
                let found = state.registry.agent(&agent_id);
                let mut record = AgentRecord::clone(found.ok_or(Conflict::AgentNotFound)?);
                for field in fields {
                    field.take(&mut record.profile, profile);
                }
                let mut detail = profile::told(&record.profile, fields);
                detail.insert("note".to_owned(), json!(note));
                Ok(Act {
                    change: Some(Change::UpdateAgent(record)),
                    detail,
                })
            })
            .await;
        let decision = allowed(not_found(decision, agent)?)?;
        Ok((self.known(&agent_id, agent)?, decision))
    }

    /// A join token for an agent; shown once.
    pub(crate) async fn create_join_token(
        &self,
        credential: &Credential,
        agent: &str,
    ) -> Result<(JoinToken, OffsetDateTime, Decision), OperationError> {
        let agent_id = self.agent_id(agent)?;
        let token = JoinToken::create(self.ca.signing().fingerprint())
            .map_err(|_| OperationError::JoinToken)?;
        let stored = token.stored();
        let request = AccessRequest::new(
            EntityUid::action("create_join_token"),
            EntityUid::new("ZTA::Agent", &agent_id),
        );
        let decision = self
            .pdp
            .operate(credential, &request, &|_, _, now| {
                let record = JoinTokenRecord {
                    id: stored.id.clone(),
                    secret_sha256: stored.secret_sha256,
                    principal_id: agent_id.clone(),
                    expire_time: now + JOIN_TOKEN_LIFETIME,
                    used: false,
                };
                let detail = detail([("join_token_id", json!(record.id))]);
                Ok(Act {
                    change: Some(Change::CreateJoinToken(record)),
                    detail,
                })
            })
            .await;
        let decision = allowed(not_found(decision, agent)?)?;
        Ok((token, decision.time + JOIN_TOKEN_LIFETIME, decision))
    }

    /// Changes an agent's state; bites on its next call, on every replica.
    pub(crate) async fn change_state(
        &self,
        credential: &Credential,
        agent: &str,
        change: StateChange,
        note: &str,
    ) -> Result<(AgentRecord, Decision), OperationError> {
        let agent_id = self.agent_id(agent)?;
        text_field("note", note, 1024)?;
        let request = AccessRequest::new(
            EntityUid::action(change.action()),
            EntityUid::new("ZTA::Agent", &agent_id),
        );
        let decision = self
            .pdp
            .operate(credential, &request, &|_, _, _| {
                Ok(Act {
                    change: Some(Change::SetAgentState {
                        agent_id: agent_id.clone(),
                        from: change.from(),
                        to: change.to(),
                    }),
                    detail: detail([
                        ("note", json!(note)),
                        ("state", json!(change.to().as_str())),
                    ]),
                })
            })
            .await;
        let decision = allowed(not_found(decision, agent)?)?;
        Ok((self.known(&agent_id, agent)?, decision))
    }

    /// Changes the state of one key of an agent; bites likewise.
    pub(crate) async fn change_key_state(
        &self,
        credential: &Credential,
        agent: &str,
        instance_id: Uuid,
        change: KeyChange,
        note: &str,
    ) -> Result<(AgentRecord, Decision), OperationError> {
        let agent_id = self.agent_id(agent)?;
        text_field("note", note, 1024)?;
        let request = AccessRequest::new(
            EntityUid::action(change.action()),
            EntityUid::new("ZTA::Agent", &agent_id),
        );
        let decision = self
            .pdp
            .operate(credential, &request, &|_, _, _| {
                Ok(Act {
                    change: Some(Change::SetInstanceState {
                        agent_id: agent_id.clone(),
                        instance_id,
                        from: change.from(),
                        to: change.to(),
                    }),
                    detail: detail([
                        ("instance_id", json!(instance_id)),
                        ("note", json!(note)),
                        ("state", json!(change.to().as_str())),
                    ]),
                })
            })
            .await?;
        let decision = allowed(decision)?;
        Ok((self.known(&agent_id, agent)?, decision))
    }

    fn known(&self, id: &str, named: &str) -> Result<AgentRecord, OperationError> {
        let state = self.pdp.replica.current();
        let record = state.registry.agent(id);
        let record = record.ok_or_else(|| OperationError::AgentNotFound(named.to_owned()))?;
        Ok(AgentRecord::clone(record))
    }

    /// Keys of an agent in the order of their ids, as they are stored now.
    pub(crate) async fn list_instances(
        &self,
        credential: &Credential,
        agent: &str,
        after: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<Instance>, OperationError> {
        let id = self.agent_id(agent)?;
        self.read(credential, "list_agents").await?;
        self.known(&id, agent)?;
        Ok(self.store.instances(&id, after, limit).await?)
    }

    /// Agents in the order of their ids, with the number of their keys.
    pub(crate) async fn list_agents(
        &self,
        credential: &Credential,
        after: &str,
        limit: u32,
    ) -> Result<Vec<(AgentRecord, u32)>, OperationError> {
        self.read(credential, "list_agents").await?;
        let state = self.pdp.replica.current();
        let page = state.registry.agents_after(after).take(limit as usize);
        Ok(page
            .map(|a| (AgentRecord::clone(a), state.registry.instance_count(&a.id)))
            .collect())
    }

    /// One agent, with the number of its keys.
    pub(crate) async fn get_agent(
        &self,
        credential: &Credential,
        agent: &str,
    ) -> Result<(AgentRecord, u32), OperationError> {
        let id = self.agent_id(agent)?;
        self.read(credential, "list_agents").await?;
        let state = self.pdp.replica.current();
        let record = state.registry.agent(&id);
        let record = record.ok_or_else(|| OperationError::AgentNotFound(agent.to_owned()))?;
        Ok((
            AgentRecord::clone(record),
            state.registry.instance_count(&id),
        ))
    }
}

fn not_found(
    decision: Result<Decision, PdpError>,
    agent: &str,
) -> Result<Decision, OperationError> {
    decision.map_err(|error| match error {
        PdpError::Conflict(Conflict::AgentNotFound) => {
            OperationError::AgentNotFound(agent.to_owned())
        }
        other => other.into(),
    })
}
