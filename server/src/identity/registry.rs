//! The registry as this replica holds it in memory: who exists, in which state, and
//! which keys are theirs. Immutable; a change makes a new one.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use time::OffsetDateTime;

use super::peer::PeerCertificate;
use super::token::{TokenAuthority, TokenError};
use crate::model::{AgentRecord, AgentState, Instance, Principal, PrincipalKind, UserRecord};
use crate::store::Changes;

/// What a call brings to prove who makes it.
#[derive(Clone, Debug)]
pub(crate) struct Credential {
    /// The verified client certificate of the connection.
    pub(crate) certificate: Option<Arc<PeerCertificate>>,
    /// When the connection's handshake proved possession of its key.
    pub(crate) handshake_time: OffsetDateTime,
    /// Where the connection comes from.
    pub(crate) source: Option<IpAddr>,
    /// The access token of the call's metadata; `Err` when there is one in another form.
    pub(crate) token: Option<Result<Arc<str>, TokenError>>,
}

/// Why a credential proves nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AuthenticationError {
    /// No client certificate.
    #[error("the connection has no client certificate; enrol first")]
    CredentialMissing,
    /// Not valid at this time.
    #[error("the client certificate has expired or is not valid yet; renew it")]
    CertificateExpired,
    /// The key is not enrolled.
    #[error("the key of the client certificate is not enrolled here")]
    KeyUnknown,
    /// The key belongs to nobody known, or the certificate names somebody else.
    #[error("the client certificate names no principal of this server")]
    PrincipalUnknown,
    /// The access token is no good.
    #[error("the access token is refused: {0}")]
    Token(#[from] TokenError),
}

/// Who makes a call, and how that was proved.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// The principal.
    pub(crate) principal: Principal,
    /// `mtls` or `token`.
    pub(crate) method: &'static str,
    /// When possession of the key was proved.
    pub(crate) auth_time: OffsetDateTime,
}

/// All agents, users and keys.
#[derive(Clone, Debug, Default)]
pub(crate) struct Registry {
    agents: BTreeMap<String, Arc<AgentRecord>>,
    users: HashMap<String, Arc<UserRecord>>,
    keys: HashMap<[u8; 32], Arc<Instance>>,
}

impl Registry {
    /// The registry after these changes.
    pub(crate) fn with(&self, changes: &Changes) -> Self {
        let mut next = self.clone();
        for agent in &changes.agents {
            next.agents
                .insert(agent.id.clone(), Arc::new(agent.clone()));
        }
        for user in &changes.users {
            next.users.insert(user.id.clone(), Arc::new(user.clone()));
        }
        for instance in &changes.instances {
            next.keys
                .insert(instance.key_sha256, Arc::new(instance.clone()));
        }
        next
    }

    /// An agent by its id.
    pub(crate) fn agent(&self, id: &str) -> Option<&Arc<AgentRecord>> {
        self.agents.get(id)
    }

    /// A user by its id.
    pub(crate) fn user(&self, id: &str) -> Option<&Arc<UserRecord>> {
        self.users.get(id)
    }

    /// Agents in the order of their ids, after the given one.
    pub(crate) fn agents_after(&self, id: &str) -> impl Iterator<Item = &Arc<AgentRecord>> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.agents
            .range::<str, _>((Excluded(id), Unbounded))
            .map(|(_, agent)| agent)
    }

    /// How many keys of a principal are enrolled and not revoked.
    pub(crate) fn instance_count(&self, principal_id: &str) -> u32 {
        let live = |i: &&Arc<Instance>| i.principal_id == principal_id && !i.revoked;
        u32::try_from(self.keys.values().filter(live).count()).unwrap_or(u32::MAX)
    }

    /// A key by its fingerprint.
    pub(crate) fn instance(&self, key_sha256: &[u8; 32]) -> Option<&Arc<Instance>> {
        self.keys.get(key_sha256)
    }

    /// Who makes a call: asked on every call, because a connection outlives the
    /// handshake that looked at its certificate. A revoked, suspended or isolated agent
    /// is found, with its state; the PDP denies.
    ///
    /// # Errors
    /// When the credential proves nobody.
    pub(crate) fn authenticate(
        &self,
        credential: &Credential,
        tokens: &TokenAuthority,
        now: OffsetDateTime,
    ) -> Result<Caller, AuthenticationError> {
        let certificate = credential
            .certificate
            .as_deref()
            .ok_or(AuthenticationError::CredentialMissing)?;
        if !certificate.holds_at(now) {
            return Err(AuthenticationError::CertificateExpired);
        }
        let principal = self.principal(certificate)?;
        match &credential.token {
            None => Ok(Caller {
                principal,
                method: "mtls",
                auth_time: credential.handshake_time,
            }),
            Some(token) => {
                let token =
                    tokens.verify(token.as_ref().map_err(Clone::clone)?, certificate, now)?;
                Ok(Caller {
                    principal,
                    method: "token",
                    auth_time: token.auth_time,
                })
            }
        }
    }

    fn principal(&self, certificate: &PeerCertificate) -> Result<Principal, AuthenticationError> {
        let instance = self
            .keys
            .get(certificate.key_sha256())
            .ok_or(AuthenticationError::KeyUnknown)?;
        let spiffe_id = certificate.spiffe_id();
        let name = spiffe_id.last_segment().to_owned();
        // The key decides who it is; a certificate that names another one proves nobody.
        if let Some(agent) = self.agents.get(&instance.principal_id) {
            if agent.id != spiffe_id.as_str() {
                return Err(AuthenticationError::PrincipalUnknown);
            }
            return Ok(Principal {
                kind: PrincipalKind::Agent,
                id: agent.id.clone(),
                name,
                roles: agent.roles.clone(),
                owner: agent.owner.clone(),
                state: if instance.revoked {
                    AgentState::Revoked
                } else {
                    agent.state
                },
                instance: instance.id,
            });
        }
        match self.users.get(&instance.principal_id) {
            Some(user) if user.spiffe_id == spiffe_id.as_str() => Ok(Principal {
                kind: PrincipalKind::User,
                id: user.id.clone(),
                name,
                roles: user.roles.clone(),
                owner: String::new(),
                state: if instance.revoked {
                    AgentState::Revoked
                } else {
                    AgentState::Active
                },
                instance: instance.id,
            }),
            _ => Err(AuthenticationError::PrincipalUnknown),
        }
    }
}
