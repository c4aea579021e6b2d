//! The entities that one request can reach. Cedar takes a complete set of entities with
//! every request; this builds the small one that gives the same answers.
//!
//! Complete, or an error and never less: where an entity is missing, `in` and `has` are
//! false, and a forbid that stands on them would not forbid.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use cedar_policy_core::ast::{Entity, EntityUID, PartialValue};
use cedar_policy_core::entities::{Entities, NoEntitiesSchema, TCComputation};
use cedar_policy_core::extensions::Extensions;

use super::EntityMap;
use super::packed::{Packed, uid_of};
use super::types::is_reserved;
use crate::policy::limits::{ANCESTORS_MAX, SLICE_ANCESTORS_MAX, SLICE_ENTITIES_MAX};

/// Why there is no slice. Nothing can be decided then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SliceError {
    /// The request reaches too much.
    #[error("the request reaches more than {max} entities ({name})")]
    TooLarge {
        /// The limit.
        name: &'static str,
        /// What is allowed.
        max: usize,
    },
    /// An entity that came with the request makes the hierarchy run in a circle.
    #[error("the entities of the request make {0} an ancestor of itself")]
    Cycle(String),
    /// A stored entity refers to one that came with the request: what is stored would mean
    /// what the caller makes of it.
    #[error("a stored entity refers to {0}, which the request brings")]
    Brought(String),
    /// A defect: an entity cannot be unpacked, or two of one uid came with the request.
    #[error("the entities of the request could not be put together: {0}")]
    Internal(String),
}

/// Entities that come with the request, by uid.
struct Own<'a>(HashMap<&'a EntityUID, &'a Entity>);

impl<'a> Own<'a> {
    fn new(own: &'a [Entity]) -> Self {
        Self(own.iter().map(|entity| (entity.uid(), entity)).collect())
    }

    /// What a stored entity refers to does not come with the request. Agents and users are
    /// the registry's, and so may be.
    fn refuse(&self, uid: &EntityUID) -> Result<(), SliceError> {
        let brought = self.0.contains_key(uid) && !is_reserved(&uid.entity_type().to_string());
        match brought {
            true => Err(SliceError::Brought(uid.to_string())),
            false => Ok(()),
        }
    }
}

impl EntityMap {
    fn packed(&self, uid: &EntityUID) -> Option<&Packed> {
        let number = self.names.number(uid.entity_type())?;
        self.find(number, uid.eid().as_ref())
    }

    /// Everything that an entity is in, without itself. Entities of `own` stand in place of
    /// stored ones.
    ///
    /// # Errors
    /// More than [`ANCESTORS_MAX`], or a circle.
    pub(in crate::policy) fn ancestors(
        &self,
        uid: &EntityUID,
        own: &[Entity],
    ) -> Result<HashSet<EntityUID>, SliceError> {
        self.above(uid, &Own::new(own))
    }

    fn above(&self, uid: &EntityUID, own: &Own<'_>) -> Result<HashSet<EntityUID>, SliceError> {
        let mut above = HashSet::new();
        let mut next = Vec::new();
        self.parents(uid, own, &mut next)?;
        while let Some(parent) = next.pop() {
            if parent == *uid {
                return Err(SliceError::Cycle(uid.to_string()));
            }
            if above.contains(&parent) {
                continue;
            }
            self.parents(&parent, own, &mut next)?;
            above.insert(parent);
            if above.len() > ANCESTORS_MAX {
                let (name, max) = ("ancestors_max", ANCESTORS_MAX);
                return Err(SliceError::TooLarge { name, max });
            }
        }
        Ok(above)
    }

    fn parents(
        &self,
        uid: &EntityUID,
        own: &Own<'_>,
        out: &mut Vec<EntityUID>,
    ) -> Result<(), SliceError> {
        if let Some(entity) = own.0.get(uid) {
            out.extend(entity.ancestors().cloned());
        } else if let Some(packed) = self.packed(uid) {
            let types = |(number, id)| Some(uid_of(self.names.entity_type(number)?, id));
            for parent in packed.parents().filter_map(types) {
                own.refuse(&parent)?;
                out.push(parent);
            }
        }
        Ok(())
    }

    /// The entities of a request: `own` (principal, resource, and what the request brings,
    /// none of them ever replaced by a stored one) and, from `own` and `roots`, each stored
    /// entity that can be reached over at most `levels` references in attributes and tags;
    /// all with their whole ancestry. `closed` are those that have theirs already and refer
    /// to nothing: the schema's actions. `parties` knows agents and users, which are never
    /// stored.
    ///
    /// # Errors
    /// When it would be too large, or `own` makes the hierarchy run in a circle.
    pub(in crate::policy) fn slice(
        &self,
        own: Vec<Entity>,
        closed: impl IntoIterator<Item = Arc<Entity>>,
        roots: &[&EntityUID],
        levels: u32,
        parties: &dyn Fn(&EntityUID) -> Option<Entity>,
    ) -> Result<Entities, SliceError> {
        let reached = self.reach(&own, roots, levels, parties)?;
        let lookup = Own::new(&own);
        let mut ancestors = Vec::with_capacity(own.len() + reached.len());
        let mut total = 0;
        for entity in own.iter().chain(&reached) {
            let above = self.above(entity.uid(), &lookup)?;
            total += above.len();
            if total > SLICE_ANCESTORS_MAX {
                let (name, max) = ("slice_ancestors_max", SLICE_ANCESTORS_MAX);
                return Err(SliceError::TooLarge { name, max });
            }
            ancestors.push(above);
        }
        let mut entities = own;
        entities.extend(reached);
        for (entity, above) in entities.iter_mut().zip(ancestors) {
            for uid in above {
                entity.add_indirect_ancestor(uid);
            }
        }
        Entities::new()
            .add_entities(
                entities.into_iter().map(Arc::new).chain(closed),
                None::<&NoEntitiesSchema>,
                TCComputation::AssumeAlreadyComputed,
                Extensions::all_available(),
            )
            .map_err(|e| SliceError::Internal(e.to_string()))
    }

    /// The stored entities of a slice, and the agents and users that they refer to.
    fn reach(
        &self,
        own: &[Entity],
        roots: &[&EntityUID],
        levels: u32,
        parties: &dyn Fn(&EntityUID) -> Option<Entity>,
    ) -> Result<Vec<Entity>, SliceError> {
        let mut reached = Vec::new();
        let brought = Own::new(own);
        let mut seen: HashSet<EntityUID> = own.iter().map(|e| e.uid().clone()).collect();
        let mut next: Vec<EntityUID> = roots.iter().map(|uid| (*uid).clone()).collect();
        let mut later = Vec::new();
        for entity in own {
            for (_, value) in entity.attrs().chain(entity.tags()) {
                if let PartialValue::Value(value) = value {
                    later.extend(value.all_literal_uids());
                }
            }
        }
        for level in 0..=levels {
            for uid in next.drain(..) {
                if seen.contains(&uid) {
                    continue;
                }
                if let Some(packed) = self.packed(&uid) {
                    let known = later.len();
                    let entity = packed.entity(&self.names, uid.entity_type(), &mut later);
                    let broken = || SliceError::Internal(format!("{uid} cannot be unpacked"));
                    reached.push(entity.ok_or_else(broken)?);
                    later
                        .iter()
                        .skip(known)
                        .try_for_each(|uid| brought.refuse(uid))?;
                } else if let Some(party) = parties(&uid) {
                    reached.push(party);
                } else {
                    continue;
                }
                seen.insert(uid);
                if reached.len() > SLICE_ENTITIES_MAX {
                    let (name, max) = ("slice_entities_max", SLICE_ENTITIES_MAX);
                    return Err(SliceError::TooLarge { name, max });
                }
            }
            if level == levels || later.is_empty() {
                break;
            }
            std::mem::swap(&mut next, &mut later);
        }
        Ok(reached)
    }
}
