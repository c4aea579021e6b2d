//! `zta keys …`: works on files, not on a running server.

use clap::Subcommand;
use serde_json::json;
use zta_server::app;

use super::{Failure, Options, line};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Encrypt the private keys that are still in clear text, with the passphrase of
    /// `key_passphrase_file`. Stop the server first.
    Encrypt,
}

pub(super) fn run(options: &Options, command: &Command) -> Result<(), Failure> {
    match command {
        Command::Encrypt => encrypt(options),
    }
}

fn encrypt(options: &Options) -> Result<(), Failure> {
    let config = options.server_config()?;
    let encrypted = app::encrypt_keys(&config).map_err(|e| Failure::CouldNotRun(e.to_string()))?;
    if options.json {
        return line(json!({ "encrypted": encrypted }));
    }
    for path in &encrypted {
        line(format!("encrypted {}", path.display()))?;
    }
    if encrypted.is_empty() {
        line("every key is encrypted already, or there is none yet")?;
    }
    Ok(())
}
