//! Access tokens: short-lived JWTs (RFC 9068), signed by this deployment and bound to
//! the key of their holder: to a client certificate (`x5t#S256`, RFC 8705), or to a key
//! that is proved with each use (`jkt`, RFC 9449).
//!
//! Without what it is bound to, a token is worth nothing. Each claim is required or, for
//! those of delegation, known; every other claim is refused: a token that says more than
//! this server understands is not this kind of token. Times are compared with the
//! caller's `now`; the JWT library's own checks skip claims that are absent.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Map, Value, json};
use time::{Duration, OffsetDateTime};

mod claims;
pub(crate) mod delegation;
mod memory;

pub(crate) use claims::{AccessToken, Confirmation, TokenParty};
use claims::{Header, claims_json};
use memory::Memory;

use super::possession::Possession;
use super::public_key::PublicKey;
use super::sha256;
use super::spiffe::TrustDomain;
use crate::keys::{KeyAlgorithm, SigningKey};

/// The longest lifetime of an access token.
pub(crate) const TOKEN_LIFETIME_MAX: Duration = Duration::minutes(10);

/// Another replica's clock may be this far ahead of ours.
const CLOCK_SKEW: Duration = Duration::seconds(10);
/// Our tokens have some 700 bytes; a longer text is not one.
const TOKEN_LEN_MAX: usize = 4096;
const TOKEN_TYPE: &str = "at+jwt";
const ALGORITHM: &str = "ES256";

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
    /// It is bound to another certificate or key than the one that was proved.
    #[error("the access token is bound to another certificate or key")]
    Binding,
    /// It was made void.
    #[error("the access token was revoked; log in again")]
    Void,
    /// It was made in a later epoch than the database is in.
    #[error(
        "the access token was made in a state that the database is not in, or not any more; \
         log in again"
    )]
    Ahead,
    /// It is bound to nothing, and this server is not in the development mode.
    #[error("the access token is bound to nothing; only a server in the development mode takes it")]
    Unbound,
    /// It names somebody else than the certificate or the enrolled key.
    #[error("the access token is not the certificate's or the key's")]
    Subject,
    /// It would be longer than a token may be: too many actors, roles or scopes.
    #[error("the access token would have more than {TOKEN_LEN_MAX} bytes")]
    TooLarge,
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

/// What a token is issued for.
#[derive(Clone, Debug)]
pub(crate) struct Grant {
    /// Who acts or, with `actors`, who is acted for.
    pub(crate) subject: TokenParty,
    /// Who acts for the subject: the holder first, then who acted before (RFC 8693).
    pub(crate) actors: Vec<TokenParty>,
    /// What the token is good for; empty: whatever its parties may do.
    pub(crate) scope: Vec<String>,
    /// The tokens and grants that it is made from.
    pub(crate) lineage: Vec<uuid::Uuid>,
    /// The epoch of the state that it is made in: what is made void later is void.
    pub(crate) epoch: u64,
    /// What it is bound to.
    pub(crate) confirmation: Confirmation,
    /// When the holder proved its key.
    pub(crate) auth_time: OffsetDateTime,
    /// How long it is good for, at most [`TOKEN_LIFETIME_MAX`].
    pub(crate) lifetime: Duration,
    /// What it does not outlive, such as its certificate.
    pub(crate) not_after: Option<OffsetDateTime>,
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
    /// Whether tokens are taken that are bound to nothing: the development mode.
    takes_unbound: bool,
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
            key_id: URL_SAFE_NO_PAD.encode(public_key.thumbprint()),
            audience: audience.unwrap_or_else(|| issuer.clone()),
            issuer,
            decoding_key: DecodingKey::from_ec_der(public_key.point()),
            validation,
            memory: Memory::default(),
            takes_unbound: false,
        })
    }

    /// The same for the development mode, where tokens need be bound to nothing.
    pub(crate) fn taking_unbound(mut self, taken: bool) -> Self {
        self.takes_unbound = taken;
        self
    }

    /// Whether tokens are taken that are bound to nothing.
    pub(crate) fn takes_unbound(&self) -> bool {
        self.takes_unbound
    }

    /// A token for what was proved.
    pub(crate) fn issue(
        &self,
        grant: &Grant,
        now: OffsetDateTime,
    ) -> Result<IssuedToken, TokenError> {
        if grant.confirmation == Confirmation::Nothing && !self.takes_unbound {
            return Err(TokenError::Unbound);
        }
        if !grant.lifetime.is_positive() || grant.lifetime > TOKEN_LIFETIME_MAX {
            return Err(TokenError::Lifetime);
        }
        let now = now.truncate_to_second();
        let wanted = now + grant.lifetime;
        let expire_time = grant.not_after.map_or(wanted, |end| wanted.min(end));
        let expire_time = expire_time.truncate_to_second();
        if expire_time <= now {
            return Err(TokenError::Expired);
        }
        let id = uuid::Uuid::new_v4().to_string();
        let mut claims = claims_json(grant);
        claims.insert("iss".to_owned(), json!(self.issuer));
        claims.insert("aud".to_owned(), json!(self.audience));
        claims.insert("exp".to_owned(), json!(expire_time.unix_timestamp()));
        claims.insert("iat".to_owned(), json!(now.unix_timestamp()));
        claims.insert("jti".to_owned(), json!(id));
        let token = self.sign(&self.header(TOKEN_TYPE), &Value::Object(claims))?;
        // One that we would refuse ourselves is worth nothing to anybody.
        if token.len() > TOKEN_LEN_MAX {
            return Err(TokenError::TooLarge);
        }
        Ok(IssuedToken {
            token,
            id,
            expire_time,
        })
    }

    /// Verifies `token` as presented by somebody who proved possession of a key.
    pub(crate) fn verify(
        &self,
        token: &str,
        possession: &Possession<'_>,
        now: OffsetDateTime,
    ) -> Result<Arc<AccessToken>, TokenError> {
        if token.len() > TOKEN_LEN_MAX {
            return Err(TokenError::Malformed);
        }
        let digest = sha256(token.as_bytes());
        let remembered = self.memory.recall(&digest, now);
        let found = match &remembered {
            Some(found) => Arc::clone(found),
            None => Arc::new(self.signed(token)?),
        };
        if found.confirmation == Confirmation::Nothing && !self.takes_unbound {
            return Err(TokenError::Unbound);
        }
        self.require(&found, now)?;
        found.require_possession(possession, &digest)?;
        if remembered.is_none() {
            self.memory.remember(digest, Arc::clone(&found), now);
        }
        Ok(found)
    }

    /// What a token of ours says.
    fn signed(&self, token: &str) -> Result<AccessToken, TokenError> {
        AccessToken::read(&self.signed_claims(token, TOKEN_TYPE)?)
    }

    fn header(&self, typ: &str) -> Value {
        json!({"alg": ALGORITHM, "typ": typ, "kid": self.key_id})
    }

    /// The claims of a token of this type that we signed.
    fn signed_claims(&self, token: &str, typ: &str) -> Result<Map<String, Value>, TokenError> {
        if token.len() > TOKEN_LEN_MAX {
            return Err(TokenError::Malformed);
        }
        self.require_header(token, typ)?;
        let decoded =
            jsonwebtoken::decode::<Map<String, Value>>(token, &self.decoding_key, &self.validation)
                .map_err(|error| match error.kind() {
                    jsonwebtoken::errors::ErrorKind::InvalidSignature => TokenError::Signature,
                    jsonwebtoken::errors::ErrorKind::InvalidAlgorithm => TokenError::Algorithm,
                    _ => TokenError::Malformed,
                })?;
        Ok(decoded.claims)
    }

    fn require_header(&self, token: &str, typ: &str) -> Result<(), TokenError> {
        let (header, _) = token.split_once('.').ok_or(TokenError::Malformed)?;
        let header = URL_SAFE_NO_PAD
            .decode(header)
            .map_err(|_| TokenError::Malformed)?;
        let header: Header = serde_json::from_slice(&header).map_err(|_| TokenError::Malformed)?;
        if header.alg != ALGORITHM {
            return Err(TokenError::Algorithm);
        }
        if header.typ.as_deref() != Some(typ) {
            return Err(TokenError::Type);
        }
        if header.kid.as_deref() != Some(self.key_id.as_str()) {
            return Err(TokenError::KeyUnknown);
        }
        Ok(())
    }

    fn require(&self, token: &AccessToken, now: OffsetDateTime) -> Result<(), TokenError> {
        if token.issuer != self.issuer {
            return Err(TokenError::Issuer);
        }
        if token.audience != self.audience {
            return Err(TokenError::Audience);
        }
        let lifetime = token.expire_time - token.issue_time;
        if !lifetime.is_positive() || lifetime > TOKEN_LIFETIME_MAX {
            return Err(TokenError::Lifetime);
        }
        if now >= token.expire_time {
            return Err(TokenError::Expired);
        }
        if token.issue_time > now + CLOCK_SKEW || token.auth_time > token.issue_time {
            return Err(TokenError::NotYetValid);
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

/// An ECDSA P-256 signature in the fixed form that JWS wants, from ASN.1 DER.
pub(super) fn fixed_signature(der: &[u8]) -> Option<[u8; 64]> {
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
