//! `zta audit …`

mod verify;

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::{Value, json};
use zta_client::v1;

use self::verify::Kept;
use super::{Failure, Options, line, table};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List events, the newest first.
    List {
        /// How many.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
        /// Only this type, for example `decision`; may be given several times.
        #[arg(long = "type", value_name = "TYPE")]
        types: Vec<String>,
        /// Only this actor's, by its Cedar id.
        #[arg(long, default_value = "")]
        actor: String,
        /// Only denied decisions.
        #[arg(long)]
        denied: bool,
        /// The oldest first.
        #[arg(long)]
        oldest_first: bool,
    },
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
        Command::Receipt { sequence } => receipt(options, sequence).await,
        Command::List {
            limit,
            types,
            actor,
            denied,
            oldest_first,
        } => {
            let effect = if denied {
                v1::Effect::Deny
            } else {
                v1::Effect::Unspecified
            };
            let request = v1::ListEventsRequest {
                page_size: limit,
                types,
                actor_id: actor,
                effect: effect.into(),
                descending: !oldest_first,
                ..v1::ListEventsRequest::default()
            };
            list(options, request).await
        }
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

async fn list(options: &Options, request: v1::ListEventsRequest) -> Result<(), Failure> {
    let answer = options
        .client()?
        .audit()
        .list_events(request)
        .await?
        .into_inner();
    let mut rows = Vec::new();
    for event in answer.events {
        let leaf: Value = serde_json::from_slice(&event.leaf).map_err(|e| {
            Failure::CouldNotRun(format!("event {} is no JSON: {e}", event.sequence))
        })?;
        if options.json {
            line(json!({ "sequence": event.sequence, "event": leaf }))?;
            continue;
        }
        let text = |pointer: &str| {
            leaf.pointer(pointer)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        let policies = leaf["policies"].as_array().into_iter().flatten();
        let policies: Vec<&str> = policies.filter_map(Value::as_str).collect();
        rows.push(vec![
            event.sequence.to_string(),
            text("/time").to_owned(),
            text("/type").to_owned(),
            text("/effect").to_owned(),
            text("/actor/id").to_owned(),
            text("/action/id").to_owned(),
            text("/resource/id").to_owned(),
            text("/reason").to_owned(),
            policies.join(","),
        ]);
    }
    if options.json {
        return Ok(());
    }
    let headings = [
        "SEQ", "TIME", "TYPE", "EFFECT", "ACTOR", "ACTION", "RESOURCE", "REASON", "POLICIES",
    ];
    table(&headings, &rows)
}
