//! Policy revisions as plain data.
//!
//! What is stored of a revision is what it changed: the files that are new, replaced or
//! gone since the revision before. A change of one file among thousands costs one text and
//! one row, here, in the database and on the way to other replicas.

use std::sync::Arc;

use time::OffsetDateTime;

use super::arguments::sha256;
use super::request::EntityUid;

/// A SHA-256.
pub type Digest = [u8; 32];

/// A named text of a policy set. Immutable, so that its digest is always its text's.
/// Cheap to clone: copies share the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// The path relative to the policy folder.
    pub name: String,
    text: Arc<str>,
    sha256: Digest,
}

impl SourceFile {
    /// A file; hashes its text.
    pub fn new(name: impl Into<String>, text: impl Into<Arc<str>>) -> Self {
        let text = text.into();
        Self {
            name: name.into(),
            sha256: sha256(text.as_bytes()),
            text,
        }
    }

    /// The content.
    pub fn text(&self) -> &Arc<str> {
        &self.text
    }

    /// SHA-256 of the text.
    pub fn sha256(&self) -> &Digest {
        &self.sha256
    }
}

/// What a file of a policy set is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileKind {
    /// `*.cedar`.
    Policy,
    /// `*.cedarschema`.
    Schema,
    /// `*.test.yaml` or `*.test.json`.
    Test,
}

impl FileKind {
    /// As it stands in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Schema => "schema",
            Self::Test => "test",
        }
    }

    /// The kind of that name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Policy, Self::Schema, Self::Test]
            .into_iter()
            .find(|kind| kind.as_str() == name)
    }
}

/// A file without its text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileDigest {
    /// What it is.
    pub kind: FileKind,
    /// As in [`SourceFile`].
    pub name: String,
    /// SHA-256 of the text.
    pub sha256: Digest,
}

/// What became of a file since an earlier revision. `F` is what is known of the new one:
/// the file itself, or its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileChange<F> {
    /// What it is.
    pub kind: FileKind,
    /// As in [`SourceFile`].
    pub name: String,
    /// The new content; `None`: the file is gone.
    pub content: Option<F>,
}

/// Bytes of a commit's name without its mark.
const COMMIT_HEX: std::ops::RangeInclusive<usize> = 7..=64;
/// What stands behind the name of a commit whose checkout was changed since.
pub const DIRTY: &str = "-dirty";

/// What its author says of where a policy set comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Provenance {
    /// The commit of the version control, as claimed; see [`is_commit`].
    pub commit: Option<String>,
    /// The signed note over the content, verified when it came.
    pub signature: Option<String>,
}

/// Whether a text names a commit: 7 to 64 lower-case hex digits, with [`DIRTY`] behind them
/// where the checkout was changed since.
pub fn is_commit(text: &str) -> bool {
    let hex = text.strip_suffix(DIRTY).unwrap_or(text);
    let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    COMMIT_HEX.contains(&hex.len()) && hex.bytes().all(digit)
}

/// What is known of a revision without its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevisionMeta {
    /// 1, 2, 3 … without gaps.
    pub number: u64,
    /// Who wrote it.
    pub author: EntityUid,
    /// Who approved it, if it was somebody else's proposal.
    pub approver: Option<EntityUid>,
    /// Why.
    pub message: String,
    /// When, to the microsecond.
    pub apply_time: OffsetDateTime,
    /// SHA-256 over the content.
    pub content_sha256: Digest,
    /// How many policies it holds.
    pub policies: u32,
    /// The gates that it passed: server, Cedar and built-in schema.
    pub gates: String,
    /// Where its content comes from.
    pub provenance: Provenance,
    /// The epoch of the state that it was applied over: revision, entities and agents.
    pub base_epoch: u64,
    /// Of a rollback: the revision whose content it brought back, itself no rollback.
    pub restores: Option<u64>,
}

/// A revision that is to be applied: what changes against the one before. Its author made
/// it under the epoch that its commit requires, so "the one before" is exact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRevision {
    /// What is known of it.
    pub meta: RevisionMeta,
    /// Against revision `meta.number - 1`; for revision 1, everything.
    pub changes: Vec<FileChange<SourceFile>>,
}

/// A revision as the store lists it: the names and digests of all files, by kind and name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// What is known of it.
    pub meta: RevisionMeta,
    /// Its files.
    pub files: Vec<FileDigest>,
}

/// A revision as the change feed tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevisionNews {
    /// What is known of it.
    pub meta: RevisionMeta,
    /// The revision that the changes are against; 0 is the empty set.
    pub since: u64,
    /// What is different, by kind and name.
    pub changes: Vec<FileChange<Digest>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_is_hex_and_perhaps_dirty() {
        for good in ["0123abc", &"f".repeat(64), "0123abc-dirty"] {
            assert!(is_commit(good), "{good}");
        }
        let long = "f".repeat(65);
        for bad in [
            "",
            "012345",
            "-dirty",
            "0123ABC",
            "0123abg",
            "0123abc-dirt",
            &long,
        ] {
            assert!(!is_commit(bad), "{bad}");
        }
    }
}
