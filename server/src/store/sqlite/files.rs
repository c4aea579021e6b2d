//! The database's files: made for their owner alone, and the ones that stand at their paths.
//!
//! With a WAL, SQLite does not look for its files again once they are open. What is committed
//! to one that was deleted, or that another took the place of, is gone after a crash; and
//! another process would see a database of its own.

use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::store::StoreError;

/// Device and inode; `None` where there is no file.
type Id = Option<(u64, u64)>;

/// What SQLite appends to a database's path: itself, its WAL, the index of that.
const SUFFIXES: [&str; 3] = ["", "-wal", "-shm"];

/// Which files are open: the same as long as the store is, because a connection always is.
#[derive(Debug)]
pub(super) struct DatabaseFiles {
    paths: [PathBuf; SUFFIXES.len()],
    opened: [Id; SUFFIXES.len()],
}

impl DatabaseFiles {
    /// Creates the database's file, if it is missing. SQLite gives the others its mode.
    pub(super) fn create(path: &Path) -> Result<Self, StoreError> {
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)
            .and_then(|file| file.metadata());
        let found = file.map_err(|e| {
            StoreError::Unavailable(format!("cannot open `{}`: {e}", path.display()))
        })?;
        let beside = |suffix| {
            let mut path = path.as_os_str().to_owned();
            path.push(suffix);
            PathBuf::from(path)
        };
        Ok(Self {
            paths: SUFFIXES.map(beside),
            opened: [Some((found.dev(), found.ino())), None, None],
        })
    }

    /// The first connection has opened what stands beside the database.
    pub(super) fn were_opened(&mut self) {
        let found = self.found();
        self.opened[1..].copy_from_slice(&found[1..]);
    }

    /// # Errors
    /// [`StoreError::Unavailable`]: one of the files that were opened is not there any more.
    pub(super) fn require(&self) -> Result<(), StoreError> {
        let found = self.found();
        let mut files = self.paths.iter().zip(self.opened.iter().zip(&found));
        match files.find(|(_, (opened, found))| opened.is_none() || opened != found) {
            None => Ok(()),
            Some((path, _)) => Err(StoreError::Unavailable(format!(
                "`{}` is not the file that was opened: somebody moved, deleted or replaced it. Put \
                 it back; if it is gone, end the server with SIGTERM, not by force: what it holds \
                 of a lost WAL is written back as it closes the database",
                path.display()
            ))),
        }
    }

    fn found(&self) -> [Id; SUFFIXES.len()] {
        let id = |path: &PathBuf| {
            let found = std::fs::metadata(path).ok()?;
            Some((found.dev(), found.ino()))
        };
        self.paths.each_ref().map(id)
    }
}
