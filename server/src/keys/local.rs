//! Keys as files of an embedded server: `<data_dir>/keys/<name>.pem`.
//!
//! A file appears complete or not at all, is never overwritten, and is refused
//! when anyone but its owner may touch it. What is in it is the business of
//! [`file`](mod@super::file): PKCS#8, encrypted where a passphrase is given.

use std::fs::{self, DirBuilder, File};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;

use super::file::{self, KeyFile, io, require_private, write_private};
use super::{KeyError, KeyName, KeyService, Passphrase, SigningKey, SoftwareKey};

const DIRECTORY_MODE: u32 = 0o700;

/// Keys in a directory that only the server's user can enter.
#[derive(Debug)]
pub(crate) struct LocalKeys {
    directory: PathBuf,
    passphrase: Option<Arc<Passphrase>>,
}

impl LocalKeys {
    /// Opens `<data_dir>/keys`, making it if it is missing. With a passphrase, every key
    /// is encrypted: those that are made, and those that are accepted.
    pub(crate) fn open(
        data_dir: &Path,
        passphrase: Option<Arc<Passphrase>>,
    ) -> Result<Self, KeyError> {
        let directory = data_dir.join("keys");
        DirBuilder::new()
            .recursive(true)
            .mode(DIRECTORY_MODE)
            .create(&directory)
            .map_err(io("create", &directory))?;
        let metadata = fs::metadata(&directory).map_err(io("read", &directory))?;
        require_private(&directory, metadata.permissions().mode(), DIRECTORY_MODE)?;
        Ok(Self {
            directory,
            passphrase,
        })
    }

    /// Encrypts every key here that is in clear text, and answers which those were.
    ///
    /// For an operator who says so, with the server stopped. The server itself never does
    /// this at its start: it would take over whatever key somebody has put there, and
    /// give it the look of one that was always protected.
    pub(crate) fn encrypt(data_dir: &Path, with: &Passphrase) -> Result<Vec<PathBuf>, KeyError> {
        let keys = Self::open(data_dir, None)?;
        let mut encrypted = Vec::new();
        for name in keys.names()? {
            let path = keys.path(name);
            if keys.file(name, &path).encrypt(with)? {
                encrypted.push(path);
            }
        }
        Ok(encrypted)
    }

    /// The keys that are here. What a crash left half made is removed: it may be a key in
    /// clear text.
    fn names(&self) -> Result<Vec<KeyName>, KeyError> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(io("read", &self.directory))? {
            let path = entry.map_err(io("read", &self.directory))?.path();
            let file_name = path.file_name().and_then(|name| name.to_str());
            let Some(file_name) = file_name else { continue };
            if file_name.starts_with('.') && file_name.ends_with(".tmp") {
                fs::remove_file(&path).map_err(io("remove", &path))?;
            } else if let Some(name) = file_name.strip_suffix(".pem").and_then(KeyName::parse) {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn path(&self, name: KeyName) -> PathBuf {
        self.directory.join(format!("{name}.pem"))
    }

    fn file<'a>(&self, name: KeyName, path: &'a Path) -> KeyFile<'a> {
        KeyFile {
            path,
            name: name.text(),
            algorithm: name.algorithm(),
        }
    }

    fn load(&self, name: KeyName) -> Result<Option<SoftwareKey>, KeyError> {
        let path = self.path(name);
        self.file(name, &path).load(self.passphrase.as_deref())
    }

    /// Publishes a new key under `name`, unless another process was first.
    ///
    /// A crash before the link leaves an unused temporary file (mode 0600);
    /// after it, a complete key.
    fn create(&self, name: KeyName) -> Result<(), KeyError> {
        let key = SoftwareKey::generate(name.algorithm())?;
        let path = self.path(name);
        let temporary = file::temporary(&path);
        let text = self
            .file(name, &path)
            .text(&key, self.passphrase.as_deref())?;
        let written = write_private(&temporary, text.as_bytes());
        // A link, not a rename: it fails where a file exists, and so can never replace a key.
        let linked = written.and_then(|()| match fs::hard_link(&temporary, &path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            other => other.map_err(io("create", &path)),
        });
        let removed = fs::remove_file(&temporary).map_err(io("remove", &temporary));
        linked.and(removed)?;
        File::open(&self.directory)
            .and_then(|directory| directory.sync_all())
            .map_err(io("sync", &self.directory))
    }
}

#[async_trait]
impl KeyService for LocalKeys {
    // The files are tiny and read once, at the start: blocking here delays nobody.
    async fn load_or_create(&self, name: KeyName) -> Result<Arc<dyn SigningKey>, KeyError> {
        if let Some(key) = self.load(name)? {
            return Ok(Arc::new(key));
        }
        self.create(name)?;
        // Read back what the disk holds, which is another process's key if that one was first.
        match self.load(name)? {
            Some(key) => Ok(Arc::new(key)),
            None => Err(KeyError::Malformed(name)),
        }
    }

    async fn existing(&self, name: KeyName) -> Result<Option<Arc<dyn SigningKey>>, KeyError> {
        Ok(self
            .load(name)?
            .map(|key| Arc::new(key) as Arc<dyn SigningKey>))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("metadata").permissions().mode() & 0o777
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
    }

    #[tokio::test]
    async fn keys_are_made_once_and_are_private() {
        let data_dir = tempfile::tempdir().expect("a directory");
        let keys = LocalKeys::open(data_dir.path(), None).expect("keys");
        for name in KeyName::ALL {
            let first = keys.load_or_create(name).await.expect("a key");
            let again = LocalKeys::open(data_dir.path(), None).expect("keys");
            let second = again.load_or_create(name).await.expect("the key");
            assert_eq!(first.public_key_spki_der(), second.public_key_spki_der());
            assert_eq!(first.algorithm(), name.algorithm());
            assert_eq!(mode(&keys.path(name)), 0o600);
        }
        assert_eq!(mode(&data_dir.path().join("keys")), 0o700);
        let files = fs::read_dir(data_dir.path().join("keys")).expect("listing");
        assert_eq!(files.count(), KeyName::ALL.len(), "no temporary file stays");
    }

    #[tokio::test]
    async fn a_racing_creator_does_not_replace_the_key() {
        let data_dir = tempfile::tempdir().expect("a directory");
        let keys = LocalKeys::open(data_dir.path(), None).expect("keys");
        let first = keys.load_or_create(KeyName::Ca).await.expect("a key");
        keys.create(KeyName::Ca)
            .expect("losing the race is no error");
        let kept = keys.load_or_create(KeyName::Ca).await.expect("a key");
        assert_eq!(first.public_key_spki_der(), kept.public_key_spki_der());
    }

    #[tokio::test]
    async fn what_others_can_read_is_refused() {
        let data_dir = tempfile::tempdir().expect("a directory");
        let keys = LocalKeys::open(data_dir.path(), None).expect("keys");
        keys.load_or_create(KeyName::Ca).await.expect("a key");
        set_mode(&keys.path(KeyName::Ca), 0o640);
        let error = keys.load_or_create(KeyName::Ca).await.expect_err("refused");
        assert!(matches!(error, KeyError::Permissions { mode: 0o640, .. }));
        assert!(error.to_string().contains("chmod 600"), "{error}");

        set_mode(&data_dir.path().join("keys"), 0o755);
        let error = LocalKeys::open(data_dir.path(), None).expect_err("refused");
        assert!(matches!(error, KeyError::Permissions { mode: 0o755, .. }));
    }

    #[tokio::test]
    async fn a_damaged_or_foreign_key_is_refused_and_kept() {
        let data_dir = tempfile::tempdir().expect("a directory");
        let keys = LocalKeys::open(data_dir.path(), None).expect("keys");
        keys.load_or_create(KeyName::Log).await.expect("a key");
        let log = fs::read(keys.path(KeyName::Log)).expect("the file");
        for content in [&log[..], &log[..40], b"", &[0xff; 20]] {
            let path = keys.path(KeyName::Ca);
            let _ = fs::remove_file(&path);
            write_private(&path, content).expect("a file");
            assert!(keys.load_or_create(KeyName::Ca).await.is_err());
            assert_eq!(fs::read(&path).expect("still there"), content);
        }
    }

    fn passphrase(text: &str) -> Option<Arc<Passphrase>> {
        let passphrase = Passphrase::new(text.as_bytes()).expect("a good passphrase");
        Some(Arc::new(passphrase))
    }

    #[tokio::test]
    async fn with_a_passphrase_files_are_encrypted_and_nothing_else_opens_them() {
        let data_dir = tempfile::tempdir().expect("a directory");
        let open = |with| LocalKeys::open(data_dir.path(), with).expect("keys");
        let keys = open(passphrase("correct horse battery"));
        let first = keys.load_or_create(KeyName::Ca).await.expect("a key");
        let again = open(passphrase("correct horse battery"));
        let again = again.load_or_create(KeyName::Ca).await.expect("the key");
        assert_eq!(first.public_key_spki_der(), again.public_key_spki_der());
        let path = keys.path(KeyName::Ca);
        let text = fs::read_to_string(&path).expect("the file");
        assert!(text.starts_with("-----BEGIN ZTA ENCRYPTED PRIVATE KEY-----"));
        assert_eq!(mode(&path), 0o600);

        let error = open(None).load_or_create(KeyName::Ca).await;
        let error = error.expect_err("no passphrase").to_string();
        assert!(error.contains("key_passphrase_file"), "{error}");
        let error = open(passphrase("wrong horse battery"));
        let error = error.load_or_create(KeyName::Ca).await.expect_err("wrong");
        assert!(matches!(error, KeyError::PassphraseWrong { .. }), "{error}");
        assert!(!error.to_string().contains("horse"), "{error}");

        // Renamed to another key's, it does not open either.
        fs::copy(&path, keys.path(KeyName::ServerTls)).expect("copied");
        let error = keys.load_or_create(KeyName::ServerTls).await;
        assert!(matches!(error, Err(KeyError::PassphraseWrong { .. })));
        assert_eq!(fs::read_to_string(&path).expect("kept"), text);
    }

    #[tokio::test]
    async fn a_clear_key_under_a_passphrase_waits_for_the_operator() {
        let data_dir = tempfile::tempdir().expect("a directory");
        let clear = LocalKeys::open(data_dir.path(), None).expect("keys");
        let before = clear.load_or_create(KeyName::Ca).await.expect("a key");
        clear.load_or_create(KeyName::Log).await.expect("a key");
        let half_made = data_dir.path().join("keys/.ca.x.tmp");
        fs::write(&half_made, "a key in clear text").expect("written");
        let with = passphrase("correct horse battery");
        let keys = LocalKeys::open(data_dir.path(), with.clone()).expect("keys");
        let error = keys.load_or_create(KeyName::Ca).await.expect_err("refused");
        assert!(error.to_string().contains("zta keys encrypt"), "{error}");

        let with = with.expect("one");
        let mut done = LocalKeys::encrypt(data_dir.path(), &with).expect("encrypted");
        done.sort();
        assert_eq!(done, [keys.path(KeyName::Ca), keys.path(KeyName::Log)]);
        assert!(!half_made.exists(), "what a crash left is gone");
        let after = keys.load_or_create(KeyName::Ca).await.expect("the key");
        assert_eq!(before.public_key_spki_der(), after.public_key_spki_der());
        assert_eq!(mode(&keys.path(KeyName::Ca)), 0o600);
        let done = LocalKeys::encrypt(data_dir.path(), &with).expect("done before");
        assert!(done.is_empty());
        let other = passphrase("another horse battery").expect("one");
        let error = LocalKeys::encrypt(data_dir.path(), &other).expect_err("not its own");
        assert!(matches!(error, KeyError::PassphraseWrong { .. }));
        keys.load_or_create(KeyName::Log).await.expect("kept");
    }
}
