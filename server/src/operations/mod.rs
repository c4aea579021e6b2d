//! Administrative acts and logins: decide, write, record, in one transaction. One file
//! per service of the API.

pub(crate) mod agents;
mod attempts;
pub(crate) mod audit;
pub(crate) mod authentication;
pub(crate) mod authorities;
pub(crate) mod authorization;
pub(crate) mod delegation;
pub(crate) mod diff;
pub(crate) mod entities;
pub(crate) mod fleet;
pub(crate) mod follow;
pub(crate) mod issuers;
pub(crate) mod keys;
pub(crate) mod login;
pub(crate) mod outcomes;
pub(crate) mod policies;
mod policy_tests;
pub(crate) mod profile;
pub(crate) mod proofs;
pub(crate) mod proposals;
pub(crate) mod replay;
pub(crate) mod revocation;
mod rollback;
pub(crate) mod scan;
pub(crate) mod submission;
pub(crate) mod users;
pub(crate) mod watch;

use std::sync::Arc;

use serde_json::{Map, Value};
use time::Duration;
use uuid::Uuid;

use self::issuers::Issuers;
use self::watch::Watches;
use crate::audit::checkpoint::VerifierKey;
use crate::audit::tiles::Edge;
use crate::identity::authorities::Authorities;
use crate::identity::ca::CaError;
use crate::identity::challenge::{ChallengeError, ChallengeMemory};
use crate::identity::lockout::Lockouts;
use crate::identity::public_key::PublicKeyError;
use crate::identity::registry::Credential;
use crate::identity::token::TokenError;
use crate::model::{AccessRequest, Decision, EntityUid, Principal, PrincipalKind, Standing};
use crate::pdp::{Pdp, PdpError, permitted};
use crate::policy::{Diagnostic, Signing};
use crate::replica::State;
use crate::store::{SharedStore, StoreError};

/// The parts that administrative acts work on.
pub(crate) struct Operations {
    pub(crate) pdp: Arc<Pdp>,
    pub(crate) store: SharedStore,
    pub(crate) ca: Authorities,
    /// The public half of the log's key.
    pub(crate) log_key: VerifierKey,
    /// The right edge of the tree that proofs are asked in.
    pub(crate) edge: Edge,
    /// Whether hash tiles and the checkpoint are shown to anybody.
    pub(crate) public_log: bool,
    pub(crate) challenges: ChallengeMemory,
    /// Whose tokens are taken for a login.
    pub(crate) issuers: Issuers,
    /// Who keeps failing to log in.
    pub(crate) lockouts: Lockouts,
    /// How many agents may act one after the other.
    pub(crate) delegation_depth_max: usize,
    /// Whether a policy set needs somebody else's approval.
    pub(crate) four_eyes: bool,
    /// Whose signatures a policy set needs or may have.
    pub(crate) signing: Arc<Signing>,
    /// Streams of revisions and of events.
    pub(crate) watches: Arc<Watches>,
    /// What this process is called among the replicas.
    pub(crate) replica_id: Uuid,
    /// How long issued certificates are good for, at most.
    pub(crate) certificate_lifetime_max: Duration,
    /// How long after a decision its outcome is taken.
    pub(crate) outcome_window: Duration,
    /// How often a key may be recovered after its certificate has ended.
    pub(crate) recoveries_max: u32,
    /// Turns to make a page of what is permitted.
    pub(crate) pages: tokio::sync::Semaphore,
    /// Turns of replays.
    pub(crate) replays: tokio::sync::Semaphore,
    /// How long access tokens are good for, at most.
    pub(crate) token_lifetime_max: Duration,
}

/// Why an act was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OperationError {
    /// Nothing was decided.
    #[error(transparent)]
    Pdp(#[from] PdpError),
    /// Decided, and denied.
    #[error("{}", .0.verdict.message)]
    Denied(Box<Decision>),
    /// The principal may not do this in its state.
    #[error("{}", .0.message())]
    Contained(Standing),
    /// A field of the request is no good.
    #[error("{field}: {why}")]
    Field {
        /// The field's name.
        field: &'static str,
        /// What is wrong, and what would be right.
        why: String,
    },
    /// There is no such event.
    #[error("there is no such event in the log, or it is not kept any more")]
    EventNotFound,
    /// The record was pruned.
    #[error(
        "the record at place {place} was pruned, and the log is kept here from place {first} on; \
         look for it in an export. That it is in the log can still be proved"
    )]
    EventPruned {
        /// The place.
        place: u64,
        /// The oldest place that is kept.
        first: u64,
    },
    /// The caller has no such decision, whoever else may.
    #[error("you have no decision of this id")]
    DecisionNotFound,
    /// Nothing can have come of it.
    #[error("the decision was a deny, so there is no outcome to report")]
    DecisionDenied,
    /// The decision is too long ago.
    #[error("the decision is over {} s old; report outcomes when they come about", .0.whole_seconds())]
    OutcomeLate(Duration),
    /// It was reported otherwise.
    #[error("another outcome of this decision is on record; it stays as it is")]
    OutcomeConflict,
    /// No checkpoint covers it yet.
    #[error("no checkpoint covers this yet; a growing log is signed each second, try again")]
    NotSigned,
    /// The stored log is not what was signed.
    #[error("the log is not what was signed: {0}; see what `zta audit verify` says")]
    LogAltered(String),
    /// A place in the log that does not exist yet.
    #[error(
        "the cursor names place {place}, and the log has {size} events; is it another server's?"
    )]
    CursorBeyondLog {
        /// The place.
        place: u64,
        /// The log's size.
        size: u64,
    },
    /// What stands at this place of the log is not kept any more.
    #[error(
        "the cursor names place {place}, and the log is kept here from place {first} on; begin \
         there, and look for what is between in an export"
    )]
    CursorTooOld {
        /// The place.
        place: u64,
        /// The oldest place that is kept.
        first: u64,
    },
    /// The server stops, and the stream with it.
    #[error("the server stops; go on after what came last, on another replica")]
    Stopping,
    /// A documented limit is exceeded.
    #[error("{name}: {size} is over the limit of {max}")]
    Limit {
        /// The limit's name.
        name: &'static str,
        /// How much there is.
        size: usize,
        /// How much there may be.
        max: usize,
    },
    /// There is no such agent.
    #[error("there is no agent `{0}`")]
    AgentNotFound(String),
    /// A grant is no good.
    #[error("the grant is unknown, has expired, or is not the caller's to use; ask for a new one")]
    DelegationInvalid,
    /// Too many logins have failed.
    #[error("too many logins have failed; try again in {} s", .0.whole_seconds().max(1))]
    LockedOut(Duration),
    /// There is no such revision.
    #[error("there is no revision {0}")]
    RevisionNotFound(u64),
    /// The join token is no good.
    #[error("the join token is unknown, was used before, or has expired; ask for a new one")]
    JoinToken,
    /// The CSR is no good.
    #[error("csr_der: {0}")]
    Csr(#[from] PublicKeyError),
    /// The challenge is no good.
    #[error("the challenge is unknown, was used before, or has expired; get a new one")]
    ChallengeInvalid,
    /// No challenge can be given.
    #[error(transparent)]
    Challenge(#[from] ChallengeError),
    /// The token of an identity provider is no good.
    #[error(
        "the identity token is not accepted; the server's record of this login says why \
         (`zta audit`, `login_failed`)"
    )]
    IdentityToken,
    /// Nothing is wrong with the token of an identity provider but its time.
    #[error("the identity token has expired; get a new one from its provider")]
    IdentityTokenExpired,
    /// The signature is not by the certificate's key.
    #[error("the signature does not verify under the certificate's key")]
    Signature,
    /// The candidate does not pass the gates.
    #[error("the policy set does not pass: {}", .0.first().map_or("", |d| d.message.as_str()))]
    PolicyInvalid(Vec<Diagnostic>),
    /// Another replay is under way.
    #[error("another replay is under way on this replica; try again when it has ended")]
    ReplayRunning,
    /// The caller may not go on with what it has begun.
    #[error("what was begun is not permitted to you any more")]
    NoLongerPermitted,
    /// The candidate would lock out its author.
    #[error(
        "under these policies you could not apply the next ones; permit `apply_policy` to your \
         role, or whatever else you have asked for"
    )]
    Lockout,
    /// The CA could not sign.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The certificate does not say which generation of its key it is.
    #[error("the client certificate does not say its generation; enrol again")]
    GenerationMissing,
    /// The key is not recovered. The record says why.
    #[error("the key is not recovered; enrol again with a new join token")]
    RecoveryRefused,
    /// A token could not be made.
    #[error(transparent)]
    Token(#[from] TokenError),
}

impl From<StoreError> for OperationError {
    fn from(error: StoreError) -> Self {
        Self::Pdp(PdpError::Store(error))
    }
}

impl Operations {
    /// The resource of acts on the server as a whole.
    fn zone(&self) -> EntityUid {
        EntityUid::new("ZTA::Zone", self.ca.trust_domain().as_str())
    }

    /// How long a principal's certificates are good for.
    fn certificate_lifetime(&self, state: &State, id: &str) -> Duration {
        let agent = state.registry.agent(id);
        let own = agent.and_then(|agent| agent.profile.certificate_lifetime_max_s);
        shorter(self.certificate_lifetime_max, own)
    }

    /// How long a principal's access tokens are good for.
    fn token_lifetime(&self, state: &State, principal: &Principal) -> Duration {
        let agent = state.registry.agent(&principal.id);
        let agent = agent.filter(|_| principal.kind == PrincipalKind::Agent);
        let own = agent.and_then(|agent| agent.profile.token_lifetime_max_s);
        shorter(self.token_lifetime_max, own)
    }

    /// Decides and records an act that only reads.
    async fn read(
        &self,
        credential: &Credential,
        action: &str,
    ) -> Result<Decision, OperationError> {
        let request = AccessRequest::new(EntityUid::action(action), self.zone());
        let decision = self
            .pdp
            .operate(credential, &request, &|_, _, _| Ok(Default::default()))
            .await?;
        allowed(decision)
    }
}

/// The server's limit, or a principal's own where it is shorter.
fn shorter(max: Duration, own_s: Option<u32>) -> Duration {
    own_s.map_or(max, |own_s| max.min(Duration::seconds(own_s.into())))
}

/// A denied act is an error of the operation.
fn allowed(decision: Decision) -> Result<Decision, OperationError> {
    if permitted(&decision) {
        Ok(decision)
    } else {
        Err(OperationError::Denied(Box::new(decision)))
    }
}

/// A detail of an event from pairs.
fn detail<const N: usize>(pairs: [(&str, Value); N]) -> Map<String, Value> {
    pairs
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}

/// A text of a person for the record: bounded, without control characters.
fn text_field(field: &'static str, text: &str, bytes_max: usize) -> Result<(), OperationError> {
    if text.len() > bytes_max {
        let why = format!("has {} bytes, at most {bytes_max} are allowed", text.len());
        return Err(OperationError::Field { field, why });
    }
    if text
        .chars()
        .any(|c| c.is_control() && c != '\n' && c != '\t')
    {
        let why = "must not contain control characters".to_owned();
        return Err(OperationError::Field { field, why });
    }
    Ok(())
}
