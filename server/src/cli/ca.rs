//! `zta ca …`

use clap::Subcommand;
use serde_json::json;
use zta_client::v1;

use super::{Failure, Options, line, table, time_text};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the CAs: which one signs, and which are trusted.
    List,
    /// Have everybody trust a new CA: the one of `ca_next_certificate_file`, or a new root.
    Prepare {
        /// A new root of the server's own, though the CA in force was brought in files.
        #[arg(long)]
        own_root: bool,
        /// Why, for the record.
        #[arg(long, default_value = "")]
        note: String,
    },
    /// Have the prepared CA sign.
    Activate {
        /// Its id, or 8 or more digits of it; left out, the one that is prepared.
        #[arg(default_value = "")]
        id: String,
        #[command(flatten)]
        step: Step,
    },
    /// Have nobody trust a CA any more.
    Retire {
        /// Its id, or 8 or more digits of it.
        id: String,
        #[command(flatten)]
        step: Step,
    },
}

/// How a step is taken.
#[derive(Debug, clap::Args)]
pub(crate) struct Step {
    /// Before everybody is ready for it, which locks out who is not. On record.
    #[arg(long)]
    force: bool,
    /// Why, for the record.
    #[arg(long, default_value = "")]
    note: String,
}

pub(super) async fn run(options: &Options, command: Command) -> Result<(), Failure> {
    let client = options.client()?;
    let mut authorities = client.certificate_authorities();
    let (authority, done) = match command {
        Command::List => {
            let request = v1::CertificateAuthorityServiceListRequest {};
            let answer = authorities.list(request).await?.into_inner();
            return list(options, &answer.authorities);
        }
        Command::Prepare { own_root, note } => {
            let request = v1::PrepareRequest { own_root, note };
            let answer = authorities.prepare(request).await?.into_inner();
            (answer.authority, "prepared")
        }
        Command::Activate { id, step } => {
            let Step { force, note } = step;
            let request = v1::ActivateRequest { id, force, note };
            let answer = authorities.activate(request).await?.into_inner();
            (answer.authority, "activated")
        }
        Command::Retire { id, step } => {
            let Step { force, note } = step;
            let request = v1::RetireRequest { id, force, note };
            let answer = authorities.retire(request).await?.into_inner();
            (answer.authority, "retired")
        }
    };
    let authority = authority.unwrap_or_default();
    if options.json {
        return line(authority_json(&authority));
    }
    line(format!("{done} {} ({})", authority.id, authority.subject))?;
    match authority.next_step_time {
        Some(time) => line(format!("the next step: from {} on", time_text(Some(time)))),
        None => Ok(()),
    }
}

fn state(authority: &v1::CertificateAuthority) -> String {
    let name = authority.state().as_str_name();
    let name = name.trim_start_matches("CERTIFICATE_AUTHORITY_STATE_");
    name.to_lowercase()
}

fn authority_json(authority: &v1::CertificateAuthority) -> serde_json::Value {
    json!({
        "id": authority.id,
        "state": state(authority),
        "subject": authority.subject,
        "key": authority.key_name,
        "prepare_time": time_text(authority.prepare_time),
        "activate_time": time_text(authority.activate_time),
        "supersede_time": time_text(authority.supersede_time),
        "retire_time": time_text(authority.retire_time),
        "not_after": time_text(authority.not_after),
        "next_step_time": time_text(authority.next_step_time),
        "chain_pem": authority.chain_pem,
    })
}

fn list(options: &Options, authorities: &[v1::CertificateAuthority]) -> Result<(), Failure> {
    if options.json {
        let mut all = authorities.iter();
        return all.try_for_each(|authority| line(authority_json(authority)));
    }
    let rows: Vec<Vec<String>> = authorities
        .iter()
        .map(|authority| {
            vec![
                authority.id.chars().take(16).collect(),
                state(authority),
                authority.subject.clone(),
                authority.key_name.clone(),
                time_text(authority.not_after),
                time_text(authority.next_step_time),
            ]
        })
        .collect();
    table(
        &[
            "ID",
            "STATE",
            "SUBJECT",
            "KEY",
            "NOT AFTER",
            "NEXT STEP FROM",
        ],
        &rows,
    )
}
