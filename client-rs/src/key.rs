//! The enrolled key: EC P-256, made here, never sent.

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
    },
};
use rcgen::{CertificateParams, DistinguishedName, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::{PrivatePkcs8KeyDer, pem::PemObject as _};

/// What stands before the challenge in what is signed, so that a signature given here
/// means nothing anywhere else.
const CHALLENGE_PREFIX: &[u8] = b"zta-challenge-v1\0";

/// A private key in memory.
pub(crate) struct Key {
    pair: EcdsaKeyPair,
    /// The same, for signatures in the form of JWS.
    fixed: EcdsaKeyPair,
    pkcs8: PrivatePkcs8KeyDer<'static>,
}

/// A key that was just made, with the request for its first certificate.
pub(crate) struct NewKey {
    /// PKCS#8.
    pub(crate) key_pem: String,
    /// PKCS#10: proves that the sender holds the key. The server reads nothing else in it.
    pub(crate) csr_der: Vec<u8>,
}

impl NewKey {
    /// Makes a key.
    pub(crate) fn generate() -> Result<Self, String> {
        let pair = rcgen::KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
            .map_err(|e| format!("cannot make a key: {e}"))?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let csr = params
            .serialize_request(&pair)
            .map_err(|e| format!("cannot make a certificate request: {e}"))?;
        Ok(Self {
            key_pem: pair.serialize_pem(),
            csr_der: csr.der().to_vec(),
        })
    }
}

impl Key {
    pub(crate) fn from_pem(pem: &[u8]) -> Result<Self, &'static str> {
        let pkcs8 = PrivatePkcs8KeyDer::from_pem_slice(pem)
            .map_err(|_| "holds no unencrypted PKCS#8 private key in PEM")?;
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.secret_pkcs8_der())
                .map_err(|_| "is not an EC P-256 key")?;
        let fixed =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.secret_pkcs8_der())
                .map_err(|_| "is not an EC P-256 key")?;
        Ok(Self { pair, fixed, pkcs8 })
    }

    pub(crate) fn pkcs8(&self) -> &[u8] {
        self.pkcs8.secret_pkcs8_der()
    }

    /// The public key as an uncompressed point, as a certificate carries it.
    pub(crate) fn public_key(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    /// A signature over the text of a JWS (ES256).
    pub(crate) fn sign_jws(&self, text: &[u8]) -> Result<Vec<u8>, &'static str> {
        let signature = self.fixed.sign(&SystemRandom::new(), text);
        let signature = signature.map_err(|_| "cannot sign")?;
        Ok(signature.as_ref().to_vec())
    }

    pub(crate) fn sign_challenge(&self, challenge: &[u8]) -> Result<Vec<u8>, &'static str> {
        let message = [CHALLENGE_PREFIX, challenge].concat();
        self.pair
            .sign(&SystemRandom::new(), &message)
            .map(|signature| signature.as_ref().to_vec())
            .map_err(|_| "cannot sign")
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
    use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer as _};

    use super::*;

    #[test]
    fn the_request_proves_the_key_that_was_made() {
        let new = NewKey::generate().expect("key");
        let key = Key::from_pem(new.key_pem.as_bytes()).expect("reads back");
        let (rest, csr) = X509CertificationRequest::from_der(&new.csr_der).expect("PKCS#10");
        assert!(rest.is_empty());
        let info = &csr.certification_request_info;
        assert_eq!(info.subject_pki.subject_public_key.data, key.public_key());
        assert_eq!(info.subject.to_string(), "");
        let signed = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.public_key());
        signed
            .verify(info.raw, &csr.signature_value.data)
            .expect("signed with the key");
    }

    #[test]
    fn a_challenge_is_signed_under_its_prefix() {
        let new = NewKey::generate().expect("key");
        let key = Key::from_pem(new.key_pem.as_bytes()).expect("key");
        let signature = key.sign_challenge(b"nonce").expect("signature");
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.public_key());
        assert!(
            public
                .verify(b"zta-challenge-v1\0nonce", &signature)
                .is_ok()
        );
        assert!(public.verify(b"nonce", &signature).is_err());
    }

    #[test]
    fn another_kind_of_key_is_refused() {
        let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).expect("key");
        let error = Key::from_pem(p384.serialize_pem().as_bytes()).err();
        assert_eq!(error, Some("is not an EC P-256 key"));
        assert!(Key::from_pem(b"-----BEGIN NONSENSE-----").is_err());
    }
}
