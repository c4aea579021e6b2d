//! What an access token says, and its form in JSON.

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Grant, TokenError};
use crate::identity::possession::Possession;
use crate::model::PrincipalKind;

/// The method of a token that is bound to nothing. Not an absent one: what a token lacks must
/// not make it worth more.
const DEVELOPMENT: &str = "development";
/// Each token has them.
pub(super) const CLAIMS: [&str; 10] = [
    "iss",
    "aud",
    "sub",
    "sub_type",
    "exp",
    "iat",
    "jti",
    "cnf",
    "auth_time",
    "epoch",
];
/// A token or a grant may have them: of a subject whom the registry does not know, of
/// delegation, and of what it was made from.
pub(super) const OPTIONAL: [&str; 6] = ["name", "roles", "attributes", "act", "scope", "lineage"];
/// What an actor of a chain may say.
const OF_ACTOR: [&str; 6] = ["sub", "sub_type", "name", "roles", "attributes", "act"];
/// Nested actors that are read; a longer chain is not one of ours.
const ACTORS_MAX: usize = 16;
/// Tokens and grants that one may be made from: for each actor a grant and two tokens, and
/// the first one's login.
const LINEAGE_MAX: usize = 3 * ACTORS_MAX + 1;
const ID_LEN: usize = 16;

/// The only header that our tokens have; one that says more is not ours.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    pub(super) alg: String,
    pub(super) typ: Option<String>,
    pub(super) kid: Option<String>,
}

/// What a token is bound to (`cnf`, RFC 7800).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Confirmation {
    /// SHA-256 of a client certificate (`x5t#S256`, RFC 8705).
    Certificate([u8; 32]),
    /// The thumbprint (RFC 7638) of a key that is proved with each use (`jkt`, RFC 9449).
    Key([u8; 32]),
    /// Nothing: a bearer token of the development mode, refused by every other server.
    Nothing,
}

/// A party of a token: its subject, or one who acts for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenParty {
    /// What it is.
    pub(crate) kind: PrincipalKind,
    /// Its Cedar id.
    pub(crate) id: String,
    /// Its name, where the registry does not know it; else empty.
    pub(crate) name: String,
    /// Its roles at the time of its login, where the registry does not know it; else empty.
    pub(crate) roles: Vec<String>,
    /// Its attributes at that time, where the registry does not know it; else empty.
    pub(crate) attributes: Arc<BTreeMap<String, String>>,
}

impl TokenParty {
    /// A party whom the registry knows: what is to be known of it stands there.
    pub(crate) fn registered(kind: PrincipalKind, id: &str) -> Self {
        Self {
            kind,
            id: id.to_owned(),
            name: String::new(),
            roles: Vec::new(),
            attributes: Arc::default(),
        }
    }

    pub(super) fn json(&self) -> Map<String, Value> {
        let mut json = Map::new();
        json.insert("sub".to_owned(), json!(self.id));
        json.insert("sub_type".to_owned(), json!(self.kind.as_str()));
        if !self.name.is_empty() {
            json.insert("name".to_owned(), json!(self.name));
        }
        if !self.roles.is_empty() {
            json.insert("roles".to_owned(), json!(self.roles));
        }
        if !self.attributes.is_empty() {
            json.insert("attributes".to_owned(), json!(*self.attributes));
        }
        json
    }

    pub(super) fn read(json: &Map<String, Value>) -> Result<Self, TokenError> {
        let kind = text(json, "sub_type")?;
        let kind = PrincipalKind::parse(&kind).ok_or(TokenError::Claim("sub_type"))?;
        Ok(Self {
            kind,
            id: text(json, "sub")?,
            name: match json.get("name") {
                None => String::new(),
                Some(_) => text(json, "name")?,
            },
            roles: match json.get("roles") {
                None => Vec::new(),
                Some(roles) => texts(roles).ok_or(TokenError::Claim("roles"))?,
            },
            attributes: match json.get("attributes") {
                None => Arc::default(),
                Some(tags) => {
                    let tags = BTreeMap::deserialize(tags);
                    Arc::new(tags.map_err(|_| TokenError::Claim("attributes"))?)
                }
            },
        })
    }
}

/// What a verified token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AccessToken {
    pub(super) issuer: String,
    pub(super) audience: String,
    /// Its id, for the record.
    pub(crate) id: String,
    /// Who acts or, with `actors`, who is acted for.
    pub(crate) subject: TokenParty,
    /// Who acts for the subject: the holder first, then who acted before.
    pub(crate) actors: Vec<TokenParty>,
    /// What it is good for; empty: whatever its parties may do.
    pub(crate) scope: Vec<String>,
    /// The tokens and grants that it was made from: where one of them is void, it is.
    pub(crate) lineage: Vec<Uuid>,
    /// The epoch that it was made in.
    pub(crate) epoch: u64,
    /// What it is bound to.
    pub(crate) confirmation: Confirmation,
    /// When it was made.
    pub(crate) issue_time: OffsetDateTime,
    /// When its holder proved its key.
    pub(crate) auth_time: OffsetDateTime,
    /// From this moment on it is refused.
    pub(crate) expire_time: OffsetDateTime,
}

impl AccessToken {
    /// Who presents it: the actor, or the subject itself.
    pub(crate) fn holder(&self) -> &TokenParty {
        self.actors.first().unwrap_or(&self.subject)
    }

    /// The lineage of what is made from it: its own id the last.
    pub(crate) fn descent(&self) -> Result<Vec<Uuid>, TokenError> {
        let id = Uuid::parse_str(&self.id).map_err(|_| TokenError::Claim("jti"))?;
        Ok(self.lineage.iter().copied().chain([id]).collect())
    }

    pub(super) fn read(claims: &Map<String, Value>) -> Result<Self, TokenError> {
        let known =
            |name: &String| CLAIMS.contains(&name.as_str()) || OPTIONAL.contains(&name.as_str());
        if !claims.keys().all(known) {
            return Err(TokenError::ClaimUnknown);
        }
        Ok(Self {
            issuer: text(claims, "iss")?,
            audience: text(claims, "aud")?,
            id: text(claims, "jti")?,
            subject: TokenParty::read(claims)?,
            actors: actors(claims.get("act"))?,
            scope: scope(claims)?,
            lineage: lineage(claims)?,
            epoch: epoch(claims)?,
            confirmation: confirmation(claims.get("cnf")).ok_or(TokenError::Claim("cnf"))?,
            issue_time: moment(claims, "iat")?,
            auth_time: moment(claims, "auth_time")?,
            expire_time: moment(claims, "exp")?,
        })
    }

    /// Whether the holder proved what the token is bound to, for this very token.
    pub(super) fn require_possession(
        &self,
        possession: &Possession<'_>,
        token_sha256: &[u8; 32],
    ) -> Result<(), TokenError> {
        let same = |a: &[u8; 32], b: &[u8; 32]| {
            verify_slices_are_equal(a, b).map_err(|_| TokenError::Binding)
        };
        match (&self.confirmation, possession) {
            (Confirmation::Certificate(bound), Possession::Certificate(certificate)) => {
                same(bound, certificate.certificate_sha256())?;
                let holder = self.holder();
                let named = certificate.spiffe_id().as_str();
                if holder.kind == PrincipalKind::Agent && holder.id != named {
                    return Err(TokenError::Subject);
                }
                Ok(())
            }
            (Confirmation::Nothing, Possession::Nothing) => Ok(()),
            (Confirmation::Key(bound), Possession::Key(key)) => {
                same(bound, &key.thumbprint)?;
                let covered = key.token_sha256.as_ref().ok_or(TokenError::Binding)?;
                same(covered, token_sha256)
            }
            _ => Err(TokenError::Binding),
        }
    }
}

/// The claims that a grant decides on.
pub(super) fn claims_json(grant: &Grant) -> Map<String, Value> {
    let mut claims = grant.subject.json();
    let cnf = match &grant.confirmation {
        Confirmation::Certificate(hash) => json!({"x5t#S256": URL_SAFE_NO_PAD.encode(hash)}),
        Confirmation::Key(thumbprint) => json!({"jkt": URL_SAFE_NO_PAD.encode(thumbprint)}),
        Confirmation::Nothing => json!({DEVELOPMENT: true}),
    };
    claims.insert("cnf".to_owned(), cnf);
    let auth_time = grant.auth_time.unix_timestamp();
    claims.insert("auth_time".to_owned(), json!(auth_time));
    if !grant.scope.is_empty() {
        claims.insert("scope".to_owned(), json!(grant.scope.join(" ")));
    }
    if let Some(act) = nested(&grant.actors) {
        claims.insert("act".to_owned(), act);
    }
    claims.extend(made_from(&grant.lineage, grant.epoch));
    claims
}

/// Where a token or a grant comes from: the epoch, and what it was made from.
pub(super) fn made_from(lineage: &[Uuid], epoch: u64) -> Vec<(String, Value)> {
    let mut claims = vec![("epoch".to_owned(), json!(epoch))];
    if !lineage.is_empty() {
        let bytes: Vec<u8> = lineage.iter().flat_map(|id| *id.as_bytes()).collect();
        let text = URL_SAFE_NO_PAD.encode(bytes);
        claims.push(("lineage".to_owned(), json!(text)));
    }
    claims
}

/// The ids that a lineage holds.
pub(super) fn lineage(claims: &Map<String, Value>) -> Result<Vec<Uuid>, TokenError> {
    let wrong = || TokenError::Claim("lineage");
    if !claims.contains_key("lineage") {
        return Ok(Vec::new());
    }
    let bytes = URL_SAFE_NO_PAD.decode(text(claims, "lineage")?);
    let bytes = bytes.map_err(|_| wrong())?;
    let (ids, rest) = bytes.as_chunks::<ID_LEN>();
    if !rest.is_empty() || ids.is_empty() || ids.len() > LINEAGE_MAX {
        return Err(wrong());
    }
    Ok(ids.iter().map(|id| Uuid::from_bytes(*id)).collect())
}

/// The epoch that a token or a grant was made in.
pub(super) fn epoch(claims: &Map<String, Value>) -> Result<u64, TokenError> {
    let epoch = claims.get("epoch").and_then(Value::as_u64);
    epoch.ok_or(TokenError::Claim("epoch"))
}

/// Actors as nested `act` claims, the first outermost.
pub(super) fn nested(actors: &[TokenParty]) -> Option<Value> {
    actors.iter().rev().fold(None, |before, actor| {
        let mut act = actor.json();
        if let Some(before) = before {
            act.insert("act".to_owned(), before);
        }
        Some(Value::Object(act))
    })
}

/// The scope, in the form of RFC 9068: entries with blanks between them.
pub(super) fn scope(claims: &Map<String, Value>) -> Result<Vec<String>, TokenError> {
    if !claims.contains_key("scope") {
        return Ok(Vec::new());
    }
    let scope = text(claims, "scope")?;
    Ok(scope.split(' ').map(str::to_owned).collect())
}

/// The chain of nested `act` claims (RFC 8693, 4.1), the outermost first.
pub(super) fn actors(claim: Option<&Value>) -> Result<Vec<TokenParty>, TokenError> {
    let mut actors = Vec::new();
    let mut next = claim;
    while let Some(claim) = next {
        let act = claim.as_object().ok_or(TokenError::Claim("act"))?;
        let known = |name: &String| OF_ACTOR.contains(&name.as_str());
        if actors.len() == ACTORS_MAX || !act.keys().all(known) {
            return Err(TokenError::Claim("act"));
        }
        actors.push(TokenParty::read(act).map_err(|_| TokenError::Claim("act"))?);
        next = act.get("act");
    }
    Ok(actors)
}

pub(super) fn text(claims: &Map<String, Value>, name: &'static str) -> Result<String, TokenError> {
    let value = claims.get(name).and_then(Value::as_str);
    value
        .filter(|text| !text.is_empty())
        .map(str::to_owned)
        .ok_or(TokenError::Claim(name))
}

fn texts(list: &Value) -> Option<Vec<String>> {
    let list = list.as_array()?.iter();
    list.map(|text| text.as_str().map(str::to_owned)).collect()
}

pub(super) fn moment(
    claims: &Map<String, Value>,
    name: &'static str,
) -> Result<OffsetDateTime, TokenError> {
    let seconds = claims.get(name).and_then(Value::as_i64);
    seconds
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .ok_or(TokenError::Claim(name))
}

/// A `cnf` claim that has one method and no other or, in the development mode, none.
fn confirmation(claim: Option<&Value>) -> Option<Confirmation> {
    let methods = claim?.as_object().filter(|methods| methods.len() == 1)?;
    let (method, hash) = methods.iter().next()?;
    if method == DEVELOPMENT {
        return (*hash == Value::Bool(true)).then_some(Confirmation::Nothing);
    }
    let hash = URL_SAFE_NO_PAD
        .decode(hash.as_str()?)
        .ok()?
        .try_into()
        .ok()?;
    match method.as_str() {
        "x5t#S256" => Some(Confirmation::Certificate(hash)),
        "jkt" => Some(Confirmation::Key(hash)),
        _ => None,
    }
}
