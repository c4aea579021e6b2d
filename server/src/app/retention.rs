//! Pruning: the act goes on record, then the records go.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::log::{log_key, open_existing};
use super::{AppError, start_error, wall_clock};
use crate::audit::retention::{Prunable, Wanted, prunable};
use crate::audit::{AppendError, Audit, Record};
use crate::config::Config;
use crate::model::{Change, Event, EventType};
use crate::store::{SharedStore, StoreError};

/// How often the dropping of a piece is tried while somebody reads it, and how long apart.
const TRIES: u32 = 40;
const PAUSE: Duration = Duration::from_millis(250);

/// Prunes what is wanted of the log in this configuration's store: what the exports prove, and
/// no more than the database can drop. With `dry_run` it only says what that would be. Without
/// `vkey` the key is taken from where the server keeps its own.
///
/// On Postgres this needs the role that owns the tables. The server may run meanwhile.
///
/// What if we crash here: before the event is on record, nothing happened. After it, records
/// stand still that nothing proves any more; the same again drops them.
///
/// # Errors
/// [`AppError::Verify`] when an export or the log is not what it should be; then nothing is
/// pruned. Else it could not run.
pub async fn prune(
    config: &Config,
    vkey: Option<&str>,
    wanted: &Wanted,
    dry_run: bool,
) -> Result<Prunable, AppError> {
    let store = open_existing(config).await?;
    let key = log_key(config, &store, vkey).await?;
    let found = prunable(&store, &key, wanted).await?;
    if !dry_run {
        if found.size > found.pruned {
            record(&store, &found).await?;
        }
        drop_pruned(&store).await?;
    }
    store.close().await;
    Ok(found)
}

/// Puts on record what is about to go.
async fn record(store: &SharedStore, found: &Prunable) -> Result<(), AppError> {
    let log_id = store.head().await?.log_id;
    let (audit, writer) = Audit::new(log_id, Arc::clone(store));
    let writer = tokio::spawn(writer.run());
    let event_id = Uuid::now_v7();
    let (size, (signed, root)) = (found.size, found.signed);
    let event = Event::new(EventType::LogPruned, log_id, event_id, wall_clock()())
        .with_detail("size", size.to_string())
        .with_detail("exported_size", signed.to_string())
        .with_detail("exported_root", hex::encode(root));
    let change = Change::Prune { size, event_id };
    let record = Record {
        event,
        inputs: None,
        epoch: None,
        change: Some(change),
        rider: None,
    };
    let done = audit.append(record).await;
    drop(audit);
    let _ = writer.await;
    match done {
        Ok(_) => Ok(()),
        Err(AppendError::Store(why)) => Err(start_error(format!(
            "nothing was pruned: {why}; on Postgres, run it as the role that owns the tables, as \
             `zta migrate`"
        ))),
        Err(error) => Err(start_error(error)),
    }
}

async fn drop_pruned(store: &SharedStore) -> Result<(), AppError> {
    let mut tries = 0;
    loop {
        match store.drop_pruned().await {
            Ok(true) => tries = 0,
            Ok(false) => return Ok(()),
            Err(StoreError::Unavailable(why)) if tries == TRIES => {
                return Err(start_error(format!(
                    "what is pruned is on record, and some of it stands still: {why}; the same \
                     again goes on with it"
                )));
            }
            Err(StoreError::Unavailable(_)) => {
                tries += 1;
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}
