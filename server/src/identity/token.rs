//! Access tokens: short-lived JWTs (RFC 9068) bound to a client certificate
//! (RFC 8705), signed by this deployment.
//!
//! A token adds proof of a recent challenge to a connection; without the
//! certificate it was made for, it is worth nothing. Every claim is required and
//! every other claim is refused: a token that says more than this server
//! understands is not this kind of token. Times are compared with the caller's
//! `now`; the JWT library's own checks skip claims that are absent.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use time::{Duration, OffsetDateTime};

mod memory;

use memory::Memory;

use super::peer::PeerCertificate;
use super::public_key::PublicKey;
use super::sha256;
use super::spiffe::{SpiffeId, TrustDomain};
use crate::keys::{KeyAlgorithm, SigningKey};

/// The longest lifetime of an access token.
pub(crate) const TOKEN_LIFETIME_MAX: Duration = Duration::minutes(10);

/// Another replica's clock may be this far ahead of ours.
const CLOCK_SKEW: Duration = Duration::seconds(10);
/// Our tokens have some 700 bytes; a longer text is not one.
const TOKEN_LEN_MAX: usize = 4096;
const TOKEN_TYPE: &str = "at+jwt";
const ALGORITHM: &str = "ES256";
const CLAIMS: [&str; 8] = ["iss", "aud", "sub", "exp", "iat", "jti", "cnf", "auth_time"];

/// Why a token is refused or cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    /// It is not a compact JWS with a JSON header and payload.
    #[error("the access token is malformed")]
    Malformed,
    /// Its header names another algorithm than ES256.
    #[error("the access token is not signed with ES256")]
    Algorithm,
    /// It is a JWT of another type, such as an ID token.
    #[error("the token is not an access token (`typ` is not `at+jwt`)")]
    Type,
    /// It is signed with a key that is not ours.
    #[error("the access token's key is unknown")]
    KeyUnknown,
    /// Its signature does not verify.
    #[error("the access token's signature does not verify")]
    Signature,
    /// A required claim is missing or has another type.
    #[error("the access token has no valid claim `{0}`")]
    Claim(&'static str),
    /// It has a claim that this server does not know.
    #[error("the access token has a claim that is not understood")]
    ClaimUnknown,
    /// It comes from another trust domain.
    #[error("the access token is from another issuer")]
    Issuer,
    /// It is meant for another service.
    #[error("the access token is for another audience")]
    Audience,
    /// Its time is over.
    #[error("the access token has expired")]
    Expired,
    /// It was issued in the future.
    #[error("the access token is not valid yet")]
    NotYetValid,
    /// It claims a longer lifetime than this server gives.
    #[error("the access token's lifetime is not more than 0 and at most {TOKEN_LIFETIME_MAX}")]
    Lifetime,
    /// It is bound to another certificate.
    #[error("the access token is bound to another certificate")]
    Binding,
    /// It names somebody else than the certificate.
    #[error("the access token's subject is not the certificate's")]
    Subject,
    /// The signing key cannot sign tokens.
    #[error("the token key cannot be used")]
    Key,
}

/// A token that was just signed.
pub(crate) struct IssuedToken {
    /// The token, for its holder's eyes only.
    pub(crate) token: String,
    /// Its id, for the record.
    pub(crate) id: String,
    /// From this moment on it is refused.
    pub(crate) expire_time: OffsetDateTime,
}

impl fmt::Debug for IssuedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedToken")
            .field("id", &self.id)
            .field("expire_time", &self.expire_time)
            .finish_non_exhaustive()
    }
}

/// What a verified token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AccessToken {
    /// Whom it was issued to: the certificate's principal.
    pub(crate) subject: SpiffeId,
    /// Its id, for the record.
    pub(crate) id: String,
    /// When the challenge was answered.
    pub(crate) auth_time: OffsetDateTime,
    /// From this moment on it is refused.
    pub(crate) expire_time: OffsetDateTime,
}

/// Issues and verifies the access tokens of one deployment.
pub(crate) struct TokenAuthority {
    key: Arc<dyn SigningKey>,
    key_id: String,
    issuer: String,
    audience: String,
    decoding_key: DecodingKey,
    validation: Validation,
    memory: Memory,
}

impl TokenAuthority {
    /// The authority of `trust_domain`, which is issuer and, unless another is
    /// configured, audience too.
    pub(crate) fn new(
        key: Arc<dyn SigningKey>,
        trust_domain: &TrustDomain,
        audience: Option<String>,
    ) -> Result<Self, TokenError> {
        if key.algorithm() != KeyAlgorithm::EcdsaP256 {
            return Err(TokenError::Key);
        }
        let public_key =
            PublicKey::from_spki(key.public_key_spki_der()).map_err(|_| TokenError::Key)?;
        let issuer = trust_domain.uri();
        let mut validation = Validation::new(Algorithm::ES256);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        Ok(Self {
            key,
            key_id: thumbprint(&public_key),
            audience: audience.unwrap_or_else(|| issuer.clone()),
            issuer,
            decoding_key: DecodingKey::from_ec_der(public_key.point()),
            validation,
            memory: Memory::default(),
        })
    }

    /// A token for the holder of `certificate`, who answered a challenge at
    /// `auth_time`. It does not outlive the certificate.
    pub(crate) fn issue(
        &self,
        certificate: &PeerCertificate,
        auth_time: OffsetDateTime,
        lifetime: Duration,
        now: OffsetDateTime,
    ) -> Result<IssuedToken, TokenError> {
        if !lifetime.is_positive() || lifetime > TOKEN_LIFETIME_MAX {
            return Err(TokenError::Lifetime);
        }
        let now = now.truncate_to_second();
        let expire_time = (now + lifetime).min(certificate.not_after());
        let expire_time = expire_time.truncate_to_second();
        if expire_time <= now {
            return Err(TokenError::Expired);
        }
        let id = uuid::Uuid::new_v4().to_string();
        let claims = json!({
            "iss": self.issuer,
            "aud": self.audience,
            "sub": certificate.spiffe_id().as_str(),
            "exp": expire_time.unix_timestamp(),
            "iat": now.unix_timestamp(),
            "jti": id,
            "cnf": {"x5t#S256": URL_SAFE_NO_PAD.encode(certificate.certificate_sha256())},
            "auth_time": auth_time.unix_timestamp(),
        });
        let header = json!({"alg": ALGORITHM, "typ": TOKEN_TYPE, "kid": self.key_id});
        Ok(IssuedToken {
            token: self.sign(&header, &claims)?,
            id,
            expire_time,
        })
    }

    /// Verifies `token` as presented over a connection with `certificate`.
    pub(crate) fn verify(
        &self,
        token: &str,
        certificate: &PeerCertificate,
        now: OffsetDateTime,
    ) -> Result<AccessToken, TokenError> {
        if token.len() > TOKEN_LEN_MAX {
            return Err(TokenError::Malformed);
        }
        let digest = sha256(token.as_bytes());
        let remembered = self.memory.recall(&digest, now);
        let claims = match &remembered {
            Some(claims) => Arc::clone(claims),
            None => Arc::new(self.signed_claims(token)?),
        };
        self.require_claims(&claims, certificate, now)?;
        let verified = AccessToken {
            subject: certificate.spiffe_id().clone(),
            id: claims.id.clone(),
            auth_time: claims.auth_time,
            expire_time: claims.expire_time,
        };
        if remembered.is_none() {
            self.memory.remember(digest, claims, now);
        }
        Ok(verified)
    }

    /// The claims of a token that we signed.
    fn signed_claims(&self, token: &str) -> Result<Claims, TokenError> {
        self.require_header(token)?;
        let decoded =
            jsonwebtoken::decode::<Map<String, Value>>(token, &self.decoding_key, &self.validation)
                .map_err(|error| match error.kind() {
                    jsonwebtoken::errors::ErrorKind::InvalidSignature => TokenError::Signature,
                    jsonwebtoken::errors::ErrorKind::InvalidAlgorithm => TokenError::Algorithm,
                    _ => TokenError::Malformed,
                })?;
        Claims::read(&decoded.claims)
    }

    fn require_header(&self, token: &str) -> Result<(), TokenError> {
        let (header, _) = token.split_once('.').ok_or(TokenError::Malformed)?;
        let header = URL_SAFE_NO_PAD
            .decode(header)
            .map_err(|_| TokenError::Malformed)?;
        let header: Header = serde_json::from_slice(&header).map_err(|_| TokenError::Malformed)?;
        if header.alg != ALGORITHM {
            return Err(TokenError::Algorithm);
        }
        if header.typ.as_deref() != Some(TOKEN_TYPE) {
            return Err(TokenError::Type);
        }
        if header.kid.as_deref() != Some(self.key_id.as_str()) {
            return Err(TokenError::KeyUnknown);
        }
        Ok(())
    }

    fn require_claims(
        &self,
        claims: &Claims,
        certificate: &PeerCertificate,
        now: OffsetDateTime,
    ) -> Result<(), TokenError> {
        if claims.issuer != self.issuer {
            return Err(TokenError::Issuer);
        }
        if claims.audience != self.audience {
            return Err(TokenError::Audience);
        }
        let lifetime = claims.expire_time - claims.issue_time;
        if !lifetime.is_positive() || lifetime > TOKEN_LIFETIME_MAX {
            return Err(TokenError::Lifetime);
        }
        if now >= claims.expire_time {
            return Err(TokenError::Expired);
        }
        if claims.issue_time > now + CLOCK_SKEW || claims.auth_time > claims.issue_time {
            return Err(TokenError::NotYetValid);
        }
        verify_slices_are_equal(&claims.certificate_sha256, certificate.certificate_sha256())
            .map_err(|_| TokenError::Binding)?;
        if claims.subject != certificate.spiffe_id().as_str() {
            return Err(TokenError::Subject);
        }
        Ok(())
    }

    /// A compact JWS of `header` and `claims`.
    fn sign(&self, header: &Value, claims: &Value) -> Result<String, TokenError> {
        let mut text = URL_SAFE_NO_PAD.encode(header.to_string());
        text.push('.');
        URL_SAFE_NO_PAD.encode_string(claims.to_string(), &mut text);
        let signature = self
            .key
            .sign(text.as_bytes())
            .map_err(|_| TokenError::Key)?;
        let signature = fixed_signature(&signature).ok_or(TokenError::Key)?;
        text.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut text);
        Ok(text)
    }
}

impl fmt::Debug for TokenAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenAuthority")
            .field("issuer", &self.issuer)
            .field("audience", &self.audience)
            .field("key_id", &self.key_id)
            .finish_non_exhaustive()
    }
}

/// The only header that our tokens have; one that says more is not ours.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: String,
    typ: Option<String>,
    kid: Option<String>,
}

struct Claims {
    issuer: String,
    audience: String,
    subject: String,
    id: String,
    issue_time: OffsetDateTime,
    auth_time: OffsetDateTime,
    expire_time: OffsetDateTime,
    certificate_sha256: [u8; 32],
}

impl Claims {
    fn read(claims: &Map<String, Value>) -> Result<Self, TokenError> {
        if claims.keys().any(|name| !CLAIMS.contains(&name.as_str())) {
            return Err(TokenError::ClaimUnknown);
        }
        let text = |name| {
            let value = claims.get(name).and_then(Value::as_str);
            value
                .filter(|text| !text.is_empty())
                .map(str::to_owned)
                .ok_or(TokenError::Claim(name))
        };
        let moment = |name| {
            let seconds = claims.get(name).and_then(Value::as_i64);
            seconds
                .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
                .ok_or(TokenError::Claim(name))
        };
        Ok(Self {
            issuer: text("iss")?,
            audience: text("aud")?,
            subject: text("sub")?,
            id: text("jti")?,
            issue_time: moment("iat")?,
            auth_time: moment("auth_time")?,
            expire_time: moment("exp")?,
            certificate_sha256: confirmation(claims.get("cnf")).ok_or(TokenError::Claim("cnf"))?,
        })
    }
}

/// The certificate hash in a `cnf` claim that has this one method and no other.
fn confirmation(claim: Option<&Value>) -> Option<[u8; 32]> {
    let methods = claim?.as_object().filter(|methods| methods.len() == 1)?;
    let hash = methods.get("x5t#S256")?.as_str()?;
    URL_SAFE_NO_PAD.decode(hash).ok()?.try_into().ok()
}

/// The key's JWK thumbprint (RFC 7638).
fn thumbprint(key: &PublicKey) -> String {
    let (x, y) = key.point()[1..].split_at(32);
    let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
    let jwk = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
    URL_SAFE_NO_PAD.encode(sha256(jwk.as_bytes()))
}

/// An ECDSA P-256 signature in the fixed form that JWS wants, from ASN.1 DER.
fn fixed_signature(der: &[u8]) -> Option<[u8; 64]> {
    let [0x30, len, integers @ ..] = der else {
        return None;
    };
    if usize::from(*len) != integers.len() {
        return None;
    }
    let mut rest = integers;
    let mut fixed = [0; 64];
    for half in fixed.chunks_exact_mut(32) {
        let [0x02, len, tail @ ..] = rest else {
            return None;
        };
        let (integer, tail) = tail.split_at_checked(usize::from(*len))?;
        let zeros = integer.iter().take_while(|byte| **byte == 0).count();
        let digits = &integer[zeros..];
        half.get_mut(32_usize.checked_sub(digits.len())?..)?
            .copy_from_slice(digits);
        rest = tail;
    }
    rest.is_empty().then_some(fixed)
}

#[cfg(test)]
mod tests;
