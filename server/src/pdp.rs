//! The one path to a decision. Every door calls it, administrative acts included; it
//! authenticates, evaluates, and puts on record, in this order, and answers only after
//! the record is durable. `Err` means that nothing was decided: a deny for every PEP.

pub(crate) mod recorded;
mod recording;
pub(crate) mod replay;

use std::sync::Arc;

use serde_json::{Map, Value};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::audit::{AppendError, Audit, Record, throttle::Throttle};
use crate::identity::continuous::{self, KeyProofs};
use crate::identity::dpop::DpopVerifier;
use crate::identity::registry::{AuthenticationError, Caller, Credential};
use crate::identity::token::TokenAuthority;
use crate::model::redaction::Redaction;
use crate::model::{
    AccessRequest, Change, Conflict, Decision, DenyReason, Effect, Event, EventType, Standing,
    Verdict,
};
use crate::policy::{Denier, EntityError, Facts, Parties as _, PolicyError, SignatureError};
use crate::replica::{ActiveRevision, Replica, State};

/// How often a decision is made again because the world changed under it.
pub(crate) const ATTEMPTS_MAX: u32 = 8;

/// Where the time comes from. Read once per decision.
pub(crate) type Clock = Arc<dyn Fn() -> OffsetDateTime + Send + Sync>;

/// Why nothing was decided.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PdpError {
    /// The credential proves nobody. On record.
    #[error(transparent)]
    Authentication(#[from] AuthenticationError),
    /// The request names what the schema does not have.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// No revision is in force.
    #[error("no policy revision is in force yet")]
    NotReady,
    /// The log is shorter than the request demands, as far as this replica can see.
    #[error("this server has not reached the state that the request demands; try again")]
    NotFresh,
    /// The world changed faster than the decision could be made.
    #[error(
        "the policies or the registry changed {ATTEMPTS_MAX} times during this call; try again"
    )]
    Stale,
    /// The change of an administrative act cannot be made.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// The candidate policies would deny their author the next change of them.
    #[error("the candidate policies would lock out their author")]
    Lockout,
    /// An agent may not act on the caller's behalf, whatever policy says.
    #[error("{0}")]
    Delegation(String),
    /// Policies come into force by somebody else's approval only.
    #[error(
        "this server applies no policies without a second person's approval; propose them, and \
         have somebody else approve the proposal"
    )]
    ApprovalRequired,
    /// The candidate's signature is missing or no good.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// Content that one person cannot bring back alone.
    #[error(
        "nobody but its author has approved revision {0}, and it is not the one that the last \
         change replaced; propose its content instead (`zta policy export`, `zta policy propose`)"
    )]
    RollbackUnapproved(u64),
    /// Nobody gives a role to themselves.
    #[error("nobody changes what is said of themselves; somebody else has to do it")]
    OwnRecord,
    /// Nobody approves what they wrote.
    #[error("you have a part in this proposal; somebody else has to approve it")]
    OwnProposal,
    /// An act concerns a principal that is not registered.
    #[error("there is no such agent or user")]
    PrincipalNotFound,
    /// Entities that cannot be put.
    #[error(transparent)]
    Entity(#[from] EntityError),
    /// Stored entities that do not fit the candidate's schema, the first ten.
    #[error("stored entities do not fit the schema: {}", .0.first().map_or("", |m| m.as_str()))]
    Misfits(Vec<String>),
    /// Not on record, so not decided.
    #[error(transparent)]
    Append(AppendError),
    /// The store could not be read.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
}

/// What an administrative act does, once it is permitted.
#[derive(Debug, Default)]
pub(crate) struct Act {
    /// What to write beside the event.
    pub(crate) change: Option<Change>,
    /// What to say about it on record.
    pub(crate) detail: Map<String, Value>,
}

/// How an administrative act prepares itself from the state it was permitted in. Called
/// again when the state changed before the commit.
pub(crate) type Prepare<'a> =
    &'a (dyn Fn(&State, &Caller, OffsetDateTime) -> Result<Act, PdpError> + Sync);

/// Decides.
pub(crate) struct Pdp {
    pub(crate) replica: Arc<Replica>,
    pub(crate) audit: Audit,
    pub(crate) tokens: TokenAuthority,
    /// Of calls whose TLS ends before this server.
    pub(crate) proofs: DpopVerifier,
    pub(crate) redaction: Redaction,
    pub(crate) clock: Clock,
    pub(crate) failures: std::sync::Mutex<Throttle>,
    pub(crate) key_proofs: KeyProofs,
}

impl Pdp {
    /// Decides a request of an agent, a workload or a person.
    ///
    /// # Errors
    /// When nothing could be decided or put on record.
    pub(crate) async fn decide(
        &self,
        credential: &Credential,
        request: &AccessRequest,
    ) -> Result<Decision, PdpError> {
        self.one(credential, request, EventType::Decision, None)
            .await
    }

    /// Decides requests of one caller in one state and puts them on record in one
    /// commit, at consecutive places. The answers are in the order of the requests; one
    /// that cannot be decided does not keep the others from being.
    ///
    /// # Errors
    /// When none could be decided or put on record.
    pub(crate) async fn decide_all(
        &self,
        credential: &Credential,
        requests: &[&AccessRequest],
    ) -> Result<Vec<Result<Decision, PdpError>>, PdpError> {
        self.run(credential, requests, EventType::Decision, None)
            .await
    }

    /// Decides an administrative act and, if it is permitted, makes its change in the
    /// transaction of its event.
    ///
    /// # Errors
    /// When nothing could be decided or put on record, or the change cannot be made.
    pub(crate) async fn operate(
        &self,
        credential: &Credential,
        request: &AccessRequest,
        prepare: Prepare<'_>,
    ) -> Result<Decision, PdpError> {
        self.one(credential, request, EventType::Admin, Some(prepare))
            .await
    }

    /// As [`Pdp::operate`], on record as an event of another kind.
    ///
    /// # Errors
    /// As there.
    pub(crate) async fn act(
        &self,
        credential: &Credential,
        request: &AccessRequest,
        kind: EventType,
        prepare: Prepare<'_>,
    ) -> Result<Decision, PdpError> {
        self.one(credential, request, kind, Some(prepare)).await
    }

    async fn one(
        &self,
        credential: &Credential,
        request: &AccessRequest,
        kind: EventType,
        prepare: Option<Prepare<'_>>,
    ) -> Result<Decision, PdpError> {
        self.run(credential, &[request], kind, prepare)
            .await?
            .pop()
            .unwrap_or(Err(PdpError::Stale))
    }

    /// `prepare` comes with one request only.
    async fn run(
        &self,
        credential: &Credential,
        requests: &[&AccessRequest],
        kind: EventType,
        prepare: Option<Prepare<'_>>,
    ) -> Result<Vec<Result<Decision, PdpError>>, PdpError> {
        for _ in 0..ATTEMPTS_MAX {
            let state = self.replica.current();
            let now = (self.clock)();
            let caller = self.authenticate(credential, &state, now).await?;
            let scene = Scene {
                state: &state,
                revision: state.revision.as_ref().ok_or(PdpError::NotReady)?,
                credential,
                caller: &caller,
                now,
                kind,
            };
            let requests = requests.iter().copied();
            let mut made: Vec<_> = requests.map(|r| self.judge(&scene, r)).collect();
            // What the schema does not have may be in one applied elsewhere.
            if made.iter().any(Result::is_err) && self.replica.is_newer_than(state.epoch).await? {
                continue;
            }
            let appended = match (prepare, made.as_slice()) {
                (Some(prepare), [Ok(made)]) => {
                    let act = match permitted(&made.decision) {
                        true => prepare(&state, &caller, now),
                        false => Ok(Act::default()),
                    };
                    match act {
                        Ok(act) => self.append(&scene, made, act).await,
                        // It may stand on what is no longer so elsewhere.
                        Err(_) if self.replica.is_newer_than(state.epoch).await? => continue,
                        Err(error) => return Err(self.record_failed(&scene, made, error).await?),
                    }
                }
                _ => self.append_all(&scene, &mut made).await,
            };
            match appended {
                Ok(appended) => {
                    caller.on_record();
                    if appended.epoch > state.epoch {
                        // Our own change: the next call on this replica sees it.
                        self.replica.catch_up(appended.epoch).await?;
                    }
                    let placed = placed(made, appended.sequence);
                    let last = placed.iter().flatten().map(|d| d.sequence).max();
                    self.replica
                        .saw(last.map_or(0, |last| last + 1), appended.epoch);
                    return Ok(placed);
                }
                Err(AppendError::Stale { epoch }) => self.replica.catch_up(epoch).await?,
                Err(AppendError::Conflict(conflict)) => {
                    let error = PdpError::Conflict(conflict);
                    return Err(match made.first() {
                        Some(Ok(made)) => self.record_failed(&scene, made, error).await?,
                        _ => error,
                    });
                }
                Err(error) => return Err(PdpError::Append(error)),
            }
        }
        Err(PdpError::Stale)
    }

    /// Returns once the log has at least that size and the current state covers it. What
    /// is then decided, or only read, is at least as fresh.
    ///
    /// # Errors
    /// [`PdpError::NotFresh`] when it did not come to that in two seconds.
    pub(crate) async fn reach(&self, size: u64) -> Result<(), PdpError> {
        match self.replica.reach(size).await? {
            true => Ok(()),
            false => Err(PdpError::NotFresh),
        }
    }

    /// Who makes the call. A refused credential is on record before its error is.
    ///
    /// # Errors
    /// When the credential proves nobody, or the refusal could not be put on record.
    pub(crate) async fn authenticate(
        &self,
        credential: &Credential,
        state: &State,
        now: OffsetDateTime,
    ) -> Result<Caller, PdpError> {
        use AuthenticationError::{KeyUnknown, PrincipalUnknown};
        // Nothing is read yet: nobody is unknown, and nobody shall wait for it.
        if state.epoch == 0 {
            return Err(PdpError::NotReady);
        }
        let mut found = state.registry.authenticate(credential, &self.tokens, now);
        // What is not known here may have been enrolled elsewhere.
        if matches!(found, Err(KeyUnknown | PrincipalUnknown))
            && self.replica.is_newer_than(state.epoch).await?
        {
            let registry = &self.replica.current().registry;
            found = registry.authenticate(credential, &self.tokens, now);
        }
        match found {
            Ok(caller) => self.continuously(credential, caller, now).await,
            Err(error) => {
                self.record_refusal(credential, &error.to_string(), now)
                    .await?;
                Err(error.into())
            }
        }
    }

    /// The caller, suspended if its key was not proved for too long.
    async fn continuously(
        &self,
        credential: &Credential,
        caller: Caller,
        now: OffsetDateTime,
    ) -> Result<Caller, PdpError> {
        // The proof that a token's key comes with is as new as can be. A proof beside a
        // certificate says nothing of the certificate's key.
        if caller.method == "dpop" {
            return Ok(caller);
        }
        let Some(instance) = caller.principal.instance else {
            return Ok(caller);
        };
        let proved = credential.handshake_time.max(caller.auth_time);
        let continuous::Standing::Missed { first } =
            self.key_proofs.standing(instance, proved, now)
        else {
            return Ok(caller);
        };
        if first {
            let mut event = self.event(EventType::ProofMissed, now);
            event.actor = Some(caller.principal.uid());
            event.instance = Some(instance);
            event.source = credential.source;
            let appended = self.audit.append(Record::fact(event)).await;
            appended.map_err(PdpError::Append)?;
        }
        let mut caller = caller;
        if caller.principal.state == Standing::Active {
            caller.principal.state = Standing::Suspended;
            caller.proof_missed = true;
        }
        Ok(caller)
    }

    /// Puts a refused credential on record, singly or in the summary of its second.
    ///
    /// # Errors
    /// When it could not be put on record.
    pub(crate) async fn record_refusal(
        &self,
        credential: &Credential,
        why: &str,
        now: OffsetDateTime,
    ) -> Result<(), PdpError> {
        let singly = self
            .failures
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .admit(credential.source, now);
        if !singly {
            return Ok(());
        }
        let mut event = self
            .event(EventType::LoginFailed, now)
            .with_detail("why", why);
        event.source = credential.source;
        // A name that nothing proved is no actor.
        if let Some(certificate) = &credential.certificate {
            event = event.with_detail("claimed", certificate.spiffe_id().as_str());
        }
        self.audit
            .append(Record::fact(event))
            .await
            .map(drop)
            .map_err(PdpError::Append)
    }

    /// An event of this log at this time.
    pub(crate) fn event(&self, kind: EventType, now: OffsetDateTime) -> Event {
        Event::new(kind, self.audit.log_id(), new_id(now), now)
    }

    /// What policy says about one of the requests.
    fn judge<'a>(
        &self,
        scene: &Scene<'_>,
        request: &'a AccessRequest,
    ) -> Result<Made<'a>, PdpError> {
        let Scene { state, caller, .. } = *scene;
        let facts = facts(state, caller, scene.credential, request, scene.now);
        let compiled = &scene.revision.compiled;
        let (verdict, denier) = match contained(caller, request) {
            Some(verdict) => (verdict, None),
            None => compiled.evaluate_chain(&caller.principal, request, &facts, &state.pip())?,
        };
        let decision = Decision {
            id: new_id(scene.now),
            sequence: 0,
            log_id: self.audit.log_id(),
            revision: scene.revision.meta.number,
            time: scene.now,
            verdict,
        };
        Ok(Made {
            decision,
            facts,
            request,
            denier,
        })
    }
}

/// A UUID version 7, from the given time.
fn new_id(now: OffsetDateTime) -> Uuid {
    let millis = u64::try_from(now.unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
    let mut random = [0; 10];
    // The generator of the process, where the crate's own would ask the kernel each time.
    match aws_lc_rs::rand::fill(&mut random) {
        Ok(()) => uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid(),
        Err(_) => Uuid::new_v4(),
    }
}

/// What the requests of one attempt have in common.
struct Scene<'a> {
    state: &'a State,
    revision: &'a ActiveRevision,
    credential: &'a Credential,
    caller: &'a Caller,
    now: OffsetDateTime,
    kind: EventType,
}

/// A decision that is not on record yet, with what it was made from.
struct Made<'a> {
    decision: Decision,
    facts: Facts,
    request: &'a AccessRequest,
    /// The party of a delegation that is not permitted what the caller is.
    denier: Option<Box<Denier>>,
}

/// The decisions at their places: they follow each other from the first one's on.
fn placed(made: Vec<Result<Made<'_>, PdpError>>, first: u64) -> Vec<Result<Decision, PdpError>> {
    let mut sequences = first..;
    let place = |made: Made<'_>| Decision {
        sequence: sequences.next().unwrap_or(u64::MAX),
        ..made.decision
    };
    let mut place = place;
    made.into_iter().map(|made| made.map(&mut place)).collect()
}

/// A contained agent is denied before any policy is asked.
pub(crate) fn contained(caller: &Caller, request: &AccessRequest) -> Option<Verdict> {
    let standing = caller.principal.state;
    let reason = match standing {
        Standing::Active => return None,
        Standing::Suspended => DenyReason::Suspended,
        Standing::Isolated => DenyReason::Isolated,
        Standing::Revoked | Standing::Banned | Standing::KeyRevoked => DenyReason::Revoked,
        Standing::KeyLocked => DenyReason::Locked,
    };
    let message = match caller.proof_missed {
        true => "the key has to be proved again: answer a challenge, or connect anew",
        false => standing.message(),
    };
    Some(Verdict::deny(reason, message, request.action.clone()))
}

/// What the server knows about a call.
pub(crate) fn facts(
    state: &State,
    caller: &Caller,
    credential: &Credential,
    request: &AccessRequest,
    now: OffsetDateTime,
) -> Facts {
    Facts {
        now,
        source: credential.source,
        authentication_method: caller.method,
        authentication_age_seconds: (now - caller.auth_time).whole_seconds().max(0),
        resource: state.party(&request.resource.ty, &request.resource.id),
        delegation: caller.delegation.clone(),
    }
}

/// Whether an administrative act was permitted.
pub(crate) fn permitted(decision: &Decision) -> bool {
    decision.verdict.effect() == Effect::Allow
}
