//! Agents and users as policies see them.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use cedar_policy_core::ast::{Entity, EntityUID};

use crate::model::{Party, Principal, PrincipalKind};

/// What the registry says of an agent or a user.
#[derive(Clone, Copy)]
pub(super) struct PartyRef<'w> {
    name: &'w str,
    owner: Option<&'w str>,
    zone: Option<&'w str>,
    attributes: &'w BTreeMap<String, String>,
    pub(super) roles: &'w [String],
}

impl<'w> From<&'w Principal> for PartyRef<'w> {
    fn from(principal: &'w Principal) -> Self {
        let agent = principal.kind == PrincipalKind::Agent;
        Self {
            name: &principal.name,
            owner: agent.then_some(principal.owner.as_str()),
            zone: agent.then_some(principal.zone.as_str()),
            attributes: &principal.attributes,
            roles: &principal.roles,
        }
    }
}

impl<'w> From<&'w Party> for PartyRef<'w> {
    fn from(party: &'w Party) -> Self {
        Self {
            name: &party.name,
            owner: party.owner.as_deref(),
            zone: party.zone.as_deref(),
            attributes: &party.attributes,
            roles: &party.roles,
        }
    }
}

/// An agent or a user under its Cedar names.
pub(super) struct Known<'w> {
    pub(super) uid: Arc<EntityUID>,
    pub(super) roles: Vec<EntityUID>,
    pub(super) of: PartyRef<'w>,
}

impl Known<'_> {
    pub(super) fn entity(&self) -> Entity {
        let name = std::iter::once(("name".into(), self.of.name.into()));
        let owner = self.of.owner.map(|owner| ("owner".into(), owner.into()));
        let zone = self.of.zone.map(|zone| ("zone".into(), zone.into()));
        let tags = self.of.attributes.iter();
        Entity::new_with_attr_partial_value(
            (*self.uid).clone(),
            name.chain(owner).chain(zone),
            HashSet::new(),
            self.roles.iter().cloned().collect(),
            tags.map(|(key, value)| (key.into(), value.as_str().into())),
        )
    }
}
