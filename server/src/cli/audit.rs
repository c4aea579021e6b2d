//! `zta audit …`

mod list;
mod prune;
mod verify;

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::{Value, json};

use self::list::Listed;
use self::verify::Kept;
use super::{Failure, Options, line};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List events, the newest first, or follow them.
    List(Box<Listed>),
    /// Recompute the whole log from the store of this configuration, or an export of it.
    Verify {
        /// The log's public key, from a place that the log's keeper cannot write;
        /// without it the key that the server keeps, or that lies in the export.
        #[arg(long)]
        vkey: Option<String>,
        /// The last checkpoint that you have seen: the log must begin with what it signs. The
        /// file is replaced by the newest one afterwards, and made if it is missing.
        #[arg(long, value_name = "FILE")]
        checkpoint: Option<PathBuf>,
        /// Only the records that the checkpoint does not sign.
        #[arg(long, requires = "checkpoint", conflicts_with = "export")]
        since: bool,
        /// A folder that `zta audit export` made, instead of the store.
        #[arg(long, value_name = "DIR")]
        export: Option<PathBuf>,
    },
    /// Write the signed log with its tiles and checkpoint into a new folder, for whoever is to
    /// verify it without the server.
    Export {
        /// The folder.
        dir: PathBuf,
        /// Only from the record on that this checkpoint does not sign.
        #[arg(long, value_name = "FILE")]
        from_checkpoint: Option<PathBuf>,
    },
    /// Drop old records that were exported. Their hashes stay, so every proof still holds. On
    /// Postgres, run it as the role that owns the tables.
    Prune(prune::Prune),
    /// The receipt of one event (C2SP tlog-proof): what proves offline that it is on record.
    Receipt {
        /// The event's place in the log.
        sequence: u64,
    },
}

pub(super) async fn run(options: &Options, command: Command) -> Result<(), Failure> {
    match command {
        Command::Verify {
            vkey,
            checkpoint,
            since,
            export,
        } => {
            let kept = Kept::read(checkpoint, since)?;
            match export {
                Some(folder) => verify::export(options, &folder, vkey, &kept),
                None => verify::stored(options, vkey.as_deref(), &kept).await,
            }
        }
        Command::Export {
            dir,
            from_checkpoint,
        } => verify::write_export(options, &dir, from_checkpoint.as_deref()).await,
        Command::Prune(pruned) => prune::run(options, &pruned).await,
        Command::Receipt { sequence } => receipt(options, sequence).await,
        Command::List(listed) => list::run(options, &listed).await,
    }
}

async fn receipt(options: &Options, sequence: u64) -> Result<(), Failure> {
    let receipt = options.client()?.receipt(sequence).await?;
    if options.json {
        let leaf: Value = serde_json::from_slice(&receipt.leaf)
            .map_err(|e| Failure::CouldNotRun(format!("the event is no JSON: {e}")))?;
        return line(json!({ "event": leaf, "proof": receipt.proof }));
    }
    line(receipt.proof.trim_end())
}
