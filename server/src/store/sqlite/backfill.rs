//! Copying the WAL back into the database file, beside the writer. Done by the writer, as
//! SQLite does it by itself, each copy of a thousand pages and its two flushes would be
//! waited for by all who wait for a commit. It is no checkpoint of the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use sqlx::SqlitePool;
use sqlx::sqlite::SqliteConnectOptions;

/// Events after which the WAL is copied back; they take about a page each.
const EVENTS: usize = 512;
/// Pages of the WAL from which on the writer copies what is left, so that the WAL can
/// begin anew: one that is never copied whole would grow for ever.
const WAL_PAGES: &str = "2500";

/// Starts copies, which SQLite calls backfilling, one at a time.
#[derive(Debug)]
pub(super) struct Backfill {
    /// A checkpoint is no write to the data: a reader may do it.
    readers: SqlitePool,
    events: AtomicUsize,
    under_way: AtomicBool,
}

impl Backfill {
    pub(super) fn new(readers: SqlitePool) -> Self {
        Self {
            readers,
            events: AtomicUsize::new(0),
            under_way: AtomicBool::new(false),
        }
    }

    /// Counts events of a commit. If we crash during a copy, the WAL still has it all.
    pub(super) fn committed(self: &Arc<Self>, events: usize) {
        if self.events.fetch_add(events, Ordering::Relaxed) + events < EVENTS
            || self.under_way.swap(true, Ordering::AcqRel)
        {
            return;
        }
        self.events.store(0, Ordering::Relaxed);
        let own = Arc::clone(self);
        tokio::spawn(async move {
            // PASSIVE waits for nobody. A copy that fails is one that the writer does.
            let copy = sqlx::query("PRAGMA wal_checkpoint(PASSIVE)");
            if let Err(error) = copy.execute(&own.readers).await {
                tracing::debug!(%error, "the WAL was not copied back");
            }
            own.under_way.store(false, Ordering::Release);
        });
    }
}

/// The options of the writer.
pub(super) fn bounded(options: SqliteConnectOptions) -> SqliteConnectOptions {
    options.pragma("wal_autocheckpoint", WAL_PAGES)
}
