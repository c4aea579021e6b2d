//! `zta audit …`

use clap::Subcommand;
use serde_json::{Value, json};
use zta_client::v1;
use zta_server::app;
use zta_server::audit::verify::{Proof, VerifyError};
use zta_server::store::StoreError;

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
    /// Recompute the whole log from the store of this configuration.
    Verify {
        /// The log's public key, from a place that the log's keeper cannot write;
        /// without it the key that the server keeps.
        #[arg(long)]
        vkey: Option<String>,
    },
}

pub(super) async fn run(options: &Options, command: Command) -> Result<(), Failure> {
    match command {
        Command::Verify { vkey } => verify(options, vkey.as_deref()).await,
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

async fn verify(options: &Options, vkey: Option<&str>) -> Result<(), Failure> {
    let config = options.server_config()?;
    match app::verify(&config, vkey).await {
        Ok((proof, vkey)) => proved(options, &proof, &vkey),
        // What no server writes is a finding, not an obstacle.
        Err(app::AppError::Store(error @ StoreError::Corrupt(_))) => Err(not_verified(&error)),
        Err(app::AppError::Verify(VerifyError::Store(error)))
            if !matches!(error, StoreError::Corrupt(_)) =>
        {
            Err(Failure::CouldNotRun(error.to_string()))
        }
        Err(app::AppError::Verify(error)) => Err(not_verified(&error)),
        Err(error) => Err(Failure::CouldNotRun(error.to_string())),
    }
}

fn not_verified(error: &dyn std::fmt::Display) -> Failure {
    Failure::No(format!("the audit log does NOT verify: {error}"))
}

fn proved(options: &Options, proof: &Proof, vkey: &str) -> Result<(), Failure> {
    let root = hex::encode(proof.root);
    if options.json {
        return line(json!({
            "verified": true,
            "log_id": proof.log_id,
            "size": proof.size,
            "root": root,
            "checkpoint_size": proof.checkpoint_size,
            "inputs": proof.inputs,
            "inputs_missing": proof.inputs_missing,
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
    line(format!("  root {root}"))?;
    match proof.checkpoint_size {
        Some(size) => line(format!(
            "  the checkpoint over the first {size} records is signed by {vkey}"
        )),
        None => line("  no checkpoint has been signed yet"),
    }
}
