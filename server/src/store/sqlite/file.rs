//! The database's file: made for its owner alone, and the one that stands at its path.

use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::store::StoreError;

/// Which file was opened. With a WAL, SQLite does not look for it again: what is committed to
/// one that was deleted, or that another took the place of, is lost when the process ends.
#[derive(Debug)]
pub(super) struct DatabaseFile {
    path: PathBuf,
    /// Device and inode.
    id: (u64, u64),
}

impl DatabaseFile {
    /// Creates the file, if it is missing. SQLite gives its WAL the same mode.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)
            .and_then(|file| file.metadata());
        let found = file.map_err(|e| {
            StoreError::Unavailable(format!("cannot open `{}`: {e}", path.display()))
        })?;
        Ok(Self {
            path: path.to_owned(),
            id: (found.dev(), found.ino()),
        })
    }

    /// One call of the system, without which nothing is committed.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: it is not there any more.
    pub(super) fn is_there(&self) -> Result<(), StoreError> {
        let found = std::fs::metadata(&self.path).map(|found| (found.dev(), found.ino()));
        if found.is_ok_and(|found| found == self.id) {
            return Ok(());
        }
        Err(StoreError::Unavailable(format!(
            "the database that was opened does not stand at `{}` any more: somebody moved, deleted \
             or replaced it; put it back, or restart the server on the one that is there now",
            self.path.display()
        )))
    }
}
