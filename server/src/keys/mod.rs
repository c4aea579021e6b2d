//! The server's own signing keys.
//!
//! Callers sign through [`SigningKey`] and never see private bytes, so that a
//! key can move into hardware without them noticing. Where the keys lie is the
//! business of a [`KeyService`]: files for an embedded server ([`local`]), encrypted
//! where a passphrase is given ([`passphrase`]); sealed rows in the database for a
//! fleet ([`wrapped`]).

pub(crate) mod cursor;
pub(crate) mod file;
pub(crate) mod local;
pub(crate) mod noted;
pub(crate) mod passphrase;
pub(crate) mod pem;
pub(crate) mod software;
pub(crate) mod wrapped;

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;

pub(crate) use file::KeyFile;
pub(crate) use local::LocalKeys;
pub(crate) use noted::{KeyNote, KeyNotes, KeyStep, NotedKeys};
pub(crate) use passphrase::Passphrase;
pub(crate) use software::SoftwareKey;
pub(crate) use wrapped::{KeyringSecret, WrappedKeyStore, WrappedKeys};

/// The keys a server owns. Each has one purpose and is used for nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum KeyName {
    /// Signs certificates: that of the CA which the log began with.
    Ca,
    /// Signs certificates: that of a later CA, from 2 on.
    LaterCa(u16),
    /// Signs access tokens.
    Token,
    /// Signs checkpoints of the audit log.
    Log,
    /// Proves the server in TLS handshakes.
    ServerTls,
    /// Makes the keyed hashes that stand in the record in place of values.
    Redaction,
}

impl KeyName {
    /// Every key, in the order in which a first start makes them.
    pub(crate) const ALL: [Self; 5] = [
        Self::Ca,
        Self::Token,
        Self::Log,
        Self::ServerTls,
        Self::Redaction,
    ];

    /// The stable name: file stem, row key, and part of what a sealed key is bound to.
    pub(crate) fn text(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Ca => "ca",
            Self::LaterCa(number) => return Cow::Owned(format!("ca-{number}")),
            Self::Token => "token",
            Self::Log => "log",
            Self::ServerTls => "server-tls",
            Self::Redaction => "redaction",
        })
    }

    /// The key of that stable name.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let later = text.strip_prefix("ca-").and_then(|n| n.parse().ok());
        let later = later.filter(|n| *n > 1).map(Self::LaterCa);
        let mut all = Self::ALL.into_iter().chain(later);
        // One way to write a number: no sign, no leading zero.
        all.find(|name| name.text() == text)
    }

    /// The key of the CA of that number, from 1 on.
    pub(crate) const fn ca(number: u16) -> Self {
        match number {
            0 | 1 => Self::Ca,
            _ => Self::LaterCa(number),
        }
    }

    /// The number of the CA, if it is one's.
    pub(crate) const fn ca_number(self) -> Option<u16> {
        match self {
            Self::Ca => Some(1),
            Self::LaterCa(number) => Some(number),
            Self::Token | Self::Log | Self::ServerTls | Self::Redaction => None,
        }
    }

    /// The algorithm this key must have; a stored key of another one is refused.
    pub(crate) const fn algorithm(self) -> KeyAlgorithm {
        match self {
            Self::Ca | Self::LaterCa(_) | Self::Token | Self::ServerTls => KeyAlgorithm::EcdsaP256,
            Self::Log => KeyAlgorithm::Ed25519,
            Self::Redaction => KeyAlgorithm::HmacSha256,
        }
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

/// A signature algorithm with its encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum KeyAlgorithm {
    /// ECDSA on P-256 with SHA-256; signatures are ASN.1 DER.
    EcdsaP256,
    /// Ed25519; signatures are the 64 bytes of RFC 8032.
    Ed25519,
    /// HMAC-SHA-256 (RFC 2104); a signature is the 32 bytes of the code, which only the
    /// holder of the key can verify. The 32 bytes of the key are stored in the form of an
    /// Ed25519 key (RFC 8410), so that one form is encrypted, sealed and backed up.
    HmacSha256,
}

/// A private key that can be used but not read.
pub(crate) trait SigningKey: Send + Sync + fmt::Debug {
    /// The algorithm, and with it the encoding of signatures.
    fn algorithm(&self) -> KeyAlgorithm;

    /// The public key as a DER `SubjectPublicKeyInfo`; empty where there is none.
    fn public_key_spki_der(&self) -> &[u8];

    /// Signs `message` itself (not a digest of it).
    ///
    /// # Errors
    /// [`KeyError::Sign`] when the key cannot be used; nothing was signed.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError>;
}

/// Where the server's keys lie.
#[async_trait]
pub(crate) trait KeyService: Send + Sync {
    /// The key `name`, made on first use. Two callers that race get the same key.
    ///
    /// # Errors
    /// A key that exists but cannot be read safely is never replaced.
    async fn load_or_create(&self, name: KeyName) -> Result<Arc<dyn SigningKey>, KeyError>;

    /// The key `name`, if it was made already.
    ///
    /// # Errors
    /// A key that exists but cannot be read safely.
    async fn existing(&self, name: KeyName) -> Result<Option<Arc<dyn SigningKey>>, KeyError>;
}

/// Why a key could not be loaded, made or used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyError {
    /// Others may read (or the group may write) where private keys lie.
    #[error("`{path}` has mode {mode:03o}, which lets others at private keys; run `chmod {wanted:03o} {path}`", path = path.display())]
    Permissions {
        /// The file or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// The permission bits that are accepted.
        wanted: u32,
    },
    /// The operating system refused.
    #[error("cannot {act} `{path}`: {source}", path = path.display())]
    Io {
        /// What was tried.
        act: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// The reason given.
        source: std::io::Error,
    },
    /// Stored bytes are not a key of the expected algorithm.
    #[error("the stored key `{0}` is damaged or of another algorithm; restore it from a backup")]
    Malformed(KeyName),
    /// A sealed key does not open: another keyring secret, another log, or altered bytes.
    #[error(
        "the stored key `{0}` does not open with the secret of `keyring_file`; use the secret it was sealed with"
    )]
    Unseal(KeyName),
    /// The keyring secret is too weak to seal keys with.
    #[error("the secret of `keyring_file` {0}; make one with `openssl rand -base64 48`")]
    WeakSecret(&'static str),
    /// The passphrase is too weak to encrypt keys with.
    #[error("the passphrase for key files {0}; make one with `openssl rand -base64 24`")]
    WeakPassphrase(&'static str),
    /// An encrypted key, and no passphrase was given.
    #[error("`{path}` is encrypted; name the file with its passphrase in `key_passphrase_file`", path = path.display())]
    PassphraseMissing {
        /// The file.
        path: PathBuf,
    },
    /// An encrypted key does not open.
    #[error("`{path}` does not open: the passphrase is not the one that it was encrypted with, or the file was altered; it is left as it is", path = path.display())]
    PassphraseWrong {
        /// The file.
        path: PathBuf,
    },
    /// A key in clear text, though a passphrase was given.
    #[error("`{path}` is not encrypted, but a passphrase is given; if the key is yours, run `zta keys encrypt`", path = path.display())]
    ClearText {
        /// The file.
        path: PathBuf,
    },
    /// A file that should hold a private key does not.
    #[error("`{path}` does not hold one PKCS#8 private key ({wanted}) in PEM; a damaged one must come from a backup, another form is converted by `openssl pkcs8 -topk8 -nocrypt`", path = path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
        /// The algorithm that it should be of.
        wanted: &'static str,
    },
    /// The store of sealed keys failed.
    #[error("the store of sealed keys failed: {0}")]
    Store(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The cryptographic library could not make a key.
    #[error("cannot generate a key")]
    Generate,
    /// The cryptographic library could not seal a key.
    #[error("cannot seal a key")]
    Seal,
    /// The key could not sign.
    #[error("cannot sign with the key")]
    Sign,
}

/// Whether a secret is what stands in an example, for everybody to read.
fn is_placeholder(secret: &[u8]) -> bool {
    let lower = zeroize::Zeroizing::new(secret.to_ascii_lowercase());
    let placeholders: [&[u8]; 4] = [b"changeme", b"change-me", b"change_me", b"placeholder"];
    placeholders
        .iter()
        .any(|word| lower.windows(word.len()).any(|window| window == *word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_as_it_is_written_and_in_no_other_way() {
        let later = [2, 3, 10, u16::MAX].map(KeyName::ca);
        for name in KeyName::ALL.into_iter().chain(later) {
            assert_eq!(KeyName::parse(&name.text()), Some(name));
        }
        assert_eq!(KeyName::ca(1), KeyName::Ca);
        for other in [
            "", "CA", "ca-", "ca-0", "ca-1", "ca-02", "ca-+2", "ca-65536", "operator",
        ] {
            assert_eq!(KeyName::parse(other), None, "{other}");
        }
    }
}
