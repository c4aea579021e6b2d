//! `zta-bench`: measures the real server beside a no-op one. See the library.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{Parser, Subcommand};
use zta_bench::{
    Result, crash,
    database::Database,
    device,
    measure::{self, Plan},
    noop,
};

/// Requests a second of the real server, beside a no-op gRPC server in the same run, both
/// over mutual TLS. The binary of the real one is named by ZTA_BIN, a Postgres on which
/// a database may be created by ZTA_TEST_POSTGRES_URL.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// Where the JSON goes.
    #[arg(long, default_value = "target/bench.json")]
    out: PathBuf,
    /// Rounds of each server at each shape; the median counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// Seconds of a round.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// A smoke test of a few seconds; its numbers mean nothing.
    #[arg(long)]
    quick: bool,
    /// Measure the no-op server alone.
    #[arg(long)]
    noop_only: bool,
    /// Leave Postgres out.
    #[arg(long)]
    without_postgres: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Be the no-op server, over the certificates in this folder, until stdin ends.
    #[command(hide = true)]
    Noop {
        /// The folder.
        dir: PathBuf,
    },
    /// Kill the real server with SIGKILL under load; find every answered decision again.
    Kill9 {
        /// Kill it after so many answers.
        #[arg(long, default_value_t = 1000)]
        answers: usize,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match &cli.command {
        Some(Command::Noop { dir }) => noop::serve(dir).await,
        Some(Command::Kill9 { answers }) => kill9(*answers, cli.without_postgres).await,
        None => compare(&cli).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "zta-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A line for whoever waits. A closed pipe is no reason to stop measuring.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

async fn compare(cli: &Cli) -> Result<()> {
    let (rounds, seconds, warm_up_s) = match cli.quick {
        true => (1, 0.3, 0.1),
        false => (cli.rounds.into(), cli.seconds, 0.5),
    };
    if !(0.1..=600.0).contains(&seconds) {
        return Err("--seconds must be 0.1 to 600".into());
    }
    let plan = Plan {
        binary: if cli.noop_only { None } else { Some(binary()?) },
        postgres_url: match cli.noop_only || cli.without_postgres {
            true => None,
            false => Some(postgres_url()?),
        },
        rounds,
        duration: Duration::from_secs_f64(seconds),
        warm_up: Duration::from_secs_f64(warm_up_s),
    };
    let report = measure::run(&plan, &mut say).await?;
    if let Some(dir) = cli.out.parent().filter(|dir| *dir != Path::new("")) {
        std::fs::create_dir_all(dir)?;
    }
    let json = serde_json::to_string_pretty(&report.json())?;
    std::fs::write(&cli.out, json + "\n")?;
    say(&format!("\n{}", report.table()));
    Ok(())
}

async fn kill9(answers: usize, without_postgres: bool) -> Result<()> {
    let (binary, dir) = (binary()?, device::durable_dir());
    let survived = crash::run(&binary, &dir, None, answers).await?;
    say(&format!("sqlite: {survived:?}, the log verifies"));
    if !without_postgres {
        let name = format!("zta_kill9_{}", std::process::id());
        let database = Database::create(&postgres_url()?, &name).await?;
        let survived = crash::run(&binary, &dir, Some(database), answers).await?;
        say(&format!("postgres: {survived:?}, the log verifies"));
    }
    Ok(())
}

fn binary() -> Result<PathBuf> {
    let named = std::env::var_os("ZTA_BIN").ok_or("set ZTA_BIN to the zta binary")?;
    Ok(std::fs::canonicalize(&named)
        .map_err(|e| format!("ZTA_BIN `{}`: {e}", named.to_string_lossy()))?)
}

fn postgres_url() -> Result<String> {
    std::env::var("ZTA_TEST_POSTGRES_URL")
        .map_err(|_| "set ZTA_TEST_POSTGRES_URL, or give --without-postgres".into())
}
