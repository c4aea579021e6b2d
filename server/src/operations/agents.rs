//! Agents and their keys: register, enrol, renew, contain, revoke.

use serde_json::json;
use time::OffsetDateTime;
use uuid::Uuid;

use super::login::proven_identity;
use super::{OperationError, Operations, allowed, detail, text_field};
use crate::audit::{AppendError, Record};
use crate::identity::ca::IssuedCertificate;
use crate::identity::join_token::{JOIN_TOKEN_LIFETIME, JoinToken, StoredJoinToken};
use crate::identity::public_key::PublicKey;
use crate::identity::registry::Credential;
use crate::identity::spiffe::{PrincipalName, SpiffeId, SpiffeKind};
use crate::model::change::JoinTokenRecord;
use crate::model::{
    AccessRequest, AgentRecord, AgentState, Change, Conflict, Decision, EntityUid, Event,
    EventType, Instance,
};
use crate::pdp::{Act, PdpError};

/// Roles of one agent.
const ROLES_MAX: usize = 64;

/// A certificate as handed to the agent.
pub(crate) struct Issued {
    pub(crate) certificate: IssuedCertificate,
    pub(crate) spiffe_id: String,
    pub(crate) instance_id: Uuid,
    /// The place of its event in the log.
    pub(crate) sequence: u64,
}

/// A change of an agent's state.
#[derive(Clone, Copy, Debug)]
pub(crate) enum StateChange {
    Suspend,
    Isolate,
    Reinstate,
    Revoke,
}

impl StateChange {
    fn action(self) -> &'static str {
        match self {
            Self::Suspend => "suspend_agent",
            Self::Isolate => "isolate_agent",
            Self::Reinstate => "reinstate_agent",
            Self::Revoke => "revoke_agent",
        }
    }

    /// The states that allow it. Asking for the state that is there already is fine.
    fn from(self) -> Vec<AgentState> {
        use AgentState::{Active, Isolated, Revoked, Suspended};
        match self {
            Self::Suspend => vec![Active, Suspended],
            Self::Isolate => vec![Active, Suspended, Isolated],
            Self::Reinstate => vec![Active, Suspended, Isolated],
            Self::Revoke => vec![Active, Suspended, Isolated, Revoked],
        }
    }

    fn to(self) -> AgentState {
        match self {
            Self::Suspend => AgentState::Suspended,
            Self::Isolate => AgentState::Isolated,
            Self::Reinstate => AgentState::Active,
            Self::Revoke => AgentState::Revoked,
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
        roles: Vec<String>,
        owner: String,
    ) -> Result<(AgentRecord, Decision), OperationError> {
        let id = self.spiffe_id(name, "name")?.as_str().to_owned();
        text_field("owner", &owner, 256)?;
        if roles.len() > ROLES_MAX {
            let why = format!("{} roles, at most {ROLES_MAX} are allowed", roles.len());
            return Err(OperationError::Field {
                field: "roles",
                why,
            });
        }
        for role in &roles {
            PrincipalName::parse(role).map_err(|e| OperationError::Field {
                field: "roles",
                why: e.to_string(),
            })?;
        }
        let record = |now| AgentRecord {
            id: id.clone(),
            name: name.to_owned(),
            owner: owner.clone(),
            roles: roles.clone(),
            state: AgentState::Active,
            create_time: now,
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
                    detail: detail([("roles", json!(roles)), ("owner", json!(owner))]),
                })
            })
            .await?;
        let decision = allowed(decision)?;
        Ok((record(decision.time), decision))
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
                    agent_id: agent_id.clone(),
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

    /// Exchanges a join token and a CSR for the first certificate of a key. The caller
    /// has proved nothing yet, so every refusal says the same and is on record.
    pub(crate) async fn enroll(
        &self,
        credential: &Credential,
        join_token: &str,
        csr_der: &[u8],
    ) -> Result<(Issued, AgentRecord), OperationError> {
        let key = PublicKey::from_csr(csr_der)?;
        let now = (self.pdp.clock)();
        let Some(stored) = self.usable_join_token(join_token, now).await? else {
            self.pdp
                .record_refusal(credential, "the join token is refused", now)
                .await?;
            return Err(OperationError::JoinToken);
        };
        let id = SpiffeId::parse(&stored.agent_id).map_err(|_| OperationError::JoinToken)?;
        let certificate =
            self.ca
                .signing()
                .issue_svid(&key, &id, self.certificate_lifetime, now)?;
        let instance = Instance {
            id: Uuid::new_v4(),
            principal_id: stored.agent_id.clone(),
            key_sha256: key.sha256(),
            generation: 1,
            revoked: false,
            create_time: now,
        };
        let instance_id = instance.id;
        let mut event = self.issuance(EventType::Enrolled, &certificate, instance_id, now);
        event.actor = Some(EntityUid::new("ZTA::Agent", id.as_str()));
        event.source = credential.source;
        event = event.with_detail("join_token_id", stored.id.as_str());
        let change = Change::Enroll {
            token_id: stored.id,
            instance,
            certificate: certificate.record(instance_id),
            now,
        };
        let sequence = match self.append_change(event, change, None).await {
            Err(OperationError::Pdp(PdpError::Conflict(Conflict::JoinToken))) => {
                self.pdp
                    .record_refusal(credential, "the join token is refused", now)
                    .await?;
                return Err(OperationError::JoinToken);
            }
            done => done?,
        };
        let state = self.pdp.replica.current();
        let agent = state
            .registry
            .agent(id.as_str())
            .ok_or_else(|| OperationError::AgentNotFound(id.last_segment().to_owned()))?;
        let issued = Issued {
            certificate,
            spiffe_id: id.as_str().to_owned(),
            instance_id,
            sequence,
        };
        Ok((issued, AgentRecord::clone(agent)))
    }

    async fn usable_join_token(
        &self,
        text: &str,
        now: OffsetDateTime,
    ) -> Result<Option<JoinTokenRecord>, OperationError> {
        let Ok(token) = JoinToken::parse(text) else {
            return Ok(None);
        };
        let Some(record) = self.store.join_token(token.id()).await? else {
            return Ok(None);
        };
        let stored = StoredJoinToken {
            id: record.id.clone(),
            secret_sha256: record.secret_sha256,
        };
        let usable = token.matches(&stored) && !record.used && now < record.expire_time;
        Ok(usable.then_some(record))
    }

    /// The next certificate for the key of the caller's certificate.
    pub(crate) async fn renew(&self, credential: &Credential) -> Result<Issued, OperationError> {
        for _ in 0..3 {
            let state = self.pdp.replica.current();
            let now = (self.pdp.clock)();
            let caller = self.pdp.authenticate(credential, &state, now).await?;
            if caller.principal.state != AgentState::Active {
                self.pdp
                    .record_refusal(credential, "renewal while contained", now)
                    .await?;
                return Err(OperationError::Contained(caller.principal.state));
            }
            let (key, spiffe_id) = proven_identity(&state, &caller, credential)?;
            let Some(instance) = state.registry.instance(&key.sha256()) else {
                return Err(OperationError::Signature);
            };
            let ca = self.ca.signing();
            let issued = ca.issue_svid(&key, &spiffe_id, self.certificate_lifetime, now)?;
            let mut event = self.issuance(EventType::Renewed, &issued, instance.id, now);
            event.actor = Some(caller.principal.uid());
            event.source = credential.source;
            let change = Change::Renew(issued.record(instance.id));
            match self.append_change(event, change, Some(state.epoch)).await {
                Ok(sequence) => {
                    return Ok(Issued {
                        certificate: issued,
                        spiffe_id: spiffe_id.as_str().to_owned(),
                        instance_id: instance.id,
                        sequence,
                    });
                }
                Err(OperationError::Pdp(PdpError::Stale)) => {}
                Err(error) => return Err(error),
            }
        }
        Err(PdpError::Stale.into())
    }

    fn issuance(
        &self,
        kind: EventType,
        certificate: &IssuedCertificate,
        instance: Uuid,
        now: OffsetDateTime,
    ) -> Event {
        let mut event = self.pdp.event(kind, now);
        event.instance = Some(instance);
        event
            .with_detail("certificate_serial", certificate.serial.as_str())
            .with_detail(
                "not_after",
                certificate.not_after.unix_timestamp().to_string(),
            )
    }

    /// Appends an event with its change and catches up with it; returns its place. A stale
    /// one is reported as [`PdpError::Stale`] after catching up.
    async fn append_change(
        &self,
        event: Event,
        change: Change,
        epoch: Option<u64>,
    ) -> Result<u64, OperationError> {
        let record = Record {
            event,
            inputs: None,
            epoch,
            change: Some(change),
        };
        match self.pdp.audit.append(record).await {
            Ok(appended) => {
                self.pdp.replica.catch_up(appended.epoch).await?;
                self.pdp.replica.saw(appended.sequence + 1, appended.epoch);
                Ok(appended.sequence)
            }
            Err(AppendError::Stale { epoch }) => {
                self.pdp.replica.catch_up(epoch).await?;
                Err(PdpError::Stale.into())
            }
            Err(AppendError::Conflict(conflict)) => Err(PdpError::Conflict(conflict).into()),
            Err(error) => Err(PdpError::Append(error).into()),
        }
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
        let state = self.pdp.replica.current();
        let record = state.registry.agent(&agent_id);
        let record = record.ok_or_else(|| OperationError::AgentNotFound(agent.to_owned()))?;
        Ok((AgentRecord::clone(record), decision))
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
