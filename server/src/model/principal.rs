//! Who is asking: authenticated actors and their keys.

use std::collections::BTreeMap;
use std::sync::Arc;

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
    /// Its keys are void; a new one makes it active again.
    Revoked,
    /// Final. The id is never used again.
    Banned,
}

impl AgentState {
    /// The state's name in events and columns.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Isolated => "isolated",
            Self::Revoked => "revoked",
            Self::Banned => "banned",
        }
    }

    /// The state of that name. An unknown name is `None`; callers treat it as corrupt.
    pub fn parse(name: &str) -> Option<Self> {
        [
            Self::Active,
            Self::Suspended,
            Self::Isolated,
            Self::Revoked,
            Self::Banned,
        ]
        .into_iter()
        .find(|state| state.as_str() == name)
    }
}

/// The life-cycle state of an enrolled key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstanceState {
    /// Proves its principal.
    Active,
    /// A copy of it was used; every call is denied until an operator unlocks it.
    Locked,
    /// Final.
    Revoked,
}

impl InstanceState {
    /// The state's name in events and columns.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Locked => "locked",
            Self::Revoked => "revoked",
        }
    }

    /// The state of that name. An unknown name is `None`; callers treat it as corrupt.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Active, Self::Locked, Self::Revoked]
            .into_iter()
            .find(|state| state.as_str() == name)
    }
}

/// Whether a principal may act now, and if not, why: the state of its agent, then of the
/// key that proved it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It may, as policy permits.
    Active,
    /// The agent is suspended.
    Suspended,
    /// The agent is isolated.
    Isolated,
    /// The agent is revoked.
    Revoked,
    /// The agent is banned.
    Banned,
    /// The key is locked.
    KeyLocked,
    /// The key is revoked.
    KeyRevoked,
}

impl Standing {
    /// Of an agent, as the key that it is known by stands; without one, as the agent does.
    pub fn of(agent: AgentState, key: Option<InstanceState>) -> Self {
        match (agent, key) {
            (AgentState::Suspended, _) => Self::Suspended,
            (AgentState::Isolated, _) => Self::Isolated,
            (AgentState::Revoked, _) => Self::Revoked,
            (AgentState::Banned, _) => Self::Banned,
            (AgentState::Active, Some(InstanceState::Locked)) => Self::KeyLocked,
            (AgentState::Active, Some(InstanceState::Revoked)) => Self::KeyRevoked,
            (AgentState::Active, Some(InstanceState::Active) | None) => Self::Active,
        }
    }

    /// Its name on record.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Isolated => "isolated",
            Self::Revoked => "revoked",
            Self::Banned => "banned",
            Self::KeyLocked => "locked",
            Self::KeyRevoked => "key_revoked",
        }
    }

    /// One sentence for whoever is denied.
    pub fn message(self) -> &'static str {
        match self {
            Self::Active => "the agent is active",
            Self::Suspended => "the agent is suspended",
            Self::Isolated => "the agent is isolated",
            Self::Revoked => "the agent is revoked; it needs a new key",
            Self::Banned => "the agent is banned, for good",
            Self::KeyLocked => {
                "the agent's key is locked, because a copy of it was used; an operator can \
                 unlock it"
            }
            Self::KeyRevoked => "the agent's key is revoked",
        }
    }
}

/// An agent as the registry stores it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentRecord {
    /// The SPIFFE ID; also the Cedar id. Never reused.
    pub id: String,
    /// The last part of the id.
    pub name: String,
    /// The life-cycle state.
    pub state: AgentState,
    /// When it was registered.
    pub create_time: OffsetDateTime,
    /// What an administrator says of it.
    pub profile: AgentProfile,
}

/// What an administrator says of an agent, and can change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentProfile {
    /// A name for people.
    pub owner: String,
    /// Role names.
    pub roles: Vec<String>,
    /// The trust zone that it works in; may be empty.
    pub zone: String,
    /// What else is known of it: its tags in policies.
    pub attributes: Arc<BTreeMap<String, String>>,
    /// For whom it may ask tokens.
    pub audiences: Vec<String>,
    /// The longest life of its certificates, in seconds.
    pub certificate_lifetime_max_s: Option<u32>,
    /// The longest life of its access tokens, in seconds.
    pub token_lifetime_max_s: Option<u32>,
    /// How many agents may stand between it and the end of a chain of delegations that it
    /// begins; 0: it may not delegate.
    pub delegation_depth_max: Option<u32>,
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

impl UserRecord {
    /// A name for people: the last part of the SPIFFE ID.
    pub fn name(&self) -> &str {
        self.spiffe_id.rsplit('/').next().unwrap_or_default()
    }
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
    /// The life-cycle state.
    pub state: InstanceState,
    /// Of the newest certificate of this key.
    pub generation: u64,
    /// The newest one that a call was made with.
    pub used_generation: u64,
    /// How often it was recovered after its certificate had ended.
    pub recoveries: u32,
    /// When the key was enrolled.
    pub create_time: OffsetDateTime,
}

impl Instance {
    /// A key with its first certificate.
    pub fn new(
        id: Uuid,
        principal_id: String,
        key_sha256: [u8; 32],
        create_time: OffsetDateTime,
    ) -> Self {
        Self {
            id,
            principal_id,
            key_sha256,
            state: InstanceState::Active,
            generation: 1,
            used_generation: 0,
            recoveries: 0,
            create_time,
        }
    }

    /// The generation that a renewal gives to the holder of a certificate of generation
    /// `presented`: one that no certificate has had. Of those that were given for the same
    /// certificate one may be used, for the answers with the others may have been lost.
    /// `None` where another one than that certificate was used after it was: then two hold
    /// the key, for one who renews has no more use for what came before.
    ///
    /// Were the same generation given again, a copy could renew just before its owner each
    /// time, and never be told from one whose answer was lost.
    ///
    /// A certificate of a later generation than the newest one on record was signed here
    /// before the database was put back to an older state; it goes on from there.
    pub fn renewal(&self, presented: u64) -> Option<u64> {
        match self.used_generation > presented {
            true => None,
            false => self.generation.max(presented).checked_add(1),
        }
    }
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
    /// The trust zone; empty for users.
    pub zone: String,
    /// Tags in Cedar: of an agent by the registry, of others by their identity provider.
    pub attributes: Arc<BTreeMap<String, String>>,
    /// Whether it may act; a user may while its key is active.
    pub state: Standing,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewal_goes_on_or_is_a_copys() {
        let at = |generation, used_generation| Instance {
            generation,
            used_generation,
            ..Instance::new(
                Uuid::nil(),
                String::new(),
                [0; 32],
                OffsetDateTime::UNIX_EPOCH,
            )
        };
        for (generation, used, presented, expected) in [
            (1, 0, 1, Some(2)),
            (5, 5, 5, Some(6)),
            // The answer was lost, however often: another one, and never the same.
            (5, 4, 4, Some(6)),
            (9, 4, 4, Some(10)),
            // One of those that were given is used, and not the last.
            (9, 6, 6, Some(10)),
            (9, 6, 7, Some(10)),
            // A later one has been used.
            (5, 5, 4, None),
            (9, 6, 4, None),
            (9, 6, 5, None),
            (5, 4, 3, None),
            (5, 5, 3, None),
            // From before the database was put back.
            (5, 5, 7, Some(8)),
            (5, 5, u64::MAX, None),
        ] {
            let renewal = at(generation, used).renewal(presented);
            assert_eq!(renewal, expected, "{generation} {used} {presented}");
        }
    }

    #[test]
    fn an_agents_state_comes_before_its_keys() {
        use AgentState::{Active, Banned, Suspended};
        let key = Some(InstanceState::Locked);
        assert_eq!(Standing::of(Active, key), Standing::KeyLocked);
        assert_eq!(Standing::of(Suspended, key), Standing::Suspended);
        assert_eq!(Standing::of(Banned, None), Standing::Banned);
        assert_eq!(Standing::of(Active, None), Standing::Active);
    }
}
