//! Certificate authorities on record: which one signs, and which are trusted beside it
//! while one takes the place of another.

use std::sync::Arc;

use time::OffsetDateTime;

/// Where a CA stands on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthorityState {
    /// Trusted, and does not sign yet: everybody is to learn of it first.
    Prepared,
    /// Trusted, and the one that signs.
    Active,
    /// Trusted, and signs no more: what it signed runs out.
    Superseded,
    /// Not trusted any more, for good.
    Retired,
}

impl AuthorityState {
    /// The state's name in columns and events.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prepared => "prepared",
            Self::Active => "active",
            Self::Superseded => "superseded",
            Self::Retired => "retired",
        }
    }

    /// The state of that name.
    pub fn parse(name: &str) -> Option<Self> {
        [
            Self::Prepared,
            Self::Active,
            Self::Superseded,
            Self::Retired,
        ]
        .into_iter()
        .find(|state| state.as_str() == name)
    }
}

/// A CA on record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorityRecord {
    /// SHA-256 of its own certificate, in lower-case hex.
    pub id: String,
    /// The name of its key, where keys are kept.
    pub key: String,
    /// Its certificates in PEM: its own first, the trust anchor last.
    pub chain_pem: String,
    /// Where it stands.
    pub state: AuthorityState,
    /// Since when it is trusted.
    pub prepare_time: OffsetDateTime,
    /// Since when it signs or signed.
    pub activate_time: Option<OffsetDateTime>,
    /// Since when it signs no more.
    pub supersede_time: Option<OffsetDateTime>,
    /// Since when it is trusted no more.
    pub retire_time: Option<OffsetDateTime>,
}

impl AuthorityRecord {
    /// Whether what it signed is believed.
    pub fn is_trusted(&self) -> bool {
        self.state != AuthorityState::Retired
    }
}

/// The CAs after a change of some, in the order in which they were prepared.
pub fn with(
    before: &Arc<[AuthorityRecord]>,
    changed: &[AuthorityRecord],
) -> Arc<[AuthorityRecord]> {
    if changed.is_empty() {
        return Arc::clone(before);
    }
    let same = |known: &&AuthorityRecord| !changed.iter().any(|c| c.id == known.id);
    let mut all: Vec<_> = before.iter().filter(same).chain(changed).cloned().collect();
    all.sort_by(|a, b| (a.prepare_time, &a.id).cmp(&(b.prepare_time, &b.id)));
    all.into()
}
