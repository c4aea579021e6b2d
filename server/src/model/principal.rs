//! Who is asking: authenticated actors and their keys.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use super::request::EntityUid;

/// The type of a principal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrincipalKind {
    /// An AI program.
    Agent,
    /// A person.
    User,
    /// Another service.
    Workload,
}

impl PrincipalKind {
    /// The Cedar entity type.
    pub fn cedar_type(self) -> &'static str {
        match self {
            Self::Agent => "ZTA::Agent",
            Self::User => "ZTA::User",
            Self::Workload => "ZTA::Workload",
        }
    }

    /// The kind's name in tokens and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::User => "user",
            Self::Workload => "workload",
        }
    }

    /// The kind of that name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Agent, Self::User, Self::Workload]
            .into_iter()
            .find(|kind| kind.as_str() == name)
    }
}

/// The life-cycle state of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AgentState {
    /// May act as policy permits.
    Active,
    /// Every decision is a deny; can be reinstated.
    Suspended,
    /// Every decision is a deny, contained after a suspicion; can be reinstated.
    Isolated,
    /// Final. The id is never used again.
    Revoked,
}

impl AgentState {
    /// The state's name in events and columns.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Isolated => "isolated",
            Self::Revoked => "revoked",
        }
    }

    /// The state of that name. An unknown name is `None`; callers treat it as corrupt.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Active, Self::Suspended, Self::Isolated, Self::Revoked]
            .into_iter()
            .find(|state| state.as_str() == name)
    }
}

/// An agent as the registry stores it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentRecord {
    /// The SPIFFE ID; also the Cedar id. Never reused.
    pub id: String,
    /// The last part of the id.
    pub name: String,
    /// A name for people.
    pub owner: String,
    /// Role names.
    pub roles: Vec<String>,
    /// The life-cycle state.
    pub state: AgentState,
    /// When it was registered.
    pub create_time: OffsetDateTime,
}

/// A person with a local key, as the registry stores it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserRecord {
    /// `<issuer>#<subject>`; also the Cedar id.
    pub id: String,
    /// The SPIFFE ID in the certificate of a locally enrolled user.
    pub spiffe_id: String,
    /// Role names.
    pub roles: Vec<String>,
    /// When the user was created.
    pub create_time: OffsetDateTime,
}

/// One enrolled key of an agent or a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// The instance's id.
    pub id: Uuid,
    /// The Cedar id of the agent or user it belongs to.
    pub principal_id: String,
    /// SHA-256 of the key's SubjectPublicKeyInfo, the lookup key of every call.
    pub key_sha256: [u8; 32],
    /// Counts issued certificates of this key.
    pub generation: u64,
    /// Whether the key was revoked.
    pub revoked: bool,
    /// When the key was enrolled.
    pub create_time: OffsetDateTime,
}

/// An authenticated actor.
#[derive(Clone, Debug)]
pub struct Principal {
    /// What it is.
    pub kind: PrincipalKind,
    /// The Cedar id.
    pub id: String,
    /// A name for people and policies.
    pub name: String,
    /// Role names, parents in Cedar.
    pub roles: Vec<String>,
    /// A name for people; empty for users.
    pub owner: String,
    /// Agents only; a user is always active while its key is.
    pub state: AgentState,
    /// The enrolled key that proved it; none of one whom an identity provider vouches for.
    pub instance: Option<Uuid>,
}

/// On whose behalf a principal acts (RFC 8693). Each of its parties must be permitted what
/// is asked for: whoever acts for another can do no more than either of them.
#[derive(Clone, Debug)]
pub struct Delegation {
    /// The token that says so.
    pub token_id: String,
    /// Who is acted for in the end.
    pub subject: Principal,
    /// Who acts: the caller first, then who acted before it, the nearest first.
    pub actors: Vec<Principal>,
    /// What it is good for, as `action` or `action:resource`; empty: whatever its parties
    /// may do.
    pub scope: Vec<String>,
}

impl Delegation {
    /// Everybody but the caller.
    pub fn others(&self) -> impl Iterator<Item = &Principal> {
        std::iter::once(&self.subject).chain(self.actors.iter().skip(1))
    }

    /// Everybody.
    pub fn parties(&self) -> impl Iterator<Item = &Principal> {
        std::iter::once(&self.subject).chain(&self.actors)
    }
}

impl Principal {
    /// The principal as a Cedar entity reference.
    pub fn uid(&self) -> EntityUid {
        EntityUid::new(self.kind.cedar_type(), &self.id)
    }
}
