//! `zta-bench`: measures the real server beside a no-op one. See the library.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{Parser, Subcommand, ValueEnum as _};
use zta_bench::{
    Result, crash,
    database::Database,
    device,
    measure::{self, Part, Plan, Sizes},
    noop,
    report::Report,
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
    /// Only these parts; the file given by --out keeps what others left in it.
    #[arg(long, value_enum)]
    only: Vec<Part>,
    /// The binary of Cerbos, for the comparison.
    #[arg(long)]
    cerbos: Option<PathBuf>,
    /// Policies of both systems in the comparison; may stand several times.
    #[arg(long)]
    compare_at: Vec<usize>,
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
    let sizes = match cli.quick {
        true => Sizes {
            policies: [10, 1000],
            decide: [100, 1000],
            entities: 2000,
            decisions: 2000,
            leaves: 2000,
            compare: vec![10],
        },
        false => Sizes {
            policies: [10, 100_000],
            decide: [100, 100_000],
            entities: 1_000_000,
            decisions: 100_000,
            leaves: 1_000_000,
            compare: vec![10, 10_000],
        },
    };
    let parts = match cli.only.is_empty() {
        true => Part::value_variants().to_vec(),
        false => cli.only.clone(),
    };
    let fleet = [
        Part::Throughput,
        Part::Identity,
        Part::Lifecycle,
        Part::Follow,
        Part::Append,
    ];
    let postgres =
        fleet.iter().any(|part| parts.contains(part)) && !cli.noop_only && !cli.without_postgres;
    let plan = Plan {
        parts,
        binary: if cli.noop_only { None } else { Some(binary()?) },
        postgres_url: if postgres {
            Some(postgres_url()?)
        } else {
            None
        },
        cerbos: cli.cerbos.clone(),
        rounds,
        duration: Duration::from_secs_f64(seconds),
        warm_up: Duration::from_secs_f64(warm_up_s),
        sizes: Sizes {
            compare: match cli.compare_at.is_empty() {
                true => sizes.compare,
                false => cli.compare_at.clone(),
            },
            ..sizes
        },
    };
    let mut report = Report::new(&device::durable_dir())?;
    let done = measure::run(&plan, &mut report, &mut say).await;
    if cli.quick {
        report.value("quick", "a smoke test: its numbers mean nothing".into());
    }
    write(&cli.out, report.json(), !cli.only.is_empty())?;
    say(&format!("\n{}", report.table()));
    done
}

/// Writes the report. With `keep`, what is in the file and not in the report stays.
fn write(path: &Path, report: serde_json::Value, keep: bool) -> Result<()> {
    if let Some(dir) = path.parent().filter(|dir| *dir != Path::new("")) {
        std::fs::create_dir_all(dir)?;
    }
    let mut all = match std::fs::read(path) {
        Ok(before) if keep => serde_json::from_slice(&before)?,
        _ => serde_json::json!({}),
    };
    for (name, value) in report.as_object().into_iter().flatten() {
        all[name] = value.clone();
    }
    std::fs::write(path, serde_json::to_string_pretty(&all)? + "\n")?;
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
