//! Enrolled keys: the first certificate of one, the next, and one after the last has ended;
//! and what is done about a key in two hands.
//!
//! A certificate says which generation it is (`identity/generation.rs`), the store which one
//! is the newest and which the newest that was used. What follows from the two is decided
//! under the lock of the log's head; the certificate is signed before, for the generation
//! that was expected, and nobody gets it where another one was due.

use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::{OperationError, Operations};
use crate::audit::{AppendError, Record};
use crate::identity::ca::IssuedCertificate;
use crate::identity::join_token::{JoinToken, StoredJoinToken};
use crate::identity::peer::PeerCertificate;
use crate::identity::possession::ProvenKey;
use crate::identity::public_key::PublicKey;
use crate::identity::registry::{AuthenticationError, Credential};
use crate::identity::spiffe::SpiffeId;
use crate::model::change::{JoinTokenRecord, Renewal};
use crate::model::{
    AgentRecord, Change, Conflict, EntityUid, Event, EventType, Instance, Principal, PrincipalKind,
    Standing,
};
use crate::pdp::{ATTEMPTS_MAX, PdpError};
use crate::replica::State;

/// A certificate as handed to the agent.
pub(crate) struct Issued {
    pub(crate) certificate: IssuedCertificate,
    pub(crate) spiffe_id: String,
    pub(crate) instance_id: Uuid,
    /// The place of its event in the log.
    pub(crate) sequence: u64,
}

/// Who asks for the next certificate of a key, having proved it.
struct Asked<'a> {
    certificate: &'a PeerCertificate,
    presented: u64,
    principal: &'a Principal,
    instance_id: Uuid,
    credential: &'a Credential,
    lifetime: Duration,
    /// For a recovery: how many a key may have.
    recoveries_max: Option<u32>,
}

/// Why a key is not recovered. The caller hears of every refusal by the same name; these
/// tell the record which it was.
#[derive(Debug, thiserror::Error)]
enum RecoveryError {
    #[error("keys are not recovered here (`recoveries_max` is 0)")]
    Off,
    #[error("the certificate is no principal's")]
    Certificate,
    #[error("the certificate is not signed by this server's CA")]
    Foreign,
    #[error("the certificate is not valid yet")]
    Early,
    #[error("the certificate does not say its generation")]
    GenerationMissing,
    #[error("no key was proved, or another one than the certificate's")]
    Proof,
    #[error("{0}")]
    Unknown(#[from] AuthenticationError),
    #[error("{}", .0.message())]
    Contained(Standing),
    #[error("{0}")]
    Conflict(Conflict),
}

impl Operations {
    /// Exchanges a join token and a CSR for the first certificate of a key. The caller
    /// has proved nothing yet, so every refusal says the same and is on record.
    pub(crate) async fn enroll(
        &self,
        credential: &Credential,
        join_token: &str,
        csr_der: &[u8],
    ) -> Result<(Issued, Option<AgentRecord>), OperationError> {
        let key = PublicKey::from_csr(csr_der)?;
        let now = (self.pdp.clock)();
        let Some(stored) = self.usable_join_token(join_token, now).await? else {
            self.pdp
                .record_refusal(credential, "the join token is refused", now)
                .await?;
            return Err(OperationError::JoinToken);
        };
        let (owner, id) = self.owner_of(&stored)?;
        let lifetime = self.certificate_lifetime(&self.pdp.replica.current(), id.as_str());
        let instance = Instance::new(
            Uuid::new_v4(),
            stored.principal_id.clone(),
            key.sha256(),
            now,
        );
        let certificate =
            self.ca
                .signing()
                .issue_svid(&key, &id, instance.generation, lifetime, now)?;
        let instance_id = instance.id;
        let mut event = self.issuance(EventType::Enrolled, &certificate, instance_id, now);
        event.actor = Some(owner);
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
        let agent = state.registry.agent(id.as_str());
        let issued = Issued {
            certificate,
            spiffe_id: id.as_str().to_owned(),
            instance_id,
            sequence,
        };
        Ok((issued, agent.map(|agent| AgentRecord::clone(agent))))
    }

    /// Whose key a join token enrols, and what its certificate names.
    fn owner_of(&self, token: &JoinTokenRecord) -> Result<(EntityUid, SpiffeId), OperationError> {
        let id = &token.principal_id;
        if id.contains('#') {
            let (id, spiffe_id) = self.user_ids(id)?;
            return Ok((EntityUid::new("ZTA::User", &id), spiffe_id));
        }
        let spiffe_id = SpiffeId::parse(id).map_err(|_| OperationError::JoinToken)?;
        Ok((EntityUid::new("ZTA::Agent", id), spiffe_id))
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

    /// The next certificate for the key of the caller's certificate: that of the connection
    /// or, where the caller proves its key by each call, the one in the message.
    pub(crate) async fn renew(
        &self,
        credential: &Credential,
        certificate_der: &[u8],
    ) -> Result<Issued, OperationError> {
        for _ in 0..ATTEMPTS_MAX {
            let state = self.pdp.replica.current();
            let now = (self.pdp.clock)();
            let caller = self.pdp.authenticate(credential, &state, now).await?;
            let principal = &caller.principal;
            if principal.state != Standing::Active {
                self.pdp
                    .record_refusal(credential, "renewal while contained", now)
                    .await?;
                return Err(OperationError::Contained(principal.state));
            }
            let brought = match caller.method {
                "dpop" => self.brought(credential, certificate_der, now),
                _ => None,
            };
            let certificate = match caller.method {
                "dpop" => brought.as_ref(),
                _ => credential.certificate.as_deref(),
            };
            let (Some(certificate), Some(instance_id)) = (certificate, principal.instance) else {
                self.pdp
                    .record_refusal(credential, "renewal without the key's certificate", now)
                    .await?;
                return Err(OperationError::Signature);
            };
            let Some(presented) = certificate.generation() else {
                self.pdp
                    .record_refusal(credential, "renewal without a generation", now)
                    .await?;
                return Err(OperationError::GenerationMissing);
            };
            let asked = Asked {
                certificate,
                presented,
                principal,
                instance_id,
                credential,
                lifetime: self.certificate_lifetime(&state, &principal.id),
                recoveries_max: None,
            };
            if let Some(issued) = self.issue_next(&asked, &state, now).await? {
                caller.on_record();
                return Ok(issued);
            }
        }
        Err(PdpError::Stale.into())
    }

    /// A certificate in a message, if it is ours, of the key that was proved, and holds.
    fn brought(
        &self,
        credential: &Credential,
        der: &[u8],
        now: OffsetDateTime,
    ) -> Option<PeerCertificate> {
        let proof = credential.proof.as_ref()?;
        let certificate = PeerCertificate::from_der(der).ok()?;
        let is_ours = self.ca.current().issued(der);
        let is_own = proof.public_key == *certificate.public_key();
        (is_ours && is_own && certificate.holds_at(now)).then_some(certificate)
    }

    /// A certificate for a key whose last one has ended. The connection proves nobody; the
    /// proof that came with the call does, by the certificate's key.
    pub(crate) async fn recover(
        &self,
        credential: &Credential,
        certificate_der: &[u8],
        proof: Option<&ProvenKey>,
    ) -> Result<Issued, OperationError> {
        for _ in 0..ATTEMPTS_MAX {
            let state = self.pdp.replica.current();
            let now = (self.pdp.clock)();
            if state.epoch == 0 {
                return Err(PdpError::NotReady.into());
            }
            let refused = match self.recoverable(&state, certificate_der, proof, now) {
                Ok((certificate, principal, presented)) => {
                    let Some(instance_id) = principal.instance else {
                        return Err(OperationError::Signature);
                    };
                    let asked = Asked {
                        presented,
                        instance_id,
                        credential,
                        lifetime: self.certificate_lifetime(&state, &principal.id),
                        recoveries_max: Some(self.recoveries_max),
                        certificate: &certificate,
                        principal: &principal,
                    };
                    match self.issue_next(&asked, &state, now).await {
                        Ok(Some(issued)) => return Ok(issued),
                        Ok(None) => continue,
                        Err(OperationError::Pdp(PdpError::Conflict(conflict))) => {
                            RecoveryError::Conflict(conflict)
                        }
                        Err(error) => return Err(error),
                    }
                }
                // What is not known here may have been enrolled elsewhere.
                Err(RecoveryError::Unknown(_))
                    if self.pdp.replica.is_newer_than(state.epoch).await? =>
                {
                    continue;
                }
                Err(refused) => refused,
            };
            let why = format!("recovery: {refused}");
            self.pdp.record_refusal(credential, &why, now).await?;
            return Err(OperationError::RecoveryRefused);
        }
        Err(PdpError::Stale.into())
    }

    /// Whose key it is that wants to be recovered, if it may be as far as can be said
    /// without the store.
    fn recoverable(
        &self,
        state: &State,
        certificate_der: &[u8],
        proof: Option<&ProvenKey>,
        now: OffsetDateTime,
    ) -> Result<(PeerCertificate, Principal, u64), RecoveryError> {
        if self.recoveries_max == 0 {
            return Err(RecoveryError::Off);
        }
        let certificate = PeerCertificate::from_der(certificate_der);
        let certificate = certificate.map_err(|_| RecoveryError::Certificate)?;
        if !self.ca.current().issued(certificate_der) {
            return Err(RecoveryError::Foreign);
        }
        if certificate.not_before() > now {
            return Err(RecoveryError::Early);
        }
        match proof {
            Some(proof) if proof.public_key == *certificate.public_key() => {}
            _ => return Err(RecoveryError::Proof),
        }
        let presented = certificate.generation();
        let presented = presented.ok_or(RecoveryError::GenerationMissing)?;
        let principal = state.registry.holder(&certificate)?;
        match principal.state {
            Standing::Active => Ok((certificate, principal, presented)),
            standing => Err(RecoveryError::Contained(standing)),
        }
    }

    /// Signs the certificate that is due and puts it on record. `None` when the world
    /// moved meanwhile: ask again.
    async fn issue_next(
        &self,
        asked: &Asked<'_>,
        state: &State,
        now: OffsetDateTime,
    ) -> Result<Option<Issued>, OperationError> {
        let stored = self.store.instance(asked.instance_id).await?;
        let stored = stored.ok_or(PdpError::Conflict(Conflict::KeyRevoked))?;
        let Some(generation) = stored.renewal(asked.presented) else {
            return Err(self.clone_detected(asked, now).await?);
        };
        let certificate = self.ca.signing().issue_svid(
            asked.certificate.public_key(),
            asked.certificate.spiffe_id(),
            generation,
            asked.lifetime,
            now,
        )?;
        let kind = match asked.recoveries_max {
            None => EventType::Renewed,
            Some(_) => EventType::Recovered,
        };
        let mut event = self
            .issuance(kind, &certificate, asked.instance_id, now)
            .with_detail("generation", generation.to_string());
        event.actor = Some(asked.principal.uid());
        event.source = asked.credential.source;
        let change = Change::Renew(Renewal {
            certificate: certificate.record(asked.instance_id),
            presented: asked.presented,
            generation,
            recoveries_max: asked.recoveries_max,
        });
        match self.append_change(event, change, Some(state.epoch)).await {
            Ok(sequence) => Ok(Some(Issued {
                certificate,
                spiffe_id: asked.certificate.spiffe_id().as_str().to_owned(),
                instance_id: asked.instance_id,
                sequence,
            })),
            Err(OperationError::Pdp(
                PdpError::Stale | PdpError::Conflict(Conflict::GenerationMoved),
            )) => Ok(None),
            Err(OperationError::Pdp(PdpError::Conflict(Conflict::Generation))) => {
                Err(self.clone_detected(asked, now).await?)
            }
            Err(error) => Err(error),
        }
    }

    /// A certificate was presented whose successor has been used: two hold its key. An
    /// agent's key is locked with the event. A person's is not: if it is the only
    /// administrator's, nobody could unlock it, and whoever has it could lock it at will;
    /// the older copy gets no further certificate all the same.
    ///
    /// Returns what the caller is told; it is an error of its own if that is not on record.
    async fn clone_detected(
        &self,
        asked: &Asked<'_>,
        now: OffsetDateTime,
    ) -> Result<OperationError, OperationError> {
        let locks = asked.principal.kind == PrincipalKind::Agent;
        let mut event = self
            .pdp
            .event(EventType::CloneDetected, now)
            .with_detail("generation", asked.presented.to_string())
            .with_detail("locked", locks);
        event.actor = Some(asked.principal.uid());
        event.instance = Some(asked.instance_id);
        event.source = asked.credential.source;
        let recorded = match locks {
            true => {
                let change = Change::LockInstance {
                    instance_id: asked.instance_id,
                    presented: asked.presented,
                };
                self.append_change(event, change, None).await.map(drop)
            }
            false => {
                let appended = self.pdp.audit.append(Record::fact(event)).await;
                appended.map(drop).map_err(|e| PdpError::Append(e).into())
            }
        };
        match recorded {
            // Not active any more: somebody was faster, and it is on record by them.
            Ok(()) | Err(OperationError::Pdp(PdpError::Conflict(Conflict::KeyState(_)))) => {
                Ok(PdpError::Conflict(Conflict::Generation).into())
            }
            Err(error) => Err(error),
        }
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
            rider: None,
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
}
