//! Pruning: the act goes on record, then the records go.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::log::{open_existing, own_key};
use super::{AppError, start_error, wall_clock};
use crate::audit::checkpoint::{VerifierKey, sign_pruned};
use crate::audit::retention::{Prunable, Wanted, prunable};
use crate::audit::{AppendError, Audit, Record};
use crate::config::Config;
use crate::model::{Change, Event, EventType};
use crate::store::{SharedStore, StoreError};

/// How often the dropping of a piece is tried while somebody reads it, and how long apart:
/// longer each time, because the writer waits behind each try.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(100);

/// Prunes what is wanted of the log in this configuration's store: what the exports prove, and
/// no more than the database can drop. With `dry_run` it only says what that would be. Without
/// `vkey` the key is taken from where the server keeps its own.
///
/// This needs the log's key, and on Postgres the role that owns the tables. The server may run
/// meanwhile.
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
    let (signing, origin) = own_key(config, &store).await?;
    let key = VerifierKey::from_spki(origin.clone(), signing.public_key_spki_der());
    let key = key.map_err(start_error)?;
    if vkey.is_some_and(|vkey| vkey.trim() != key.vkey()) {
        let text = "--vkey is not the key that this server keeps, so it could not sign what it did";
        return Err(AppError::Start(text.to_owned()));
    }
    let found = prunable(&store, &key, wanted).await?;
    if !dry_run {
        if found.size > found.pruned {
            let statement = sign_pruned(signing.as_ref(), &origin, (found.size, found.root));
            record(&store, &found, statement.map_err(start_error)?).await?;
        }
        drop_pruned(&store).await?;
    }
    store.close().await;
    Ok(found)
}

/// Puts on record what is about to go.
async fn record(store: &SharedStore, found: &Prunable, statement: String) -> Result<(), AppError> {
    let log_id = store.head().await?.log_id;
    let (audit, writer) = Audit::new(log_id, Arc::clone(store));
    let writer = tokio::spawn(writer.run());
    let event_id = Uuid::now_v7();
    let (size, (signed, root)) = (found.size, found.signed);
    let event = Event::new(EventType::LogPruned, log_id, event_id, wall_clock()())
        .with_detail("size", size.to_string())
        .with_detail("statement", statement)
        .with_detail("exported_size", signed.to_string())
        .with_detail("exported_root", hex::encode(root));
    let change = Change::Prune { size, event_id };
    let record = Record::change(event, change);
    let done = audit.append(record).await;
    drop(audit);
    let _ = writer.await;
    match done {
        Ok(_) => Ok(()),
        Err(AppendError::Store(why)) => Err(start_error(format!(
            "nothing was dropped, and it is not on record, or nobody knows: {why}. Keep the \
             exports: a signature for it was made. On Postgres, run it as the role that owns the \
             tables, as `zta migrate`"
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
                tokio::time::sleep(PAUSE * tries).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}
