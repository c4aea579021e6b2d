//! `zta audit verify` and `zta audit export`.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::json;
use zta_server::app::{self, AppError, Seen, Verified};
use zta_server::audit::export_verify::ExportProof;
use zta_server::audit::verify::VerifyError;
use zta_server::store::StoreError;

use super::super::{Failure, Options, line};

/// The last checkpoint that somebody saw, in a file of theirs.
pub(super) struct Kept {
    path: Option<PathBuf>,
    note: Option<String>,
    since: bool,
}

impl Kept {
    pub(super) fn read(path: Option<PathBuf>, since: bool) -> Result<Self, Failure> {
        let note = match path.as_deref().map(std::fs::read_to_string) {
            None => None,
            Some(Ok(note)) => Some(note),
            Some(Err(error)) if error.kind() == std::io::ErrorKind::NotFound && !since => None,
            Some(Err(error)) => return Err(unusable(path.as_deref(), &error)),
        };
        Ok(Self { path, note, since })
    }

    fn seen(&self) -> Option<Seen<'_>> {
        self.note.as_deref().map(|note| Seen {
            note,
            verified: self.since,
        })
    }

    /// The newest checkpoint takes the place of the last one, whole or not at all.
    fn keep(&self, note: Option<&str>) -> Result<(), Failure> {
        let (Some(path), Some(note)) = (&self.path, note) else {
            return Ok(());
        };
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = folder.join(format!(".{name}.{}", std::process::id()));
        let write = || {
            let mut file = std::fs::File::create(&temporary)?;
            file.write_all(note.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&temporary, path)
        };
        write().map_err(|error| unusable(Some(path), &error))
    }

    /// What was held against it, for people.
    fn describe(&self) -> Result<(), Failure> {
        let Some(path) = &self.path else {
            return line("  compared with no checkpoint of yours: keep one with --checkpoint FILE");
        };
        match self.note {
            Some(_) => line(format!("  it begins with what `{}` signed", path.display())),
            None => line(format!(
                "  `{}` was not there: the checkpoint is kept in it for the next time",
                path.display()
            )),
        }
    }
}

fn unusable(path: Option<&Path>, error: &std::io::Error) -> Failure {
    let path = path.unwrap_or(Path::new("")).display();
    Failure::CouldNotRun(format!("`{path}`: {error}"))
}

/// Verifies the store of this configuration.
pub(super) async fn stored(
    options: &Options,
    vkey: Option<&str>,
    kept: &Kept,
) -> Result<(), Failure> {
    let config = options.server_config()?;
    let verified = app::verify(&config, vkey, kept.seen()).await;
    let verified = verified.map_err(found)?;
    kept.keep(verified.note.as_deref())?;
    proved(options, &verified, kept)
}

/// Verifies an export.
pub(super) fn export(
    options: &Options,
    folder: &Path,
    vkey: Option<String>,
    kept: &Kept,
) -> Result<(), Failure> {
    let (vkey, is_its_own) = match vkey {
        Some(vkey) => (vkey, false),
        None => {
            let file = folder.join("log.vkey");
            let vkey = std::fs::read_to_string(&file).map_err(|e| unusable(Some(&file), &e))?;
            (vkey, true)
        }
    };
    let proof = app::verify_export(folder, &vkey, kept.seen()).map_err(found)?;
    kept.keep(Some(&proof.note))?;
    export_proved(options, &proof, vkey.trim(), is_its_own, kept)
}

/// Writes an export.
pub(super) async fn write_export(
    options: &Options,
    folder: &Path,
    from: Option<&Path>,
) -> Result<(), Failure> {
    let config = options.server_config()?;
    let note = from.map(std::fs::read_to_string).transpose();
    let note = note.map_err(|error| unusable(from, &error))?;
    let exported = app::export(&config, folder, note.as_deref()).await;
    let exported = exported.map_err(found)?;
    let (first, size) = (exported.from, exported.size);
    if options.json {
        return line(json!({ "from": first, "size": size, "folder": folder }));
    }
    let records = size.saturating_sub(first);
    line(format!(
        "exported {records} records, from {first} on, into `{}`",
        folder.display()
    ))
}

/// What no server writes is a finding, not an obstacle.
fn found(error: AppError) -> Failure {
    match error {
        AppError::Store(error @ StoreError::Corrupt(_)) => not_verified(&error),
        AppError::Verify(VerifyError::Store(error)) if !matches!(error, StoreError::Corrupt(_)) => {
            Failure::CouldNotRun(error.to_string())
        }
        AppError::Verify(error @ (VerifyError::Unreadable(_) | VerifyError::Standing { .. })) => {
            Failure::CouldNotRun(error.to_string())
        }
        AppError::Verify(error) => not_verified(&error),
        error => Failure::CouldNotRun(error.to_string()),
    }
}

fn not_verified(error: &dyn std::fmt::Display) -> Failure {
    Failure::No(format!("the audit log does NOT verify: {error}"))
}

fn proved(options: &Options, verified: &Verified, kept: &Kept) -> Result<(), Failure> {
    let (proof, vkey) = (&verified.proof, &verified.vkey);
    let root = hex::encode(proof.root);
    if options.json {
        return line(json!({
            "verified": true,
            "log_id": proof.log_id,
            "size": proof.size,
            "pruned": proof.pruned,
            "root": root,
            "checkpoint_size": proof.checkpoint_size,
            "inputs": proof.inputs,
            "inputs_missing": proof.inputs_missing,
            "extends_checkpoint": kept.note.is_some(),
            "vkey": vkey,
        }));
    }
    line(format!(
        "the audit log verifies: {} records of log {}",
        proof.size, proof.log_id
    ))?;
    line(
        "  each leaf has its hash, each column is what its leaf says, none is missing or doubled",
    )?;
    line(format!(
        "  inputs that fit their commitments: {}, removed: {}",
        proof.inputs, proof.inputs_missing
    ))?;
    if proof.pruned > 0 {
        let hashes = match kept.since {
            true => "their hashes were not looked at",
            false => "their hashes are proved",
        };
        line(format!(
            "  the records below {} were pruned, and the log's key signed for it on record: \
             {hashes}, what they said was exported",
            proof.pruned
        ))?;
    }
    line(format!("  root {root}"))?;
    match proof.checkpoint_size {
        Some(size) => line(format!(
            "  the checkpoint over the first {size} records is signed by {vkey}"
        ))?,
        None => line("  no checkpoint has been signed yet")?,
    }
    kept.describe()
}

fn export_proved(
    options: &Options,
    proof: &ExportProof,
    vkey: &str,
    is_its_own: bool,
    kept: &Kept,
) -> Result<(), Failure> {
    let root = hex::encode(proof.root);
    if options.json {
        return line(json!({
            "verified": true,
            "log_id": proof.log_id,
            "from": proof.from,
            "size": proof.size,
            "root": root,
            "extends_checkpoint": kept.note.is_some(),
            "vkey": vkey,
            "vkey_from_export": is_its_own,
        }));
    }
    line(format!(
        "the export verifies: records {} to {} of log {}",
        proof.from,
        proof.size.saturating_sub(1),
        proof.log_id
    ))?;
    line("  each leaf has the hash of its tile, each tile is what those below give")?;
    line(format!("  root {root}, signed by {vkey}"))?;
    if is_its_own {
        line("  by the key that lies in the export: compare it with one that you got elsewhere")?;
    }
    kept.describe()
}
