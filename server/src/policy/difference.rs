//! What is different between two policy sets: in text, file by file, and in meaning, policy
//! by policy and declaration by declaration. Looks at the files that differ and no others.
//!
//! Meaning is what Cedar reads: two policies are the same if Cedar's own tree of them is, so
//! formatting, comments, and the file that a policy stands in make no difference to it.

mod policies;
mod schema;
mod text;

pub use policies::PolicyDifference;
pub use schema::SchemaDifference;

use std::collections::BTreeMap;

use super::compile::within_limits;
use super::diagnostic::Diagnostic;
use super::source::PolicySource;
use crate::model::SourceFile;
use crate::model::revision::FileKind;

/// What became of a part of a policy set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DifferenceKind {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// It says something else.
    Changed,
    /// It says the same in another file.
    Moved,
}

/// A file that is different.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileDifference {
    /// Its name.
    pub name: String,
    /// Never moved: a file is known by its name.
    pub kind: DifferenceKind,
    /// The unified diff; `None` where it was not asked for, or is too long.
    pub unified: Option<String>,
    /// Whether nothing changed but formatting and comments.
    pub formatting_only: bool,
}

/// All that is different. Empty lists, and only then, if the sets are the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// By name.
    pub files: Vec<FileDifference>,
    /// By id.
    pub policies: Vec<PolicyDifference>,
    /// By name.
    pub schema: Vec<SchemaDifference>,
}

impl Difference {
    /// Whether every policy and the schema say the same.
    pub fn same_meaning(&self) -> bool {
        let moved = |p: &PolicyDifference| p.kind == DifferenceKind::Moved;
        self.schema.is_empty() && self.policies.iter().all(moved)
    }
}

/// Why two sets cannot be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DifferenceError {
    /// One of them is no policy set.
    Invalid(Vec<Diagnostic>),
    /// More than [`COMPARED_MAX`](super::limits::COMPARED_MAX) policies have another text.
    TooMany(usize),
}

/// A file on both sides, of which at most one is missing, and which are not the same.
struct Pair<'s> {
    kind: FileKind,
    before: Option<&'s SourceFile>,
    after: Option<&'s SourceFile>,
}

/// Compares two policy sets. `texts`: with unified diffs.
///
/// # Errors
/// See [`DifferenceError`].
pub fn difference(
    before: &PolicySource,
    after: &PolicySource,
    texts: bool,
) -> Result<Difference, DifferenceError> {
    for source in [before, after] {
        within_limits(source, None).map_err(DifferenceError::Invalid)?;
    }
    let pairs = pairs(before, after);
    let policies = policies::compare(&pairs)?;
    let schema = schema::compare(&pairs).map_err(DifferenceError::Invalid)?;
    let mut budget = text::Budget::default();
    let mut files = Vec::with_capacity(pairs.len());
    for (name, pair) in &pairs {
        let kind = match (pair.before, pair.after) {
            (None, _) => DifferenceKind::Added,
            (_, None) => DifferenceKind::Removed,
            (Some(_), Some(_)) => DifferenceKind::Changed,
        };
        files.push(FileDifference {
            name: (*name).to_owned(),
            kind,
            unified: texts.then(|| text::unified(pair, &mut budget)).flatten(),
            formatting_only: match pair.kind {
                FileKind::Policy => !policies.iter().any(|p| p.concerns(name)),
                FileKind::Schema => schema::same(pair),
                FileKind::Test => false,
            },
        });
    }
    Ok(Difference {
        files,
        policies,
        schema,
    })
}

type Pairs<'s> = BTreeMap<&'s str, Pair<'s>>;

/// The files that differ. One that became another kind counts as that.
fn pairs<'s>(before: &'s PolicySource, after: &'s PolicySource) -> Pairs<'s> {
    let mut pairs: Pairs<'s> = BTreeMap::new();
    for (kind, file) in before.files() {
        let (before, after) = (Some(file), None);
        let pair = Pair {
            kind,
            before,
            after,
        };
        pairs.insert(&file.name, pair);
    }
    for (kind, file) in after.files() {
        let missing = || Pair {
            kind,
            before: None,
            after: None,
        };
        let pair = pairs.entry(&file.name).or_insert_with(missing);
        (pair.kind, pair.after) = (kind, Some(file));
    }
    let digest = |file: Option<&SourceFile>| file.map(|file| *file.sha256());
    pairs.retain(|_, pair| digest(pair.before) != digest(pair.after));
    pairs
}

#[cfg(test)]
mod tests;
