//! Seals where a page of a listing ended, so that whoever goes on from there does not learn
//! the name of something that it may not see.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::KeyError;

/// Bytes of the key that all replicas share.
pub(crate) const CURSOR_KEY_LEN: usize = 32;
/// What a sealed cursor is bound to: another secret of the same key would be none.
const BINDING: &[u8] = b"zta-page-cursor-v1";

/// Seals and opens cursors.
pub(crate) struct CursorSeal(RandomizedNonceKey);

impl CursorSeal {
    /// By a key of [`CURSOR_KEY_LEN`] bytes. It protects names, not access: it may lie where
    /// the names lie.
    ///
    /// # Errors
    /// A key of another length.
    pub(crate) fn new(key: &[u8]) -> Result<Self, KeyError> {
        let key = RandomizedNonceKey::new(&AES_256_GCM, key).map_err(|_| KeyError::Seal)?;
        Ok(Self(key))
    }

    /// A page token for this cursor: base64url of nonce, ciphertext and tag.
    ///
    /// # Errors
    /// No randomness.
    pub(crate) fn seal(&self, cursor: &str) -> Result<String, KeyError> {
        let mut text = cursor.as_bytes().to_vec();
        let nonce = self
            .0
            .seal_in_place_append_tag(Aad::from(BINDING), &mut text)
            .map_err(|_| KeyError::Seal)?;
        Ok(URL_SAFE_NO_PAD.encode([&nonce.as_ref()[..], &text].concat()))
    }

    /// The cursor of a page token that was sealed here.
    pub(crate) fn open(&self, token: &str) -> Option<String> {
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (nonce, text) = bytes.split_first_chunk::<NONCE_LEN>()?;
        let mut text = text.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = self
            .0
            .open_in_place(nonce, Aad::from(BINDING), &mut text)
            .ok()?;
        String::from_utf8(opened.to_vec()).ok()
    }
}

impl std::fmt::Debug for CursorSeal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CursorSeal(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_and_tells_nothing() {
        let seal = CursorSeal::new(&[7; CURSOR_KEY_LEN]).expect("a key");
        let cursor = "ZTA::Tool\nfire_everybody";
        let token = seal.seal(cursor).expect("sealed");
        assert_eq!(seal.open(&token).as_deref(), Some(cursor));
        assert_ne!(token, seal.seal(cursor).expect("sealed"), "never the same");
        let bytes = URL_SAFE_NO_PAD.decode(&token).expect("base64url");
        assert!(!bytes.windows(4).any(|window| window == b"fire"));
        for at in 0..token.len() {
            assert_eq!(seal.open(&token[..at]), None, "cut at {at}");
        }
        for at in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[at] ^= 1;
            assert_eq!(seal.open(&URL_SAFE_NO_PAD.encode(altered)), None);
        }
        let other = CursorSeal::new(&[8; CURSOR_KEY_LEN]).expect("a key");
        assert_eq!(other.open(&token), None);
        assert!(CursorSeal::new(&[7; 31]).is_err());
    }
}
