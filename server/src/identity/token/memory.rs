//! Tokens whose signature was verified. What else a token has to satisfy (its times, its
//! certificate) is looked at on each use; this only spares the parsing and the ECDSA.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use time::OffsetDateTime;

use super::AccessToken;

/// Remembered tokens; more than a replica has agents that call within ten minutes.
pub(super) const REMEMBERED_MAX: usize = 16_384;

/// By SHA-256 over the whole token, signature included: another text is another token.
#[derive(Default)]
pub(super) struct Memory(Mutex<HashMap<[u8; 32], Arc<AccessToken>>>);

impl Memory {
    /// The claims of a token that was verified before and has not expired.
    pub(super) fn recall(
        &self,
        digest: &[u8; 32],
        now: OffsetDateTime,
    ) -> Option<Arc<AccessToken>> {
        let mut claims = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = claims.get(digest)?;
        if now < found.expire_time {
            return Some(Arc::clone(found));
        }
        claims.remove(digest);
        None
    }

    /// Remembers a verified token. To forget is always safe: a full memory forgets what
    /// has expired, and if that is not enough, everything.
    pub(super) fn remember(
        &self,
        digest: [u8; 32],
        verified: Arc<AccessToken>,
        now: OffsetDateTime,
    ) {
        let mut claims = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if claims.len() >= REMEMBERED_MAX {
            claims.retain(|_, claims| now < claims.expire_time);
            if claims.len() >= REMEMBERED_MAX {
                claims.clear();
            }
        }
        claims.insert(digest, verified);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}
