//! Delegation grants: a party says who may act for it (`may_act`, RFC 8693, 4.4).
//!
//! A grant is not an access token: it has another type, and is bound to nobody's key. It is
//! worth something to one agent only, the one that it names, and to that one only with its
//! own proven key: it turns it into an access token that is bound to that key.

use serde_json::{Map, Value, json};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::claims::{TokenParty, actors, moment, text};
use super::{CLOCK_SKEW, TOKEN_LEN_MAX, TokenAuthority, TokenError};
use crate::model::PrincipalKind;

/// The longest lifetime of a grant; that of what its maker proved itself by is the other
/// bound.
pub(crate) const GRANT_LIFETIME_MAX: Duration = Duration::HOUR;

/// The `typ` of a grant: no door takes it for an access token.
const GRANT_TYPE: &str = "zta-delegation+jwt";
const CLAIMS: [&str; 9] = [
    "iss", "aud", "sub", "sub_type", "exp", "iat", "jti", "may_act", "epoch",
];

/// Who may act for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DelegationGrant {
    /// Its id, for the record.
    pub(crate) id: String,
    /// Who is acted for in the end.
    pub(crate) subject: TokenParty,
    /// Who acts for the subject already: the grant's maker first, unless it is the subject.
    pub(crate) actors: Vec<TokenParty>,
    /// The SPIFFE ID of the agent that may act.
    pub(crate) may_act: String,
    /// What it is good for; empty: whatever its parties may do.
    pub(crate) scope: Vec<String>,
    /// The tokens and grants that it was made from.
    pub(crate) lineage: Vec<Uuid>,
    /// The epoch that it was made in.
    pub(crate) epoch: u64,
    /// When it was made.
    pub(crate) issue_time: OffsetDateTime,
    /// From this moment on it is refused.
    pub(crate) expire_time: OffsetDateTime,
}

impl DelegationGrant {
    /// The lineage of what is made from it: its own id the last.
    pub(crate) fn descent(&self) -> Result<Vec<Uuid>, TokenError> {
        let id = Uuid::parse_str(&self.id).map_err(|_| TokenError::Claim("jti"))?;
        Ok(self.lineage.iter().copied().chain([id]).collect())
    }
}

impl TokenAuthority {
    /// A grant, signed. It ends at a whole second.
    pub(crate) fn issue_grant(
        &self,
        grant: &DelegationGrant,
        now: OffsetDateTime,
    ) -> Result<String, TokenError> {
        let mut claims = grant.subject.json();
        if let Some(act) = super::claims::nested(&grant.actors) {
            claims.insert("act".to_owned(), act);
        }
        if !grant.scope.is_empty() {
            claims.insert("scope".to_owned(), json!(grant.scope.join(" ")));
        }
        claims.extend(super::claims::made_from(&grant.lineage, grant.epoch));
        let may_act = TokenParty::registered(PrincipalKind::Agent, &grant.may_act).json();
        let whole = [
            ("iss", json!(self.issuer)),
            ("aud", json!(self.audience)),
            ("exp", json!(grant.expire_time.unix_timestamp())),
            ("iat", json!(now.unix_timestamp())),
            ("jti", json!(grant.id)),
            ("may_act", Value::Object(may_act)),
        ];
        claims.extend(whole.map(|(name, value)| (name.to_owned(), value)));
        let token = self.sign(&self.header(GRANT_TYPE), &Value::Object(claims))?;
        match token.len() > TOKEN_LEN_MAX {
            true => Err(TokenError::TooLarge),
            false => Ok(token),
        }
    }

    /// Verifies a grant; that its presenter is the one it names is the caller's to see.
    pub(crate) fn verify_grant(
        &self,
        grant: &str,
        now: OffsetDateTime,
    ) -> Result<DelegationGrant, TokenError> {
        let claims = self.signed_claims(grant, GRANT_TYPE)?;
        let known = |name: &String| {
            CLAIMS.contains(&name.as_str()) || super::claims::OPTIONAL.contains(&name.as_str())
        };
        if !claims.keys().all(known) {
            return Err(TokenError::ClaimUnknown);
        }
        if text(&claims, "iss")? != self.issuer {
            return Err(TokenError::Issuer);
        }
        if text(&claims, "aud")? != self.audience {
            return Err(TokenError::Audience);
        }
        let issue_time = moment(&claims, "iat")?;
        let read = DelegationGrant {
            id: text(&claims, "jti")?,
            subject: TokenParty::read(&claims)?,
            actors: actors(claims.get("act"))?,
            may_act: may_act(&claims)?,
            scope: super::claims::scope(&claims)?,
            lineage: super::claims::lineage(&claims)?,
            epoch: super::claims::epoch(&claims)?,
            issue_time,
            expire_time: moment(&claims, "exp")?,
        };
        let lifetime = read.expire_time - issue_time;
        if !lifetime.is_positive() || lifetime > GRANT_LIFETIME_MAX {
            return Err(TokenError::Lifetime);
        }
        if now >= read.expire_time {
            return Err(TokenError::Expired);
        }
        if issue_time > now + CLOCK_SKEW {
            return Err(TokenError::NotYetValid);
        }
        Ok(read)
    }
}

/// The one agent that may act.
fn may_act(claims: &Map<String, Value>) -> Result<String, TokenError> {
    let party = claims.get("may_act").and_then(Value::as_object);
    let party = party.and_then(|party| TokenParty::read(party).ok());
    match party {
        Some(party) if party.kind == PrincipalKind::Agent => Ok(party.id),
        _ => Err(TokenError::Claim("may_act")),
    }
}
