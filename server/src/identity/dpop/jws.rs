//! A proof's text: a compact JWS whose header carries the key that signed it.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::DpopError;
use crate::identity::public_key::PublicKey;

const TYPE: &str = "dpop+jwt";
const ALGORITHM: &str = "ES256";
const COORDINATE_LEN: usize = 32;
const SIGNATURE_LEN: usize = 64;

/// The only header that is understood; one that says more (`crit`) wants more.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    typ: Option<String>,
    alg: Option<String>,
    jwk: Option<Jwk>,
}

/// A public key, with the members that common libraries add. Private ones are read to be
/// named; what is not known is refused.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Jwk {
    kty: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    _use: Option<IgnoredAny>,
    #[serde(rename = "kid")]
    _kid: Option<IgnoredAny>,
    #[serde(rename = "key_ops")]
    _key_ops: Option<IgnoredAny>,
    #[serde(rename = "ext")]
    _ext: Option<IgnoredAny>,
    n: Option<IgnoredAny>,
    e: Option<IgnoredAny>,
    d: Option<IgnoredAny>,
    p: Option<IgnoredAny>,
    q: Option<IgnoredAny>,
    dp: Option<IgnoredAny>,
    dq: Option<IgnoredAny>,
    qi: Option<IgnoredAny>,
    oth: Option<IgnoredAny>,
    k: Option<IgnoredAny>,
}

/// The claims that are looked at. Others mean nothing here, as the RFC allows.
#[derive(Debug, Deserialize)]
pub(super) struct Claims {
    pub(super) jti: Option<String>,
    pub(super) htm: Option<String>,
    pub(super) htu: Option<String>,
    pub(super) iat: Option<i64>,
    pub(super) ath: Option<String>,
    pub(super) nonce: Option<String>,
}

/// A proof that is well-formed and of the right kind. Its signature is not looked at yet.
#[derive(Debug)]
pub(super) struct Jws<'a> {
    claims: Claims,
    public_key: PublicKey,
    signed: &'a str,
    signature: Vec<u8>,
}

impl<'a> Jws<'a> {
    /// Reads a proof.
    pub(super) fn parse(text: &'a str) -> Result<Self, DpopError> {
        let (signed, signature) = text.rsplit_once('.').ok_or(DpopError::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(DpopError::Malformed)?;
        let header: Header =
            serde_json::from_slice(&decode(header)?).map_err(|_| DpopError::Malformed)?;
        if header.typ.as_deref() != Some(TYPE) {
            return Err(DpopError::Type);
        }
        if header.alg.as_deref() != Some(ALGORITHM) {
            return Err(DpopError::Algorithm);
        }
        let public_key = header.jwk.ok_or(DpopError::Key)?.public_key()?;
        Ok(Self {
            claims: serde_json::from_slice(&decode(payload)?).map_err(|_| DpopError::Malformed)?,
            public_key,
            signed,
            signature: decode(signature)?,
        })
    }

    /// What it says.
    pub(super) fn claims(&self) -> &Claims {
        &self.claims
    }

    /// The key in its header, if that key signed it.
    pub(super) fn verified_key(self) -> Result<PublicKey, DpopError> {
        if self.signature.len() != SIGNATURE_LEN {
            return Err(DpopError::Signature);
        }
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.public_key.point())
            .verify(self.signed.as_bytes(), &self.signature)
            .map_err(|_| DpopError::Signature)?;
        Ok(self.public_key)
    }
}

impl Jwk {
    fn public_key(&self) -> Result<PublicKey, DpopError> {
        let private = [&self.d, &self.p, &self.q, &self.dp, &self.dq, &self.qi];
        if private.iter().any(|member| member.is_some()) || self.oth.is_some() || self.k.is_some() {
            return Err(DpopError::PrivateKey);
        }
        let is = |member: &Option<String>, value| member.as_deref() == Some(value);
        let other = self.n.is_some() || self.e.is_some();
        let algorithm = self.alg.is_none() || is(&self.alg, ALGORITHM);
        if other || !algorithm || !is(&self.kty, "EC") || !is(&self.crv, "P-256") {
            return Err(DpopError::Key);
        }
        let mut point = vec![0x04];
        for coordinate in [&self.x, &self.y] {
            let bytes = coordinate.as_deref().map(decode).ok_or(DpopError::Key)?;
            let bytes = bytes.map_err(|_| DpopError::Key)?;
            if bytes.len() != COORDINATE_LEN {
                return Err(DpopError::Key);
            }
            point.extend(bytes);
        }
        PublicKey::from_point(&point).map_err(|_| DpopError::Key)
    }
}

fn decode(part: &str) -> Result<Vec<u8>, DpopError> {
    URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_| DpopError::Malformed)
}
