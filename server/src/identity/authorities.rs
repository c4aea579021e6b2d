//! The CAs of a trust domain at one moment: one that signs, and all that are trusted.
//!
//! There is more than one while a CA is being replaced. Clients hold the trust anchors of
//! all of them, so that no moment of the replacement finds anybody without one.

use std::sync::Arc;

use arc_swap::ArcSwap;
use time::OffsetDateTime;

use super::ca::crl::{Crl, Revocations};
use super::ca::{Ca, CaChain, CaError, certificate_pem};
use super::spiffe::TrustDomain;

/// A CA that is trusted, with its key where this server has it.
#[derive(Clone, Debug)]
pub(crate) struct TrustedCa {
    /// Its certificates.
    pub(crate) chain: CaChain,
    /// Able to sign; `None` where the key is not here (any more).
    pub(crate) ca: Option<Arc<Ca>>,
}

/// The CAs of one moment.
#[derive(Debug)]
pub(crate) struct CaSet {
    signing: Arc<Ca>,
    others: Vec<TrustedCa>,
}

impl CaSet {
    /// One CA that signs, and others that are trusted beside it.
    pub(crate) fn new(signing: Arc<Ca>, others: Vec<TrustedCa>) -> Self {
        Self { signing, others }
    }

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
}

/// The CAs in force; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Authorities {
    trust_domain: TrustDomain,
    current: Arc<ArcSwap<CaSet>>,
}

impl Authorities {
    /// Starts with one CA.
    pub(crate) fn new(ca: Ca) -> Self {
        Self {
            trust_domain: ca.trust_domain().clone(),
            current: Arc::new(ArcSwap::from_pointee(CaSet::new(Arc::new(ca), Vec::new()))),
        }
    }

    /// The trust domain of all of them.
    pub(crate) fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The CAs of this moment.
    pub(crate) fn current(&self) -> Arc<CaSet> {
        self.current.load_full()
    }

    /// The CA that signs at this moment.
    pub(crate) fn signing(&self) -> Arc<Ca> {
        Arc::clone(self.current.load().signing())
    }
}
