//! Keys as files of an embedded server: `<data_dir>/keys/<name>.pem`, PKCS#8.
//!
//! A file appears complete or not at all, is never overwritten, and is refused
//! when anyone but its owner may touch it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use zeroize::Zeroizing;

use super::software::PKCS8_LABEL;
use super::{KeyError, KeyName, KeyService, SigningKey, SoftwareKey, pem};

const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// A private key file is a few hundred bytes; more is not one.
const FILE_LEN_MAX: u64 = 16 * 1024;

/// Keys in a directory that only the server's user can enter.
#[derive(Debug)]
pub(crate) struct LocalKeys {
    directory: PathBuf,
}

impl LocalKeys {
    /// Opens `<data_dir>/keys`, making it if it is missing.
    pub(crate) fn open(data_dir: &Path) -> Result<Self, KeyError> {
        let directory = data_dir.join("keys");
        DirBuilder::new()
            .recursive(true)
            .mode(DIRECTORY_MODE)
            .create(&directory)
            .map_err(io("create", &directory))?;
        let metadata = fs::metadata(&directory).map_err(io("read", &directory))?;
        require_private(&directory, metadata.permissions().mode(), DIRECTORY_MODE)?;
        Ok(Self { directory })
    }

    fn path(&self, name: KeyName) -> PathBuf {
        self.directory.join(format!("{name}.pem"))
    }

    fn load(&self, name: KeyName) -> Result<Option<SoftwareKey>, KeyError> {
        let path = self.path(name);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io("open", &path)(error)),
        };
        // The mode of the opened file, not of whatever the path names a moment later.
        let metadata = file.metadata().map_err(io("read", &path))?;
        require_private(&path, metadata.permissions().mode(), FILE_MODE)?;
        if metadata.len() > FILE_LEN_MAX {
            return Err(KeyError::Malformed(name));
        }
        // One allocation of full size: a growing buffer would leave copies of the key behind.
        let mut text = Zeroizing::new(String::with_capacity(FILE_LEN_MAX as usize + 1));
        file.take(FILE_LEN_MAX)
            .read_to_string(&mut text)
            .map_err(io("read", &path))?;
        pem::decode(PKCS8_LABEL, &text)
            .and_then(|der| SoftwareKey::from_pkcs8(name.algorithm(), &der))
            .map(Some)
            .ok_or(KeyError::Malformed(name))
    }

    /// Publishes a new key under `name`, unless another process was first.
    ///
    /// A crash before the link leaves an unused temporary file (mode 0600);
    /// after it, a complete key.
    fn create(&self, name: KeyName) -> Result<(), KeyError> {
        let key = SoftwareKey::generate(name.algorithm())?;
        let path = self.path(name);
        let temporary = self
            .directory
            .join(format!(".{name}.{}.tmp", uuid::Uuid::new_v4()));
        let written = write_private(&temporary, key.pkcs8_pem()?.as_bytes());
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

fn write_private(path: &Path, bytes: &[u8]) -> Result<(), KeyError> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(FILE_MODE)
        .open(path)
        .map_err(io("create", path))?;
    file.write_all(bytes).map_err(io("write", path))?;
    file.sync_all().map_err(io("sync", path))
}

fn require_private(path: &Path, mode: u32, wanted: u32) -> Result<(), KeyError> {
    if mode & 0o077 == 0 {
        return Ok(());
    }
    Err(KeyError::Permissions {
        path: path.to_owned(),
        mode: mode & 0o777,
        wanted,
    })
}

fn io(act: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> KeyError {
    let path = path.to_owned();
    move |source| KeyError::Io { act, path, source }
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
        let keys = LocalKeys::open(data_dir.path()).expect("keys");
        for name in KeyName::ALL {
            let first = keys.load_or_create(name).await.expect("a key");
            let again = LocalKeys::open(data_dir.path()).expect("keys");
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
        let keys = LocalKeys::open(data_dir.path()).expect("keys");
        let first = keys.load_or_create(KeyName::Ca).await.expect("a key");
        keys.create(KeyName::Ca)
            .expect("losing the race is no error");
        let kept = keys.load_or_create(KeyName::Ca).await.expect("a key");
        assert_eq!(first.public_key_spki_der(), kept.public_key_spki_der());
    }

    #[tokio::test]
    async fn what_others_can_read_is_refused() {
        let data_dir = tempfile::tempdir().expect("a directory");
        let keys = LocalKeys::open(data_dir.path()).expect("keys");
        keys.load_or_create(KeyName::Ca).await.expect("a key");
        set_mode(&keys.path(KeyName::Ca), 0o640);
        let error = keys.load_or_create(KeyName::Ca).await.expect_err("refused");
        assert!(matches!(error, KeyError::Permissions { mode: 0o640, .. }));
        assert!(error.to_string().contains("chmod 600"), "{error}");

        set_mode(&data_dir.path().join("keys"), 0o755);
        let error = LocalKeys::open(data_dir.path()).expect_err("refused");
        assert!(matches!(error, KeyError::Permissions { mode: 0o755, .. }));
    }

    #[tokio::test]
    async fn a_damaged_or_foreign_key_is_refused_and_kept() {
        let data_dir = tempfile::tempdir().expect("a directory");
        let keys = LocalKeys::open(data_dir.path()).expect("keys");
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
}
