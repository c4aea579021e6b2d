//! Private keys in files, encrypted with a passphrase.
//!
//! A stolen disk or backup then gives nobody a key. The file is one PEM block with the
//! label `ZTA ENCRYPTED PRIVATE KEY`, which holds
//!
//! | bytes | what |
//! |---|---|
//! | 1 | the version, 1 |
//! | 4 | iterations of PBKDF2-HMAC-SHA256, big-endian |
//! | 16 | salt of PBKDF2, random for each file |
//! | 12 | nonce of AES-256-GCM |
//! | rest | the PKCS#8 key (DER), encrypted, and its tag of 16 bytes |
//!
//! The key's name and everything before the nonce are authenticated with it: a file that
//! was renamed to another key's, or whose iterations were turned down, does not open.
//!
//! Not the standard PKCS#8 encryption (PBES2): that one does not notice altered bytes and
//! cannot be bound to a name.

use std::fmt;
use std::fs;
use std::io::Read as _;
use std::num::NonZeroU32;
use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::pbkdf2;
use zeroize::Zeroizing;

use super::{KeyError, is_placeholder, pem};

/// The PEM label of an encrypted private key.
pub(crate) const ENCRYPTED_LABEL: &str = "ZTA ENCRYPTED PRIVATE KEY";

const VERSION: u8 = 1;
const SALT_LEN: usize = 16;
const HEADER_LEN: usize = 1 + 4 + SALT_LEN;
const ENCRYPTION_KEY_LEN: usize = 32;
/// What OWASP asks of PBKDF2-HMAC-SHA256.
const ITERATIONS: NonZeroU32 = NonZeroU32::new(600_000).unwrap();
/// More would let a file that somebody put there hold up the start for minutes.
const ITERATIONS_MAX: u32 = 10_000_000;
const PASSPHRASE_CHARS_MIN: usize = 12;
const PASSPHRASE_BYTES_MAX: u64 = 4096;

/// The passphrase that key files are encrypted with.
pub(crate) struct Passphrase(Zeroizing<Vec<u8>>);

impl Passphrase {
    /// Reads the passphrase from a file, without the white space around it. Its mode is
    /// left to whoever mounts it: systemd and orchestrators set their own.
    pub(crate) fn from_file(path: &Path) -> Result<Self, KeyError> {
        let io = |act| {
            move |source| KeyError::Io {
                act,
                path: path.to_owned(),
                source,
            }
        };
        let file = fs::File::open(path).map_err(io("open"))?;
        // One allocation of full size: a growing buffer would leave copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(PASSPHRASE_BYTES_MAX as usize + 1));
        file.take(PASSPHRASE_BYTES_MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(io("read"))?;
        Self::new(&bytes)
    }

    /// Takes a passphrase of at least 12 characters that is not an obvious placeholder.
    pub(crate) fn new(bytes: &[u8]) -> Result<Self, KeyError> {
        let trimmed = bytes.trim_ascii();
        if trimmed.len() as u64 > PASSPHRASE_BYTES_MAX {
            return Err(KeyError::WeakPassphrase("is longer than 4096 bytes"));
        }
        let Ok(text) = std::str::from_utf8(trimmed) else {
            return Err(KeyError::WeakPassphrase("is not UTF-8 text"));
        };
        if text.chars().count() < PASSPHRASE_CHARS_MIN {
            return Err(KeyError::WeakPassphrase("is shorter than 12 characters"));
        }
        let mut distinct: Vec<char> = text.chars().collect();
        distinct.sort_unstable();
        distinct.dedup();
        if distinct.len() < 5 {
            return Err(KeyError::WeakPassphrase("repeats a few characters"));
        }
        if is_placeholder(trimmed) {
            return Err(KeyError::WeakPassphrase("is a placeholder"));
        }
        Ok(Self(Zeroizing::new(trimmed.to_vec())))
    }

    /// `pkcs8` (DER) as an encrypted PEM file that opens under `name` alone.
    pub(crate) fn encrypt(&self, name: &str, pkcs8: &[u8]) -> Result<Zeroizing<String>, KeyError> {
        let mut header = [0; HEADER_LEN];
        header[0] = VERSION;
        header[1..5].copy_from_slice(&ITERATIONS.get().to_be_bytes());
        aws_lc_rs::rand::fill(&mut header[5..]).map_err(|_| KeyError::Seal)?;
        let key = self.key(ITERATIONS, &header[5..]).ok_or(KeyError::Seal)?;
        let mut text = Zeroizing::new(pkcs8.to_vec());
        let (nonce, tag) = key
            .seal_in_place_separate_tag(binding(name, &header), &mut text)
            .map_err(|_| KeyError::Seal)?;
        let mut sealed = header.to_vec();
        sealed.extend_from_slice(nonce.as_ref());
        sealed.extend_from_slice(&text);
        sealed.extend_from_slice(tag.as_ref());
        Ok(pem::encode(ENCRYPTED_LABEL, &sealed))
    }

    /// The PKCS#8 key (DER) in an encrypted PEM file of `name`; `None` for another
    /// passphrase, another name, and altered bytes, which cannot be told apart.
    pub(crate) fn decrypt(&self, name: &str, text: &str) -> Option<Zeroizing<Vec<u8>>> {
        let sealed = pem::decode(ENCRYPTED_LABEL, text)?;
        let (header, rest) = sealed.split_first_chunk::<HEADER_LEN>()?;
        let (nonce, text) = rest.split_first_chunk::<NONCE_LEN>()?;
        let [VERSION, a, b, c, d, salt @ ..] = header else {
            return None;
        };
        let iterations = u32::from_be_bytes([*a, *b, *c, *d]);
        // Fewer than we write were never written by us.
        if !(ITERATIONS.get()..=ITERATIONS_MAX).contains(&iterations) {
            return None;
        }
        let key = self.key(NonZeroU32::new(iterations)?, salt)?;
        let mut text = Zeroizing::new(text.to_vec());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let len = key
            .open_in_place(nonce, binding(name, header), &mut text)
            .ok()?
            .len();
        text.truncate(len);
        Some(text)
    }

    fn key(&self, iterations: NonZeroU32, salt: &[u8]) -> Option<RandomizedNonceKey> {
        let mut bytes = Zeroizing::new([0; ENCRYPTION_KEY_LEN]);
        pbkdf2::derive(
            pbkdf2::PBKDF2_HMAC_SHA256,
            iterations,
            salt,
            &self.0,
            bytes.as_mut_slice(),
        );
        RandomizedNonceKey::new(&AES_256_GCM, bytes.as_slice()).ok()
    }
}

/// What an encrypted key is bound to. No name holds a NUL, so the parts cannot shift.
fn binding(name: &str, header: &[u8; HEADER_LEN]) -> Aad<Vec<u8>> {
    let mut bytes = b"zta-encrypted-key\0".to_vec();
    bytes.extend_from_slice(name.as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(header);
    Aad::from(bytes)
}

/// Whether a file claims to hold an encrypted key.
pub(crate) fn is_encrypted(text: &str) -> bool {
    text.trim_start()
        .strip_prefix("-----BEGIN ")
        .is_some_and(|rest| rest.starts_with(ENCRYPTED_LABEL))
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &[u8] = b"correct horse battery staple\n";

    fn passphrase(text: &[u8]) -> Passphrase {
        Passphrase::new(text).expect("a good passphrase")
    }

    fn bytes(text: &str) -> Zeroizing<Vec<u8>> {
        pem::decode(ENCRYPTED_LABEL, text).expect("one block")
    }

    #[test]
    fn only_the_passphrase_and_the_name_open_it() {
        let text = passphrase(GOOD).encrypt("ca", b"the key").expect("sealed");
        assert!(is_encrypted(&text));
        let opened = passphrase(GOOD).decrypt("ca", &text).expect("opens");
        assert_eq!(opened.as_slice(), b"the key");
        assert!(passphrase(GOOD).decrypt("token", &text).is_none());
        let other = passphrase(b"correct horse battery stable");
        assert!(other.decrypt("ca", &text).is_none());
        let again = passphrase(GOOD).encrypt("ca", b"the key").expect("sealed");
        assert_ne!(*text, *again, "salt and nonce are new each time");
        assert!(!bytes(&text).windows(7).any(|w| w == b"the key"));
    }

    #[test]
    fn an_altered_or_shortened_file_opens_never() {
        let ours = passphrase(GOOD);
        let sealed = bytes(&ours.encrypt("ca", b"k").expect("sealed"));
        let opens = |bytes: &[u8]| {
            let text = pem::encode(ENCRYPTED_LABEL, bytes);
            ours.decrypt("ca", &text).is_some()
        };
        assert!(opens(&sealed));
        // One byte of each field, each of which costs a derivation.
        for at in [
            0,
            1,
            4,
            5,
            HEADER_LEN,
            HEADER_LEN + NONCE_LEN,
            sealed.len() - 1,
        ] {
            let mut altered = sealed.to_vec();
            altered[at] ^= 1;
            assert!(!opens(&altered), "byte {at}");
        }
        for len in [0, 1, HEADER_LEN, HEADER_LEN + NONCE_LEN, sealed.len() - 1] {
            assert!(!opens(&sealed[..len]), "length {len}");
        }
        for iterations in [0, 1, 599_999, ITERATIONS_MAX + 1, u32::MAX] {
            let mut altered = sealed.to_vec();
            altered[1..5].copy_from_slice(&iterations.to_be_bytes());
            assert!(!opens(&altered), "{iterations} iterations");
        }
    }

    #[test]
    fn weak_passphrases_are_refused_and_none_is_shown() {
        for (text, reason) in [
            ("", "shorter"),
            ("elevenchars", "shorter"),
            ("   elevenchars   \n", "shorter"),
            ("aaaaaaaaaaaaaaaaaaaa", "repeats"),
            ("please change-me now", "placeholder"),
            ("CHANGEME-0123456789", "placeholder"),
        ] {
            let error = Passphrase::new(text.as_bytes()).expect_err(text);
            assert!(error.to_string().contains(reason), "{error}");
            assert!(text.is_empty() || !error.to_string().contains(text));
        }
        assert!(Passphrase::new(&[0xff; 20]).is_err());
        assert!(Passphrase::new(&[b'x'; 5000]).is_err());
        assert_eq!(format!("{:?}", passphrase(GOOD)), "Passphrase(..)");
        passphrase("twölf Zeichen".as_bytes());
    }
}
