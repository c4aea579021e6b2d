//! The one connection that writes, and the transaction that holds it.
//!
//! Round trips are what a commit costs besides the flush, so this is not an sqlx pool
//! (which pings on the way in and out) with an sqlx `Transaction` (BEGIN by itself):
//! BEGIN comes with the lock, and COMMIT with the new head, each as one message.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgRow};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection, Row as _};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::timeout;
use uuid::Uuid;

use super::error::{is_connection_lost, translate};
use crate::store::value::{frontier, no_head, stored_number, unsigned};
use crate::store::{LogHead, StoreError};

/// How long a connection may take, and the wait for the one of this process.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than the server's `statement_timeout`: ends what a dead network would not.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(35);
/// How long a COMMIT may go without an answer before its outcome counts as unknown.
pub(super) const COMMIT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a dropped transaction tries to end politely before it hangs up.
const ROLLBACK_TIMEOUT: Duration = Duration::from_secs(1);

/// `idle_in_transaction_session_timeout` frees the head from a replica that froze or
/// whose network went away; `client_connection_check_interval` from one that hung up
/// while it was waiting for the lock.
const SESSION: &str = "SET synchronous_commit = on; SET statement_timeout = '30s'; \
    SET lock_timeout = '5s'; SET idle_in_transaction_session_timeout = '10s'; \
    SET client_connection_check_interval = '1s'; SET client_min_messages = warning";

/// `synchronous_commit` again, because a pooler in between may hand out sessions
/// that never saw ours.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; \
    SET LOCAL synchronous_commit = on; \
    SELECT log_id, size, frontier, epoch FROM log_head WHERE one = 1 FOR UPDATE";

/// The events are looked for as the lock is held: each statement has a snapshot of its own.
/// UUIDs print as hex digits and dashes. The place leaves out all partitions before it.
fn begin_sql(event_ids: &[Uuid], since: u64) -> Result<Cow<'static, str>, StoreError> {
    if event_ids.is_empty() {
        return Ok(Cow::Borrowed(BEGIN));
    }
    let ids: Vec<String> = event_ids.iter().map(|id| format!("'{id}'")).collect();
    Ok(Cow::Owned(format!(
        "{BEGIN}; SELECT event_id FROM audit_events WHERE sequence >= {} AND event_id IN ({})",
        stored_number(since)?,
        ids.join(", ")
    )))
}

enum Slot {
    Idle(Box<PgConnection>),
    Lost,
    Closed,
}

/// Hands out the writing connection to one user at a time.
pub(super) struct Writer {
    options: PgConnectOptions,
    slot: Arc<Mutex<Slot>>,
}

impl Writer {
    pub(super) fn new(options: PgConnectOptions) -> Self {
        Self {
            options,
            slot: Arc::new(Mutex::new(Slot::Lost)),
        }
    }

    /// The connection, a new one if the last was lost.
    pub(super) async fn lease(&self) -> Result<Lease, StoreError> {
        let late = || StoreError::Unavailable("the writing connection stays in use".to_owned());
        let lock = Arc::clone(&self.slot).lock_owned();
        let mut slot = timeout(CONNECT_TIMEOUT, lock).await.map_err(|_| late())?;
        let (connection, reused) = match std::mem::replace(&mut *slot, Slot::Lost) {
            Slot::Idle(connection) => (connection, true),
            Slot::Lost => (Box::new(self.connect().await?), false),
            Slot::Closed => {
                *slot = Slot::Closed;
                return Err(StoreError::Unavailable("the store is closed".to_owned()));
            }
        };
        Ok(Lease {
            slot: Some(slot),
            connection: Some(connection),
            busy: false,
            open: false,
            reused,
        })
    }

    async fn connect(&self) -> Result<PgConnection, StoreError> {
        let mut connection = timeout(CONNECT_TIMEOUT, self.options.connect())
            .await
            .map_err(|_| StoreError::Unavailable("Postgres did not answer in time".to_owned()))?
            .map_err(translate)?;
        within(sqlx::raw_sql(SESSION).execute(&mut connection))
            .await
            .map_err(translate)?;
        Ok(connection)
    }

    /// Starts a transaction and locks the head; which of these events stand at the place
    /// `since` or after it.
    pub(super) async fn begin(
        &self,
        event_ids: &[Uuid],
        since: u64,
    ) -> Result<(Lease, LogHead, Vec<Uuid>), StoreError> {
        let sql = begin_sql(event_ids, since)?;
        let (lease, rows) = self.query(&sql, true).await?;
        let (head, present) = rows.split_first().ok_or_else(no_head)?;
        let present = present.iter().map(|row| row.try_get("event_id"));
        let present = present.collect::<Result<_, _>>().map_err(translate)?;
        Ok((lease, head_of(head)?, present))
    }

    /// Runs statements whose effect ends with the connection. One that was idle may
    /// have died meanwhile (a server restart): that alone is no reason to fail.
    pub(super) async fn query(
        &self,
        sql: &str,
        opens: bool,
    ) -> Result<(Lease, Vec<PgRow>), StoreError> {
        loop {
            let mut lease = self.lease().await?;
            lease.open = opens;
            let connection = lease.start()?;
            let query = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(connection);
            match within(query).await {
                Ok(rows) => {
                    lease.done();
                    return Ok((lease, rows));
                }
                Err(error) if lease.reused && is_connection_lost(&error) => {}
                Err(error) => return Err(translate(error)),
            }
        }
    }

    /// Waits for the user of the moment, then hangs up for good.
    pub(super) async fn close(&self) {
        let mut slot = self.slot.lock().await;
        if let Slot::Idle(connection) = std::mem::replace(&mut *slot, Slot::Closed) {
            // The server learns it from the socket too.
            let _ = timeout(ROLLBACK_TIMEOUT, connection.close()).await;
        }
    }
}

/// The writing connection in use. Dropped in the middle of a statement, or after one
/// that failed, it hangs up, and the server rolls back; dropped between statements of
/// a transaction, it rolls back and keeps the connection.
pub(super) struct Lease {
    slot: Option<OwnedMutexGuard<Slot>>,
    connection: Option<Box<PgConnection>>,
    busy: bool,
    open: bool,
    reused: bool,
}

impl Lease {
    /// The connection for a statement. Until [`Lease::done`], it counts as unusable.
    pub(super) fn start(&mut self) -> Result<&mut PgConnection, StoreError> {
        if self.busy {
            return Err(StoreError::Unavailable(
                "the transaction failed before".to_owned(),
            ));
        }
        self.busy = true;
        self.connection
            .as_deref_mut()
            .ok_or_else(|| StoreError::Unavailable("the connection is gone".to_owned()))
    }

    /// The statement has ended well.
    pub(super) fn done(&mut self) {
        self.busy = false;
    }

    /// The transaction has ended well.
    pub(super) fn committed(&mut self) {
        self.busy = false;
        self.open = false;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let (Some(mut connection), Some(mut slot)) = (self.connection.take(), self.slot.take())
        else {
            return;
        };
        if self.busy {
            return;
        }
        if !self.open {
            *slot = Slot::Idle(connection);
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        // The next user waits for the slot, so it never meets the open transaction.
        runtime.spawn(async move {
            let rollback = sqlx::raw_sql("ROLLBACK").execute(&mut *connection);
            if let Ok(Ok(_)) = timeout(ROLLBACK_TIMEOUT, rollback).await {
                *slot = Slot::Idle(connection);
            }
        });
    }
}

/// Runs a statement, for no longer than [`STATEMENT_TIMEOUT`].
pub(super) async fn within<T>(
    statement: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    timeout(STATEMENT_TIMEOUT, statement)
        .await
        .unwrap_or_else(|_| Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())))
}

pub(super) fn head_of(row: &PgRow) -> Result<LogHead, StoreError> {
    let bytes: Vec<u8> = row.try_get("frontier").map_err(translate)?;
    Ok(LogHead {
        log_id: row.try_get("log_id").map_err(translate)?,
        size: unsigned(row.try_get("size").map_err(translate)?)?,
        frontier: frontier(&bytes)?,
        epoch: unsigned(row.try_get("epoch").map_err(translate)?)?,
    })
}
