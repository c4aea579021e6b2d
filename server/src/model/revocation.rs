//! Access tokens and grants that are void before they end.

use time::{Duration, OffsetDateTime};

use super::request::EntityUid;

/// Nothing that was issued before a revocation lives longer: a grant an hour, and ten minutes
/// the token that it was turned into.
const VOID_LIFETIME: Duration = Duration::minutes(75);
/// The type of a revocation that names one token or grant.
const TOKEN: &str = "token";

/// Tokens that are void, as replicas know them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VoidTokens {
    /// `token`, or the Cedar type of a principal.
    pub ty: String,
    /// The id of a token or a grant, or of a principal.
    pub id: String,
    /// The epoch of the revocation: what a principal got in an earlier one is void. One token
    /// or grant is void whatever its epoch.
    pub epoch: u64,
}

/// Tokens that are made void.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRevocation {
    /// `token`, or the Cedar type of a principal.
    pub ty: String,
    /// The id of a token or a grant, or of a principal.
    pub id: String,
    /// When it was revoked.
    pub time: OffsetDateTime,
    /// When the last of them has ended by itself.
    pub expire_time: OffsetDateTime,
}

impl TokenRevocation {
    /// All tokens of a principal, and those of who acts for it.
    pub fn of_principal(uid: &EntityUid, now: OffsetDateTime) -> Self {
        Self {
            ty: uid.ty.clone(),
            id: uid.id.clone(),
            time: now,
            expire_time: now + VOID_LIFETIME,
        }
    }

    /// One token or grant.
    pub fn of_token(id: &str, now: OffsetDateTime) -> Self {
        Self {
            ty: TOKEN.to_owned(),
            id: id.to_owned(),
            time: now,
            expire_time: now + VOID_LIFETIME,
        }
    }

    /// Whether it names one token or grant.
    pub fn is_of_token(&self) -> bool {
        self.ty == TOKEN
    }
}
