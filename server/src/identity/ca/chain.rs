//! The certificates of a CA: its own first, the trust anchor last.
//!
//! An operator's chain is looked at before anything is signed by it. Each rule has a
//! message that says which certificate breaks it; in the end a certificate is issued and
//! verified as a client would, which is the one check that cannot be forgotten anywhere.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use time::{Duration, OffsetDateTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;

use super::{Ca, CaError, certificate_pem};
use crate::identity::public_key::PublicKey;
use crate::identity::sha256;
use crate::identity::spiffe::TrustDomain;
use crate::keys::{KeyAlgorithm, SigningKey as _, SoftwareKey};

/// Certificates in one chain.
const CERTIFICATES_MAX: usize = 8;

/// Why a chain cannot be used. Positions count from 1, as in the operator's file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ChainError {
    /// No PEM, no certificate, or too many.
    #[error(
        "the CA's chain must be 1 to {CERTIFICATES_MAX} certificates in PEM: the issuing CA first, the trust anchor last"
    )]
    Form,
    /// One of the certificates breaks a rule.
    #[error("certificate {position} of the CA's chain (`{subject}`) {why}")]
    Certificate {
        /// Its place in the file, from 1.
        position: usize,
        /// Its subject.
        subject: String,
        /// What is wrong, and what would be right.
        why: String,
    },
    /// What the CA issues is refused by a client that trusts the anchor.
    #[error("a certificate that the CA issues does not verify up to the trust anchor: {0}")]
    Refused(String),
}

/// The certificates (DER) of a CA: its own first, the trust anchor last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CaChain(Vec<Vec<u8>>);

impl CaChain {
    /// A CA that is its own trust anchor.
    pub(crate) fn root(der: Vec<u8>) -> Self {
        Self(vec![der])
    }

    /// The chain in a PEM file.
    pub(crate) fn from_pem(text: &[u8]) -> Result<Self, ChainError> {
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
        let found = found.map_err(|_| ChainError::Form)?;
        if found.is_empty() || found.len() > CERTIFICATES_MAX {
            return Err(ChainError::Form);
        }
        Ok(Self(found.iter().map(|der| der.to_vec()).collect()))
    }

    /// The chain as it stands in a file.
    pub(crate) fn pem(&self) -> String {
        self.0.iter().map(|der| certificate_pem(der)).collect()
    }

    /// The key of the CA's own certificate, if it is one that signs for us.
    pub(crate) fn own_key(&self) -> Option<PublicKey> {
        let (_, own) = X509Certificate::from_der(self.own()).ok()?;
        PublicKey::from_spki(own.public_key().raw).ok()
    }

    /// The CA's own certificate.
    pub(crate) fn own(&self) -> &[u8] {
        self.0.first().map_or(&[], Vec::as_slice)
    }

    /// The trust anchor.
    pub(crate) fn anchor(&self) -> &[u8] {
        self.0.last().map_or(&[], Vec::as_slice)
    }

    /// What comes with each issued certificate: everything but the anchor.
    pub(crate) fn intermediates(&self) -> &[Vec<u8>] {
        &self.0[..self.0.len() - 1]
    }

    /// SHA-256 of the CA's own certificate: its name on record.
    pub(crate) fn id(&self) -> [u8; 32] {
        sha256(self.own())
    }

    /// [`Self::id`] in lower-case hex.
    pub(crate) fn id_hex(&self) -> String {
        hex::encode(self.id())
    }

    /// The subject of the CA's own certificate.
    pub(crate) fn subject(&self) -> String {
        X509Certificate::from_der(self.own())
            .map(|(_, own)| own.subject().to_string())
            .unwrap_or_default()
    }

    /// When all of its certificates hold.
    pub(crate) fn validity(&self) -> Result<(OffsetDateTime, OffsetDateTime), CaError> {
        let mut whole: Option<(OffsetDateTime, OffsetDateTime)> = None;
        for der in &self.0 {
            let (_, certificate) =
                X509Certificate::from_der(der).map_err(|_| CaError::Malformed)?;
            let from = certificate.validity().not_before.to_datetime();
            let until = certificate.validity().not_after.to_datetime();
            whole = Some(whole.map_or((from, until), |w| (w.0.max(from), w.1.min(until))));
        }
        whole.ok_or(CaError::Malformed)
    }

    /// Whether each certificate may do what it does here.
    fn check(&self, trust_domain: &TrustDomain, now: OffsetDateTime) -> Result<(), ChainError> {
        let parsed: Vec<X509Certificate<'_>> = self
            .0
            .iter()
            .map(|der| X509Certificate::from_der(der).map(|(_, parsed)| parsed))
            .collect::<Result<_, _>>()
            .map_err(|_| ChainError::Form)?;
        for (below, certificate) in parsed.iter().enumerate() {
            let issuer = parsed.get(below + 1);
            check_one(certificate, issuer, below, now)
                .and_then(|()| check_names(certificate, below == 0, trust_domain))
                .map_err(|why| ChainError::Certificate {
                    position: below + 1,
                    subject: certificate.subject().to_string(),
                    why,
                })?;
        }
        Ok(())
    }
}

/// One certificate, with as many CAs below it.
fn check_one(
    certificate: &X509Certificate<'_>,
    issuer: Option<&X509Certificate<'_>>,
    below: usize,
    now: OffsetDateTime,
) -> Result<(), String> {
    let unreadable = |_| "has an extension that cannot be read".to_owned();
    let constraints = certificate.basic_constraints().map_err(unreadable)?;
    let Some(constraints) = constraints.filter(|c| c.value.ca) else {
        return Err("is not a CA's: it needs basicConstraints CA:TRUE".to_owned());
    };
    if let Some(allowed) = constraints.value.path_len_constraint
        && (allowed as usize) < below
    {
        return Err(format!(
            "allows {allowed} CAs below it (pathlen), and there are {below}"
        ));
    }
    let usage = certificate.key_usage().map_err(unreadable)?;
    let signs = usage.as_ref().is_some_and(|u| u.value.key_cert_sign());
    let lists = usage.as_ref().is_some_and(|u| u.value.crl_sign());
    // A trust anchor without a key usage may do everything; one that issues here must say so.
    if (below == 0 || usage.is_some()) && !signs {
        return Err("may not sign certificates: it needs the key usage keyCertSign".to_owned());
    }
    if below == 0 && !lists {
        return Err("may not sign revocation lists: it needs the key usage cRLSign".to_owned());
    }
    let validity = certificate.validity();
    if now < validity.not_before.to_datetime() {
        return Err(format!("does not hold before {}", validity.not_before));
    }
    if now >= validity.not_after.to_datetime() {
        return Err(format!("has expired at {}", validity.not_after));
    }
    match issuer {
        Some(issuer) if certificate.issuer().as_raw() != issuer.subject().as_raw() => Err(format!(
            "was issued by `{}`, which is not the next one in the file",
            certificate.issuer()
        )),
        None if certificate.issuer().as_raw() != certificate.subject().as_raw() => Err(format!(
            "is the last one and not a trust anchor; append that of `{}`",
            certificate.issuer()
        )),
        _ => Ok(()),
    }
}

/// The names that a CA has and allows: nothing but this trust domain's.
fn check_names(
    certificate: &X509Certificate<'_>,
    issues: bool,
    trust_domain: &TrustDomain,
) -> Result<(), String> {
    let own = trust_domain.uri();
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) if issues => {
                let mut uris = names.general_names.iter().filter_map(uri);
                if uris.clone().count() > 1 || uris.any(|uri| uri != own) {
                    return Err(format!("has a URI name that is not `{own}` alone"));
                }
            }
            ParsedExtension::NameConstraints(constraints) => {
                let reaches = |subtree: &&str| host_within(trust_domain.as_str(), subtree);
                let uris = |subtrees: &Option<Vec<_>>| -> Vec<String> {
                    let subtrees = subtrees.iter().flatten();
                    subtrees
                        .filter_map(|s: &x509_parser::extensions::GeneralSubtree<'_>| uri(&s.base))
                        .map(str::to_owned)
                        .collect()
                };
                let permitted = uris(&constraints.permitted_subtrees);
                let excluded = uris(&constraints.excluded_subtrees);
                let within = |list: &[String]| list.iter().any(|s| reaches(&s.as_str()));
                if (!permitted.is_empty() && !within(&permitted)) || within(&excluded) {
                    return Err(format!(
                        "has name constraints that do not let it issue URIs of `{own}`"
                    ));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn uri<'a>(name: &GeneralName<'a>) -> Option<&'a str> {
    match name {
        GeneralName::URI(uri) => Some(uri),
        _ => None,
    }
}

/// RFC 5280, 4.2.1.10: a URI constraint is a host, or with a leading period its subdomains.
fn host_within(host: &str, constraint: &str) -> bool {
    let constraint = constraint.to_ascii_lowercase();
    match constraint.strip_prefix('.') {
        Some(_) => host.ends_with(&constraint) && host.len() > constraint.len(),
        None => host == constraint,
    }
}

impl Ca {
    /// Refuses a chain by which nothing could be issued that a client accepts: by rule
    /// first, so that the message is clear, and then by issuing a certificate of the
    /// server's names and verifying it as a client does.
    pub(crate) fn verify_chain(
        &self,
        server_names: &[String],
        now: OffsetDateTime,
    ) -> Result<(), CaError> {
        self.chain.check(&self.trust_domain, now)?;
        let key = SoftwareKey::generate(KeyAlgorithm::EcdsaP256).map_err(|_| CaError::Random)?;
        let key =
            PublicKey::from_spki(key.public_key_spki_der()).map_err(|_| CaError::KeyUnsupported)?;
        let issued = self.issue_server(&key, server_names, Duration::MINUTE, now)?;
        let refused = |why: String| CaError::Chain(ChainError::Refused(why));
        let (_, leaf) = X509Certificate::from_der(&issued.der).map_err(|_| CaError::Malformed)?;
        let (_, own) =
            X509Certificate::from_der(self.chain.own()).map_err(|_| CaError::Malformed)?;
        if leaf.issuer().as_raw() != own.subject().as_raw() {
            let why = "the CA's subject has an attribute twice, or in a form that this server \
                       does not write; give it a plain one, such as `O=…, CN=…`";
            return Err(refused(why.to_owned()));
        }
        let mut roots = RootCertStore::empty();
        let anchor = CertificateDer::from(self.chain.anchor());
        roots.add(anchor).map_err(|e| refused(e.to_string()))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|e| refused(e.to_string()))?;
        let chain: Vec<CertificateDer<'_>> = issued
            .intermediates
            .iter()
            .map(|der| CertificateDer::from(der.as_slice()))
            .collect();
        let seconds = u64::try_from(now.unix_timestamp()).unwrap_or(0);
        let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        let leaf = CertificateDer::from(issued.der.as_slice());
        for name in server_names {
            let server = ServerName::try_from(name.as_str())
                .map_err(|_| CaError::ServerName(name.clone()))?;
            verifier
                .verify_server_cert(&leaf, &chain, &server, &[], at)
                .map_err(|e| refused(format!("for `{name}`: {e}")))?;
        }
        Ok(())
    }
}
