//! Join tokens: one secret that lets one agent enrol one key.
//!
//! Text form: `zta-join-1.<id>.<secret>.<fp>`, each part base64url without
//! padding. `fp` is the SHA-256 of the CA certificate, by which the agent knows
//! the server before it trusts it. The server stores the id and a hash of the
//! secret; one use and expiry are the registry's to keep.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use time::Duration;
use zeroize::Zeroizing;

use super::sha256;

/// How long a join token is good for.
pub(crate) const JOIN_TOKEN_LIFETIME: Duration = Duration::minutes(10);

const PREFIX: &str = "zta-join-1";
const ID_LEN: usize = 16;
const SECRET_LEN: usize = 32;
const FINGERPRINT_LEN: usize = 32;

/// Why a join token is refused or cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum JoinTokenError {
    /// The text is not a join token.
    #[error("a join token has the form `zta-join-1.<id>.<secret>.<fingerprint>`")]
    Malformed,
    /// No random bytes could be drawn.
    #[error("no randomness for a join token")]
    Random,
}

/// A join token, with its secret.
pub(crate) struct JoinToken {
    id: String,
    secret: Zeroizing<[u8; SECRET_LEN]>,
    ca_fingerprint: [u8; FINGERPRINT_LEN],
}

/// What is stored of a join token.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct StoredJoinToken {
    /// Its public part, by which it is found.
    pub(crate) id: String,
    /// SHA-256 of its secret.
    pub(crate) secret_sha256: [u8; 32],
}

impl JoinToken {
    /// A new random token for servers under the CA with this fingerprint.
    pub(crate) fn create(ca_fingerprint: [u8; FINGERPRINT_LEN]) -> Result<Self, JoinTokenError> {
        let mut id = [0; ID_LEN];
        let mut secret = Zeroizing::new([0; SECRET_LEN]);
        aws_lc_rs::rand::fill(&mut id)
            .and_then(|()| aws_lc_rs::rand::fill(secret.as_mut_slice()))
            .map_err(|_| JoinTokenError::Random)?;
        Ok(Self {
            id: URL_SAFE_NO_PAD.encode(id),
            secret,
            ca_fingerprint,
        })
    }

    /// Parses the text form: exactly the text that [`Self::encode`] gives, or nothing.
    pub(crate) fn parse(text: &str) -> Result<Self, JoinTokenError> {
        let mut parts = text.split('.');
        let mut next = || parts.next().ok_or(JoinTokenError::Malformed);
        let (prefix, id, secret, fingerprint) = (next()?, next()?, next()?, next()?);
        if prefix != PREFIX || parts.next().is_some() {
            return Err(JoinTokenError::Malformed);
        }
        decode::<ID_LEN>(id)?;
        Ok(Self {
            id: id.to_owned(),
            secret: decode(secret)?,
            ca_fingerprint: *decode(fingerprint)?,
        })
    }

    /// The text form, to be shown once.
    pub(crate) fn encode(&self) -> Zeroizing<String> {
        let secret = Zeroizing::new(URL_SAFE_NO_PAD.encode(self.secret.as_slice()));
        let fingerprint = URL_SAFE_NO_PAD.encode(self.ca_fingerprint);
        let parts = [PREFIX, &self.id, &secret, &fingerprint];
        Zeroizing::new(parts.join("."))
    }

    /// The public part, by which the stored form is found.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// SHA-256 of the CA certificate that the token was made under.
    #[cfg(test)]
    pub(crate) fn ca_fingerprint(&self) -> &[u8; FINGERPRINT_LEN] {
        &self.ca_fingerprint
    }

    /// What to store.
    pub(crate) fn stored(&self) -> StoredJoinToken {
        StoredJoinToken {
            id: self.id.clone(),
            secret_sha256: sha256(self.secret.as_slice()),
        }
    }

    /// Whether this is the token of which `stored` was kept; in constant time.
    pub(crate) fn matches(&self, stored: &StoredJoinToken) -> bool {
        let hash = sha256(self.secret.as_slice());
        let same_secret = verify_slices_are_equal(&hash, &stored.secret_sha256).is_ok();
        same_secret & (self.id == stored.id)
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for StoredJoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredJoinToken")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

fn decode<const LEN: usize>(text: &str) -> Result<Zeroizing<[u8; LEN]>, JoinTokenError> {
    let mut bytes = Zeroizing::new([0; LEN]);
    match URL_SAFE_NO_PAD.decode_slice(text, bytes.as_mut_slice()) {
        Ok(len) if len == LEN => Ok(bytes),
        _ => Err(JoinTokenError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token() -> JoinToken {
        JoinToken::create([7; 32]).expect("a token")
    }

    #[test]
    fn a_token_survives_its_text_form_and_matches_what_is_stored() {
        let token = token();
        let text = token.encode();
        assert!(text.starts_with("zta-join-1."), "{}", *text);
        let parsed = JoinToken::parse(&text).expect("own text");
        assert_eq!(*parsed.encode(), *text);
        assert_eq!(parsed.id(), token.id());
        assert_eq!(parsed.ca_fingerprint(), &[7; 32]);
        assert!(parsed.matches(&token.stored()));
    }

    #[test]
    fn another_secret_or_id_does_not_match() {
        let (token, other) = (token(), token());
        assert!(!other.matches(&token.stored()));
        let guess = StoredJoinToken {
            id: token.id.clone(),
            ..other.stored()
        };
        assert!(!token.matches(&guess));
        let renamed = StoredJoinToken {
            id: other.id.clone(),
            ..token.stored()
        };
        assert!(!token.matches(&renamed));
    }

    #[test]
    fn what_is_stored_or_printed_does_not_hold_the_secret() {
        let token = token();
        let text = token.encode();
        let secret = text.split('.').nth(2).expect("a secret");
        let stored = token.stored();
        for shown in [format!("{token:?}"), format!("{stored:?}")] {
            assert!(shown.contains(token.id()), "{shown}");
            assert!(!shown.contains(secret), "{shown}");
            assert!(
                !shown.contains(&hex::encode(stored.secret_sha256)),
                "{shown}"
            );
        }
        assert_ne!(stored.secret_sha256, *token.secret);
    }

    #[test]
    fn other_texts_are_malformed() {
        let good = token().encode();
        let parts: Vec<&str> = good.split('.').collect();
        let longer = format!("{}A", parts[2]);
        for bad in [
            String::new(),
            "zta-join-1".to_owned(),
            parts[..3].join("."),
            format!("{}.x", *good),
            format!(" {}", *good),
            format!("{}\n", *good),
            good.replace("zta-join-1", "zta-join-2"),
            good.replace(parts[1], ""),
            good.replace(parts[2], parts[1]),
            good.replace(parts[2], &longer),
            good.replace(parts[3], &format!("{}=", parts[3])),
        ] {
            let error = JoinToken::parse(&bad).expect_err(&bad);
            assert_eq!(error, JoinTokenError::Malformed);
        }
    }

    proptest! {
        #[test]
        fn any_text_parses_to_itself_or_not_at_all(text in "(zta-join-1)?(\\.[A-Za-z0-9_-]{0,44}){0,5}") {
            if let Ok(token) = JoinToken::parse(&text) {
                let encoded = token.encode();
                prop_assert_eq!(encoded.as_str(), text);
            }
        }

        #[test]
        fn an_altered_character_never_matches(at in 11..118_usize, to in "[A-Za-z0-9_-]") {
            let token = token();
            let good = token.encode();
            let mut bad = good.to_string();
            let at = at.min(bad.len() - 1);
            bad.replace_range(at..=at, &to);
            prop_assume!(bad != *good);
            if let Ok(parsed) = JoinToken::parse(&bad) {
                let same = parsed.matches(&token.stored())
                    && parsed.ca_fingerprint() == token.ca_fingerprint();
                prop_assert!(!same);
            }
        }
    }
}
