//! Lints: what a policy set says that its author hardly means. Each has a name that stays,
//! a place, and what to do. A policy keeps one knowingly with `@allow("name")`.
//!
//! Only what differs from the set before is looked at, except what is said of the schema.
//! Each policy costs a few look-ups in the scope index, however many there are.
//!
//! | name | what | |
//! |---|---|---|
//! | `contradiction` | two conditions exclude each other: it never matches | of a forbid an error |
//! | `impossible` | Cedar's types say that its conditions are never true | |
//! | `never_applies` | no action applies to what its scope names | |
//! | `confusable` | a text or name that reads like another one | |
//! | `subsumed` | another policy of the same effect holds wherever it does | |
//! | `unbounded_permit` | a permit of everybody, for everything, on everything | |
//! | `forbid_can_error` | arithmetic in a forbid: where it overflows, the call is denied | |
//! | `unused_action`, `unused_type` | declared, and no permit or action knows it | |
//! | `unknown_lint` | `@allow` names no lint | |

mod conditions;
mod schema;
mod subsumed;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::compile::Compiled;
use super::diagnostic::Diagnostic;
use super::entry::Entry;
use super::parallel::parallel;

/// The names of all lints.
pub const LINTS: [&str; 10] = [
    "confusable",
    "contradiction",
    "forbid_can_error",
    "impossible",
    "never_applies",
    "subsumed",
    "unbounded_permit",
    "unknown_lint",
    "unused_action",
    "unused_type",
];

/// Warnings that one change brings; the rest is counted.
const WARNINGS_MAX: usize = 1000;
/// Policies that one thread looks at in one go.
const PIECE: usize = 1024;

/// What a lint found at a policy.
pub(super) struct Found {
    pub(super) lint: &'static str,
    pub(super) message: String,
    pub(super) help: &'static str,
    /// Whether it keeps the set out of force.
    pub(super) error: bool,
}

/// Whether a policy knowingly keeps what a lint finds.
pub(super) fn allows(entry: &Entry, lint: &str) -> bool {
    let allowed = entry.annotation("allow");
    allowed.is_some_and(|names| names.split(',').any(|name| name.trim() == lint))
}

impl Compiled {
    /// Adds what the lints find to the warnings: of what is not in `before`, and of the
    /// schema.
    ///
    /// # Errors
    /// What must not be in force, each with its place.
    pub(super) fn lint(&mut self, before: Option<&Self>) -> Result<(), Vec<Diagnostic>> {
        let fresh = self.unproven(before);
        let known: HashSet<&str> = fresh.iter().map(|entry| entry.id()).collect();
        let pieces: Vec<&[&Arc<Entry>]> = fresh.chunks(PIECE).collect();
        let found: Vec<(&Arc<Entry>, Found)> = parallel(&pieces, 2, |piece| {
            let of = |entry: &&Arc<Entry>| -> Vec<Found> { self.lint_policy(entry, &known) };
            let found = piece.iter().map(|entry| (*entry, of(entry)));
            let flat = found.flat_map(|(entry, list)| list.into_iter().map(move |f| (entry, f)));
            flat.collect::<Vec<_>>()
        })
        .into_iter()
        .flatten()
        .collect();
        let places = self.places(found.iter().map(|(entry, _)| *entry));
        let (mut errors, mut warnings) = (Vec::new(), schema::lint(self));
        for (entry, found) in found {
            let list = if found.error {
                &mut errors
            } else {
                &mut warnings
            };
            list.push(diagnostic(entry, found, &places));
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let more = warnings.len().saturating_sub(WARNINGS_MAX);
        if more > 0 {
            warnings.truncate(WARNINGS_MAX);
            warnings.push(Diagnostic {
                message: format!("{more} more warnings are not shown"),
                ..Diagnostic::default()
            });
        }
        // A policy that stayed may have lost the one that subsumed it.
        let stays: Vec<bool> = self.warnings.iter().map(|w| self.still(w)).collect();
        let mut stays = stays.into_iter();
        self.warnings.retain(|_| stays.next().unwrap_or(true));
        self.warnings.extend(warnings);
        Ok(())
    }

    fn lint_policy(&self, entry: &Arc<Entry>, fresh: &HashSet<&str>) -> Vec<Found> {
        let mut found = conditions::lint(entry);
        found.extend(subsumed::lint(self, entry, fresh));
        found.retain(|found| !allows(entry, found.lint));
        found.extend(unknown(entry));
        found
    }

    /// Whether a warning of a policy that stayed is still true.
    fn still(&self, warning: &Diagnostic) -> bool {
        if warning.lint != "subsumed" {
            return true;
        }
        let entry = self.policies.get(&warning.policy_id);
        entry.is_some_and(|entry| subsumed::lint(self, entry, &HashSet::new()).is_some())
    }

    /// Where these policies begin.
    fn places<'e>(&self, of: impl Iterator<Item = &'e Arc<Entry>>) -> Places {
        let wanted: HashSet<*const Entry> = of.map(Arc::as_ptr).collect();
        if wanted.is_empty() {
            return Places::new();
        }
        let placed = self
            .placed()
            .map(|(file, line, e)| (file, line, Arc::as_ptr(e)));
        placed
            .filter(|(_, _, entry)| wanted.contains(entry))
            .map(|(file, line, entry)| (entry, (file.to_owned(), line)))
            .collect()
    }
}

type Places = HashMap<*const Entry, (String, u32)>;

fn diagnostic(entry: &Arc<Entry>, found: Found, places: &Places) -> Diagnostic {
    let place = places.get(&Arc::as_ptr(entry)).cloned();
    let (file, line) = place.unwrap_or_default();
    let keep = format!("; keep it with @allow(\"{}\")", found.lint);
    Diagnostic {
        file,
        line,
        message: found.message,
        help: format!("{}{keep}", found.help),
        policy_id: entry.id().to_owned(),
        lint: found.lint.to_owned(),
        ..Diagnostic::default()
    }
}

/// Names in `@allow` that are no lints: what they should keep is not kept.
fn unknown(entry: &Entry) -> Option<Found> {
    let names = entry.annotation("allow")?.split(',').map(str::trim);
    let unknown: Vec<&str> = names.filter(|name| !LINTS.contains(name)).collect();
    (!unknown.is_empty()).then(|| Found {
        lint: "unknown_lint",
        message: format!(
            "`{}`: @allow names no lint `{}`",
            entry.id(),
            unknown.join("`, `")
        ),
        help: "docs/policy/lint.md lists the lints",
        error: false,
    })
}
