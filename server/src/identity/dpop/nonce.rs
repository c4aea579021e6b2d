//! Nonces that need no memory: when and by which replica they were made, under a key that
//! dies with the process.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use time::{Duration, OffsetDateTime};

use super::DpopError;

const VERSION: u8 = 1;
const REPLICA_LEN: usize = 8;
/// Version, replica and time.
const TEXT_LEN: usize = 1 + REPLICA_LEN + 8;
const TAG_LEN: usize = 16;
/// How far a clock may step back without making fresh nonces invalid.
const STEP_BACK_MAX: Duration = Duration::SECOND;

/// When a nonce was made: milliseconds of Unix time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NonceTime(pub(super) i64);

impl NonceTime {
    /// Of this moment.
    pub(super) fn of(moment: OffsetDateTime) -> Self {
        let millis = moment.unix_timestamp_nanos().div_euclid(1_000_000);
        Self(i64::try_from(millis).unwrap_or(0))
    }

    /// The moment.
    pub(super) fn moment(self) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH.saturating_add(Duration::milliseconds(self.0))
    }
}

/// What this replica makes its nonces with.
pub(super) struct NonceKey {
    key: hmac::Key,
    replica: [u8; REPLICA_LEN],
}

impl NonceKey {
    /// A key and a replica's name, both random and of this process only.
    pub(super) fn generate() -> Result<Self, DpopError> {
        let (mut key, mut replica) = ([0; 32], [0; REPLICA_LEN]);
        aws_lc_rs::rand::fill(&mut key).map_err(|_| DpopError::Random)?;
        aws_lc_rs::rand::fill(&mut replica).map_err(|_| DpopError::Random)?;
        Ok(Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            replica,
        })
    }

    /// A nonce made now.
    pub(super) fn nonce(&self, now: OffsetDateTime) -> String {
        let mut bytes = vec![VERSION];
        bytes.extend(self.replica);
        bytes.extend(NonceTime::of(now).0.to_be_bytes());
        let tag = hmac::sign(&self.key, &bytes);
        bytes.extend(&tag.as_ref()[..TAG_LEN]);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// When a nonce of ours was made, if it is still good.
    pub(super) fn open(
        &self,
        nonce: &str,
        lifetime: Duration,
        now: OffsetDateTime,
    ) -> Result<NonceTime, DpopError> {
        if nonce.len() > 2 * (TEXT_LEN + TAG_LEN) {
            return Err(DpopError::NonceForged);
        }
        let bytes = URL_SAFE_NO_PAD
            .decode(nonce)
            .map_err(|_| DpopError::NonceForged)?;
        if bytes.len() != TEXT_LEN + TAG_LEN || bytes[0] != VERSION {
            return Err(DpopError::NonceForged);
        }
        let (text, tag) = bytes.split_at(TEXT_LEN);
        let (replica, time) = text[1..].split_at(REPLICA_LEN);
        // No secret: it only tells a client of two replicas from a forger.
        if replica != self.replica {
            return Err(DpopError::NonceForeign);
        }
        let expected = hmac::sign(&self.key, text);
        verify_slices_are_equal(&expected.as_ref()[..TAG_LEN], tag)
            .map_err(|_| DpopError::NonceForged)?;
        let time = time.try_into().map_err(|_| DpopError::NonceForged)?;
        let time = NonceTime(i64::from_be_bytes(time));
        let age = now - time.moment();
        if age >= lifetime || age < -STEP_BACK_MAX {
            return Err(DpopError::NonceExpired);
        }
        Ok(time)
    }
}

impl fmt::Debug for NonceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NonceKey")
            .field("replica", &hex::encode(self.replica))
            .finish_non_exhaustive()
    }
}
