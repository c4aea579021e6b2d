//! Tokens of identity providers: JWTs of the issuers that this server is configured for.
//!
//! Pure: the issuer's rules, its keys and the time are arguments. Each claim is required
//! by name, because the JWT library skips those that are absent. Whatever is refused is
//! refused with a reason of its own for the record; the caller hears one.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, Validation};
use serde::Deserialize;
use serde_json::{Map, Value};
use time::{Duration, OffsetDateTime};

mod discovery;
mod keys;

pub(crate) use discovery::{host_of, jwks_uri};
pub(crate) use keys::{Cached, KeySet};

use crate::model::PrincipalKind;

/// Bytes of a provider's token: those with many groups have some thousand.
pub(crate) const IDENTITY_TOKEN_LEN_MAX: usize = 32 * 1024;

/// The provider's clock may be this far ahead of ours.
const CLOCK_SKEW: Duration = Duration::seconds(30);
/// Bytes of an id or a name from a token.
const TEXT_LEN_MAX: usize = 256;
/// Groups of a token that are looked at; more are refused, not cut: a forbid could be over
/// the one that was left out.
const GROUPS_MAX: usize = 2_000;
/// Asymmetric, all of them: a provider's public key is no secret to sign with.
const ALGORITHMS: [(&str, Algorithm); 9] = [
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("EdDSA", Algorithm::EdDSA),
];

/// What is asked of the tokens of one issuer, and what they are good for.
#[derive(Clone, Debug)]
pub(crate) struct IssuerRules {
    /// `iss`, exactly.
    pub(crate) issuer: String,
    /// `aud` is, or holds, one of them.
    pub(crate) audiences: Vec<String>,
    /// Names of the signature algorithms that are taken.
    pub(crate) algorithms: Vec<String>,
    /// The values of `typ` that are taken; empty: any.
    pub(crate) token_types: Vec<String>,
    /// What its subjects are: users or workloads.
    pub(crate) kind: PrincipalKind,
    /// The claim that identifies the principal.
    pub(crate) id_claim: String,
    /// The claim with its name.
    pub(crate) name_claim: Option<String>,
    /// The claim with its groups.
    pub(crate) groups_claim: Option<String>,
    /// Which roles a group gives. A group that is not listed gives none.
    pub(crate) roles: BTreeMap<String, Vec<String>>,
    /// Which claim is which attribute, by the attribute's name.
    pub(crate) attributes: BTreeMap<String, String>,
    /// Claims that must have these values.
    pub(crate) required_claims: BTreeMap<String, String>,
    /// How old a token may be.
    pub(crate) age_max: Duration,
}

/// Whom a token of a provider proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VouchedIdentity {
    /// User or workload.
    pub(crate) kind: PrincipalKind,
    /// `<issuer>#<id>`: no other issuer's, and nobody of the registry.
    pub(crate) id: String,
    /// Its name.
    pub(crate) name: String,
    /// Its roles.
    pub(crate) roles: Vec<String>,
    /// What else is known of it.
    pub(crate) attributes: BTreeMap<String, String>,
    /// When the provider's token ends.
    pub(crate) expire_time: OffsetDateTime,
    /// The thumbprint of the key that the provider bound its token to (`cnf`/`jkt`).
    bound_to: Option<[u8; 32]>,
}

impl VouchedIdentity {
    /// Whether the caller proved the key that the provider bound its token to, if it did.
    /// Else whoever steals such a token could have it bound to a key of its own here.
    ///
    /// # Errors
    /// [`OidcError::Binding`].
    pub(crate) fn require_key(&self, thumbprint: Option<&[u8; 32]>) -> Result<(), OidcError> {
        match &self.bound_to {
            Some(bound) if thumbprint != Some(bound) => Err(OidcError::Binding),
            _ => Ok(()),
        }
    }
}

/// Why a provider's token proves nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OidcError {
    /// It is not a compact JWS with a JSON header and payload.
    #[error("the identity token is malformed")]
    Malformed,
    /// Its issuer is not configured.
    #[error("the identity token's issuer is not configured here")]
    Issuer,
    /// Its algorithm is not one of its issuer's.
    #[error("the identity token's algorithm is not one that its issuer may use")]
    Algorithm,
    /// It is of another type, such as an ID token.
    #[error("the identity token's type (`typ`) is not one that is taken")]
    Type,
    /// It names no key.
    #[error("the identity token names no key (`kid`)")]
    KeyMissing,
    /// Its key is not among its issuer's.
    #[error("the identity token's key is not among its issuer's")]
    KeyUnknown,
    /// The issuer's keys are not known, or too old to be used.
    #[error("the issuer's keys could not be fetched, or not for too long")]
    KeysUnavailable,
    /// Its signature does not verify.
    #[error("the identity token's signature does not verify")]
    Signature,
    /// A required claim is missing or has another type.
    #[error("the identity token has no valid claim `{0}`")]
    Claim(String),
    /// A claim has not the value that is required.
    #[error("the identity token's claim `{0}` has not the value that is required")]
    ClaimValue(String),
    /// It is meant for another service.
    #[error("the identity token is for another audience")]
    Audience,
    /// Its time is over.
    #[error("the identity token has expired")]
    Expired,
    /// It is valid or issued in the future only.
    #[error("the identity token is not valid yet")]
    NotYetValid,
    /// It was issued too long ago.
    #[error("the identity token was issued too long ago")]
    TooOld,
    /// It is bound to another key than the one that was proved, or in a way that cannot be
    /// looked at here.
    #[error("the identity token is bound to another key (`cnf`), or otherwise than by `jkt`")]
    Binding,
    /// It is of somebody who acts for its subject.
    #[error("the identity token is of one who acts for its subject (`act`), and names only that")]
    Acting,
    /// Its groups do not stand in it, and roles hang on them.
    #[error(
        "the identity token has too many groups, or they are elsewhere; have the provider \
         send those that are assigned to this application only"
    )]
    Groups,
}

impl OidcError {
    /// Whether newer keys of the issuer could make the token good.
    pub(crate) fn wants_keys(&self) -> bool {
        matches!(self, Self::KeyUnknown | Self::KeysUnavailable)
    }
}

fn algorithm(name: &str) -> Option<Algorithm> {
    let found = ALGORITHMS.iter().find(|(known, _)| *known == name);
    found.map(|(_, algorithm)| *algorithm)
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    typ: Option<String>,
    kid: Option<String>,
    /// Extensions that must be understood; none is.
    crit: Option<Value>,
}

/// The issuer that a token claims to be from: whose rules and keys to judge it by.
///
/// # Errors
/// When it is no JWT.
pub(crate) fn claimed_issuer(token: &str) -> Result<String, OidcError> {
    let claims: Map<String, Value> =
        serde_json::from_slice(&part(token, 1)?).map_err(|_| OidcError::Malformed)?;
    text(&claims, "iss")
}

/// Whom a token proves, by the rules and the keys of its issuer.
///
/// # Errors
/// Why it proves nobody. [`OidcError::Expired`] only where nothing else is wrong.
pub(crate) fn verify(
    token: &str,
    rules: &IssuerRules,
    keys: &KeySet,
    now: OffsetDateTime,
) -> Result<VouchedIdentity, OidcError> {
    let claims = signed_claims(token, rules, keys)?;
    if text(&claims, "iss")? != rules.issuer {
        return Err(OidcError::Issuer);
    }
    require_audience(&claims, rules)?;
    text(&claims, "sub")?;
    let expire_time = moment(&claims, "exp")?;
    let issue_time = moment(&claims, "iat")?;
    let begin = match claims.get("nbf") {
        None => issue_time,
        Some(_) => moment(&claims, "nbf")?.max(issue_time),
    };
    for (name, value) in &rules.required_claims {
        let found = claim(&claims, name).ok_or_else(|| OidcError::Claim(name.clone()))?;
        if found.as_str() != Some(value.as_str()) {
            return Err(OidcError::ClaimValue(name.clone()));
        }
    }
    let id = text(&claims, &rules.id_claim)?;
    let named = rules.name_claim.as_deref();
    let name = match named.filter(|name| claim(&claims, name).is_some()) {
        Some(name) => text(&claims, name)?,
        None => id.clone(),
    };
    let roles = roles(&claims, rules)?;
    // Its subject alone would be permitted what only one of the two may do.
    if claims.contains_key("act") {
        return Err(OidcError::Acting);
    }
    let bound_to = bound_to(&claims)?;
    let attributes = attributes(&claims, rules)?;
    if begin > now + CLOCK_SKEW {
        return Err(OidcError::NotYetValid);
    }
    if now >= expire_time {
        return Err(OidcError::Expired);
    }
    if now - issue_time > rules.age_max {
        return Err(OidcError::TooOld);
    }
    Ok(VouchedIdentity {
        kind: rules.kind,
        id: format!("{}#{id}", rules.issuer),
        name,
        roles,
        attributes,
        expire_time,
        bound_to,
    })
}

/// The key that the provider bound the token to (RFC 9449, 6.1). Another way of binding it,
/// such as to a certificate of a connection that we have not seen, refuses it.
fn bound_to(claims: &Map<String, Value>) -> Result<Option<[u8; 32]>, OidcError> {
    let Some(cnf) = claims.get("cnf") else {
        return Ok(None);
    };
    let method = cnf.as_object().filter(|methods| methods.len() == 1);
    let jkt = method.and_then(|methods| methods.get("jkt")?.as_str());
    let thumbprint = jkt.and_then(|text| URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok());
    thumbprint.map(Some).ok_or(OidcError::Binding)
}

/// The claims of a token that one of the issuer's keys signed.
fn signed_claims(
    token: &str,
    rules: &IssuerRules,
    keys: &KeySet,
) -> Result<Map<String, Value>, OidcError> {
    let header: Header =
        serde_json::from_slice(&part(token, 0)?).map_err(|_| OidcError::Malformed)?;
    if header.crit.is_some() {
        return Err(OidcError::Malformed);
    }
    let taken = rules.algorithms.contains(&header.alg);
    let algorithm = algorithm(&header.alg).filter(|_| taken);
    let algorithm = algorithm.ok_or(OidcError::Algorithm)?;
    let is_type = |taken: &String| {
        header
            .typ
            .as_deref()
            .is_some_and(|typ| same_type(typ, taken))
    };
    if !rules.token_types.is_empty() && !rules.token_types.iter().any(is_type) {
        return Err(OidcError::Type);
    }
    let key_id = header.kid.ok_or(OidcError::KeyMissing)?;
    let mut validation = Validation::new(algorithm);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    let mut error = OidcError::KeyUnknown;
    for key in keys.fitting(&key_id, algorithm) {
        match jsonwebtoken::decode::<Map<String, Value>>(token, key, &validation) {
            Ok(decoded) => return Ok(decoded.claims),
            Err(failed) => {
                error = match failed.kind() {
                    jsonwebtoken::errors::ErrorKind::InvalidSignature => OidcError::Signature,
                    jsonwebtoken::errors::ErrorKind::InvalidAlgorithm => OidcError::Algorithm,
                    _ => OidcError::Malformed,
                }
            }
        }
    }
    Err(error)
}

fn require_audience(claims: &Map<String, Value>, rules: &IssuerRules) -> Result<(), OidcError> {
    let missing = || OidcError::Claim("aud".to_owned());
    let named: Vec<&str> = match claims.get("aud").ok_or_else(missing)? {
        Value::String(one) => vec![one],
        Value::Array(several) => {
            let several = several.iter().map(Value::as_str);
            several.collect::<Option<_>>().ok_or_else(missing)?
        }
        _ => return Err(missing()),
    };
    match named
        .iter()
        .any(|name| rules.audiences.iter().any(|a| a == name))
    {
        true => Ok(()),
        false => Err(OidcError::Audience),
    }
}

/// The roles that the token's groups give.
fn roles(claims: &Map<String, Value>, rules: &IssuerRules) -> Result<Vec<String>, OidcError> {
    let Some(name) = &rules.groups_claim else {
        return Ok(Vec::new());
    };
    // Entra ID leaves out what does not fit, and says only where it is to be had.
    let elsewhere = claims.get("_claim_names").and_then(|names| names.get(name));
    if elsewhere.is_some() || claims.get("hasgroups").is_some() {
        return Err(OidcError::Groups);
    }
    let groups = match claim(claims, name) {
        None => return Ok(Vec::new()),
        Some(Value::String(one)) => vec![one.as_str()],
        Some(Value::Array(several)) => several
            .iter()
            .map(Value::as_str)
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| OidcError::Claim(name.clone()))?,
        Some(_) => return Err(OidcError::Claim(name.clone())),
    };
    if groups.len() > GROUPS_MAX {
        return Err(OidcError::Groups);
    }
    let given = groups.iter().filter_map(|group| rules.roles.get(*group));
    let mut roles: Vec<String> = given.flatten().cloned().collect();
    roles.sort_unstable();
    roles.dedup();
    Ok(roles)
}

/// What the token says by the claims that are attributes. One that is absent is absent; one
/// that is no text, number or truth value refuses the login: a forbid could hang on it.
fn attributes(
    claims: &Map<String, Value>,
    rules: &IssuerRules,
) -> Result<BTreeMap<String, String>, OidcError> {
    let mut attributes = BTreeMap::new();
    for (name, from) in &rules.attributes {
        let value = match claim(claims, from) {
            None | Some(Value::Null) => continue,
            Some(Value::Bool(truth)) => truth.to_string(),
            Some(Value::Number(number)) => number.to_string(),
            Some(_) => text(claims, from)?,
        };
        attributes.insert(name.clone(), value);
    }
    Ok(attributes)
}

/// A claim by its name or, where that begins with `/`, by its place (RFC 6901): Keycloak's
/// `/realm_access/roles`.
fn claim<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    match name.strip_prefix('/') {
        None => claims.get(name),
        Some(rest) => {
            let (first, deeper) = match rest.split_once('/') {
                Some((first, deeper)) => (first, format!("/{deeper}")),
                None => (rest, String::new()),
            };
            let first = first.replace("~1", "/").replace("~0", "~");
            claims.get(&first)?.pointer(&deeper)
        }
    }
}

/// A claim that is a text of some length, without control characters.
fn text(claims: &Map<String, Value>, name: &str) -> Result<String, OidcError> {
    let fits = |text: &&str| {
        !text.is_empty() && text.len() <= TEXT_LEN_MAX && !text.chars().any(char::is_control)
    };
    let found = claim(claims, name).and_then(Value::as_str).filter(fits);
    let found = found.ok_or_else(|| OidcError::Claim(name.to_owned()))?;
    Ok(found.to_owned())
}

/// A `NumericDate`, which may have a fraction (RFC 7519); it is cut off.
fn moment(claims: &Map<String, Value>, name: &str) -> Result<OffsetDateTime, OidcError> {
    let found = claims.get(name);
    let whole = found.and_then(Value::as_i64);
    let fraction = || found.and_then(Value::as_f64).map(f64::floor);
    #[allow(
        clippy::cast_possible_truncation,
        reason = "compared with the range before"
    )]
    let cut = || fraction().filter(|s| s.abs() < 1e12).map(|s| s as i64);
    whole
        .or_else(cut)
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .ok_or_else(|| OidcError::Claim(name.to_owned()))
}

/// Media types without case, `application/` left out (RFC 7515, 4.1.9).
fn same_type(one: &str, other: &str) -> bool {
    let short = |name: &str| {
        let name = name.to_ascii_lowercase();
        name.strip_prefix("application/")
            .unwrap_or(&name)
            .to_owned()
    };
    short(one) == short(other)
}

/// A decoded part of a compact JWS, which has three.
fn part(token: &str, nth: usize) -> Result<Vec<u8>, OidcError> {
    if token.len() > IDENTITY_TOKEN_LEN_MAX || token.split('.').count() != 3 {
        return Err(OidcError::Malformed);
    }
    let part = token.split('.').nth(nth).ok_or(OidcError::Malformed)?;
    URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_| OidcError::Malformed)
}

#[cfg(test)]
mod tests;
