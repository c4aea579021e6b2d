//! What an administrative act changes in the store. A change commits in the same
//! transaction as its event, or not at all.

use std::sync::Arc;

use time::OffsetDateTime;
use uuid::Uuid;

use super::authority::AuthorityRecord;
use super::entity::StoredEntity;
use super::principal::{AgentRecord, AgentState, Instance, InstanceState, UserRecord};
use super::proposal::{NewProposal, OPEN_MAX, ProposalState};
use super::request::EntityUid;
use super::revision::NewRevision;
use super::revocation::TokenRevocation;

/// A join token as it is stored: never the secret itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinTokenRecord {
    /// The token's public part.
    pub id: String,
    /// SHA-256 of its secret.
    pub secret_sha256: [u8; 32],
    /// The Cedar id of the agent or user whose key it enrols.
    pub principal_id: String,
    /// When it ends.
    pub expire_time: OffsetDateTime,
    /// Whether it was used.
    pub used: bool,
}

/// A certificate as it is stored: what a revocation list has to name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateRecord {
    /// Its serial number, in lower-case hex.
    pub serial: String,
    /// The key that it is for.
    pub instance_id: Uuid,
    /// The last moment at which it holds.
    pub not_after: OffsetDateTime,
}

/// The next certificate of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// The certificate.
    pub certificate: CertificateRecord,
    /// The generation of the certificate that it was asked for with.
    pub presented: u64,
    /// Its own generation, as it is signed.
    pub generation: u64,
    /// For a recovery: how many a key may have.
    pub recoveries_max: Option<u32>,
}

/// A call was made with a certificate of this generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GenerationUse {
    /// The key.
    pub instance_id: Uuid,
    /// The generation.
    pub generation: u64,
}

/// A change of the registry or of the policies.
#[derive(Clone, Debug)]
pub enum Change {
    /// A new agent. Conflicts when the id exists, in whatever state.
    RegisterAgent(AgentRecord),
    /// A user with its first key and certificate, at the first start.
    RegisterUser(UserRecord, Instance, CertificateRecord),
    /// A new join token.
    CreateJoinToken(JoinTokenRecord),
    /// A join token for a user. Conflicts when there is none.
    InviteUser {
        /// The user, where it is a new one. Conflicts when the id exists.
        user: Option<UserRecord>,
        /// The token.
        token: JoinTokenRecord,
    },
    /// A key that the server made for a user. Conflicts when there is no such user.
    AddUserKey(Instance, CertificateRecord),
    /// Ends one key of a user, or all of them and its join tokens, and makes void what it
    /// got by them. Conflicts when there is no such user or key.
    RevokeUserKeys {
        /// The user.
        user_id: String,
        /// The key; `None`: all.
        instance_id: Option<Uuid>,
        /// What is void with it.
        tokens: TokenRevocation,
    },
    /// Uses up the join token and adds the key. Conflicts when the token was used or
    /// has expired, when the key is enrolled already, or when the agent is banned. A
    /// revoked agent is active from then on.
    Enroll {
        /// The token's public part.
        token_id: String,
        /// The new key.
        instance: Instance,
        /// Its first certificate.
        certificate: CertificateRecord,
        /// Compared with the token's end.
        now: OffsetDateTime,
    },
    /// What is known of an agent; its name, state and creation stay as they are. Conflicts
    /// when there is none, or when it is banned.
    UpdateAgent(AgentRecord),
    /// A key got its next certificate. Conflicts when the key is not active or unknown,
    /// when the certificate is not the one that is due, when it is asked for with one whose
    /// successor has been used, and when the key has been recovered too often.
    Renew(Renewal),
    /// A generation counts as used. Never conflicts.
    UseGeneration(GenerationUse),
    /// A key is in two hands, because a renewal was asked for with a certificate whose
    /// successor has been used. Conflicts where that is not so, or the key is not active.
    LockInstance {
        /// The key.
        instance_id: Uuid,
        /// The generation of the certificate.
        presented: u64,
    },
    /// A new state of one key. Conflicts when the agent has no such key, or its state is
    /// not among `from`.
    SetInstanceState {
        /// The agent.
        agent_id: String,
        /// The key.
        instance_id: Uuid,
        /// The states that allow the change.
        from: Vec<InstanceState>,
        /// The new state.
        to: InstanceState,
    },
    /// A new state. Conflicts when the current one is not among `from`. Revoking and
    /// banning also end the agent's keys and join tokens.
    SetAgentState {
        /// The agent.
        agent_id: String,
        /// The states that allow the change.
        from: Vec<AgentState>,
        /// The new state.
        to: AgentState,
    },
    /// A new revision in force. Conflicts when the one before is not in force.
    ApplyRevision(Box<NewRevision>),
    /// A candidate for somebody else to approve. Conflicts when its number is not the next
    /// one, when its base is not in force, or when too many are open.
    Propose(Box<NewProposal>),
    /// A proposal becomes the revision after its base. Conflicts when it is not open, and
    /// as [`Change::ApplyRevision`] does.
    Approve {
        /// The proposal.
        proposal: u64,
        /// The revision that it becomes; names both its author and its approver.
        revision: Box<NewRevision>,
    },
    /// A proposal will not become a revision. Conflicts when it is not open.
    Reject {
        /// The proposal.
        proposal: u64,
        /// Who rejects it.
        by: EntityUid,
    },
    /// Records below a place may be dropped, as the event says. Conflicts when those are, or
    /// more.
    Prune {
        /// The place: a whole number of tiles.
        size: u64,
        /// The event.
        event_id: Uuid,
    },
    /// Tokens that are void from now on. Never conflicts.
    RevokeTokens(TokenRevocation),
    /// Entities that are new or changed, each uid once. Never conflicts: they were
    /// compared with those of the epoch that the change is made in.
    PutEntities(Arc<[StoredEntity]>),
    /// Entities that are stored, each uid once. Never conflicts, likewise.
    DeleteEntities(Arc<[EntityUid]>),
    /// A CA that is trusted from now on. Conflicts when it is on record.
    PrepareAuthority {
        /// The CA that signs now: put on record if it is not there yet.
        signing: Box<AuthorityRecord>,
        /// The new one.
        next: Box<AuthorityRecord>,
    },
    /// The prepared CA signs from now on, and the one that did does no more. Conflicts
    /// when it is not prepared.
    ActivateAuthority {
        /// The CA.
        id: String,
        /// Now.
        time: OffsetDateTime,
    },
    /// A CA is trusted no more. Conflicts when it signs, or is not trusted.
    RetireAuthority {
        /// The CA.
        id: String,
        /// Now.
        time: OffsetDateTime,
    },
}

impl Change {
    /// Whether replicas must see the change before they decide again. Everything but
    /// join tokens, renewals, proposals and retention, which no decision looks at: each agent
    /// may renew at will, and must not be able to make everybody's decisions stale by it.
    pub fn bumps_epoch(&self) -> bool {
        !matches!(
            self,
            Self::CreateJoinToken(_)
                | Self::InviteUser { user: None, .. }
                | Self::Renew(_)
                | Self::UseGeneration(_)
                | Self::Prune { .. }
                | Self::Propose(_)
                | Self::Reject { .. }
        )
    }
}

/// Why a change could not be made. Nothing was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// The agent's id exists or existed.
    #[error("the agent exists already")]
    AgentExists,
    /// There is no such agent.
    #[error("there is no such agent")]
    AgentNotFound,
    /// The agent's state does not allow the change.
    #[error("the agent is {}", .0.as_str())]
    AgentState(AgentState),
    /// The join token is unknown, used or expired.
    #[error("the join token is unknown, was used before, or has expired")]
    JoinToken,
    /// The key is enrolled already.
    #[error("the key is enrolled already")]
    KeyEnrolled,
    /// The key is revoked, or was never enrolled.
    #[error("the key is revoked")]
    KeyRevoked,
    /// The key is locked.
    #[error("the key is locked, because a copy of it was used")]
    KeyLocked,
    /// The key's state does not allow the change.
    #[error("the key is {}", .0.as_str())]
    KeyState(InstanceState),
    /// The agent or user has no such key.
    #[error("the agent or user has no such key")]
    KeyNotFound,
    /// A certificate of another generation is due.
    #[error("the key was renewed at the same time; try again")]
    GenerationMoved,
    /// A successor of the certificate has been used.
    #[error(
        "the certificate is of an older generation than one that was used already: another \
         copy of the key was renewed"
    )]
    Generation,
    /// The key has been recovered as often as it may be.
    #[error("the key has been recovered as often as it may be")]
    RecoveriesExhausted,
    /// Another revision is in force.
    #[error("revision {in_force} is in force")]
    Revision {
        /// The one in force.
        in_force: u64,
    },
    /// There is no such revision.
    #[error("there is no revision {0}")]
    RevisionNotFound(u64),
    /// The revision that is to be brought back is in force.
    #[error("revision {0} is in force; name an earlier one")]
    RevisionInForce(u64),
    /// The CA's state does not allow the change.
    #[error("{0}")]
    Authority(String),
    /// As many records are pruned, or more.
    #[error("the records below {size} are pruned already")]
    Pruned {
        /// Below which place.
        size: u64,
    },
    /// There is no such user.
    #[error("there is no such user")]
    UserNotFound,
    /// The user exists already.
    #[error("the user exists already")]
    UserExists,
    /// There is no such proposal.
    #[error("there is no such proposal")]
    ProposalNotFound,
    /// The proposal is decided already.
    #[error("the proposal is {}", .0.as_str())]
    ProposalDecided(ProposalState),
    /// Somebody else proposed something at the same time.
    #[error("another proposal came first; try again")]
    ProposalMoved,
    /// Too many proposals wait for approval.
    #[error("{OPEN_MAX} proposals are open; approve or reject some first")]
    ProposalsOpen,
}
