//! Policies that another one makes superfluous, as their texts say: the same effect, a scope
//! that is the same or weaker, and no condition that they have not, too.

use std::collections::HashSet;
use std::sync::Arc;

use cedar_policy_core::ast::{EntityUID, Expr};

use super::Found;
use crate::policy::compile::Compiled;
use crate::policy::entry::Entry;

/// What subsumes a policy. Of two that say the same, one is reported: the one that is new,
/// or else the one with the greater id.
pub(super) fn lint(set: &Compiled, entry: &Arc<Entry>, fresh: &HashSet<&str>) -> Option<Found> {
    let vocabulary = &set.vocabulary;
    let above = |uid: &EntityUID| -> Vec<Arc<EntityUID>> {
        let action = vocabulary.action_entity(uid);
        let ancestors = action.iter().flat_map(|action| action.ancestors());
        ancestors.cloned().map(Arc::new).collect()
    };
    let own: HashSet<&Expr> = entry.conditions().into_iter().collect();
    let other = set
        .policies
        .weaker(entry, &above)
        .into_iter()
        .find(|other| {
            let same = other.forbids() == entry.forbids();
            let asks = |name| other.obligations.contains(name);
            same && entry.obligations.iter().all(asks)
                && implied(&own, other)
                && (!mutual(set, entry, other, &above) || first(entry, other, fresh))
        })?;
    Some(Found {
        lint: "subsumed",
        message: format!(
            "`{}` says nothing that `{}` does not say already",
            entry.id(),
            other.id()
        ),
        help: "delete it, or make the other one narrower",
        error: false,
    })
}

/// Whether all conditions of a policy are among these.
fn implied(own: &HashSet<&Expr>, other: &Entry) -> bool {
    other.conditions().iter().all(|part| own.contains(part))
}

/// Whether the second policy is as superfluous as the first.
fn mutual(
    set: &Compiled,
    entry: &Arc<Entry>,
    other: &Arc<Entry>,
    above: &dyn Fn(&EntityUID) -> Vec<Arc<EntityUID>>,
) -> bool {
    let theirs: HashSet<&Expr> = other.conditions().into_iter().collect();
    implied(&theirs, entry)
        && other.obligations == entry.obligations
        && set
            .policies
            .weaker(other, above)
            .iter()
            .any(|e| Arc::ptr_eq(e, entry))
}

/// Whether the second policy was there before the first, or has the lesser id.
fn first(entry: &Arc<Entry>, other: &Arc<Entry>, fresh: &HashSet<&str>) -> bool {
    let new = |entry: &Arc<Entry>| fresh.contains(entry.id());
    match (new(entry), new(other)) {
        (true, false) => true,
        (false, true) => false,
        _ => other.id() < entry.id(),
    }
}
