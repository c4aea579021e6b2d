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
            .and_then(|file| Ok((file.metadata()?, path.canonicalize()?)));
        let (found, real) = file.map_err(|e| {
            StoreError::Unavailable(format!("cannot open `{}`: {e}", path.display()))
        })?;
        // Beside the file that a link leads to, as SQLite has it.
        let mut paths = SUFFIXES.map(|suffix| {
            let mut path = real.as_os_str().to_owned();
            path.push(suffix);
            PathBuf::from(path)
        });
        path.clone_into(&mut paths[0]);
        Ok(Self {
            paths,
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

#[cfg(test)]
mod tests {
    use crate::store::StoreError;
    use crate::store::sqlite::SqliteStore;

    /// SQLite puts the WAL beside the file that a link leads to.
    #[tokio::test]
    async fn a_linked_database_is_one_until_the_link_leads_elsewhere() {
        let (folder, disk) = (tempfile::tempdir(), tempfile::tempdir());
        let (folder, disk) = (folder.expect("a folder"), disk.expect("another"));
        let link = folder.path().join("zta.db");
        std::os::unix::fs::symlink(disk.path().join("data.db"), &link).expect("links");
        let store = SqliteStore::with_log(folder.path()).await;
        store.files.require().expect("the files that were opened");
        std::fs::remove_file(&link).expect("unlinks");
        std::fs::write(&link, "").expect("another file");
        let refused = store.files.require();
        assert!(matches!(refused, Err(StoreError::Unavailable(_))));
    }
}
