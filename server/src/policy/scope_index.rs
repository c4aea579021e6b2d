//! Policies by their scope, so that a request evaluates only those that can match it.
//!
//! A policy's scope constrains principal, action and resource, each by one of: nothing,
//! `is T`, `== e`, `in e`, `is T in e`, and for actions also `in [e, …]`. Each distinct
//! constraint of a dimension has a number; a policy lies in the bucket of its three
//! numbers (an action list puts it into one bucket an element). A request satisfies in
//! each dimension only few of the constraints that exist: `any`, those on its type,
//! those on itself, those on its ancestors. Their combinations are the buckets to look
//! at: where few policies have a constraint on the resource, these are looked through, else
//! pairs of principal and resource that no policy has are passed over.
//!
//! Sound and exact: the three constraints say all that a scope says, so a policy is
//! found if and only if its scope holds. What is left out is neither satisfied nor in
//! error, for a scope cannot err: it could not have contributed to the decision, its
//! reasons or its errors. What is found need be asked for its conditions only.
//!
//! Cost: independent of the number of policies that cannot match. Persistent: a clone is
//! cheap and shares everything, adding or removing one policy copies what is around it.

use std::collections::{BTreeSet, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use cedar_policy_core::ast::{
    ActionConstraint, EntityReference, EntityType, EntityUID, PrincipalOrResourceConstraint,
};
use cedar_policy_core::entities::{Dereference, Entities};

use super::entry::Entry;
use super::sharded::Sharded;

/// A constraint's number and how many policies have it.
#[derive(Clone, Copy, Debug)]
struct Number {
    number: u32,
    uses: u32,
}

/// A constraint of one dimension of a scope.
#[derive(Clone, Copy, Debug)]
enum Constraint<'p> {
    Any,
    Is(&'p EntityType),
    Eq(&'p Arc<EntityUID>),
    In(&'p Arc<EntityUID>),
    IsIn(&'p EntityType, &'p Arc<EntityUID>),
}

/// The constraints on one entity.
#[derive(Clone, Debug, Default)]
struct OnEntity {
    eq: Option<Number>,
    within: Option<Number>,
    is_in: Vec<(EntityType, Number)>,
}

impl OnEntity {
    fn is_empty(&self) -> bool {
        self.eq.is_none() && self.within.is_none() && self.is_in.is_empty()
    }
}

/// The numbers of one dimension's constraints.
#[derive(Clone, Debug, Default)]
struct Dimension {
    any: Option<Number>,
    types: Sharded<EntityType, Number>,
    entities: Sharded<Arc<EntityUID>, OnEntity>,
    /// Never used again after a constraint is gone: buckets may not be confused.
    next: u32,
}

impl Dimension {
    /// The number of a constraint, used once more.
    fn take(&mut self, constraint: Constraint<'_>) -> u32 {
        let fresh = Number {
            number: self.next,
            uses: 0,
        };
        let number = match constraint {
            Constraint::Any => self.any.get_or_insert(fresh),
            Constraint::Is(ty) => self.types.or_insert(ty, || fresh),
            Constraint::Eq(uid) => self
                .entities
                .or_insert(uid, OnEntity::default)
                .eq
                .get_or_insert(fresh),
            Constraint::In(uid) => self
                .entities
                .or_insert(uid, OnEntity::default)
                .within
                .get_or_insert(fresh),
            Constraint::IsIn(ty, uid) => {
                let list = &mut self.entities.or_insert(uid, OnEntity::default).is_in;
                let at = list.iter().position(|(t, _)| t == ty).unwrap_or_else(|| {
                    list.push((ty.clone(), fresh));
                    list.len() - 1
                });
                &mut list[at].1
            }
        };
        number.uses += 1;
        if number.number == self.next {
            self.next += 1;
        }
        number.number
    }

    /// The number of a constraint, used once less; forgotten with its last use.
    fn release(&mut self, constraint: Constraint<'_>) -> Option<u32> {
        fn less(slot: &mut Option<Number>) -> Option<u32> {
            let number = slot.as_mut()?;
            number.uses -= 1;
            let found = number.number;
            if number.uses == 0 {
                *slot = None;
            }
            Some(found)
        }
        let uid = match constraint {
            Constraint::Any => return less(&mut self.any),
            Constraint::Is(ty) => {
                let mut slot = self.types.get(ty).copied();
                let found = less(&mut slot);
                match slot {
                    Some(left) => drop(self.types.insert(ty.clone(), left)),
                    None => drop(self.types.remove(ty)),
                }
                return found;
            }
            Constraint::Eq(uid) | Constraint::In(uid) | Constraint::IsIn(_, uid) => uid,
        };
        let on = self.entities.get_mut(uid)?;
        let found = match constraint {
            Constraint::Eq(_) => less(&mut on.eq),
            Constraint::In(_) => less(&mut on.within),
            Constraint::IsIn(ty, _) => {
                let at = on.is_in.iter().position(|(t, _)| t == ty)?;
                let mut slot = Some(on.is_in[at].1);
                let found = less(&mut slot);
                match slot {
                    Some(left) => on.is_in[at].1 = left,
                    None => drop(on.is_in.swap_remove(at)),
                }
                found
            }
            Constraint::Any | Constraint::Is(_) => None,
        };
        if on.is_empty() {
            self.entities.remove(uid);
        }
        found
    }

    /// The numbers of the constraints that an entity satisfies.
    fn satisfied(&self, place: &Place<'_>, numbers: &mut Vec<u32>) {
        let ty = place.uid.entity_type();
        numbers.extend(self.any.map(|n| n.number));
        numbers.extend(self.types.get(ty).map(|n| n.number));
        let of_type = |on: &OnEntity| {
            let found = on.is_in.iter().find(|(t, _)| t == ty);
            found.map(|(_, n)| n.number)
        };
        if let Some(on) = self.entities.get(place.uid) {
            // `in` is reflexive.
            numbers.extend(on.eq.iter().chain(&on.within).map(|n| n.number));
            numbers.extend(of_type(on));
        }
        for above in &place.ancestors {
            if let Some(on) = self.entities.get(*above) {
                numbers.extend(on.within.map(|n| n.number));
                numbers.extend(of_type(on));
            }
        }
    }
}

/// An entity with everything above it.
#[derive(Clone, Debug)]
pub(super) struct Place<'e> {
    /// The entity.
    pub(super) uid: &'e EntityUID,
    /// Its ancestors, each once.
    pub(super) ancestors: Vec<&'e EntityUID>,
}

impl<'e> Place<'e> {
    /// The place of an entity among others.
    pub(super) fn among(uid: &'e EntityUID, entities: &'e Entities) -> Self {
        let ancestors = match entities.entity(uid) {
            Dereference::Data(entity) => entity.ancestors().collect(),
            _ => Vec::new(),
        };
        Self { uid, ancestors }
    }
}

/// Numbers are given by the index itself, so their hash needs no secret.
#[derive(Default)]
struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        // Upper bits choose the shard, lower ones the place in it.
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.write_u32(u32::from(*b)));
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = (self.0.rotate_left(26) ^ u64::from(number)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

/// The policies of one scope.
type Bucket = Arc<Vec<Arc<Entry>>>;

type Numbers<K, V> = Sharded<K, V, BuildHasherDefault<NumberHasher>>;

/// A policy under one of its actions.
#[derive(Clone, Debug)]
struct Row {
    principal: u32,
    action: u32,
    entry: Arc<Entry>,
}

/// Rows of one constraint on the resource that are looked through one by one: they lie
/// side by side, where as many look-ups are each a miss of the processor's cache.
const FEW: usize = 32;

/// The policies with one constraint on the resource.
#[derive(Clone, Debug)]
enum OnResource {
    /// All of them.
    Few(Arc<Vec<Row>>),
    /// How many rows there are; found in the buckets.
    Many(u32),
}

impl OnResource {
    fn push(&mut self, row: Row) {
        match self {
            Self::Few(rows) if rows.len() < FEW => Arc::make_mut(rows).push(row),
            Self::Few(rows) => {
                *self = Self::Many(u32::try_from(rows.len()).unwrap_or(u32::MAX) + 1)
            }
            Self::Many(rows) => *rows += 1,
        }
    }

    /// Takes a policy's rows out; whether none is left.
    fn remove(&mut self, entry: &Arc<Entry>, own: u32) -> bool {
        match self {
            Self::Few(rows) => {
                Arc::make_mut(rows).retain(|row| !Arc::ptr_eq(&row.entry, entry));
                rows.is_empty()
            }
            Self::Many(rows) => {
                *rows = rows.saturating_sub(own);
                *rows == 0
            }
        }
    }
}

/// Policies by their scope.
#[derive(Clone, Debug, Default)]
pub(super) struct ScopeIndex {
    principals: Dimension,
    actions: Dimension,
    resources: Dimension,
    on_resource: Numbers<u32, OnResource>,
    /// How many policies each pair of principal and resource has.
    pairs: Numbers<(u32, u32), u32>,
    /// By principal, resource and action.
    buckets: Numbers<(u32, u32, u32), Bucket>,
    ids: Sharded<Arc<str>, Arc<Entry>>,
}

impl ScopeIndex {
    /// Adds a policy, unless there is one with its id: then that one is returned.
    pub(super) fn add(&mut self, entry: &Arc<Entry>) -> Result<(), Arc<Entry>> {
        if let Some(taken) = self.ids.get(entry.id()) {
            return Err(Arc::clone(taken));
        }
        self.ids.insert(entry.id().into(), Arc::clone(entry));
        let (principal, resource) = (
            entry.policy.principal_constraint(),
            entry.policy.resource_constraint(),
        );
        let p = self.principals.take(constraint(principal.as_inner()));
        let r = self.resources.take(constraint(resource.as_inner()));
        *self.pairs.or_insert(&(p, r), || 0) += 1;
        for action in actions(entry.policy.action_constraint()) {
            let a = self.actions.take(action);
            let bucket = self.buckets.or_insert(&(p, r, a), Arc::default);
            Arc::make_mut(bucket).push(Arc::clone(entry));
            let few = || OnResource::Few(Arc::default());
            self.on_resource.or_insert(&r, few).push(Row {
                principal: p,
                action: a,
                entry: Arc::clone(entry),
            });
        }
        Ok(())
    }

    /// Takes the policy of this id out.
    pub(super) fn remove(&mut self, id: &str) -> Option<Arc<Entry>> {
        let entry = self.ids.remove(id)?;
        let (principal, resource) = (
            entry.policy.principal_constraint(),
            entry.policy.resource_constraint(),
        );
        let p = self.principals.release(constraint(principal.as_inner()))?;
        let r = self.resources.release(constraint(resource.as_inner()))?;
        let left = self.pairs.get_mut(&(p, r))?;
        *left -= 1;
        if *left == 0 {
            self.pairs.remove(&(p, r));
        }
        let actions = actions(entry.policy.action_constraint());
        let rows = u32::try_from(actions.len()).unwrap_or(u32::MAX);
        if let Some(on) = self.on_resource.get_mut(&r)
            && on.remove(&entry, rows)
        {
            self.on_resource.remove(&r);
        }
        for action in actions {
            let a = self.actions.release(action)?;
            let Some(bucket) = self.buckets.get_mut(&(p, r, a)) else {
                continue;
            };
            Arc::make_mut(bucket).retain(|other| !Arc::ptr_eq(other, &entry));
            if bucket.is_empty() {
                self.buckets.remove(&(p, r, a));
            }
        }
        Some(entry)
    }

    /// How many policies it holds.
    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether nothing is left of any policy.
    #[cfg(test)]
    fn is_empty(&self) -> bool {
        let dimension = |d: &Dimension| d.any.is_none() && d.types.len() + d.entities.len() == 0;
        self.len() + self.pairs.len() + self.buckets.len() + self.on_resource.len() == 0
            && [&self.principals, &self.actions, &self.resources]
                .into_iter()
                .all(dimension)
    }

    /// The policy of this id.
    pub(super) fn get(&self, id: &str) -> Option<&Arc<Entry>> {
        self.ids.get(id)
    }

    /// All policies, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.ids.iter().map(|(_, entry)| entry)
    }

    /// The ids of resources of a type that a scope names.
    pub(super) fn resources_named(&self, ty: &str) -> BTreeSet<String> {
        let all = self.resources.entities.iter();
        all.filter(|(uid, _)| uid.entity_type().to_string() == ty)
            .map(|(uid, _)| AsRef::<str>::as_ref(uid.eid()).to_owned())
            .collect()
    }

    /// The policies whose scope holds, each once, in no order.
    pub(super) fn candidates(
        &self,
        principal: &Place<'_>,
        action: &Place<'_>,
        resource: &Place<'_>,
    ) -> Vec<&Arc<Entry>> {
        let mut numbers = Vec::with_capacity(32);
        self.principals.satisfied(principal, &mut numbers);
        let principals_end = numbers.len();
        self.resources.satisfied(resource, &mut numbers);
        let resources_end = numbers.len();
        self.actions.satisfied(action, &mut numbers);
        let (rest, actions) = numbers.split_at(resources_end);
        let (principals, resources) = rest.split_at(principals_end);
        let mut found = Vec::new();
        for &r in resources {
            match self.on_resource.get(&r) {
                Some(OnResource::Few(rows)) => {
                    let matches = |row: &&Row| {
                        principals.contains(&row.principal) && actions.contains(&row.action)
                    };
                    found.extend(rows.iter().filter(matches).map(|row| &row.entry));
                }
                Some(OnResource::Many(_)) => {
                    for &p in principals
                        .iter()
                        .filter(|&&p| self.pairs.get(&(p, r)).is_some())
                    {
                        let buckets = actions.iter().filter_map(|&a| self.buckets.get(&(p, r, a)));
                        found.extend(buckets.flat_map(|bucket| bucket.iter()));
                    }
                }
                None => {}
            }
        }
        // An action list may have brought a policy by two of its elements.
        found.sort_unstable_by_key(|entry| Arc::as_ptr(entry));
        found.dedup_by_key(|entry| Arc::as_ptr(entry));
        found
    }
}

fn constraint(constraint: &PrincipalOrResourceConstraint) -> Constraint<'_> {
    use PrincipalOrResourceConstraint as C;
    match constraint {
        C::Is(ty) => Constraint::Is(ty),
        C::Eq(EntityReference::EUID(uid)) => Constraint::Eq(uid),
        C::In(EntityReference::EUID(uid)) => Constraint::In(uid),
        C::IsIn(ty, EntityReference::EUID(uid)) => Constraint::IsIn(ty, uid),
        // A slot of a policy is always filled; one that were not would be asked each time
        // and err, which is what Cedar says of it.
        C::Any
        | C::Eq(EntityReference::Slot(_))
        | C::In(EntityReference::Slot(_))
        | C::IsIn(_, EntityReference::Slot(_)) => Constraint::Any,
    }
}

fn actions(constraint: &ActionConstraint) -> Vec<Constraint<'_>> {
    match constraint {
        ActionConstraint::Any => vec![Constraint::Any],
        ActionConstraint::Eq(uid) => vec![Constraint::Eq(uid)],
        // Each once: `action in [a, a]` is once in its bucket.
        ActionConstraint::In(uids) => {
            let mut seen = HashSet::with_capacity(uids.len());
            let uids = uids.iter().filter(|uid| seen.insert(*uid));
            uids.map(Constraint::In).collect()
        }
    }
}

#[cfg(test)]
mod tests;
mod weaker;
