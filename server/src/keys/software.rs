//! A signing key held in this process's memory.

use std::fmt;

use aws_lc_rs::encoding::{AsBigEndian as _, AsDer as _, Curve25519SeedBin};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
};
use zeroize::Zeroizing;

use super::{KeyAlgorithm, KeyError, SigningKey, pem};

/// The PEM label of a PKCS#8 private key.
pub(crate) const PKCS8_LABEL: &str = "PRIVATE KEY";

/// A private key in memory. The library wipes it when it is dropped.
pub(crate) struct SoftwareKey {
    pair: Pair,
    spki_der: Vec<u8>,
}

enum Pair {
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    /// The key, and the form that it is stored in.
    Hmac(Box<hmac::Key>, Ed25519KeyPair),
}

fn hmac_pair(stored: Ed25519KeyPair) -> Option<Pair> {
    let seed: Curve25519SeedBin<'_> = stored.seed().ok()?.as_be_bytes().ok()?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, seed.as_ref());
    drop(seed);
    Some(Pair::Hmac(Box::new(key), stored))
}

impl SoftwareKey {
    /// A new random key.
    pub(crate) fn generate(algorithm: KeyAlgorithm) -> Result<Self, KeyError> {
        let pair = match algorithm {
            KeyAlgorithm::EcdsaP256 => EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)
                .map(Pair::Ecdsa)
                .map_err(|_| KeyError::Generate)?,
            KeyAlgorithm::Ed25519 => Ed25519KeyPair::generate()
                .map(Pair::Ed25519)
                .map_err(|_| KeyError::Generate)?,
            KeyAlgorithm::HmacSha256 => Ed25519KeyPair::generate()
                .ok()
                .and_then(hmac_pair)
                .ok_or(KeyError::Generate)?,
        };
        Self::new(pair).ok_or(KeyError::Generate)
    }

    /// The key in `pkcs8` (DER), if it is one of `algorithm`.
    pub(crate) fn from_pkcs8(algorithm: KeyAlgorithm, pkcs8: &[u8]) -> Option<Self> {
        let pair = match algorithm {
            KeyAlgorithm::EcdsaP256 => {
                EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8)
                    .ok()
                    .map(Pair::Ecdsa)?
            }
            KeyAlgorithm::Ed25519 => Ed25519KeyPair::from_pkcs8(pkcs8).ok().map(Pair::Ed25519)?,
            KeyAlgorithm::HmacSha256 => hmac_pair(Ed25519KeyPair::from_pkcs8(pkcs8).ok()?)?,
        };
        Self::new(pair)
    }

    fn new(pair: Pair) -> Option<Self> {
        let spki = match &pair {
            Pair::Ecdsa(key) => key.public_key().as_der(),
            Pair::Ed25519(key) => key.public_key().as_der(),
            Pair::Hmac(..) => {
                let spki_der = Vec::new();
                return Some(Self { pair, spki_der });
            }
        };
        let spki_der = spki.ok()?.as_ref().to_vec();
        Some(Self { pair, spki_der })
    }

    /// The private key as PKCS#8 DER: for sealing and for a credential folder only.
    pub(crate) fn pkcs8_der(&self) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let document = match &self.pair {
            Pair::Ecdsa(key) => key.to_pkcs8v1(),
            Pair::Ed25519(key) | Pair::Hmac(_, key) => key.to_pkcs8v1(),
        };
        let document = document.map_err(|_| KeyError::Generate)?;
        Ok(Zeroizing::new(document.as_ref().to_vec()))
    }

    /// The private key as PKCS#8 PEM, as it goes into a file of mode 0600.
    pub(crate) fn pkcs8_pem(&self) -> Result<Zeroizing<String>, KeyError> {
        Ok(pem::encode(PKCS8_LABEL, &self.pkcs8_der()?))
    }
}

impl SigningKey for SoftwareKey {
    fn algorithm(&self) -> KeyAlgorithm {
        match self.pair {
            Pair::Ecdsa(_) => KeyAlgorithm::EcdsaP256,
            Pair::Ed25519(_) => KeyAlgorithm::Ed25519,
            Pair::Hmac(..) => KeyAlgorithm::HmacSha256,
        }
    }

    fn public_key_spki_der(&self) -> &[u8] {
        &self.spki_der
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let signature = match &self.pair {
            Pair::Hmac(key, _) => return Ok(hmac::sign(key, message).as_ref().to_vec()),
            Pair::Ecdsa(key) => key.sign(&SystemRandom::new(), message),
            Pair::Ed25519(key) => key.try_sign(message),
        };
        let signature = signature.map_err(|_| KeyError::Sign)?;
        Ok(signature.as_ref().to_vec())
    }
}

impl fmt::Debug for SoftwareKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SoftwareKey")
            .field("algorithm", &self.algorithm())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_ASN1, ED25519, ParsedPublicKey, VerificationAlgorithm,
    };

    fn verifies(
        algorithm: &'static dyn VerificationAlgorithm,
        key: &SoftwareKey,
        message: &[u8],
        signature: &[u8],
    ) -> bool {
        ParsedPublicKey::new(algorithm, key.public_key_spki_der())
            .expect("an SPKI of that algorithm")
            .verify_sig(message, signature)
            .is_ok()
    }

    #[test]
    fn signatures_verify_under_the_published_key_and_survive_storage() {
        for (algorithm, verification) in [
            (
                KeyAlgorithm::EcdsaP256,
                &ECDSA_P256_SHA256_ASN1 as &'static dyn VerificationAlgorithm,
            ),
            (KeyAlgorithm::Ed25519, &ED25519),
        ] {
            let key = SoftwareKey::generate(algorithm).expect("a key");
            let stored = key.pkcs8_der().expect("PKCS#8");
            let loaded = SoftwareKey::from_pkcs8(algorithm, &stored).expect("own PKCS#8");
            assert_eq!(loaded.public_key_spki_der(), key.public_key_spki_der());
            let signature = loaded.sign(b"message").expect("a signature");
            assert!(verifies(verification, &key, b"message", &signature));
            assert!(!verifies(verification, &key, b"massage", &signature));
        }
    }

    #[test]
    fn a_code_is_hmac_under_the_bytes_that_are_stored() {
        let key = SoftwareKey::generate(KeyAlgorithm::HmacSha256).expect("a key");
        assert_eq!(key.public_key_spki_der(), b"", "nothing of it is public");
        let stored = key.pkcs8_der().expect("PKCS#8");
        let loaded = SoftwareKey::from_pkcs8(KeyAlgorithm::HmacSha256, &stored).expect("own form");
        // RFC 8410: the seed is the last 32 bytes of the 48 without a public key.
        let own = hmac::Key::new(hmac::HMAC_SHA256, &stored[16..48]);
        let code = loaded.sign(b"message").expect("a code");
        assert!(hmac::verify(&own, b"message", &code).is_ok());
        assert_eq!(code, key.sign(b"message").expect("the same"));
        assert_ne!(code, key.sign(b"massage").expect("another"));
    }

    #[test]
    fn a_key_of_another_algorithm_is_refused() {
        let ed25519 = SoftwareKey::generate(KeyAlgorithm::Ed25519).expect("a key");
        let stored = ed25519.pkcs8_der().expect("PKCS#8");
        assert!(SoftwareKey::from_pkcs8(KeyAlgorithm::EcdsaP256, &stored).is_none());
    }

    #[test]
    fn debug_shows_the_algorithm_only() {
        let key = SoftwareKey::generate(KeyAlgorithm::EcdsaP256).expect("a key");
        assert_eq!(
            format!("{key:?}"),
            "SoftwareKey { algorithm: EcdsaP256, .. }"
        );
    }
}
