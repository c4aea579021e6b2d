//! What the server puts on record of itself: how it was configured, which keys it has and
//! uses, that it started and stopped.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::material::Material;
use super::tasks::Tasks;
use super::{AppError, start_error};
use crate::audit::{AppendError, Record};
use crate::config::Config;
use crate::keys::{KeyNote, KeyStep};
use crate::model::arguments::sha256;
use crate::model::{Event, EventType};
use crate::pdp::Pdp;

/// Begins what a keyed digest of a setting is over.
const SETTING_DOMAIN: &str = "zta-setting-v1";

/// Puts the keys that the start came with on record, and then the start.
///
/// # Errors
/// When one could not be put on record, or the configuration cannot be told.
pub(super) async fn record_start(
    config: &Config,
    pdp: &Pdp,
    replica: Uuid,
    material: &Material,
    notes: &mut mpsc::Receiver<KeyNote>,
) -> Result<(), AppError> {
    while let Ok(note) = notes.try_recv() {
        append(pdp, of_key(pdp, replica, &note))
            .await
            .map_err(start_error)?;
    }
    let settings = settings(config, material)?;
    let canonical = serde_json_canonicalizer::to_vec(&settings).map_err(start_error)?;
    let store = match config.database_url {
        Some(_) => "postgres",
        None => "sqlite",
    };
    let event = pdp
        .event(EventType::ServerStarted, (pdp.clock)())
        .with_detail("version", env!("CARGO_PKG_VERSION"))
        .with_detail("replica", replica.to_string())
        .with_detail("store", store)
        .with_detail("plaintext", config.plaintext)
        .with_detail("four_eyes", config.four_eyes)
        .with_detail("redact", json!(config.redact))
        .with_detail("redact_hash", json!(config.redact_hash))
        .with_detail("settings", settings)
        .with_detail("settings_sha256", hex::encode(sha256(&canonical)));
    append(pdp, event).await.map_err(start_error)
}

/// Puts the stop on record.
pub(super) async fn record_stop(pdp: &Pdp, replica: Uuid) {
    let event = pdp
        .event(EventType::ServerStopped, (pdp.clock)())
        .with_detail("replica", replica.to_string());
    if let Err(error) = append(pdp, event).await {
        tracing::warn!(%error, "the stop could not be put on record");
    }
}

impl Tasks {
    /// Puts on record what becomes of the keys from now on.
    pub(super) fn record_keys(
        &mut self,
        pdp: &Arc<Pdp>,
        replica: Uuid,
        mut notes: mpsc::Receiver<KeyNote>,
    ) {
        let pdp = Arc::clone(pdp);
        self.spawn("the record of keys", async move {
            while let Some(note) = notes.recv().await {
                if let Err(error) = append(&pdp, of_key(&pdp, replica, &note)).await {
                    tracing::error!(%error, key = %note.key, step = ?note.step, "what became of a key could not be put on record");
                }
            }
        });
    }
}

fn of_key(pdp: &Pdp, replica: Uuid, note: &KeyNote) -> Event {
    let kind = match note.step {
        KeyStep::Made => EventType::KeyMade,
        KeyStep::Loaded => EventType::KeyLoaded,
        KeyStep::Used => EventType::KeyUsed,
    };
    let event = pdp
        .event(kind, (pdp.clock)())
        .with_detail("key", &*note.key)
        .with_detail("replica", replica.to_string());
    match &note.spki_sha256 {
        Some(sha256) => event.with_detail("spki_sha256", sha256.as_str()),
        None => event,
    }
}

async fn append(pdp: &Pdp, event: Event) -> Result<(), AppendError> {
    pdp.audit.append(Record::fact(event)).await.map(drop)
}

/// The digest of each setting: SHA-256 of its canonical JSON, or `hmac:` and a keyed hash
/// where it may hold a secret, which a digest of would let be guessed.
fn settings(config: &Config, material: &Material) -> Result<Map<String, Value>, AppError> {
    let mut told = Map::new();
    for (name, setting) in config.settings().map_err(start_error)? {
        let value = serde_json_canonicalizer::to_string(&setting.value).map_err(start_error)?;
        let digest = match setting.secret {
            false => hex::encode(sha256(value.as_bytes())),
            true => {
                let message = format!("{SETTING_DOMAIN}\0{name}\0{value}");
                let hash = material.keyed_hash(message.as_bytes());
                format!("hmac:{}", hex::encode(hash.map_err(start_error)?))
            }
        };
        told.insert(name, Value::String(digest));
    }
    Ok(told)
}
