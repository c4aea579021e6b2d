//! What a verified client certificate says, read once per connection.
//!
//! The TLS layer has checked the chain. This reads the leaf by the rules of
//! X509-SVIDs: exactly one URI name, which is a SPIFFE ID with a path; not a
//! CA; a key for signatures.

use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use super::generation;
use super::public_key::PublicKey;
use super::sha256;
use super::spiffe::{SpiffeError, SpiffeId};

/// Why a certificate names nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PeerError {
    /// It is not an X.509 certificate in DER, or an extension is damaged or doubled.
    #[error("the certificate cannot be read")]
    Malformed,
    /// It is a CA certificate.
    #[error("the certificate is a CA's")]
    Ca,
    /// Its key usage does not include digital signatures, or includes those of a CA.
    #[error("the certificate's key usage is not that of a principal")]
    KeyUsage,
    /// Its key is not ECDSA P-256.
    #[error("the certificate's key is not ECDSA P-256")]
    KeyUnsupported,
    /// Its generation cannot be read.
    #[error("the certificate's generation is malformed")]
    Generation,
    /// It has no URI name.
    #[error("the certificate has no SPIFFE ID")]
    NoSpiffeId,
    /// It has several URI names.
    #[error("the certificate has several URI names")]
    ManyUris,
    /// Its URI name is not a SPIFFE ID.
    #[error("the certificate's URI name is not a SPIFFE ID: {0}")]
    SpiffeId(#[from] SpiffeError),
}

/// The client certificate of a connection, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PeerCertificate {
    spiffe_id: SpiffeId,
    public_key: PublicKey,
    key_sha256: [u8; 32],
    certificate_sha256: [u8; 32],
    generation: Option<u64>,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
    issuer: Option<String>,
}

impl PeerCertificate {
    /// Reads the certificate in `der`. Its signature is the TLS layer's to verify.
    pub(crate) fn from_der(der: &[u8]) -> Result<Self, PeerError> {
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|_| PeerError::Malformed)?;
        if !rest.is_empty() {
            return Err(PeerError::Malformed);
        }
        require_leaf(&certificate)?;
        let public_key = PublicKey::from_spki(certificate.public_key().raw)
            .map_err(|_| PeerError::KeyUnsupported)?;
        let validity = certificate.validity();
        Ok(Self {
            spiffe_id: only_uri(&certificate)?,
            key_sha256: public_key.sha256(),
            public_key,
            certificate_sha256: sha256(der),
            generation: generation::of(&certificate).map_err(|()| PeerError::Generation)?,
            not_before: validity.not_before.to_datetime(),
            not_after: validity.not_after.to_datetime(),
            issuer: None,
        })
    }

    /// The same certificate, with the CA whose signature the TLS layer has verified.
    pub(crate) fn issued_by(mut self, issuer: String) -> Self {
        self.issuer = Some(issuer);
        self
    }

    /// The CA that issued it: SHA-256 of its certificate, in hex.
    pub(crate) fn issuer(&self) -> Option<&str> {
        self.issuer.as_deref()
    }

    /// Whom the certificate names.
    pub(crate) fn spiffe_id(&self) -> &SpiffeId {
        &self.spiffe_id
    }

    /// The principal's key.
    pub(crate) fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// SHA-256 of the key's `SubjectPublicKeyInfo`: what enrolment recorded.
    pub(crate) fn key_sha256(&self) -> &[u8; 32] {
        &self.key_sha256
    }

    /// SHA-256 of the certificate: `x5t#S256` of RFC 8705.
    pub(crate) fn certificate_sha256(&self) -> &[u8; 32] {
        &self.certificate_sha256
    }

    /// Which of its key's certificates it is, if it says so.
    pub(crate) fn generation(&self) -> Option<u64> {
        self.generation
    }

    /// The first moment at which it holds.
    pub(crate) fn not_before(&self) -> OffsetDateTime {
        self.not_before
    }

    /// The last moment at which it holds.
    pub(crate) fn not_after(&self) -> OffsetDateTime {
        self.not_after
    }

    /// Whether the certificate holds at `now`: asked on every call, since a
    /// connection outlives the handshake that checked it.
    pub(crate) fn holds_at(&self, now: OffsetDateTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }

    /// Whether `signature` (ECDSA with SHA-256, ASN.1 DER) is this peer's over `message`.
    pub(crate) fn verify_signature(&self, message: &[u8], signature: &[u8]) -> bool {
        self.public_key.verifies(message, signature)
    }
}

/// Whether the certificate in `der` was signed with this key.
pub(crate) fn is_signed_by(der: &[u8], key: &PublicKey) -> bool {
    X509Certificate::from_der(der).is_ok_and(|(_, certificate)| {
        let signature = &certificate.signature_value.data;
        key.verifies(certificate.tbs_certificate.as_ref(), signature)
    })
}

fn require_leaf(certificate: &X509Certificate<'_>) -> Result<(), PeerError> {
    let constraints = certificate
        .basic_constraints()
        .map_err(|_| PeerError::Malformed)?;
    if constraints.is_some_and(|constraints| constraints.value.ca) {
        return Err(PeerError::Ca);
    }
    let usage = certificate.key_usage().map_err(|_| PeerError::Malformed)?;
    let fits = usage.is_some_and(|usage| {
        usage.value.digital_signature() && !usage.value.key_cert_sign() && !usage.value.crl_sign()
    });
    if fits {
        Ok(())
    } else {
        Err(PeerError::KeyUsage)
    }
}

fn only_uri(certificate: &X509Certificate<'_>) -> Result<SpiffeId, PeerError> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| PeerError::Malformed)?
        .ok_or(PeerError::NoSpiffeId)?;
    let mut uris = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
    let uri = uris.next().ok_or(PeerError::NoSpiffeId)?;
    if uris.next().is_some() {
        return Err(PeerError::ManyUris);
    }
    Ok(SpiffeId::parse(uri)?)
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose, SanType,
        SigningKey as _,
    };

    use super::*;

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().expect("ASCII"))
    }

    fn leaf(names: Vec<SanType>) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params
    }

    fn parse(params: &CertificateParams) -> Result<PeerCertificate, PeerError> {
        let key = KeyPair::generate().expect("a key");
        PeerCertificate::from_der(params.self_signed(&key).expect("a certificate").der())
    }

    #[test]
    fn the_one_uri_is_the_identity() {
        let key = KeyPair::generate().expect("a key");
        let dns = SanType::DnsName("admin.zta.local".try_into().expect("ASCII"));
        let mut params = leaf(vec![dns, uri("spiffe://zta.local/agent/research")]);
        params.not_before = time::macros::datetime!(2026-11-22 00:00 UTC);
        params.not_after = time::macros::datetime!(2026-11-22 01:00 UTC);
        let der = params
            .self_signed(&key)
            .expect("a certificate")
            .der()
            .to_vec();
        let peer = PeerCertificate::from_der(&der).expect("a principal");
        assert_eq!(
            peer.spiffe_id().as_str(),
            "spiffe://zta.local/agent/research"
        );
        assert_eq!(peer.certificate_sha256(), &sha256(&der));
        assert_eq!(*peer.key_sha256(), peer.public_key().sha256());
        assert_eq!(
            (peer.not_before(), peer.not_after()),
            (params.not_before, params.not_after)
        );

        let second = time::Duration::SECOND;
        assert!(!peer.holds_at(params.not_before - second));
        assert!(peer.holds_at(params.not_before) && peer.holds_at(params.not_after));
        assert!(!peer.holds_at(params.not_after + second));

        let signature = key.sign(b"message").expect("a signature");
        assert!(peer.verify_signature(b"message", &signature));
        assert!(!peer.verify_signature(b"massage", &signature));
        assert!(!peer.verify_signature(b"message", &[]));
    }

    #[test]
    fn a_certificate_without_exactly_one_spiffe_id_names_nobody() {
        let dns = SanType::DnsName("zta.local".try_into().expect("ASCII"));
        let (a, b) = (uri("spiffe://td/agent/a"), uri("https://td/agent/b"));
        assert_eq!(parse(&leaf(vec![])), Err(PeerError::NoSpiffeId));
        assert_eq!(parse(&leaf(vec![dns])), Err(PeerError::NoSpiffeId));
        assert_eq!(parse(&leaf(vec![a, b.clone()])), Err(PeerError::ManyUris));
        assert_eq!(parse(&leaf(vec![b])), Err(SpiffeError::Scheme.into()));
        let no_path = parse(&leaf(vec![uri("spiffe://td")]));
        assert_eq!(no_path, Err(SpiffeError::Path.into()));
    }

    #[test]
    fn a_ca_or_a_key_of_other_use_names_nobody() {
        let name = || vec![uri("spiffe://td/agent/a")];
        let mut ca = leaf(name());
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        assert_eq!(parse(&ca), Err(PeerError::Ca));
        let mut unsigned = leaf(name());
        unsigned.key_usages = vec![];
        assert_eq!(parse(&unsigned), Err(PeerError::KeyUsage));
        let mut signs = leaf(name());
        signs.key_usages.push(KeyUsagePurpose::KeyCertSign);
        assert_eq!(parse(&signs), Err(PeerError::KeyUsage));

        let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).expect("a key");
        let der = leaf(name()).self_signed(&p384).expect("a certificate");
        let error = PeerCertificate::from_der(der.der());
        assert_eq!(error, Err(PeerError::KeyUnsupported));
    }

    #[test]
    fn a_generation_that_cannot_be_read_names_nobody() {
        let with = |values: &[&[u8]]| {
            let mut params = leaf(vec![uri("spiffe://td/agent/a")]);
            for value in values {
                let extension = rcgen::CustomExtension::from_oid_content(
                    &generation::GENERATION_OID,
                    value.to_vec(),
                );
                params.custom_extensions.push(extension);
            }
            parse(&params).map(|peer| peer.generation())
        };
        assert_eq!(with(&[]), Ok(None));
        assert_eq!(with(&[&[2, 1, 7]]), Ok(Some(7)));
        assert_eq!(with(&[&[2, 1, 0xff]]), Err(PeerError::Generation));
        assert_eq!(with(&[&[12, 1, b'7']]), Err(PeerError::Generation));
        let twice = with(&[&[2, 1, 7], &[2, 1, 7]]);
        assert!(matches!(
            twice,
            Err(PeerError::Generation | PeerError::Malformed)
        ));
    }

    #[test]
    fn garbage_is_malformed() {
        for bytes in [&b""[..], b"garbage", &[0x30, 0x80], &[0x30; 4096]] {
            assert_eq!(PeerCertificate::from_der(bytes), Err(PeerError::Malformed));
        }
    }
}
