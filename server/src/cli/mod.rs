//! What the words on the command line mean. Exit codes: 0 done, 1 no (something does not
//! pass, does not verify, or was denied), 2 could not run.

mod agent;
mod audit;
mod ca;
mod entity;
mod explain;
mod health;
mod keys;
mod policy;
mod policy_test;
mod proposal;
mod replay;
mod serve;
mod token;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use zta_client::{Client, Credential, Error};
use zta_server::config::Config;

/// Zero trust for AI agents: the policy decision server and its tools.
#[derive(Debug, Parser)]
#[command(name = "zta", version, about, propagate_version = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    command: Command,
}

const THREAD_STACK_BYTES: usize = 8 * 1024 * 1024;

/// Options of every command.
#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// Print JSON for scripts instead of text for people.
    #[arg(long, global = true)]
    json: bool,
    /// The credential folder to call the server with.
    #[arg(long, global = true, env = "ZTA_CREDENTIAL", value_name = "DIR")]
    credential: Option<PathBuf>,
    /// The server, instead of the credential's own.
    #[arg(long, global = true, env = "ZTA_SERVER", value_name = "HOST:PORT")]
    server: Option<String>,
    /// The server's configuration file, for the commands that work on its store.
    #[arg(long, global = true, env = "ZTA_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server.
    Serve,
    /// Bring the database's schema up to date.
    Migrate,
    /// Say whether the server of this configuration is ready.
    Health,
    /// Look after the server's private keys.
    #[command(subcommand)]
    Keys(keys::Command),
    /// Replace the certificate authority.
    #[command(subcommand)]
    Ca(ca::Command),
    /// Check, apply and look at policies.
    #[command(subcommand)]
    Policy(policy::Command),
    /// Register, enrol and contain agents.
    #[command(subcommand)]
    Agent(agent::Command),
    /// Let agents act on somebody's behalf.
    #[command(subcommand)]
    Token(token::Command),
    /// Put, look at and delete entities.
    #[command(subcommand)]
    Entity(entity::Command),
    /// Read and verify the audit log.
    #[command(subcommand)]
    Audit(audit::Command),
}

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The answer is no: exit code 1.
    #[error("{0}")]
    No(String),
    /// It could not run: exit code 2.
    #[error("{0}")]
    CouldNotRun(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        match &error {
            Error::Rpc(rpc) if !rpc.is_retriable() => Self::No(text),
            _ => Self::CouldNotRun(text),
        }
    }
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        Error::from(status).into()
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::CouldNotRun(error.to_string())
    }
}

/// Runs a command to its end.
pub(crate) fn run(cli: Cli) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        // Cedar recurses over policies; address space, not memory.
        .thread_stack_size(THREAD_STACK_BYTES)
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return ended(Err(error.into())),
    };
    let result = runtime.block_on(command(cli));
    // A reader of standard input or a stuck look-up must not hold the process up.
    runtime.shutdown_background();
    ended(result)
}

async fn command(cli: Cli) -> Result<(), Failure> {
    let options = cli.options;
    match cli.command {
        Command::Serve => serve::serve(&options).await,
        Command::Migrate => serve::migrate(&options).await,
        Command::Health => health::health(&options).await,
        Command::Keys(command) => keys::run(&options, &command),
        Command::Ca(command) => ca::run(&options, command).await,
        Command::Policy(command) => policy::run(&options, command).await,
        Command::Agent(command) => agent::run(&options, command).await,
        Command::Entity(command) => entity::run(&options, command).await,
        Command::Token(command) => token::run(&options, command).await,
        Command::Audit(command) => audit::run(&options, command).await,
    }
}

fn ended(result: Result<(), Failure>) -> ExitCode {
    let Err(failure) = result else {
        return ExitCode::SUCCESS;
    };
    let _ = writeln!(std::io::stderr(), "zta: {failure}");
    match failure {
        Failure::No(_) => ExitCode::from(1),
        Failure::CouldNotRun(_) => ExitCode::from(2),
    }
}

impl Options {
    /// The server's configuration.
    fn server_config(&self) -> Result<Config, Failure> {
        Config::read(self.config.as_deref()).map_err(|e| Failure::CouldNotRun(e.to_string()))
    }

    /// The credential that was named.
    fn loaded(&self) -> Result<Credential, Failure> {
        let folder = self.credential.as_deref().ok_or_else(|| {
            let text = "name a credential folder with --credential or ZTA_CREDENTIAL; the first \
                        start of the server makes one for the administrator, <data_dir>/admin";
            Failure::CouldNotRun(text.to_owned())
        })?;
        Ok(Credential::load(folder)?)
    }

    /// The trust domain of the credential that was named.
    fn trust_domain(&self) -> Result<String, Failure> {
        let credential = self.loaded()?;
        let id = credential.spiffe_id().strip_prefix("spiffe://");
        let domain = id.and_then(|id| id.split(['/', '#']).next());
        let none = || Failure::CouldNotRun("the credential names no trust domain".to_owned());
        domain.map(str::to_owned).ok_or_else(none)
    }

    /// A client with the credential that was named.
    fn client(&self) -> Result<Client, Failure> {
        let builder = Client::builder(self.loaded()?);
        let builder = match &self.server {
            Some(server) => builder.server(server),
            None => builder,
        };
        Ok(builder.build()?)
    }
}

/// A line on standard output. A closed pipe ends the command quietly.
fn line(text: impl std::fmt::Display) -> Result<(), Failure> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => Ok(result?),
    }
}

/// Rows under headings, columns aligned.
fn table(headings: &[&str], rows: &[Vec<String>]) -> Result<(), Failure> {
    let width = |i: usize| {
        let cells = rows
            .iter()
            .filter_map(|row| row.get(i))
            .map(|cell| cell.chars().count());
        cells.chain([headings[i].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let print = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        line(padded.join("  ").trim_end())
    };
    print(&mut headings.iter().copied())?;
    for row in rows {
        print(&mut row.iter().map(String::as_str))?;
    }
    Ok(())
}

/// A text of others for a terminal: what would steer the terminal, or turn the order of
/// letters around, is shown and not done. A reviewer sees what is there.
fn printable(text: &str) -> String {
    let steers = |c: char| {
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        turns || (c.is_control() && c != '\n' && c != '\t')
    };
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match steers(c) {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    shown
}

/// A time of the wire for people.
fn time_text(timestamp: Option<prost_types::Timestamp>) -> String {
    let format =
        time::macros::format_description!("[year]-[month]-[day] [hour]:[minute]:[second]Z");
    timestamp
        .and_then(|t| time::OffsetDateTime::from_unix_timestamp(t.seconds).ok())
        .and_then(|t| t.format(format).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn what_would_steer_a_terminal_is_shown() {
        let text = "permit\t(\n\u{1b}[2K\rforbid \u{202e}x é 漢\u{9b}1m";
        let shown = "permit\t(\n\\u{1b}[2K\\rforbid \\u{202e}x é 漢\\u{9b}1m";
        assert_eq!(printable(text), shown);
    }
}
