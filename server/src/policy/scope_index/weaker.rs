//! The policies whose scope holds wherever another policy's does, as far as the two texts
//! say: who is in what beside actions is not known here.

use std::sync::Arc;

use cedar_policy_core::ast::{ActionConstraint, EntityUID};

use super::{Constraint, Dimension, ScopeIndex, actions, constraint};
use crate::policy::entry::Entry;

/// Policies of one scope that are looked at. Where more have the same, some are missed.
const BUCKET_MAX: usize = 64;

impl Dimension {
    /// The number of a constraint, if a policy has it.
    fn find(&self, constraint: Constraint<'_>) -> Option<u32> {
        let number = match constraint {
            Constraint::Any => self.any,
            Constraint::Is(ty) => self.types.get(ty).copied(),
            Constraint::Eq(uid) => self.entities.get(uid)?.eq,
            Constraint::In(uid) => self.entities.get(uid)?.within,
            Constraint::IsIn(ty, uid) => {
                let of_type = &self.entities.get(uid)?.is_in;
                of_type.iter().find(|(t, _)| t == ty).map(|(_, n)| *n)
            }
        };
        number.map(|n| n.number)
    }

    /// The numbers of what a constraint implies, itself included.
    fn implied(&self, by: Constraint<'_>) -> Vec<u32> {
        let constraints = match by {
            Constraint::Any => vec![Constraint::Any],
            Constraint::Is(ty) => vec![Constraint::Any, Constraint::Is(ty)],
            Constraint::In(uid) => vec![Constraint::Any, Constraint::In(uid)],
            Constraint::IsIn(ty, uid) => vec![
                Constraint::Any,
                Constraint::Is(ty),
                Constraint::In(uid),
                Constraint::IsIn(ty, uid),
            ],
            Constraint::Eq(uid) => {
                let ty = uid.entity_type();
                vec![
                    Constraint::Any,
                    Constraint::Is(ty),
                    Constraint::In(uid),
                    Constraint::IsIn(ty, uid),
                    Constraint::Eq(uid),
                ]
            }
        };
        constraints
            .into_iter()
            .filter_map(|constraint| self.find(constraint))
            .collect()
    }
}

impl ScopeIndex {
    /// Policies whose scope is the same as an entry's or weaker, the entry left out.
    /// `above` says what an action is in.
    pub(in crate::policy) fn weaker(
        &self,
        entry: &Arc<Entry>,
        above: &dyn Fn(&EntityUID) -> Vec<Arc<EntityUID>>,
    ) -> Vec<&Arc<Entry>> {
        let (principal, resource) = (
            entry.policy.principal_constraint(),
            entry.policy.resource_constraint(),
        );
        let principals = self.principals.implied(constraint(principal.as_inner()));
        let resources = self.resources.implied(constraint(resource.as_inner()));
        let own = actions(entry.policy.action_constraint());
        // A weaker list holds for the first action, too; then all of it is compared.
        let Some(&first) = own.first() else {
            return Vec::new();
        };
        let mut over = self.actions.implied(first);
        if let Constraint::Eq(uid) | Constraint::In(uid) = first {
            let groups = above(uid);
            let numbers = groups.iter().map(|g| self.actions.find(Constraint::In(g)));
            over.extend(numbers.flatten());
        }
        let mut found = Vec::new();
        for &p in &principals {
            for &r in &resources {
                if self.pairs.get(&(p, r)).is_none() {
                    continue;
                }
                let buckets = over.iter().filter_map(|&a| self.buckets.get(&(p, r, a)));
                found.extend(buckets.flat_map(|bucket| bucket.iter().take(BUCKET_MAX)));
            }
        }
        found.retain(|other| {
            !Arc::ptr_eq(other, entry) && own.iter().all(|action| covers(other, *action, above))
        });
        found
    }
}

/// Whether a policy's actions include what another one's constraint admits.
fn covers(
    policy: &Entry,
    action: Constraint<'_>,
    above: &dyn Fn(&EntityUID) -> Vec<Arc<EntityUID>>,
) -> bool {
    let (uid, exactly) = match action {
        Constraint::Eq(uid) => (uid, true),
        Constraint::In(uid) => (uid, false),
        _ => return matches!(policy.policy.action_constraint(), ActionConstraint::Any),
    };
    match policy.policy.action_constraint() {
        ActionConstraint::Any => true,
        ActionConstraint::Eq(own) => exactly && own == uid,
        ActionConstraint::In(list) => {
            list.contains(uid) || above(uid).iter().any(|group| list.contains(group))
        }
    }
}
