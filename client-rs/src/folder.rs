//! The files of a credential folder: modes, atomic replacement, locking.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use aws_lc_rs::rand;

use crate::error::Error;

pub(crate) const KEY: &str = "key.pem";
pub(crate) const CERTIFICATE: &str = "cert.pem";
pub(crate) const CA: &str = "ca.pem";
pub(crate) const FACTS: &str = "zta.json";

const FILE_BYTES_MAX: u64 = 1 << 20;

/// Reads a file of bounded size.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Error> {
    read_checked(path, |_| Ok(()))
}

/// Reads a file that nobody else may read.
pub(crate) fn read_private(path: &Path) -> Result<Vec<u8>, Error> {
    read_checked(path, |file| {
        let mode = file.metadata()?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(io::Error::other(
                "can be read by others; set its mode to 0600, and consider the key exposed",
            ));
        }
        Ok(())
    })
}

fn read_checked(path: &Path, check: impl Fn(&File) -> io::Result<()>) -> Result<Vec<u8>, Error> {
    let read = || {
        let file = File::open(path)?;
        check(&file)?;
        let mut content = Vec::new();
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut content)?;
        if content.len() as u64 > FILE_BYTES_MAX {
            return Err(io::Error::other("is longer than 1 MiB"));
        }
        Ok(content)
    };
    read().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::credential(path, "is missing; enroll first"),
        _ => Error::credential(path, error.to_string()),
    })
}

/// Makes a folder of mode 0700 with a new key in it. An existing key is never replaced:
/// two processes that enroll into one folder cannot both succeed.
pub(crate) fn create(path: &Path, key_pem: &[u8]) -> Result<(), Error> {
    let make = || {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path.join(KEY))?;
        file.write_all(key_pem)?;
        file.sync_all()
    };
    make().map_err(|error: io::Error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            Error::credential(path, "already holds a key; choose another folder")
        }
        _ => Error::credential(path, error.to_string()),
    })
}

/// Replaces a file by a rename, mode 0600.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<(), Error> {
    let mut suffix = [0; 8];
    rand::fill(&mut suffix).map_err(|_| Error::credential(path, "no randomness"))?;
    let temporary = path.with_extension(format!("{:016x}.tmp", u64::from_ne_bytes(suffix)));
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        match path.parent() {
            Some(parent) => File::open(parent)?.sync_all(),
            None => Ok(()),
        }
    };
    write().map_err(|error: io::Error| {
        // Gone already if the rename succeeded; what cannot be removed holds no secret.
        let _ = fs::remove_file(&temporary);
        Error::credential(path, error.to_string())
    })
}

/// An exclusive lock of the folder (flock, as the Python client takes it). May block.
pub(crate) fn lock(path: &Path) -> Result<File, Error> {
    let take = || {
        let folder = File::open(path)?;
        folder.lock()?;
        Ok(folder)
    };
    take().map_err(|error: io::Error| Error::credential(path, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("metadata").permissions().mode() & 0o777
    }

    #[test]
    fn a_key_is_private_and_never_replaced() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("a/b");
        create(&path, b"one").expect("created");
        assert_eq!((mode(&path), mode(&path.join(KEY))), (0o700, 0o600));
        let error = create(&path, b"two").expect_err("a second key");
        assert!(error.to_string().contains("already holds a key"), "{error}");
        assert_eq!(read_private(&path.join(KEY)).expect("key"), b"one");
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().expect("tempdir");
        create(dir.path(), b"one").expect("created");
        let key = dir.path().join(KEY);
        fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).expect("chmod");
        let error = read_private(&key).expect_err("readable by the group");
        assert!(error.to_string().contains("0600"), "{error}");
    }

    #[test]
    fn replacing_leaves_the_new_content_and_nothing_beside_it() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join(CERTIFICATE);
        replace(&path, b"one").expect("first");
        replace(&path, b"two").expect("second");
        assert_eq!(fs::read(&path).expect("content"), b"two");
        assert_eq!(mode(&path), 0o600);
        assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 1);
        let error = replace(&dir.path().join("none/cert.pem"), b"x").expect_err("no folder");
        assert!(matches!(error, Error::Credential { .. }));
    }

    #[test]
    fn what_is_too_long_or_missing_is_named() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join(CA);
        let missing = read(&path).expect_err("missing").to_string();
        assert!(
            missing.contains("ca.pem") && missing.contains("missing"),
            "{missing}"
        );
        fs::write(&path, vec![b'x'; FILE_BYTES_MAX as usize + 1]).expect("written");
        assert!(read(&path).expect_err("long").to_string().contains("1 MiB"));
    }
}
