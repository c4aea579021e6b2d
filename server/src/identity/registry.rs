//! The registry as this replica holds it in memory: who exists, in which state, and
//! which keys are theirs. Immutable; a change makes a new one.

mod people;
mod principals;
mod void;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use time::OffsetDateTime;
use uuid::Uuid;

use super::continuous::ConnectionProof;
use super::dpop::DpopError;
use super::peer::PeerCertificate;
use super::possession::{Possession, ProvenKey};
use super::token::{AccessToken, TokenAuthority, TokenError, TokenParty};
use principals::{of_agent, of_user, unbound_holder, vouched};
pub(crate) use void::Suspect;
use void::Void;

use crate::model::change::GenerationUse;
use crate::model::{
    AgentRecord, Delegation, Instance, InstanceState, Principal, PrincipalKind, UserRecord,
};
use crate::store::Changes;

/// What a call brings to prove who makes it.
#[derive(Clone, Debug)]
pub(crate) struct Credential {
    /// The verified client certificate of the connection.
    pub(crate) certificate: Option<Arc<PeerCertificate>>,
    /// When the connection's handshake proved possession of its key.
    pub(crate) handshake_time: OffsetDateTime,
    /// When that was proved over the connection again.
    pub(crate) connection: Option<Arc<ConnectionProof>>,
    /// Where the connection comes from.
    pub(crate) source: Option<IpAddr>,
    /// The access token of the call's metadata; `Err` when there is one in another form.
    pub(crate) token: Option<Result<PresentedToken, TokenError>>,
    /// The key of the proof that came with the call, verified and used up.
    pub(crate) proof: Option<Arc<ProvenKey>>,
}

impl Credential {
    /// What a connection brings that has proved nothing.
    pub(crate) fn none(source: Option<IpAddr>, now: OffsetDateTime) -> Self {
        Self {
            certificate: None,
            handshake_time: now,
            connection: None,
            source,
            token: None,
            proof: None,
        }
    }
}

/// An access token as a call brings it.
#[derive(Clone)]
pub(crate) struct PresentedToken {
    /// The scheme of the `authorization` header.
    pub(crate) scheme: TokenScheme,
    /// The token.
    pub(crate) text: Arc<str>,
}

/// Without the token.
impl fmt::Debug for PresentedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PresentedToken")
            .field("scheme", &self.scheme)
            .finish_non_exhaustive()
    }
}

/// How an access token is presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenScheme {
    /// `Bearer`: bound to the client certificate of the connection (RFC 8705).
    Bearer,
    /// `DPoP`: with a proof of its key (RFC 9449).
    Dpop,
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
    /// From a CA that is trusted no more.
    #[error("the CA that issued the client certificate is retired; enrol again")]
    IssuerRetired,
    /// The key is not enrolled.
    #[error("the key of the client certificate is not enrolled here")]
    KeyUnknown,
    /// The key belongs to nobody known, or the certificate names somebody else.
    #[error("the client certificate names no principal of this server")]
    PrincipalUnknown,
    /// A token that is bound to a key comes without a proof of that key.
    #[error("the call has no proof of the key that its access token is bound to")]
    ProofMissing,
    /// The certificate in the message is not of this deployment's CA, or is no principal's.
    #[error("the certificate is not one that this server's CA gave to a principal")]
    CertificateUntrusted,
    /// The proof of possession is no good.
    #[error("the proof of possession is refused: {0}")]
    Proof(#[from] DpopError),
    /// The access token is no good.
    #[error("the access token is refused: {0}")]
    Token(#[from] TokenError),
}

/// Who makes a call, and how that was proved.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// The principal.
    pub(crate) principal: Principal,
    /// `mtls`, `token` or `dpop`.
    pub(crate) method: &'static str,
    /// When possession of the key was proved.
    pub(crate) auth_time: OffsetDateTime,
    /// The tokens and grants that it stands on, the one that it presented the last.
    pub(crate) lineage: Vec<Uuid>,
    /// On whose behalf it acts, where a token says so.
    pub(crate) delegation: Option<Arc<Delegation>>,
    /// When what proved it ends: its token or its certificate.
    pub(crate) expire_time: OffsetDateTime,
    /// The key has to be proved again: suspended until then.
    pub(crate) proof_missed: bool,
    /// Its certificate is one that this replica has not seen used.
    first_use: Option<FirstUse>,
}

impl Caller {
    /// The principal for itself, known by a certificate that is good until `expire_time`.
    pub(crate) fn direct(
        principal: Principal,
        auth_time: OffsetDateTime,
        expire_time: OffsetDateTime,
    ) -> Self {
        Self {
            principal,
            method: "mtls",
            auth_time,
            lineage: Vec::new(),
            delegation: None,
            expire_time,
            proof_missed: false,
            first_use: None,
        }
    }

    /// What the record of this call has to write beside its event.
    pub(crate) fn rider(&self) -> Option<GenerationUse> {
        self.first_use.as_ref().map(|first| GenerationUse {
            instance_id: first.key.instance.id,
            generation: first.generation,
        })
    }

    /// The call is on record, and what [`Self::rider`] said with it.
    pub(crate) fn on_record(&self) {
        if let Some(first) = &self.first_use {
            let used = &first.key.used;
            used.fetch_max(first.generation, Ordering::Relaxed);
        }
    }
}

/// The first call with a certificate that this replica sees: that it was used must be on
/// record with it, or a copy of the certificate before it could not be told from a client
/// to whom the answer was lost.
#[derive(Clone, Debug)]
struct FirstUse {
    key: Arc<Enrolled>,
    generation: u64,
}

/// An enrolled key.
#[derive(Debug)]
struct Enrolled {
    /// As the change feed has it; its generations move on without the feed.
    instance: Instance,
    /// The newest generation that is known here to be marked as used. Behind what other
    /// replicas have marked, which costs one needless mark.
    used: AtomicU64,
}

/// All agents, users and keys.
#[derive(Clone, Debug, Default)]
pub(crate) struct Registry {
    agents: BTreeMap<String, Arc<AgentRecord>>,
    users: BTreeMap<String, Arc<UserRecord>>,
    keys: HashMap<[u8; 32], Arc<Enrolled>>,
    /// CAs that are trusted no more, by the SHA-256 of their certificates, in hex.
    retired_cas: HashSet<String>,
    /// Tokens that were revoked.
    void: Void,
    /// The epoch that all of it holds in.
    epoch: u64,
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
            let before = next.keys.get(&instance.key_sha256);
            let marked = before.map_or(0, |key| key.used.load(Ordering::Relaxed));
            let key = Enrolled {
                used: AtomicU64::new(marked.max(instance.used_generation)),
                instance: instance.clone(),
            };
            next.keys.insert(instance.key_sha256, Arc::new(key));
        }
        let retired = changes.authorities.iter().filter(|ca| !ca.is_trusted());
        next.retired_cas.extend(retired.map(|ca| ca.id.clone()));
        next.void.add(&changes.revocations);
        next.epoch = changes.epoch;
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
        let live = |key: &&Arc<Enrolled>| {
            let Instance {
                principal_id: of,
                state,
                ..
            } = &key.instance;
            of == principal_id && *state != InstanceState::Revoked
        };
        u32::try_from(self.keys.values().filter(live).count()).unwrap_or(u32::MAX)
    }

    /// A key by its fingerprint, as it was when its state changed last: the store knows
    /// its generations.
    pub(crate) fn instance(&self, key_sha256: &[u8; 32]) -> Option<&Instance> {
        self.keys.get(key_sha256).map(|key| &key.instance)
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
        match &credential.token {
            None => {
                let certificate = self.current(credential, now)?;
                let (principal, first_use) = self.principal(certificate)?;
                let (proved, end) = (credential.handshake_time, certificate.not_after());
                Ok(Caller {
                    first_use,
                    ..Caller::direct(principal, proved, end)
                })
            }
            Some(token) => {
                let token = token.as_ref().map_err(Clone::clone)?;
                self.by_token(token, credential, tokens, now)
            }
        }
    }

    /// The connection's certificate, if it holds now and its CA is trusted now.
    fn current<'a>(
        &self,
        credential: &'a Credential,
        now: OffsetDateTime,
    ) -> Result<&'a PeerCertificate, AuthenticationError> {
        let certificate = credential.certificate.as_deref();
        let certificate = certificate.ok_or(AuthenticationError::CredentialMissing)?;
        if !certificate.holds_at(now) {
            return Err(AuthenticationError::CertificateExpired);
        }
        let retired = |issuer: &str| self.retired_cas.contains(issuer);
        match certificate.issuer().is_some_and(retired) {
            true => Err(AuthenticationError::IssuerRetired),
            false => Ok(certificate),
        }
    }

    /// Who presents a token, and on whose behalf. The token decides, and with it the key
    /// that it is bound to: beside it, a certificate may be that of a proxy.
    fn by_token(
        &self,
        token: &PresentedToken,
        credential: &Credential,
        tokens: &TokenAuthority,
        now: OffsetDateTime,
    ) -> Result<Caller, AuthenticationError> {
        let (principal, verified, method, first_use) = match token.scheme {
            TokenScheme::Bearer if credential.certificate.is_none() && tokens.takes_unbound() => {
                let verified = tokens.verify(&token.text, &Possession::Nothing, now)?;
                let holder = unbound_holder(verified.holder())?;
                (holder, verified, "development", None)
            }
            TokenScheme::Bearer => {
                let certificate = self.current(credential, now)?;
                let (principal, first_use) = self.principal(certificate)?;
                let possession = Possession::Certificate(certificate);
                let verified = tokens.verify(&token.text, &possession, now)?;
                let holder = verified.holder();
                if (holder.kind, &holder.id) != (principal.kind, &principal.id) {
                    return Err(TokenError::Subject.into());
                }
                (principal, verified, "token", first_use)
            }
            TokenScheme::Dpop => {
                let key = credential.proof.as_deref();
                let key = key.ok_or(AuthenticationError::ProofMissing)?;
                let verified = tokens.verify(&token.text, &Possession::Key(key), now)?;
                (self.holder_of(&verified, key)?, verified, "dpop", None)
            }
        };
        let parties = std::iter::once(&verified.subject).chain(&verified.actors);
        let suspect = Suspect {
            id: &verified.id,
            lineage: &verified.lineage,
            epoch: verified.epoch,
        };
        self.require_alive(&suspect, parties)?;
        Ok(Caller {
            delegation: self.delegation(&verified, &principal)?,
            lineage: verified.descent()?,
            principal,
            method,
            auth_time: verified.auth_time,
            proof_missed: false,
            expire_time: verified.expire_time,
            first_use,
        })
    }

    /// Who holds a token that is bound to this key. An agent's key must be enrolled for it;
    /// of others the token says what their identity provider vouched for.
    fn holder_of(
        &self,
        token: &AccessToken,
        key: &ProvenKey,
    ) -> Result<Principal, AuthenticationError> {
        let holder = token.holder();
        match self.keys.get(&key.public_key.sha256()) {
            Some(key) if key.instance.principal_id == holder.id => {
                let principal = self.enrolled(&key.instance)?;
                match principal.kind == holder.kind {
                    true => Ok(principal),
                    false => Err(TokenError::Subject.into()),
                }
            }
            Some(_) => Err(TokenError::Subject.into()),
            None if holder.kind == PrincipalKind::Agent => Err(AuthenticationError::KeyUnknown),
            None => Ok(vouched(holder)),
        }
    }

    /// The parties on whose behalf the holder acts, as they are now.
    fn delegation(
        &self,
        token: &AccessToken,
        holder: &Principal,
    ) -> Result<Option<Arc<Delegation>>, AuthenticationError> {
        if token.actors.is_empty() {
            return Ok(None);
        }
        let mut actors = vec![holder.clone()];
        for party in token.actors.iter().skip(1) {
            actors.push(self.party(party)?);
        }
        Ok(Some(Arc::new(Delegation {
            token_id: token.id.clone(),
            subject: self.party(&token.subject)?,
            actors,
            scope: token.scope.clone(),
        })))
    }

    /// A party of a delegation: an agent as the registry has it now, with its state.
    ///
    /// # Errors
    /// When the registry does not know such an agent.
    pub(crate) fn party(&self, party: &TokenParty) -> Result<Principal, AuthenticationError> {
        match party.kind {
            PrincipalKind::Agent => {
                let agent = self.agents.get(&party.id);
                let agent = agent.ok_or(AuthenticationError::PrincipalUnknown)?;
                Ok(of_agent(agent, None))
            }
            PrincipalKind::User => match self.users.get(&party.id) {
                Some(user) => Ok(of_user(user, None)),
                None => Ok(vouched(party)),
            },
            PrincipalKind::Workload => Ok(vouched(party)),
        }
    }

    /// Whose certificate it is, whether it still holds or not.
    ///
    /// # Errors
    /// When its key is not enrolled, or it names somebody else.
    pub(crate) fn holder(
        &self,
        certificate: &PeerCertificate,
    ) -> Result<Principal, AuthenticationError> {
        Ok(self.principal(certificate)?.0)
    }

    fn enrolled(&self, instance: &Instance) -> Result<Principal, AuthenticationError> {
        if let Some(agent) = self.agents.get(&instance.principal_id) {
            return Ok(of_agent(agent, Some(instance)));
        }
        match self.users.get(&instance.principal_id) {
            Some(user) => Ok(of_user(user, Some(instance))),
            None => Err(AuthenticationError::PrincipalUnknown),
        }
    }

    fn principal(
        &self,
        certificate: &PeerCertificate,
    ) -> Result<(Principal, Option<FirstUse>), AuthenticationError> {
        let key = self
            .keys
            .get(certificate.key_sha256())
            .ok_or(AuthenticationError::KeyUnknown)?;
        let instance = &key.instance;
        let named = certificate.spiffe_id().as_str();
        // The key decides who it is; a certificate that names another one proves nobody.
        let is_named = match self.agents.get(&instance.principal_id) {
            Some(agent) => agent.id == named,
            None => match self.users.get(&instance.principal_id) {
                Some(user) => user.spiffe_id == named,
                None => false,
            },
        };
        if !is_named {
            return Err(AuthenticationError::PrincipalUnknown);
        }
        let generation = certificate.generation().unwrap_or(0);
        let first_use = (generation > key.used.load(Ordering::Relaxed)).then(|| FirstUse {
            key: Arc::clone(key),
            generation,
        });
        Ok((self.enrolled(instance)?, first_use))
    }
}
