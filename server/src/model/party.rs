//! Agents and users as policies see them, and how they were.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::request::EntityUid;

/// An agent or a user as policies see it: attributes and roles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Party {
    /// The last part of its SPIFFE ID.
    pub name: String,
    /// A name for people; agents only.
    pub owner: Option<String>,
    /// The trust zone; agents only.
    pub zone: Option<String>,
    /// Tags.
    pub attributes: Arc<BTreeMap<String, String>>,
    /// Role names, parents in Cedar.
    pub roles: Vec<String>,
}

/// What the registry says of somebody from an epoch on, until the next version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartyVersion {
    /// From when on. No two versions have the same.
    pub epoch: u64,
    /// Whose.
    pub uid: EntityUid,
    /// What.
    pub party: Party,
}
