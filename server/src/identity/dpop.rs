//! Proof of possession with each call (DPoP, RFC 9449): where TLS ends before this server,
//! the caller signs what it calls, when, and with which token.
//!
//! Beyond the RFC: a nonce of this replica is always required, and each proof is good
//! once. Nonces are stateless; the memory of used proofs is bounded, forgets nothing that
//! could still be used, and refuses when it is full.
//!
//! [`DpopVerifier::verify`] looks at a proof, [`DpopVerifier::spend`] uses it up: what comes
//! with a token is only remembered once the token is found good, so that strangers cannot
//! fill the memory of those who have one.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use time::{Duration, OffsetDateTime};

mod jws;
mod memory;
mod nonce;

use jws::{Claims, Jws};
use memory::UsedProofs;
use nonce::{NonceKey, NonceTime};

use super::possession::ProvenKey;
use super::sha256;

/// How long a nonce is good for.
pub(crate) const NONCE_LIFETIME: Duration = Duration::minutes(5);
/// Used proofs that come with a good token, at most: some 64 MB.
pub(crate) const PROOFS_MAX: usize = 1_000_000;
/// Used proofs of one key, at most: some 300 calls a second, all the time.
pub(crate) const PROOFS_PER_KEY_MAX: u32 = 100_000;
/// Used proofs of those who have no token yet, at most.
const ANONYMOUS_PROOFS_MAX: usize = 100_000;
/// The same of one key: logins.
const ANONYMOUS_PROOFS_PER_KEY_MAX: u32 = 64;

/// A proof may be this old: no older than its nonce.
const AGE_MAX: Duration = NONCE_LIFETIME;
/// The caller's clock may be this far ahead of ours.
const AHEAD_MAX: Duration = Duration::MINUTE;
/// A proof has some 600 bytes; a longer text is not one.
const PROOF_LEN_MAX: usize = 4096;
/// Characters of a proof's id.
const ID_LEN_MAX: usize = 128;
/// Every gRPC call is a POST.
const METHOD: &str = "POST";

/// Why a proof proves nothing. The caller hears of most by one name; these tell the
/// record which it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DpopError {
    /// The call has several.
    #[error("the call has more than one proof")]
    Several,
    /// It is not a compact JWS with a JSON header and payload, or has a member twice.
    #[error("the proof is malformed")]
    Malformed,
    /// It is a JWT of another type.
    #[error("the token is not a proof (`typ` is not `dpop+jwt`)")]
    Type,
    /// Its header names another algorithm than ES256.
    #[error("the proof is not signed with ES256")]
    Algorithm,
    /// Its header has no P-256 public key.
    #[error("the proof's `jwk` is not a P-256 public key")]
    Key,
    /// Its header gives a private key away.
    #[error("the proof's `jwk` holds a private key; that key is burnt, make a new one")]
    PrivateKey,
    /// Its signature does not verify.
    #[error("the proof's signature does not verify")]
    Signature,
    /// A required claim is missing or has another type or length.
    #[error("the proof has no valid claim `{0}`")]
    Claim(&'static str),
    /// It was made for another method.
    #[error("the proof is for another method (`htm`)")]
    Method,
    /// It was made for another URI.
    #[error("the proof is for another address or call (`htu`)")]
    Uri,
    /// It was made too long ago, or in the future.
    #[error("the proof's time (`iat`) is too far from this server's; set the clock")]
    Time,
    /// It was made for another access token, or for one that the call does not have.
    #[error("the proof is for another access token (`ath`)")]
    AccessToken,
    /// It has no nonce.
    #[error("the proof has no nonce; take the one in `dpop-nonce`")]
    NonceMissing,
    /// Its nonce is of another replica or from before a restart.
    #[error("the proof's nonce is of another replica; take the one in `dpop-nonce`")]
    NonceForeign,
    /// Its nonce was not made here.
    #[error("the proof's nonce was not made here; take the one in `dpop-nonce`")]
    NonceForged,
    /// Its nonce's time is over.
    #[error("the proof's nonce has expired; take the one in `dpop-nonce`")]
    NonceExpired,
    /// It was used before.
    #[error("the proof was used before")]
    Replayed,
    /// Its key has used too many.
    #[error("this key has used as many proofs as it may within five minutes")]
    TooManyOfKey,
    /// The memory is full.
    #[error("no more proofs can be taken until the nonces of some expire")]
    Full,
    /// It is by another key than the certificate's.
    #[error("the proof is by another key than the certificate's")]
    OtherKey,
    /// No random bytes could be drawn.
    #[error("no randomness for the nonces")]
    Random,
}

impl DpopError {
    /// Whether the same call with a fresh nonce can pass.
    pub(crate) fn wants_nonce(self) -> bool {
        matches!(
            self,
            Self::NonceMissing | Self::NonceForeign | Self::NonceForged | Self::NonceExpired
        )
    }

    /// Whether the caller could not know better: it had no nonce of this replica yet, or none
    /// any more.
    pub(crate) fn is_first_step(self) -> bool {
        matches!(
            self,
            Self::NonceMissing | Self::NonceForeign | Self::NonceExpired
        )
    }

    /// Whether the same caller can pass later.
    pub(crate) fn passes(self) -> bool {
        matches!(self, Self::TooManyOfKey | Self::Full)
    }
}

/// The call that a proof came with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProvenCall<'a> {
    /// The path of the call: that of the gRPC method.
    pub(crate) path: &'a str,
    /// The host, and port, that the call was sent to.
    pub(crate) authority: Option<&'a str>,
    /// The access token of the call.
    pub(crate) token: Option<&'a str>,
}

/// A proof that verifies and is not used up yet.
#[derive(Debug)]
pub(crate) struct VerifiedProof {
    key: ProvenKey,
    /// SHA-256 over the proof's id.
    id: [u8; 32],
    nonce_time: NonceTime,
}

impl VerifiedProof {
    /// Its key, to see whether a token is bound to it. Nobody is authenticated by it
    /// before the proof is spent.
    pub(crate) fn key(&self) -> &ProvenKey {
        &self.key
    }

    /// Whether it is time for the caller to take another nonce.
    pub(crate) fn nonce_is_old(&self, now: OffsetDateTime) -> bool {
        now - self.nonce_time.moment() >= NONCE_LIFETIME / 2
    }
}

/// Verifies the proofs that come to this replica.
pub(crate) struct DpopVerifier {
    nonces: NonceKey,
    names: Vec<String>,
    hosts: Vec<String>,
    used: UsedProofs,
    anonymous: UsedProofs,
}

impl DpopVerifier {
    /// For calls to the address they were sent to, if its host is one of `hosts`, which are
    /// the server's own, or to one of `names` (`host` or `host:port`): a proxy in front may
    /// send another one on.
    ///
    /// The address that a call says it was sent to is its sender's text: without names of
    /// its own to compare it with, the server would take proofs that were made for another
    /// server, and passed on by that.
    ///
    /// # Errors
    /// [`DpopError::Random`].
    pub(crate) fn new(names: &[String], hosts: &[String]) -> Result<Self, DpopError> {
        let mut verifier = Self::with_limits(names, PROOFS_MAX, PROOFS_PER_KEY_MAX)?;
        verifier.hosts = hosts.iter().map(|host| bare(&normal(host))).collect();
        Ok(verifier)
    }

    fn with_limits(names: &[String], max: usize, per_key_max: u32) -> Result<Self, DpopError> {
        Ok(Self {
            nonces: NonceKey::generate()?,
            names: names.iter().map(|name| normal(name)).collect(),
            hosts: Vec::new(),
            used: UsedProofs::new(max, per_key_max),
            anonymous: UsedProofs::new(
                max.min(ANONYMOUS_PROOFS_MAX),
                per_key_max.min(ANONYMOUS_PROOFS_PER_KEY_MAX),
            ),
        })
    }

    /// A nonce of this replica.
    pub(crate) fn nonce(&self, now: OffsetDateTime) -> String {
        self.nonces.nonce(now)
    }

    /// The one proof among the values of the `DPoP` header, verified.
    ///
    /// # Errors
    /// Why it proves nothing.
    pub(crate) fn verify<'a>(
        &self,
        proofs: impl IntoIterator<Item = &'a [u8]>,
        call: &ProvenCall<'_>,
        now: OffsetDateTime,
    ) -> Result<VerifiedProof, DpopError> {
        let mut proofs = proofs.into_iter();
        let proof = proofs.next().ok_or(DpopError::Malformed)?;
        if proofs.next().is_some() {
            return Err(DpopError::Several);
        }
        if proof.len() > PROOF_LEN_MAX {
            return Err(DpopError::Malformed);
        }
        let proof = std::str::from_utf8(proof).map_err(|_| DpopError::Malformed)?;
        let jws = Jws::parse(proof)?;
        let id = self.require(jws.claims(), call, now)?;
        // The nonce before the signature: strangers shall not make us verify many.
        let nonce = jws.claims().nonce.as_deref();
        let nonce_time = self
            .nonces
            .open(nonce.ok_or(DpopError::NonceMissing)?, now)?;
        let token_sha256 = self.require_token(jws.claims(), call)?;
        let public_key = jws.verified_key()?;
        Ok(VerifiedProof {
            key: ProvenKey {
                thumbprint: public_key.thumbprint(),
                public_key,
                token_sha256,
            },
            id,
            nonce_time,
        })
    }

    /// Uses a proof up. Call it last: whatever comes after it may rely on the key.
    ///
    /// # Errors
    /// When it was used before, or cannot be remembered.
    pub(crate) fn spend(
        &self,
        proof: VerifiedProof,
        now: OffsetDateTime,
    ) -> Result<ProvenKey, DpopError> {
        // A proof with `ath` is refused without a token and the reverse, so each is
        // always looked for where it was remembered.
        let memory = match proof.key.token_sha256 {
            Some(_) => &self.used,
            None => &self.anonymous,
        };
        memory.spend(&proof.key.thumbprint, &proof.id, proof.nonce_time, now)?;
        Ok(proof.key)
    }

    /// Looks at what the proof says about the call; the proof's id as it is remembered.
    fn require(
        &self,
        claims: &Claims,
        call: &ProvenCall<'_>,
        now: OffsetDateTime,
    ) -> Result<[u8; 32], DpopError> {
        let id = claims.jti.as_deref().ok_or(DpopError::Claim("jti"))?;
        if id.is_empty() || id.chars().count() > ID_LEN_MAX {
            return Err(DpopError::Claim("jti"));
        }
        let method = claims.htm.as_deref().ok_or(DpopError::Claim("htm"))?;
        if method != METHOD {
            return Err(DpopError::Method);
        }
        let uri = claims.htu.as_deref().ok_or(DpopError::Claim("htu"))?;
        if !self.is_uri_of(uri, call) {
            return Err(DpopError::Uri);
        }
        let made = claims.iat.ok_or(DpopError::Claim("iat"))?;
        let made =
            OffsetDateTime::from_unix_timestamp(made).map_err(|_| DpopError::Claim("iat"))?;
        let age = now - made;
        if age > AGE_MAX || age < -AHEAD_MAX {
            return Err(DpopError::Time);
        }
        Ok(sha256(id.as_bytes()))
    }

    /// `https`, a host of ours, the path of the call, and nothing else.
    fn is_uri_of(&self, uri: &str, call: &ProvenCall<'_>) -> bool {
        let Some(rest) = uri.strip_prefix("https://") else {
            return false;
        };
        let Some(at) = rest.find('/') else {
            return false;
        };
        let (host, path) = rest.split_at(at);
        let host = normal(host);
        let is_ours = |name: &str| !name.is_empty() && name == host;
        let is_named = || self.hosts.contains(&host_of(&host));
        path == call.path
            && (is_named() && call.authority.is_some_and(|a| is_ours(&normal(a)))
                || self.names.iter().any(|name| is_ours(name)))
    }

    fn require_token(
        &self,
        claims: &Claims,
        call: &ProvenCall<'_>,
    ) -> Result<Option<[u8; 32]>, DpopError> {
        match (claims.ath.as_deref(), call.token) {
            (None, None) => Ok(None),
            (None, Some(_)) => Err(DpopError::Claim("ath")),
            (Some(_), None) => Err(DpopError::AccessToken),
            (Some(hash), Some(token)) => {
                let digest = sha256(token.as_bytes());
                let hash = URL_SAFE_NO_PAD
                    .decode(hash)
                    .map_err(|_| DpopError::Claim("ath"))?;
                verify_slices_are_equal(&hash, &digest).map_err(|_| DpopError::AccessToken)?;
                Ok(Some(digest))
            }
        }
    }
}

impl fmt::Debug for DpopVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DpopVerifier")
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

/// The host of an authority, without its port.
fn host_of(authority: &str) -> String {
    let host = match authority.rsplit_once(':') {
        // An IPv6 address has colons of its own, and brackets around them.
        Some((host, port)) if !port.contains(']') => host,
        _ => authority,
    };
    bare(host)
}

fn bare(host: &str) -> String {
    host.trim_matches(['[', ']']).to_owned()
}

/// A host as it is compared: in small letters, without the port that `https` implies.
fn normal(authority: &str) -> String {
    let name = authority.strip_suffix(":443").unwrap_or(authority);
    name.to_ascii_lowercase()
}

#[cfg(test)]
mod tests;
