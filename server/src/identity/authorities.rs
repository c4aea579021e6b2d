//! The CAs of a trust domain at one moment: one that signs, and all that are trusted.
//!
//! There is more than one while a CA is being replaced. Clients hold the trust anchors of
//! all of them, so that no moment of the replacement finds anybody without one:
//!
//! 1. A CA is *prepared*: it enters the bundle that everybody gets with the next renewal.
//! 2. Once all have renewed it is made *active*: it signs, and the server shows a
//!    certificate of it. What the old one signed holds until it ends.
//! 3. Once all of that has ended the old one is *retired*: it leaves the bundle.
//!
//! The steps are on record ([`AuthorityRecord`]) and reach each replica by the change
//! feed; [`Authorities::follow`] makes of them what signs and what is trusted here.

use std::sync::Arc;

use arc_swap::ArcSwap;
use time::{Duration, OffsetDateTime};
use tokio::sync::watch;

use super::ca::crl::{Crl, Revocations};
use super::ca::{Ca, CaChain, CaError, SVID_LIFETIME_MAX, certificate_pem};
use super::peer::is_signed_by;
use super::spiffe::TrustDomain;
use crate::keys::{KeyName, KeyService};
use crate::model::{AuthorityRecord, AuthorityState};

/// How long a step waits for the one before it to reach everybody: as long as the longest
/// certificate holds, and a little for replicas and clocks that are behind.
pub(crate) const OVERLAP: Duration = SVID_LIFETIME_MAX.saturating_add(Duration::minutes(5));
/// CAs that are trusted at once.
pub(crate) const TRUSTED_MAX: usize = 4;

/// The key's name on record where the operator keeps it.
const OPERATORS_KEY: &str = "operator";

/// A CA that is trusted, with its key where this server has it.
#[derive(Clone, Debug)]
struct TrustedCa {
    chain: CaChain,
    /// Able to sign; `None` where the key is not here (any more).
    ca: Option<Arc<Ca>>,
}

/// The CAs of one moment.
#[derive(Debug)]
pub(crate) struct CaSet {
    signing: Arc<Ca>,
    others: Vec<TrustedCa>,
}

impl CaSet {
    /// The one that signs.
    pub(crate) fn signing(&self) -> &Arc<Ca> {
        &self.signing
    }

    fn chains(&self) -> impl Iterator<Item = &CaChain> {
        std::iter::once(self.signing.chain()).chain(self.others.iter().map(|ca| &ca.chain))
    }

    /// The trust bundle in PEM: the anchor of the CA that signs first, each anchor once.
    pub(crate) fn bundle_pem(&self) -> String {
        let mut anchors: Vec<&[u8]> = Vec::new();
        for chain in self.chains() {
            if !anchors.contains(&chain.anchor()) {
                anchors.push(chain.anchor());
            }
        }
        anchors.into_iter().map(certificate_pem).collect()
    }

    /// The CAs (DER) by which a client is believed: those of this server themselves, not
    /// their anchors, below which others may issue, too.
    pub(crate) fn issuers(&self) -> Vec<Vec<u8>> {
        self.chains().map(|chain| chain.own().to_vec()).collect()
    }

    /// Whether one of them signed the certificate in `der`, whenever that holds: for one that
    /// TLS would refuse because it has ended.
    pub(crate) fn issued(&self, der: &[u8]) -> bool {
        let key = |chain: &CaChain| chain.own_key();
        self.chains()
            .filter_map(key)
            .any(|key| is_signed_by(der, &key))
    }

    /// What each of them has revoked, that of the CA that signs first.
    ///
    /// # Errors
    /// When a list cannot be signed.
    pub(crate) fn revocation_lists(
        &self,
        revocations: &Revocations,
        now: OffsetDateTime,
    ) -> Result<Vec<Crl>, CaError> {
        let others = self.others.iter().filter_map(|other| other.ca.as_ref());
        std::iter::once(&self.signing)
            .chain(others)
            .map(|ca| ca.sign_crl(revocations, now))
            .collect()
    }

    fn able(&self, id: &str) -> Option<Arc<Ca>> {
        let others = self.others.iter().filter_map(|other| other.ca.as_ref());
        let mut all = std::iter::once(&self.signing).chain(others);
        all.find(|ca| ca.chain().id_hex() == id).cloned()
    }
}

/// Where the keys of CAs come from.
pub(crate) struct CaKeys {
    trust_domain: TrustDomain,
    keys: Box<dyn KeyService>,
    /// Those that the operator brought in files.
    brought: Vec<Arc<Ca>>,
}

impl CaKeys {
    /// Keys of the server's own, and CAs that the operator brought.
    pub(crate) fn new(
        trust_domain: TrustDomain,
        keys: Box<dyn KeyService>,
        brought: Vec<Ca>,
    ) -> Self {
        Self {
            trust_domain,
            keys,
            brought: brought.into_iter().map(Arc::new).collect(),
        }
    }

    /// The chain that a log without a CA begins with, and the CA's record.
    pub(crate) async fn first(&self, now: OffsetDateTime) -> Result<CaChain, CaError> {
        match self.brought.first() {
            Some(ca) => Ok(ca.chain().clone()),
            None => self.new_root(KeyName::Ca, now).await,
        }
    }

    /// The record of the CA that a log began with.
    pub(crate) fn first_record(&self, chain: &CaChain) -> Result<AuthorityRecord, CaError> {
        let (from, _) = chain.validity()?;
        let is_brought = self.brought.iter().any(|ca| ca.chain() == chain);
        let key = match is_brought || !chain.intermediates().is_empty() {
            true => OPERATORS_KEY.to_owned(),
            false => KeyName::Ca.to_string(),
        };
        Ok(AuthorityRecord {
            state: AuthorityState::Active,
            activate_time: Some(from),
            ..record(chain, key, from)
        })
    }

    async fn new_root(&self, name: KeyName, now: OffsetDateTime) -> Result<CaChain, CaError> {
        let key = self.keys.load_or_create(name).await?;
        let number = name.ca_number().unwrap_or(1);
        let root = Ca::create_root(&key, &self.trust_domain, number, now)?;
        Ok(CaChain::root(root))
    }

    /// The CA to come: the operator's that is not on record yet, or else a new root.
    async fn next(
        &self,
        records: &[AuthorityRecord],
        own_root: bool,
        now: OffsetDateTime,
    ) -> Result<AuthorityRecord, CaError> {
        let on_record = |ca: &&Arc<Ca>| records.iter().any(|r| r.id == ca.chain().id_hex());
        if !own_root {
            if let Some(ca) = self.brought.iter().find(|ca| !on_record(ca)) {
                return Ok(record(ca.chain(), OPERATORS_KEY.to_owned(), now));
            }
            let signing = records.iter().find(|r| r.state == AuthorityState::Active);
            if signing.is_some_and(|signing| signing.key == OPERATORS_KEY) {
                return Err(CaError::NothingBrought);
            }
        }
        let numbers = records.iter().filter_map(|r| KeyName::parse(&r.key));
        let last = numbers.filter_map(KeyName::ca_number).max();
        let name = KeyName::ca(last.unwrap_or(0).saturating_add(1));
        let chain = self.new_root(name, now).await?;
        Ok(record(&chain, name.to_string(), now))
    }

    async fn load(&self, record: &AuthorityRecord) -> Result<Arc<Ca>, CaError> {
        if let Some(ca) = self
            .brought
            .iter()
            .find(|ca| ca.chain().id_hex() == record.id)
        {
            return Ok(Arc::clone(ca));
        }
        let missing = || CaError::KeyMissing(record.id.clone());
        let name = KeyName::parse(&record.key).filter(|name| name.ca_number().is_some());
        let key = self.keys.existing(name.ok_or_else(missing)?).await?;
        let chain = CaChain::from_pem(record.chain_pem.as_bytes())?;
        let ca = Ca::load(
            key.ok_or_else(missing)?,
            chain.own().to_vec(),
            &self.trust_domain,
        )?;
        Ok(Arc::new(ca))
    }
}

fn record(chain: &CaChain, key: String, now: OffsetDateTime) -> AuthorityRecord {
    AuthorityRecord {
        id: chain.id_hex(),
        key,
        chain_pem: chain.pem(),
        state: AuthorityState::Prepared,
        prepare_time: crate::model::event::to_micros(now),
        activate_time: None,
        supersede_time: None,
        retire_time: None,
    }
}

/// The CAs in force; clones share them.
#[derive(Clone)]
pub(crate) struct Authorities(Arc<Inner>);

struct Inner {
    keys: CaKeys,
    /// The CA that the log began with.
    first: AuthorityRecord,
    current: ArcSwap<CaSet>,
    /// Counts sets, for those who wait for one.
    changes: watch::Sender<u64>,
}

impl Authorities {
    /// The CAs on record, or else the one that the log began with.
    ///
    /// # Errors
    /// When the one that signs cannot be loaded.
    pub(crate) async fn start(
        keys: CaKeys,
        first: AuthorityRecord,
        records: &[AuthorityRecord],
    ) -> Result<Self, CaError> {
        let active = records.iter().find(|r| r.state == AuthorityState::Active);
        let signing = keys.load(active.unwrap_or(&first)).await?;
        let set = CaSet {
            signing,
            others: Vec::new(),
        };
        let authorities = Self(Arc::new(Inner {
            keys,
            first,
            current: ArcSwap::from_pointee(set),
            changes: watch::Sender::new(0),
        }));
        authorities.follow(records).await?;
        Ok(authorities)
    }

    /// The trust domain of all of them.
    pub(crate) fn trust_domain(&self) -> &TrustDomain {
        &self.0.keys.trust_domain
    }

    /// The CAs of this moment.
    pub(crate) fn current(&self) -> Arc<CaSet> {
        self.0.current.load_full()
    }

    /// The CA that signs at this moment.
    pub(crate) fn signing(&self) -> Arc<Ca> {
        Arc::clone(self.0.current.load().signing())
    }

    /// Tells whoever waits of each new set.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// What is on record, or, before the first replacement, what would be.
    pub(crate) fn on_record(&self, records: &[AuthorityRecord]) -> Vec<AuthorityRecord> {
        match records.is_empty() {
            true => vec![self.0.first.clone()],
            false => records.to_vec(),
        }
    }

    /// Makes the CA to come, and its key. Nobody trusts it before it is on record.
    ///
    /// # Errors
    /// When there is none to take, or no key can be made.
    pub(crate) async fn next(
        &self,
        records: &[AuthorityRecord],
        own_root: bool,
        now: OffsetDateTime,
    ) -> Result<AuthorityRecord, CaError> {
        self.0.keys.next(records, own_root, now).await
    }

    /// Trusts what is on record, and signs by the CA that is active there; whether that
    /// changed anything.
    ///
    /// # Errors
    /// When that one's key is not here. What is trusted is as on record all the same, and
    /// the CA that signed before goes on, if it is still trusted.
    pub(crate) async fn follow(&self, records: &[AuthorityRecord]) -> Result<bool, CaError> {
        let records = self.on_record(records);
        let before = self.current();
        let mut able = Vec::new();
        let mut failed = None;
        for record in records.iter().filter(|r| r.is_trusted()) {
            let chain = CaChain::from_pem(record.chain_pem.as_bytes())?;
            let ca = match before.able(&record.id) {
                Some(ca) => Some(ca),
                None => match self.0.keys.load(record).await {
                    Ok(ca) => Some(ca),
                    Err(error) if record.state == AuthorityState::Active => {
                        failed = Some(error);
                        None
                    }
                    // It does not sign here; its list comes from replicas that have the key.
                    Err(_) => None,
                },
            };
            able.push((record.state, TrustedCa { chain, ca }));
        }
        let active = |(state, _): &&(AuthorityState, TrustedCa)| *state == AuthorityState::Active;
        let signing = able.iter().find(active).and_then(|(_, ca)| ca.ca.clone());
        let still_trusted = able
            .iter()
            .any(|(_, ca)| ca.chain == *before.signing.chain());
        let signing = match (signing, failed.take()) {
            (Some(signing), _) => signing,
            (None, Some(error)) if !still_trusted => return Err(error),
            (None, error) => {
                failed = error;
                Arc::clone(&before.signing)
            }
        };
        let others = able.into_iter().map(|(_, ca)| ca);
        let others: Vec<_> = others.filter(|ca| ca.chain != *signing.chain()).collect();
        let next = CaSet { signing, others };
        let changed = !next.chains().eq(before.chains());
        if changed {
            self.0.current.store(Arc::new(next));
            self.0.changes.send_modify(|n| *n += 1);
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(changed),
        }
    }
}

impl std::fmt::Debug for Authorities {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authorities")
            .field("signing", &self.signing())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
