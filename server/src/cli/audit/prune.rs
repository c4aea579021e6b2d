//! `zta audit prune`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use zta_server::app::{self, AppError};
use zta_server::audit::retention::Wanted;
use zta_server::audit::verify::VerifyError;

use super::super::replay::{client_time, past};
use super::super::{Failure, Options, line};

/// Which records.
#[derive(Debug, Args)]
pub(crate) struct Prune {
    /// A folder that `zta audit export` made. Give as many as hold all that is to go, from the
    /// first record that is kept on.
    #[arg(long = "export", value_name = "DIR", required = true)]
    exports: Vec<PathBuf>,
    /// Only records below this place.
    #[arg(long, value_name = "SEQUENCE")]
    before: Option<u64>,
    /// Only records that are older: an age such as `90d`, or a time (RFC 3339).
    #[arg(long, value_name = "AGE|TIME")]
    older_than: Option<String>,
    /// The log's public key; without it the one that the server keeps.
    #[arg(long)]
    vkey: Option<String>,
    /// Verify everything and say what would go, and drop nothing.
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn run(options: &Options, pruned: &Prune) -> Result<(), Failure> {
    let config = options.server_config()?;
    let older_than = pruned.older_than.as_deref();
    let older_than = older_than.map(|text| past("--older-than", text, client_time()));
    let wanted = Wanted {
        exports: pruned.exports.clone(),
        before: pruned.before,
        older_than: older_than.transpose()?,
    };
    let done = app::prune(&config, pruned.vkey.as_deref(), &wanted, pruned.dry_run).await;
    let done = done.map_err(|error| match error {
        AppError::Verify(VerifyError::Store(error)) => Failure::CouldNotRun(error.to_string()),
        AppError::Verify(error) => Failure::No(format!("nothing was pruned: {error}")),
        error => Failure::CouldNotRun(error.to_string()),
    })?;
    if options.json {
        return line(json!({
            "pruned": done.size,
            "pruned_before": done.pruned,
            "standing": done.standing,
            "exported": done.signed.0,
            "dry_run": pruned.dry_run,
        }));
    }
    let (from, to) = (done.pruned, done.size.saturating_sub(1));
    if let Some(standing) = done.standing {
        let goes = if pruned.dry_run {
            "would drop"
        } else {
            "dropped"
        };
        line(format!(
            "{goes} the records {standing} to {}, which an interrupted run has left",
            from.saturating_sub(1)
        ))?;
    }
    if done.size == done.pruned {
        line(format!(
            "nothing to prune: the exports hold the records up to {}, and what can be dropped \
             as a whole ends at record {from} or is to stay",
            done.signed.0.saturating_sub(1)
        ))?;
    } else if pruned.dry_run {
        line(format!("would prune the records {from} to {to}"))?;
    } else {
        line(format!(
            "pruned the records {from} to {to}; that is on record"
        ))?;
    }
    line("  what they were made from (`audit_inputs`) goes with them, and is in no export")?;
    line("  keep the exports: the log holds only hashes of these records any more")
}
