//! The plain types of the domain. No I/O, no wire format, no SQL; nothing of ours
//! is imported here and everything else may import it.

pub mod arguments;
pub mod authority;
pub mod canonical;
pub mod change;
pub mod decision;
pub mod entity;
pub mod event;
pub mod note;
pub mod outcome;
pub mod party;
pub mod principal;
pub mod proposal;
pub mod redaction;
pub mod repeats;
pub mod replica;
pub mod request;
pub mod revision;
mod revocation;
mod scope;

pub use authority::{AuthorityRecord, AuthorityState};
pub use change::{Change, Conflict};
pub use decision::{Decision, DenyReason, Effect, Obligation, Verdict};
pub use entity::{EntityCursor, EntityPage, EntityVersion, GivenEntity, StoredEntity};
pub use event::{Columns, Event, EventType};
pub use party::{Party, PartyVersion};
pub use principal::{
    AgentProfile, AgentRecord, AgentState, Delegation, Instance, InstanceState, Principal,
    PrincipalKind, Standing, UserRecord,
};
pub use request::{AccessRequest, EntityUid};
pub use revision::{RevisionMeta, SourceFile};
pub use revocation::{TokenRevocation, VoidTokens};
pub use scope::ScopeEntry;
