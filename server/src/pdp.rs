//! The one path to a decision. Every door calls it, administrative acts included; it
//! authenticates, evaluates, and puts on record, in this order, and answers only after
//! the record is durable. `Err` means that nothing was decided: a deny for every PEP.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::audit::{AppendError, Audit, Record, throttle::Throttle};
use crate::identity::registry::{AuthenticationError, Caller, Credential};
use crate::identity::token::TokenAuthority;
use crate::model::event::Inputs;
use crate::model::redaction::Redaction;
use crate::model::{
    AccessRequest, AgentState, Change, Conflict, Decision, DenyReason, Effect, Event, EventType,
    PrincipalKind, Verdict,
};
use crate::policy::{EntityError, Facts, Party, PolicyError};
use crate::replica::{Replica, State};

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
    pub(crate) redaction: Redaction,
    pub(crate) clock: Clock,
    pub(crate) failures: std::sync::Mutex<Throttle>,
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
        self.run(credential, request, EventType::Decision, None)
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
        self.run(credential, request, EventType::Admin, Some(prepare))
            .await
    }

    async fn run(
        &self,
        credential: &Credential,
        request: &AccessRequest,
        kind: EventType,
        prepare: Option<Prepare<'_>>,
    ) -> Result<Decision, PdpError> {
        for _ in 0..ATTEMPTS_MAX {
            let state = self.replica.current();
            let now = (self.clock)();
            let caller = self.authenticate(credential, &state, now).await?;
            let revision = state.revision.as_ref().ok_or(PdpError::NotReady)?;
            let facts = facts(&state, &caller, credential, request, now);
            let verdict = match contained(&caller, request) {
                Some(verdict) => verdict,
                None => match revision.compiled.evaluate(
                    &caller.principal,
                    request,
                    &facts,
                    &state.entities,
                ) {
                    Ok(verdict) => verdict,
                    // What the schema does not have may be in one applied elsewhere.
                    Err(_) if self.replica.is_newer_than(state.epoch).await? => continue,
                    Err(error) => return Err(error.into()),
                },
            };
            let act = match prepare {
                Some(prepare) if verdict.deny.is_none() => prepare(&state, &caller, now),
                _ => Ok(Act::default()),
            };
            let decision = Decision {
                id: self.new_id(now),
                sequence: 0,
                log_id: self.audit.log_id(),
                revision: revision.meta.number,
                time: now,
                verdict,
            };
            let made = Made {
                kind,
                decision: &decision,
                caller: &caller,
                facts: &facts,
                request,
            };
            let appended = match act {
                Ok(act) => {
                    self.audit
                        .append(self.record(&made, act, Some(state.epoch))?)
                        .await
                }
                Err(error) => return Err(self.record_failed(&made, error).await?),
            };
            match appended {
                Ok(appended) => {
                    if appended.epoch > state.epoch {
                        // Our own change: the next call on this replica sees it.
                        self.replica.catch_up(appended.epoch).await?;
                    }
                    self.replica.saw(appended.sequence + 1, appended.epoch);
                    return Ok(Decision {
                        sequence: appended.sequence,
                        ..decision
                    });
                }
                Err(AppendError::Stale { epoch }) => self.replica.catch_up(epoch).await?,
                Err(AppendError::Conflict(conflict)) => {
                    return Err(self
                        .record_failed(&made, PdpError::Conflict(conflict))
                        .await?);
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
            Ok(caller) => Ok(caller),
            Err(error) => {
                self.record_refusal(credential, &error.to_string(), now)
                    .await?;
                Err(error.into())
            }
        }
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
        Event::new(kind, self.audit.log_id(), self.new_id(now), now)
    }

    /// Puts an act on record that was permitted and could not be done; returns why.
    ///
    /// # Errors
    /// When it could not be put on record.
    async fn record_failed(&self, made: &Made<'_>, error: PdpError) -> Result<PdpError, PdpError> {
        let act = Act {
            change: None,
            detail: Map::from_iter([("failed".to_owned(), json!(error.to_string()))]),
        };
        let record = self.record(made, act, None)?;
        self.audit.append(record).await.map_err(PdpError::Append)?;
        Ok(error)
    }

    /// # Errors
    /// When the inputs cannot be committed to.
    fn record(&self, made: &Made<'_>, act: Act, epoch: Option<u64>) -> Result<Record, PdpError> {
        let Made {
            kind,
            decision,
            caller,
            facts,
            request,
        } = *made;
        let verdict = &decision.verdict;
        let mut event = Event::new(kind, decision.log_id, decision.id, decision.time);
        event.actor = Some(caller.principal.uid());
        event.instance = Some(caller.principal.instance);
        event.source = facts.source;
        event.action = Some(verdict.action.clone());
        event.resource = Some(request.resource.clone());
        event.effect = Some(verdict.effect());
        event.reason = verdict.deny.map(|reason| reason.as_str().to_owned());
        event.policies.clone_from(&verdict.policies);
        event.errored.clone_from(&verdict.errored);
        event.obligations.clone_from(&verdict.obligations);
        event.revision = Some(decision.revision);
        event.session.clone_from(&request.session_id);
        event.task.clone_from(&request.task_id);
        event.user.clone_from(&request.user);
        event.correlation_id.clone_from(&request.correlation_id);
        event.trace_id.clone_from(&request.trace_id);
        event.detail = act.detail;
        let inputs = match kind {
            EventType::Decision => Some(self.inputs(caller, request, facts)?),
            _ => None,
        };
        event.inputs_sha256 = inputs
            .as_ref()
            .map(|inputs| hex::encode(inputs.commitment()));
        Ok(Record {
            event,
            inputs,
            epoch,
            change: act.change,
        })
    }

    /// What replay needs beside the event: redacted, under a salted commitment. The
    /// digest of the arguments is among it, not in the leaf: unsalted, it would let
    /// short arguments be guessed for ever.
    fn inputs(
        &self,
        caller: &Caller,
        request: &AccessRequest,
        facts: &Facts,
    ) -> Result<Inputs, PdpError> {
        let tagged =
            |parsed: Option<&Result<crate::model::arguments::Arguments, String>>| match parsed {
                Some(Ok(arguments)) => arguments.tagged().clone(),
                Some(Err(why)) => json!({ "unreadable": why }),
                None => Value::Null,
            };
        let mut value = json!({
            "arguments": tagged(request.arguments.as_ref()),
            "request": tagged(Some(&request.pep_context)),
            "supported_obligations": request.supported_obligations,
            "action": request.action,
            "principal": {
                "name": caller.principal.name,
                "owner": caller.principal.owner,
                "roles": caller.principal.roles,
            },
            "authentication": {
                "method": facts.authentication_method,
                "age_seconds": facts.authentication_age_seconds,
            },
        });
        self.redaction.apply(&mut value);
        if let (Some(Ok(arguments)), Value::Object(map)) = (&request.arguments, &mut value) {
            let digest = hex::encode(arguments.sha256());
            map.insert("arguments_sha256".to_owned(), digest.into());
        }
        let unusable = |what: &str| PdpError::Append(AppendError::Store(what.to_owned()));
        let mut salt = [0; 16];
        aws_lc_rs::rand::fill(&mut salt).map_err(|_| unusable("no randomness for a salt"))?;
        let json = serde_json_canonicalizer::to_vec(&value)
            .map_err(|_| unusable("the inputs have no canonical form"))?;
        Ok(Inputs { salt, json })
    }

    /// A UUID version 7, from the given time.
    fn new_id(&self, now: OffsetDateTime) -> Uuid {
        let seconds = u64::try_from(now.unix_timestamp()).unwrap_or(0);
        Uuid::new_v7(uuid::Timestamp::from_unix(
            uuid::NoContext,
            seconds,
            now.nanosecond(),
        ))
    }
}

/// A decision with what it was made from.
#[derive(Clone, Copy)]
struct Made<'a> {
    kind: EventType,
    decision: &'a Decision,
    caller: &'a Caller,
    facts: &'a Facts,
    request: &'a AccessRequest,
}

/// A contained agent is denied before any policy is asked.
pub(crate) fn contained(caller: &Caller, request: &AccessRequest) -> Option<Verdict> {
    let (reason, message) = match caller.principal.state {
        AgentState::Active => return None,
        AgentState::Suspended => (DenyReason::Suspended, "the agent is suspended"),
        AgentState::Isolated => (DenyReason::Isolated, "the agent is isolated"),
        AgentState::Revoked => (DenyReason::Revoked, "the agent or its key is revoked"),
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
        resource: resource_party(state, request),
    }
}

/// The registry's word on a resource that is an agent or a user.
fn resource_party(state: &State, request: &AccessRequest) -> Option<Party> {
    let id = request.resource.id.as_str();
    if request.resource.ty == PrincipalKind::Agent.cedar_type() {
        let agent = state.registry.agent(id)?;
        return Some(Party {
            name: agent.name.clone(),
            owner: Some(agent.owner.clone()),
            roles: agent.roles.clone(),
        });
    }
    if request.resource.ty == PrincipalKind::User.cedar_type() {
        let user = state.registry.user(id)?;
        let name = user.spiffe_id.rsplit('/').next().unwrap_or_default();
        return Some(Party {
            name: name.to_owned(),
            owner: None,
            roles: user.roles.clone(),
        });
    }
    None
}

/// Whether an administrative act was permitted.
pub(crate) fn permitted(decision: &Decision) -> bool {
    decision.verdict.effect() == Effect::Allow
}
