//! Proposals: candidates that one person wrote and another one has to approve.

use time::OffsetDateTime;

use super::request::EntityUid;
use super::revision::{Digest, FileChange, Provenance, SourceFile};

/// Proposals that may be open at once.
pub const OPEN_MAX: u32 = 64;

/// What became of a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProposalState {
    /// Nobody has decided on it.
    Open,
    /// It became a revision.
    Approved,
    /// It will not become one.
    Rejected,
}

impl ProposalState {
    /// As it stands in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Approved => "approved",
            Self::Rejected => "rejected",
        }
    }

    /// The state of that name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Open, Self::Approved, Self::Rejected]
            .into_iter()
            .find(|state| state.as_str() == name)
    }
}

/// A candidate that has passed the gates and waits for somebody else's approval. What is
/// proposed never changes; only its state does, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProposalMeta {
    /// 1, 2, 3 … without gaps.
    pub number: u64,
    /// What became of it.
    pub state: ProposalState,
    /// The revision that it changes; it can become the next one after that only.
    pub base_revision: u64,
    /// Who wrote it, and on whose behalf: none of them may approve it.
    pub authors: Vec<EntityUid>,
    /// Why.
    pub message: String,
    /// When, to the microsecond.
    pub create_time: OffsetDateTime,
    /// SHA-256 over the content of the revision that it would become.
    pub content_sha256: Digest,
    /// How many policies that would hold.
    pub policies: u32,
    /// Who approved or rejected it.
    pub decided_by: Option<EntityUid>,
    /// Where its content comes from.
    pub provenance: Provenance,
}

/// A proposal with what it changes; `F` as in [`FileChange`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal<F> {
    /// What is known of it.
    pub meta: ProposalMeta,
    /// Against its base revision.
    pub changes: Vec<FileChange<F>>,
}

/// A proposal that is to be stored. Its number is given when it is.
pub type NewProposal = Proposal<SourceFile>;
