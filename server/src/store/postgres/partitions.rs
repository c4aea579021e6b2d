//! Partitions of the audit, made ahead of need by whoever writes.
//!
//! No task of the background makes them, so none can be late: the writer knows where it writes and
//! holds the head, and asks `audit_extend` (migration 0001) in its own transaction when less than
//! half a partition is left. What if we crash here: the partition is gone with the transaction,
//! and the next writer asks again.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use sqlx::{PgConnection, Row as _};

use super::error::translate;
use super::writer::within;
use crate::store::StoreError;

/// Up to which sequence, exclusive, nobody has to ask.
#[derive(Clone, Debug, Default)]
pub(super) struct Partitions {
    known: Arc<AtomicI64>,
    /// What this transaction was told; it holds when it is committed.
    told: Option<i64>,
}

impl Partitions {
    /// Sees to it that sequences below `needed` have a partition.
    ///
    /// # Errors
    /// When the database makes none; then nothing can be written.
    pub(super) async fn reach(
        &mut self,
        connection: &mut PgConnection,
        needed: i64,
    ) -> Result<(), StoreError> {
        let ready = self.told.unwrap_or(self.known.load(Ordering::Relaxed));
        if needed <= ready {
            return Ok(());
        }
        let extend = sqlx::query("SELECT audit_extend($1)").bind(needed);
        let row = within(extend.fetch_one(connection)).await.map_err(|e| {
            let why = translate(e);
            StoreError::Unavailable(format!(
                "there is no partition for sequence {needed}, and none could be made; \
                 `SELECT audit_extend(...)` as the owner of the tables says why: {why}"
            ))
        })?;
        self.told = Some(row.try_get(0).map_err(translate)?);
        Ok(())
    }

    /// What was made in the transaction is there.
    pub(super) fn committed(&self) {
        if let Some(told) = self.told {
            self.known.store(told, Ordering::Relaxed);
        }
    }

    /// An insert failed, perhaps because somebody took a partition away.
    pub(super) fn forget(&self) {
        self.known.store(0, Ordering::Relaxed);
    }
}
