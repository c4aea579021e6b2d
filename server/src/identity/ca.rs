//! The certificate authority of a trust domain.
//!
//! It certifies exactly what the server has decided: the name, the lifetime and
//! the usages come from arguments, and of the one who asks only the public key
//! is taken (see [`PublicKey::from_csr`]).
//!
//! It is a root of its own ([`Ca::create_root`]) or an intermediate that the operator brings
//! with its [`chain`]. What it issues then comes with the certificates that lead to the
//! trust anchor, which is the one that clients hold.

mod chain;
pub(crate) mod crl;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PublicKeyData, SanType, SerialNumber, SignatureAlgorithm,
};
use rustls::pki_types::{CertificateDer, DnsName};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;

pub(crate) use chain::{CaChain, ChainError};

use super::generation::{self, GENERATION_OID};
use super::peer::is_signed_by;
use super::public_key::PublicKey;
use super::sha256;
use super::spiffe::{SpiffeId, TrustDomain};
use crate::keys::{KeyAlgorithm, KeyError, SigningKey, pem};
use crate::model::change::CertificateRecord;

/// The lifetime of a principal's certificate unless configured otherwise.
#[cfg(test)]
pub(crate) const SVID_LIFETIME: Duration = Duration::HOUR;
/// The longest lifetime of a principal's certificate.
pub(crate) const SVID_LIFETIME_MAX: Duration = Duration::DAY;
/// The longest lifetime of the server's own certificate.
pub(crate) const SERVER_LIFETIME_MAX: Duration = Duration::days(30);

const CA_LIFETIME: Duration = Duration::days(3653);
/// Certificates begin a little in the past, for clients whose clock is behind; very short
/// ones by a tenth of their life, or half of it would be over at once.
const BACKDATE: Duration = Duration::MINUTE;
/// The upper bound that X.520 sets for a common name.
const COMMON_NAME_LEN_MAX: usize = 64;

/// Why the CA could not be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CaError {
    /// The CA key is not ECDSA P-256.
    #[error("the CA's key is not ECDSA P-256")]
    KeyUnsupported,
    /// The stored certificate cannot be read, or is not that of a CA.
    #[error("the stored CA certificate is damaged or not that of a CA")]
    Malformed,
    /// The stored certificate is of another key.
    #[error("the stored CA certificate does not belong to the CA's key")]
    OtherKey,
    /// The stored certificate is of another trust domain.
    #[error("the stored CA certificate is not of trust domain `{0}`")]
    OtherTrustDomain(TrustDomain),
    /// The CA's own time has passed or not begun.
    #[error("the CA certificate does not hold at this time")]
    OutsideValidity,
    /// The operator's chain cannot be used.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The key of a CA on record is not to be found.
    #[error(
        "the key of the CA `{0}` is not here; restore it, or put the operator's files with it back"
    )]
    KeyMissing(String),
    /// The CA in force was brought by the operator, who brought no next one.
    #[error(
        "the CA that signs was brought by the operator; bring the next one in \
         `ca_next_certificate_file` and `ca_next_key_file`, or ask for a root of the server's own"
    )]
    NothingBrought,
    /// A key could not be loaded or made.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A lifetime that is not positive or too long.
    #[error("a certificate's lifetime is more than 0 and at most {max}")]
    Lifetime {
        /// The longest one allowed.
        max: Duration,
    },
    /// A principal of another trust domain.
    #[error("`{0}` is not in the CA's trust domain")]
    Foreign(SpiffeId),
    /// A server name that is neither a DNS name nor an IP address.
    #[error("`{0}` is neither a DNS name nor an IP address")]
    ServerName(String),
    /// The library failed to build or sign the certificate.
    #[error("cannot sign the certificate: {0}")]
    Sign(#[from] rcgen::Error),
    /// No random serial number could be drawn.
    #[error("no randomness for a serial number")]
    Random,
}

/// A certificate that the CA has just signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IssuedCertificate {
    /// The certificate.
    pub(crate) der: Vec<u8>,
    /// What leads from it to the trust anchor, without the anchor.
    pub(crate) intermediates: Vec<Vec<u8>>,
    /// Its serial number, in lower-case hex, for the record.
    pub(crate) serial: String,
    /// The first moment at which it holds.
    pub(crate) not_before: OffsetDateTime,
    /// The last moment at which it holds.
    pub(crate) not_after: OffsetDateTime,
}

impl IssuedCertificate {
    /// The certificate as PEM, followed by its intermediates.
    pub(crate) fn pem(&self) -> String {
        self.chain()
            .iter()
            .map(|der| certificate_pem(der))
            .collect()
    }

    /// The certificate, followed by its intermediates.
    pub(crate) fn chain(&self) -> Vec<Vec<u8>> {
        let mut chain = vec![self.der.clone()];
        chain.extend(self.intermediates.iter().cloned());
        chain
    }

    /// What is stored of it.
    pub(crate) fn record(&self, instance_id: Uuid) -> CertificateRecord {
        CertificateRecord {
            serial: self.serial.clone(),
            instance_id,
            not_after: self.not_after,
        }
    }
}

/// A CA, ready to sign.
pub(crate) struct Ca {
    issuer: Issuer<'static, CaKey>,
    chain: CaChain,
    /// How its certificates and lists name its key.
    key_identifier: KeyIdMethod,
    trust_domain: TrustDomain,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
}

impl Ca {
    /// The first root of a trust domain.
    #[cfg(test)]
    pub(crate) fn create(
        key: &Arc<dyn SigningKey>,
        trust_domain: &TrustDomain,
        now: OffsetDateTime,
    ) -> Result<Vec<u8>, CaError> {
        Self::create_root(key, trust_domain, 1, now)
    }

    /// A new self-signed root certificate (DER) for `key`, good for ten years. Its number
    /// is in its name: a verifier may tell CAs apart by their names alone.
    ///
    /// Each call makes another one: the caller stores the first and loads that
    /// ever after, or principals enrolled under different roots cannot meet.
    pub(crate) fn create_root(
        key: &Arc<dyn SigningKey>,
        trust_domain: &TrustDomain,
        number: u16,
        now: OffsetDateTime,
    ) -> Result<Vec<u8>, CaError> {
        let key = CaKey::new(Arc::clone(key))?;
        let mut common_name = match number {
            0 | 1 => format!("ZTA CA {trust_domain}"),
            _ => format!("ZTA CA {number} {trust_domain}"),
        };
        common_name.truncate(COMMON_NAME_LEN_MAX);
        let (mut params, _) = parameters(&common_name, now, now + CA_LIFETIME)?;
        params.subject_alt_names = vec![uri_name(&trust_domain.uri())?];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Ok(params.self_signed(&key)?.der().to_vec())
    }

    /// The CA of a stored root and its key.
    pub(crate) fn load(
        key: Arc<dyn SigningKey>,
        der: Vec<u8>,
        trust_domain: &TrustDomain,
    ) -> Result<Self, CaError> {
        let key = CaKey::new(key)?;
        require_own_root(&der, trust_domain)?;
        Self::new(key, CaChain::root(der), trust_domain)
    }

    /// The CA of an operator's chain and its key. [`Self::verify_chain`] says whether what
    /// it issues is of use to anybody.
    pub(crate) fn load_chain(
        key: Arc<dyn SigningKey>,
        chain: CaChain,
        trust_domain: &TrustDomain,
    ) -> Result<Self, CaError> {
        Self::new(CaKey::new(key)?, chain, trust_domain)
    }

    fn new(key: CaKey, chain: CaChain, trust_domain: &TrustDomain) -> Result<Self, CaError> {
        let (rest, own) = X509Certificate::from_der(chain.own()).map_err(|_| CaError::Malformed)?;
        if !rest.is_empty() {
            return Err(CaError::Malformed);
        }
        if own.public_key().raw != key.key.public_key_spki_der() {
            return Err(CaError::OtherKey);
        }
        let (not_before, not_after) = chain.validity()?;
        let key_identifier = subject_key_identifier(&own);
        let issuer = Issuer::from_ca_cert_der(&CertificateDer::from(chain.own()), key)?;
        Ok(Self {
            issuer,
            trust_domain: trust_domain.clone(),
            not_before,
            not_after,
            key_identifier,
            chain,
        })
    }

    /// Its certificates.
    pub(crate) fn chain(&self) -> &CaChain {
        &self.chain
    }

    /// Its own certificate.
    #[cfg(test)]
    pub(crate) fn certificate_der(&self) -> &[u8] {
        self.chain.own()
    }

    /// Whether it signed the certificate in `der`.
    pub(crate) fn issued(&self, der: &[u8]) -> bool {
        is_signed_by(der, &self.issuer.key().public_key)
    }

    /// SHA-256 of the trust anchor: what a join token carries.
    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        sha256(self.chain.anchor())
    }

    /// The trust domain whose principals it certifies.
    #[cfg(test)]
    pub(crate) fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The last moment at which its whole chain holds.
    pub(crate) fn not_after(&self) -> OffsetDateTime {
        self.not_after
    }

    /// A principal's certificate (X509-SVID) for `key`: one URI name, for both
    /// ends of a TLS connection, at most [`SVID_LIFETIME_MAX`]. It says which generation
    /// of the key's certificates it is.
    pub(crate) fn issue_svid(
        &self,
        key: &PublicKey,
        id: &SpiffeId,
        generation: u64,
        lifetime: Duration,
        now: OffsetDateTime,
    ) -> Result<IssuedCertificate, CaError> {
        if !id.is_in(&self.trust_domain) {
            return Err(CaError::Foreign(id.clone()));
        }
        let names = vec![uri_name(id.as_str())?];
        let usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        let mut subject = id.last_segment().to_owned();
        subject.truncate(COMMON_NAME_LEN_MAX);
        self.issue(
            key,
            &subject,
            names,
            (usages, Some(generation)),
            (lifetime, SVID_LIFETIME_MAX),
            now,
        )
    }

    /// The server's own certificate for `names` (DNS names and IP addresses).
    /// It holds no URI name and so can never pass for a principal.
    pub(crate) fn issue_server(
        &self,
        key: &PublicKey,
        names: &[String],
        lifetime: Duration,
        now: OffsetDateTime,
    ) -> Result<IssuedCertificate, CaError> {
        let names = names
            .iter()
            .map(|name| server_name(name))
            .collect::<Result<Vec<_>, _>>()?;
        if names.is_empty() {
            return Err(CaError::ServerName(String::new()));
        }
        let usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(
            key,
            "ZTA server",
            names,
            (usages, None),
            (lifetime, SERVER_LIFETIME_MAX),
            now,
        )
    }

    fn issue(
        &self,
        key: &PublicKey,
        common_name: &str,
        names: Vec<SanType>,
        (usages, generation): (Vec<ExtendedKeyUsagePurpose>, Option<u64>),
        (lifetime, max): (Duration, Duration),
        now: OffsetDateTime,
    ) -> Result<IssuedCertificate, CaError> {
        if !lifetime.is_positive() || lifetime > max {
            return Err(CaError::Lifetime { max });
        }
        if now < self.not_before || now >= self.not_after {
            return Err(CaError::OutsideValidity);
        }
        // A leaf that outlived its CA would fail in the field at a time nobody expects.
        let not_after = (now + lifetime).min(self.not_after);
        let (mut params, serial) = parameters(common_name, now, not_after)?;
        params.subject_alt_names = names;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages;
        params.custom_extensions = generation
            .map(|n| CustomExtension::from_oid_content(&GENERATION_OID, generation::encode(n)))
            .into_iter()
            .collect();
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&SubjectKey(key), &self.issuer)?;
        Ok(IssuedCertificate {
            der: certificate.der().to_vec(),
            intermediates: self.chain.intermediates().to_vec(),
            serial,
            not_before: params.not_before,
            not_after: params.not_after,
        })
    }
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ca")
            .field("trust_domain", &self.trust_domain)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// `der` as a PEM certificate.
pub(crate) fn certificate_pem(der: &[u8]) -> String {
    pem::encode("CERTIFICATE", der).to_string()
}

/// What all certificates share, and the serial number in hex.
fn parameters(
    common_name: &str,
    now: OffsetDateTime,
    not_after: OffsetDateTime,
) -> Result<(CertificateParams, String), CaError> {
    let mut serial = [0_u8; 16];
    aws_lc_rs::rand::fill(&mut serial).map_err(|_| CaError::Random)?;
    // Positive and without a leading zero byte, so that every tool prints these very digits.
    serial[0] = serial[0] & 0x7f | 0x40;
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, common_name);
    let mut params = CertificateParams::default();
    params.distinguished_name = subject;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    // Certificates know whole seconds only; what is recorded must be what is signed.
    let backdate = BACKDATE.min((not_after - now) / 10);
    params.not_before = (now - backdate).truncate_to_second();
    params.not_after = not_after.truncate_to_second();
    Ok((params, hex::encode(serial)))
}

/// The name of the CA's key in what it signs: that of its certificate, if it has one.
fn subject_key_identifier(own: &X509Certificate<'_>) -> KeyIdMethod {
    let found = own
        .iter_extensions()
        .find_map(|e| match e.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        });
    found.map_or(KeyIdMethod::Sha256, KeyIdMethod::PreSpecified)
}

/// A root that this server made for this trust domain.
fn require_own_root(der: &[u8], trust_domain: &TrustDomain) -> Result<(), CaError> {
    let (_, root) = X509Certificate::from_der(der).map_err(|_| CaError::Malformed)?;
    let usage = root.key_usage().map_err(|_| CaError::Malformed)?;
    let signs = usage.is_some_and(|usage| usage.value.key_cert_sign());
    if !root.is_ca() || !signs {
        return Err(CaError::Malformed);
    }
    let names = root
        .subject_alternative_name()
        .map_err(|_| CaError::Malformed)?;
    let own_uri = trust_domain.uri();
    let is_own = names.is_some_and(|names| {
        names.value.general_names.as_slice() == [GeneralName::URI(own_uri.as_str())]
    });
    if is_own {
        Ok(())
    } else {
        Err(CaError::OtherTrustDomain(trust_domain.clone()))
    }
}

fn uri_name(uri: &str) -> Result<SanType, CaError> {
    Ok(SanType::URI(uri.try_into()?))
}

fn server_name(name: &str) -> Result<SanType, CaError> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    DnsName::try_from(name).map_err(|_| CaError::ServerName(name.to_owned()))?;
    Ok(SanType::DnsName(name.try_into()?))
}

/// Our signing key, as rcgen wants to see it.
struct CaKey {
    key: Arc<dyn SigningKey>,
    public_key: PublicKey,
}

impl CaKey {
    fn new(key: Arc<dyn SigningKey>) -> Result<Self, CaError> {
        if key.algorithm() != KeyAlgorithm::EcdsaP256 {
            return Err(CaError::KeyUnsupported);
        }
        let public_key =
            PublicKey::from_spki(key.public_key_spki_der()).map_err(|_| CaError::KeyUnsupported)?;
        Ok(Self { key, public_key })
    }
}

impl PublicKeyData for CaKey {
    fn der_bytes(&self) -> &[u8] {
        self.public_key.point()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for CaKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.key
            .sign(message)
            .map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

struct SubjectKey<'a>(&'a PublicKey);

impl PublicKeyData for SubjectKey<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0.point()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

#[cfg(test)]
mod tests;
