//! Copying the WAL back into the database file, which SQLite calls backfilling, beside the
//! writer. Done by the writer, as SQLite does it by itself, each copy and its two flushes
//! would be waited for by all who wait for a commit. It is no checkpoint of the log.
//!
//! The WAL begins anew with the first commit that finds it copied whole and nobody reading
//! from it. A writer that is always at work, or readers of whom one is always there, leave no
//! such moment, so from a certain size on one is made, in the writer's turn.

use std::sync::Arc;
use std::time::Duration;

use sqlx::SqlitePool;
use sqlx::sqlite::SqliteConnectOptions;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::files::DatabaseFiles;
use super::{pool, translate};
use crate::model::repeats::Repeats;
use crate::store::StoreError;

/// Between two looks at a WAL that is written to.
const PAUSE: Duration = Duration::from_millis(20);
/// Pages that are not copied back, from which on they are: 2 MiB.
const COPY_PAGES: u32 = 512;
/// Pages of the WAL from which on it is made to begin anew: 16 MiB.
const RESTART_PAGES: u32 = 4000;
/// How long all who want to write wait for those who read from it.
const RESTART_TIMEOUT: Duration = Duration::from_millis(100);
/// Bytes that the WAL's file is cut to as it begins anew, after somebody read for long.
const WAL_BYTES: &str = "33554432";

/// A task that copies, until it is closed or dropped.
#[derive(Debug)]
pub(super) struct Backfill {
    task: AbortHandle,
    /// Closed when the task ends, however it does.
    alive: watch::Receiver<()>,
    copier: SqlitePool,
}

impl Backfill {
    /// Starts it. `options` are those of a reader: a checkpoint is no write to the data.
    /// `written` says that the writer has had a turn.
    pub(super) async fn start(
        options: SqliteConnectOptions,
        writer: SqlitePool,
        files: Arc<DatabaseFiles>,
        written: Arc<Notify>,
    ) -> Result<Self, StoreError> {
        let copier = pool(1)
            .connect_with(options.busy_timeout(RESTART_TIMEOUT))
            .await
            .map_err(translate)?;
        let copying = Copying {
            copier: copier.clone(),
            writer,
            files,
            restart_at: RESTART_PAGES,
            begins_anew: false,
        };
        let (own, alive) = watch::channel(());
        let task = tokio::spawn(async move {
            let _own = own;
            copying.run(written).await;
        });
        Ok(Self {
            task: task.abort_handle(),
            alive,
            copier,
        })
    }

    pub(super) async fn ended(&self) {
        let mut alive = self.alive.clone();
        while alive.changed().await.is_ok() {}
    }

    pub(super) async fn close(&self) {
        self.task.abort();
        self.copier.close().await;
    }
}

impl Drop for Backfill {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Copying {
    copier: SqlitePool,
    writer: SqlitePool,
    files: Arc<DatabaseFiles>,
    /// Pages of the WAL from which on it is made to begin anew.
    restart_at: u32,
    /// The next commit does it.
    begins_anew: bool,
}

impl Copying {
    async fn run(mut self, written: Arc<Notify>) {
        let mut repeats = Repeats::new();
        loop {
            written.notified().await;
            // If we crash during a copy, the WAL still has it all.
            if let Err(error) = self.copy().await
                && let Some(unsaid) =
                    repeats.admit(&error.to_string(), 1, Instant::now().into_std())
            {
                tracing::warn!(unsaid, %error, "SQLite's WAL was not copied back, and grows");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn copy(&mut self) -> Result<(), StoreError> {
        let Some(mut wal) = self.look().await? else {
            return Ok(());
        };
        self.begins_anew &= wal.left() == 0;
        if wal.pages < RESTART_PAGES {
            self.restart_at = RESTART_PAGES;
        }
        let mut copied = false;
        while wal.left() >= COPY_PAGES {
            // It waits for nobody, and says how long the WAL was when it began.
            self.checkpoint("PRAGMA wal_checkpoint(PASSIVE)").await?;
            let Some(now) = self.look().await? else {
                return Ok(());
            };
            let before = std::mem::replace(&mut wal, now);
            if now.copied == before.copied {
                // Somebody reads: for long, or only since the copy before.
                if !copied || now.left() >= RESTART_PAGES {
                    return Ok(());
                }
                break;
            }
            copied = true;
            // The disk cannot keep up: with nobody waiting there would be no end.
            if now.left() >= before.left() {
                break;
            }
        }
        if wal.pages < self.restart_at || self.begins_anew {
            return Ok(());
        }
        // Unless it goes well: readers that take too long, and full disks, are met seldom.
        self.restart_at = wal.pages.saturating_mul(2);
        self.files.require()?;
        // Of a busy writer, SQLite would hardly ever get the lock.
        let turn = self.writer.acquire().await.map_err(translate)?;
        let wal = self.checkpoint("PRAGMA wal_checkpoint(RESTART)").await?;
        if wal.is_some_and(|wal| !wal.busy) {
            (self.restart_at, self.begins_anew) = (RESTART_PAGES, true);
        }
        drop(turn);
        Ok(())
    }

    async fn look(&self) -> Result<Option<Wal>, StoreError> {
        self.checkpoint("PRAGMA wal_checkpoint(NOOP)").await
    }

    /// `None`: another process is at it.
    async fn checkpoint(&self, sql: &'static str) -> Result<Option<Wal>, StoreError> {
        let (busy, pages, copied): (i64, i64, i64) = sqlx::query_as(sql)
            .fetch_one(&self.copier)
            .await
            .map_err(translate)?;
        let [pages, copied] = [pages, copied].map(u32::try_from);
        Ok(pages.ok().zip(copied.ok()).map(|(pages, copied)| Wal {
            busy: busy != 0,
            pages,
            copied,
        }))
    }
}

/// What a checkpoint says of the WAL.
#[derive(Clone, Copy)]
struct Wal {
    /// Somebody was in its way.
    busy: bool,
    pages: u32,
    copied: u32,
}

impl Wal {
    fn left(self) -> u32 {
        self.pages.saturating_sub(self.copied)
    }
}

/// The options of the writer, which copies nothing by itself.
pub(super) fn copied_by_another(options: SqliteConnectOptions) -> SqliteConnectOptions {
    options
        .pragma("wal_autocheckpoint", "0")
        .pragma("journal_size_limit", WAL_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store as _;
    use crate::store::sqlite::SqliteStore;

    /// Nothing else copies the WAL back, so the server must hear of it, and stops then.
    #[tokio::test]
    async fn a_task_that_ended_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = SqliteStore::with_log(folder.path()).await;
        let soon = Duration::from_millis(50);
        let ended = tokio::time::timeout(soon, store.ended()).await;
        assert!(ended.is_err(), "though it goes on");
        store.backfill.task.abort();
        store.ended().await;
    }
}
