//! The public keys of an issuer (RFC 7517), and how long they may be used.

use std::fmt;
use std::sync::Arc;

use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;
use time::{Duration, OffsetDateTime};

/// Keys of one issuer; providers publish two or three.
const KEYS_MAX: usize = 64;
/// How often an issuer may be asked for its keys because of what callers send.
pub(crate) const REFRESH_INTERVAL_MIN: Duration = Duration::seconds(30);

/// The signature keys of one issuer.
#[derive(Clone, Default)]
pub(crate) struct KeySet(Vec<Key>);

#[derive(Clone)]
struct Key {
    id: String,
    algorithm: Option<String>,
    decoding: DecodingKey,
}

/// Why a document holds no keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KeySetError {
    /// It is not a JWK set.
    #[error("the document is not a JWK set")]
    Malformed,
    /// It has too many keys.
    #[error("the JWK set has more than {KEYS_MAX} keys")]
    TooMany,
    /// No key in it can be used.
    #[error("the JWK set has no public signature key with a `kid`")]
    Empty,
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
}

impl KeySet {
    /// The keys in a JWK set that can be used. Others, such as those for encryption or of
    /// unknown types, are left out, as RFC 7517 wants it.
    ///
    /// # Errors
    /// When none is left, or it is no JWK set.
    pub(crate) fn read(document: &[u8]) -> Result<Self, KeySetError> {
        let document: Document =
            serde_json::from_slice(document).map_err(|_| KeySetError::Malformed)?;
        if document.keys.len() > KEYS_MAX {
            return Err(KeySetError::TooMany);
        }
        let keys: Vec<Key> = document.keys.into_iter().filter_map(key).collect();
        match keys.is_empty() {
            true => Err(KeySetError::Empty),
            false => Ok(Self(keys)),
        }
    }

    /// The keys of that id that a token with this algorithm may be signed with.
    pub(super) fn fitting(
        &self,
        id: &str,
        algorithm: Algorithm,
    ) -> impl Iterator<Item = &DecodingKey> {
        let name = format!("{algorithm:?}");
        let fits = move |key: &&Key| {
            key.decoding.family() == algorithm.family()
                && key.algorithm.as_ref().is_none_or(|own| *own == name)
        };
        let keys = self.0.iter().filter(move |key| key.id == id);
        keys.filter(fits).map(|key| &key.decoding)
    }
}

fn key(jwk: Value) -> Option<Key> {
    let jwk: Jwk = serde_json::from_value(jwk).ok()?;
    if matches!(jwk.algorithm, AlgorithmParameters::OctetKey(_)) {
        return None;
    }
    let for_signatures = match &jwk.common.public_key_use {
        None => true,
        Some(purpose) => *purpose == PublicKeyUse::Signature,
    };
    let id = jwk.common.key_id.clone().filter(|id| !id.is_empty());
    Some(Key {
        id: id.filter(|_| for_signatures)?,
        algorithm: jwk.common.key_algorithm.map(|a| a.to_string()),
        decoding: DecodingKey::from_jwk(&jwk).ok()?,
    })
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids = self.0.iter().map(|key| &key.id);
        f.debug_list().entries(ids).finish()
    }
}

/// The keys of an issuer as they were fetched.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cached {
    /// The keys of the last attempt that succeeded, and when that was.
    fetched: Option<(Arc<KeySet>, OffsetDateTime)>,
    /// When the last attempt ended.
    attempted: Option<OffsetDateTime>,
}

impl Cached {
    /// After an attempt to fetch them. Where it failed, the old ones stay.
    pub(crate) fn after(&self, attempt: Option<KeySet>, now: OffsetDateTime) -> Self {
        let fetched = attempt.map(|keys| (Arc::new(keys), now));
        Self {
            fetched: fetched.or_else(|| self.fetched.clone()),
            attempted: Some(now),
        }
    }

    /// The keys, unless they are older than `stale_max`.
    pub(crate) fn usable(&self, stale_max: Duration, now: OffsetDateTime) -> Option<Arc<KeySet>> {
        let (keys, time) = self.fetched.as_ref()?;
        // A clock that was set back makes them young again, not older than they are.
        (now - *time < stale_max).then(|| Arc::clone(keys))
    }

    /// Whether another attempt may be made now.
    pub(crate) fn may_refresh(&self, now: OffsetDateTime) -> bool {
        let since = |time: OffsetDateTime| now - time;
        self.attempted
            .is_none_or(|time| since(time) >= REFRESH_INTERVAL_MIN || since(time).is_negative())
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-22 12:00:00 UTC);

    #[test]
    fn keys_stay_usable_for_a_while_when_the_issuer_is_away() {
        let stale_max = Duration::DAY;
        let none = Cached::default();
        assert!(none.usable(stale_max, NOW).is_none());
        assert!(none.may_refresh(NOW));
        let failed = none.after(None, NOW);
        assert!(failed.usable(stale_max, NOW).is_none());
        assert!(!failed.may_refresh(NOW + REFRESH_INTERVAL_MIN - Duration::SECOND));
        assert!(failed.may_refresh(NOW + REFRESH_INTERVAL_MIN));
        let fetched = failed.after(Some(KeySet::default()), NOW);
        let later = NOW + Duration::HOUR;
        let away = fetched.after(None, later);
        assert!(away.usable(stale_max, later).is_some(), "stale ones serve");
        assert!(!away.may_refresh(later));
        assert!(
            away.usable(stale_max, NOW + stale_max).is_none(),
            "a day, then no more"
        );
        assert!(
            away.may_refresh(NOW),
            "a clock set back does not end refreshing"
        );
    }

    #[test]
    fn what_is_no_signature_key_is_left_out() {
        for (text, error) in [
            ("", KeySetError::Malformed),
            ("{}", KeySetError::Malformed),
            ("[]", KeySetError::Malformed),
            (r#"{"keys": []}"#, KeySetError::Empty),
            (
                r#"{"keys": [{"kty": "oct", "kid": "a", "k": "c2VjcmV0"}]}"#,
                KeySetError::Empty,
            ),
            (
                r#"{"keys": [{"kty": "new", "kid": "a"}, 7, null]}"#,
                KeySetError::Empty,
            ),
            (
                r#"{"keys": [{"kty": "RSA", "kid": "a", "use": "enc", "n": "AQAB", "e": "AQAB"}]}"#,
                KeySetError::Empty,
            ),
            (
                r#"{"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}]}"#,
                KeySetError::Empty,
            ),
        ] {
            assert_eq!(KeySet::read(text.as_bytes()).err(), Some(error), "{text}");
        }
        let many = serde_json::json!({"keys": vec![Value::Null; KEYS_MAX + 1]}).to_string();
        assert_eq!(
            KeySet::read(many.as_bytes()).err(),
            Some(KeySetError::TooMany)
        );
    }
}
