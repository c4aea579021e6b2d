//! One private key in a file of mode 0600: PKCS#8 in PEM, or encrypted (see
//! [`passphrase`](super::passphrase)). The server's own keys and the one that an operator
//! brings are read by the same rules.

use std::borrow::Cow;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::passphrase::is_encrypted;
use super::software::PKCS8_LABEL;
use super::{KeyAlgorithm, KeyError, Passphrase, SoftwareKey, pem};

const FILE_MODE: u32 = 0o600;
/// A private key file is a few hundred bytes; more is not one.
const FILE_LEN_MAX: u64 = 16 * 1024;

/// A private key's file, and what must be in it.
#[derive(Clone, Debug)]
pub(crate) struct KeyFile<'a> {
    /// Where it is.
    pub(crate) path: &'a Path,
    /// What an encrypted key is bound to.
    pub(crate) name: Cow<'a, str>,
    /// The algorithm of the key.
    pub(crate) algorithm: KeyAlgorithm,
}

impl KeyFile<'_> {
    /// The key, if there is a file.
    ///
    /// # Errors
    /// A file that others may read, that holds no such key, or that is not encrypted with
    /// just this passphrase.
    pub(crate) fn load(
        &self,
        passphrase: Option<&Passphrase>,
    ) -> Result<Option<SoftwareKey>, KeyError> {
        let Some(text) = self.read()? else {
            return Ok(None);
        };
        let path = || self.path.to_owned();
        let der = match (is_encrypted(&text), passphrase) {
            (true, None) => return Err(KeyError::PassphraseMissing { path: path() }),
            (false, Some(_)) => return Err(KeyError::ClearText { path: path() }),
            (true, Some(passphrase)) => passphrase
                .decrypt(&self.name, &text)
                .ok_or_else(|| KeyError::PassphraseWrong { path: path() })?,
            (false, None) => pem::decode(PKCS8_LABEL, &text).ok_or_else(|| self.no_key())?,
        };
        let key = SoftwareKey::from_pkcs8(self.algorithm, &der);
        key.map(Some).ok_or_else(|| self.no_key())
    }

    /// Encrypts the key if it is in clear text; whether it was. A crash leaves the old file
    /// or the new one.
    ///
    /// # Errors
    /// As [`Self::load`]; the file is left as it is.
    pub(crate) fn encrypt(&self, passphrase: &Passphrase) -> Result<bool, KeyError> {
        let Some(text) = self.read()? else {
            return Ok(false);
        };
        if is_encrypted(&text) {
            return self.load(Some(passphrase)).map(|_| false);
        }
        let key = self.load(None)?.ok_or_else(|| self.no_key())?;
        let text = self.text(&key, Some(passphrase))?;
        // Never replace a key by what would not open again.
        passphrase
            .decrypt(&self.name, &text)
            .ok_or(KeyError::Seal)?;
        let temporary = temporary(self.path);
        let replaced = write_private(&temporary, text.as_bytes())
            .and_then(|()| fs::rename(&temporary, self.path).map_err(io("replace", self.path)));
        if replaced.is_err() {
            // The encrypted copy is of no use to anybody; the key is where it was.
            let _ = fs::remove_file(&temporary);
        }
        replaced?;
        let directory = self.path.parent().filter(|p| !p.as_os_str().is_empty());
        let directory = directory.unwrap_or(Path::new("."));
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(io("sync", directory))?;
        Ok(true)
    }

    /// What a file of this key holds.
    pub(super) fn text(
        &self,
        key: &SoftwareKey,
        passphrase: Option<&Passphrase>,
    ) -> Result<Zeroizing<String>, KeyError> {
        match passphrase {
            None => key.pkcs8_pem(),
            Some(passphrase) => passphrase.encrypt(&self.name, &key.pkcs8_der()?),
        }
    }

    fn read(&self) -> Result<Option<Zeroizing<String>>, KeyError> {
        let file = match File::open(self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io("open", self.path)(error)),
        };
        // The mode of the opened file, not of whatever the path names a moment later.
        let metadata = file.metadata().map_err(io("read", self.path))?;
        require_private(self.path, metadata.permissions().mode(), FILE_MODE)?;
        if metadata.len() > FILE_LEN_MAX {
            return Err(self.no_key());
        }
        // One allocation of full size: a growing buffer would leave copies of the key behind.
        let mut text = Zeroizing::new(String::with_capacity(FILE_LEN_MAX as usize + 1));
        file.take(FILE_LEN_MAX)
            .read_to_string(&mut text)
            .map_err(io("read", self.path))?;
        Ok(Some(text))
    }

    fn no_key(&self) -> KeyError {
        KeyError::NoKey {
            path: self.path.to_owned(),
            wanted: match self.algorithm {
                KeyAlgorithm::EcdsaP256 => "ECDSA P-256",
                KeyAlgorithm::Ed25519 => "Ed25519",
                KeyAlgorithm::HmacSha256 => "a secret in the form of an Ed25519 key",
            },
        }
    }
}

/// A name beside `path` for a file that is to take its place.
pub(super) fn temporary(path: &Path) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{stem}.{}.tmp", uuid::Uuid::new_v4()))
}

pub(super) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), KeyError> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(FILE_MODE)
        .open(path)
        .map_err(io("create", path))?;
    file.write_all(bytes).map_err(io("write", path))?;
    file.sync_all().map_err(io("sync", path))
}

pub(super) fn require_private(path: &Path, mode: u32, wanted: u32) -> Result<(), KeyError> {
    if mode & 0o077 == 0 {
        return Ok(());
    }
    Err(KeyError::Permissions {
        path: path.to_owned(),
        mode: mode & 0o777,
        wanted,
    })
}

pub(super) fn io(act: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> KeyError {
    let path = path.to_owned();
    move |source| KeyError::Io { act, path, source }
}
