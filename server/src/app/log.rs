//! The log without a running server: verified where it is stored, exported, and verified as
//! an export.

use std::path::Path;
use std::sync::Arc;

use super::{AppError, material, open_store, start_error};
use crate::audit::checkpoint::{self, VerifierKey};
use crate::audit::export::{self, Exported};
use crate::audit::export_verify::{self, ExportProof};
use crate::audit::verify::{self, Known, Proof, VerifyError};
use crate::config::Config;
use crate::keys::{KeyName, SigningKey};
use crate::store::SharedStore;

/// A checkpoint that the verifier saw before.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Its signed note.
    pub note: &'a str,
    /// Whether what it signs was verified before, so that only later records are read.
    pub verified: bool,
}

impl Seen<'_> {
    fn known(self, key: &VerifierKey) -> Result<Known, VerifyError> {
        let (size, root) = key.open(self.note)?;
        Ok(Known {
            size,
            root,
            verified: self.verified,
        })
    }
}

/// What was proved of a stored log.
#[derive(Debug)]
pub struct Verified {
    /// The proof.
    pub proof: Proof,
    /// The log's public key in the note format.
    pub vkey: String,
    /// The newest checkpoint that was proved with it, to be kept for the next time.
    pub note: Option<String>,
}

/// Verifies the log of this configuration's store, and that it begins with what was seen
/// before. Without `vkey` the key is taken from where the server keeps its own; an auditor who
/// trusts neither brings the one published before.
///
/// # Errors
/// [`AppError::Verify`] when the log is not what it should be; else it could not run.
pub async fn verify(
    config: &Config,
    vkey: Option<&str>,
    seen: Option<Seen<'_>>,
) -> Result<Verified, AppError> {
    let store = open_existing(config).await?;
    let key = log_key(config, &store, vkey).await?;
    let known = seen.map(|seen| seen.known(&key)).transpose()?;
    let proof = verify::verify(&store, &key, known).await?;
    let note = match proof.checkpoint_size {
        Some(size) => store.checkpoint(size).await?.map(|c| c.note),
        None => None,
    };
    store.close().await;
    Ok(Verified {
        proof,
        vkey: key.vkey(),
        note,
    })
}

/// Writes the signed log into a new folder, from the record on that the checkpoint `from`
/// does not sign.
///
/// # Errors
/// [`AppError::Verify`] when the log does not begin with what `from` signs, or it cannot be
/// written.
pub async fn export(
    config: &Config,
    folder: &Path,
    from: Option<&str>,
) -> Result<Exported, AppError> {
    let store = open_existing(config).await?;
    let key = log_key(config, &store, None).await?;
    let exported = export::write(&store, &key, folder, from).await?;
    store.close().await;
    Ok(exported)
}

/// Verifies an exported log by this public key, and that it begins with what was seen before.
/// Reads no configuration: whoever has the folder and the key can do it.
///
/// # Errors
/// As [`verify()`].
pub fn verify_export(
    folder: &Path,
    vkey: &str,
    seen: Option<Seen<'_>>,
) -> Result<ExportProof, AppError> {
    let key = VerifierKey::from_vkey(vkey).map_err(start_error)?;
    let known = seen.map(|seen| seen.known(&key)).transpose()?;
    Ok(export_verify::verify(folder, &key, known)?)
}

/// A store that is there: to verify a log is not to begin one.
pub(super) async fn open_existing(config: &Config) -> Result<SharedStore, AppError> {
    let file = config.sqlite_path();
    if config.database_url.is_none() && !file.exists() {
        let text = format!(
            "there is no store at `{}`; set ZTA_DATA_DIR",
            file.display()
        );
        return Err(AppError::Start(text));
    }
    open_store(config).await
}

async fn log_key(
    config: &Config,
    store: &SharedStore,
    vkey: Option<&str>,
) -> Result<VerifierKey, AppError> {
    if let Some(vkey) = vkey {
        return VerifierKey::from_vkey(vkey).map_err(start_error);
    }
    let (key, origin) = own_key(config, store).await?;
    VerifierKey::from_spki(origin, key.public_key_spki_der()).map_err(start_error)
}

/// The log's key, where the server keeps it, and the log's name.
pub(super) async fn own_key(
    config: &Config,
    store: &SharedStore,
) -> Result<(Arc<dyn SigningKey>, String), AppError> {
    let head = store.head().await?;
    let keys = material::key_service(config, store, head.log_id)?;
    let key = keys.existing(KeyName::Log).await.map_err(start_error)?;
    let key = key.ok_or_else(|| {
        let text = "the log's key is not there; restore it, or give its public half \
                    with --vkey (`log_created`, the log's first event, names it, and `log.vkey` \
                    of each export)";
        AppError::Start(text.to_owned())
    })?;
    let origin = checkpoint::origin(&config.trust_domain, head.log_id);
    Ok((key, origin))
}
