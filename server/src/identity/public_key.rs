//! The one kind of public key that principals have: ECDSA P-256.
//!
//! Its `SubjectPublicKeyInfo` has exactly one DER form (named curve,
//! uncompressed point), so the hash of that form identifies the key. Other
//! encodings of the same key are refused rather than converted.

use std::fmt;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ParsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::OID_SIG_ECDSA_WITH_SHA256;
use x509_parser::prelude::FromDer as _;

use super::sha256;

/// DER of a P-256 `SubjectPublicKeyInfo` up to its point.
const SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
const POINT_LEN: usize = 65;
/// A CSR with a P-256 key needs some 300 bytes; far more is not one.
const CSR_LEN_MAX: usize = 16 * 1024;

/// Why a public key or the request that carries it is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PublicKeyError {
    /// It is not a PKCS#10 request in DER.
    #[error("the certificate signing request is not PKCS#10 in DER")]
    CsrMalformed,
    /// The request is signed with another algorithm than ECDSA with SHA-256.
    #[error("the certificate signing request is not signed with ECDSA and SHA-256")]
    CsrSignatureAlgorithm,
    /// The request is not signed with the key that it carries.
    #[error("the certificate signing request is not signed with its own key")]
    CsrSignature,
    /// The key is RSA, on another curve, or in another encoding.
    #[error("the key is not ECDSA P-256 with a named curve and an uncompressed point")]
    Unsupported,
}

/// A valid ECDSA P-256 public key.
#[derive(Clone)]
pub(crate) struct PublicKey {
    parsed: ParsedPublicKey,
    spki_der: [u8; SPKI_PREFIX.len() + POINT_LEN],
}

impl PublicKey {
    /// The key of a DER `SubjectPublicKeyInfo`.
    pub(crate) fn from_spki(der: &[u8]) -> Result<Self, PublicKeyError> {
        let spki_der = <[u8; SPKI_PREFIX.len() + POINT_LEN]>::try_from(der)
            .map_err(|_| PublicKeyError::Unsupported)?;
        if !spki_der.starts_with(&SPKI_PREFIX) {
            return Err(PublicKeyError::Unsupported);
        }
        // Refuses a point that is not on the curve.
        let parsed = ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &spki_der[SPKI_PREFIX.len()..])
            .map_err(|_| PublicKeyError::Unsupported)?;
        Ok(Self { parsed, spki_der })
    }

    /// The key of an uncompressed point: 0x04, x, y.
    pub(crate) fn from_point(point: &[u8]) -> Result<Self, PublicKeyError> {
        Self::from_spki(&[&SPKI_PREFIX, point].concat())
    }

    /// The key of a PKCS#10 request that proves possession of it. Whatever else
    /// the request asks for (names, CA, usages) is not even read.
    pub(crate) fn from_csr(der: &[u8]) -> Result<Self, PublicKeyError> {
        if der.len() > CSR_LEN_MAX {
            return Err(PublicKeyError::CsrMalformed);
        }
        let (rest, csr) =
            X509CertificationRequest::from_der(der).map_err(|_| PublicKeyError::CsrMalformed)?;
        if !rest.is_empty() {
            return Err(PublicKeyError::CsrMalformed);
        }
        let info = &csr.certification_request_info;
        let key = Self::from_spki(info.subject_pki.raw)?;
        if csr.signature_algorithm.algorithm != OID_SIG_ECDSA_WITH_SHA256 {
            return Err(PublicKeyError::CsrSignatureAlgorithm);
        }
        if !key.verifies(info.raw, &csr.signature_value.data) {
            return Err(PublicKeyError::CsrSignature);
        }
        Ok(key)
    }

    /// The key as a DER `SubjectPublicKeyInfo`.
    #[cfg(test)]
    pub(crate) fn spki_der(&self) -> &[u8] {
        &self.spki_der
    }

    /// The uncompressed point: 0x04, x, y.
    pub(crate) fn point(&self) -> &[u8] {
        &self.spki_der[SPKI_PREFIX.len()..]
    }

    /// SHA-256 of [`Self::spki_der`]: the key's identity.
    pub(crate) fn sha256(&self) -> [u8; 32] {
        sha256(&self.spki_der)
    }

    /// The key's JWK thumbprint (RFC 7638).
    pub(crate) fn thumbprint(&self) -> [u8; 32] {
        let (x, y) = self.point()[1..].split_at(32);
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        let jwk = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        sha256(jwk.as_bytes())
    }

    /// Whether `signature` (ECDSA with SHA-256, ASN.1 DER) is this key's over `message`.
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.parsed.verify_sig(message, signature).is_ok()
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.spki_der == other.spki_der
    }
}

impl Eq for PublicKey {}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey(sha256:{})", hex::encode(self.sha256()))
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PublicKeyData as _};

    use super::*;

    fn csr(key: &KeyPair) -> Vec<u8> {
        let request = CertificateParams::default().serialize_request(key);
        request.expect("a request").der().to_vec()
    }

    #[test]
    fn a_signed_request_yields_its_key() {
        let pair = KeyPair::generate().expect("a key");
        let key = PublicKey::from_csr(&csr(&pair)).expect("the key");
        assert_eq!(key.spki_der(), pair.subject_public_key_info());
        assert_eq!(key.point(), pair.public_key_raw());
        assert_eq!(PublicKey::from_spki(key.spki_der()), Ok(key));
    }

    #[test]
    fn other_algorithms_are_refused() {
        for algorithm in [
            &rcgen::PKCS_ECDSA_P384_SHA384,
            &rcgen::PKCS_ED25519,
            &rcgen::PKCS_RSA_SHA256,
        ] {
            let pair = KeyPair::generate_for(algorithm).expect("a key");
            let error = PublicKey::from_csr(&csr(&pair));
            assert_eq!(error, Err(PublicKeyError::Unsupported), "{algorithm:?}");
        }
    }

    #[test]
    fn a_signature_of_another_key_or_over_other_bytes_is_refused() {
        /// Signs with one key and shows another.
        struct Borrowed<'a>(&'a KeyPair, &'a KeyPair);
        impl rcgen::PublicKeyData for Borrowed<'_> {
            fn der_bytes(&self) -> &[u8] {
                self.1.der_bytes()
            }
            fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
                self.1.algorithm()
            }
        }
        impl rcgen::SigningKey for Borrowed<'_> {
            fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
                self.0.sign(message)
            }
        }
        let (attacker, victim) = (
            KeyPair::generate().expect("a key"),
            KeyPair::generate().expect("a key"),
        );
        let request = CertificateParams::default()
            .serialize_request(&Borrowed(&attacker, &victim))
            .expect("a request");
        assert_eq!(
            PublicKey::from_csr(request.der()),
            Err(PublicKeyError::CsrSignature)
        );
    }

    #[test]
    fn no_altered_or_cut_request_yields_another_key() {
        let good = csr(&KeyPair::generate().expect("a key"));
        let key = PublicKey::from_csr(&good).expect("the key");
        let (_, parsed) = X509CertificationRequest::from_der(&good).expect("PKCS#10");
        let signed = parsed.certification_request_info.raw;
        let signed_at = good.windows(signed.len()).position(|part| part == signed);
        let signed_at = signed_at.expect("part of the request");
        for at in 0..good.len() {
            let mut altered = good.clone();
            altered[at] ^= 0x01;
            // The parser forgives some damage around the signed part: harmless, if the key stays.
            let found = PublicKey::from_csr(&altered);
            let is_signed = (signed_at..signed_at + signed.len()).contains(&at);
            let harmless = !is_signed && found.as_ref() == Ok(&key);
            assert!(found.is_err() || harmless, "byte {at}");
            assert!(PublicKey::from_csr(&good[..at]).is_err(), "length {at}");
        }
        let mut longer = good.clone();
        longer.push(0);
        assert_eq!(
            PublicKey::from_csr(&longer),
            Err(PublicKeyError::CsrMalformed)
        );
        let huge = vec![0x30; CSR_LEN_MAX + 1];
        assert_eq!(
            PublicKey::from_csr(&huge),
            Err(PublicKeyError::CsrMalformed)
        );
    }

    #[test]
    fn a_point_off_the_curve_is_refused() {
        let pair = KeyPair::generate().expect("a key");
        let mut spki = pair.subject_public_key_info();
        *spki.last_mut().expect("bytes") ^= 1;
        assert_eq!(
            PublicKey::from_spki(&spki),
            Err(PublicKeyError::Unsupported)
        );
    }
}
