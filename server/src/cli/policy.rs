//! `zta policy …`

mod diff;
mod evaluate;
mod export;
mod log;
mod origin;
mod rollback;
mod sign;
mod status;

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::{Value, json};
use zta_client::v1;
use zta_server::model::SourceFile;
use zta_server::model::revision::{FileDigest, FileKind};
use zta_server::policy::{Diagnostic, PolicyPatch, PolicySource, pass_gates};

pub(super) use self::log::{applied, revision_json};
pub(super) use self::origin::Origin;
use super::{Failure, Options, line, proposal};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the gates on policy folders, without a server.
    Check {
        /// Folders with `*.cedar`, `*.cedarschema` and test files.
        #[arg(required = true)]
        folders: Vec<PathBuf>,
    },
    /// Run the tests of policy folders, without a server or on one.
    Test(super::policy_test::Request),
    /// Apply policy folders as the next revision.
    Apply {
        /// Folders with `*.cedar`, `*.cedarschema` and test files.
        #[arg(required = true)]
        folders: Vec<PathBuf>,
        /// Why, for the record.
        #[arg(short, long, default_value = "")]
        message: String,
        /// The revision that must be in force; without it the one that is.
        #[arg(long)]
        expected: Option<u64>,
        #[command(flatten)]
        origin: Origin,
    },
    /// Propose policy folders: somebody else has to approve before they are in force.
    Propose {
        /// Folders with `*.cedar`, `*.cedarschema` and test files.
        #[arg(required = true)]
        folders: Vec<PathBuf>,
        /// Why, for the record.
        #[arg(short, long, default_value = "")]
        message: String,
        /// The revision that must be in force; without it the one that is.
        #[arg(long)]
        expected: Option<u64>,
        #[command(flatten)]
        origin: Origin,
    },
    /// List the proposals, the newest first; or show what one of them would change.
    Proposals {
        /// Show this one.
        number: Option<u64>,
    },
    /// Put somebody else's proposal in force.
    Approve {
        /// The proposal.
        number: u64,
    },
    /// End a proposal.
    Reject {
        /// The proposal.
        number: u64,
        /// Why, for the record.
        #[arg(short, long, default_value = "")]
        note: String,
    },
    /// List the revisions, the newest first.
    Log {
        /// How many.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
    /// Bring the content of an earlier revision back, as a new revision.
    Rollback {
        /// The revision; without it the one before. After a rollback, that is the one before
        /// the restored one.
        revision: Option<u64>,
        /// Why, for the record.
        #[arg(short, long, default_value = "")]
        message: String,
        /// The revision that must be in force; without it the one that is.
        #[arg(long)]
        expected: Option<u64>,
    },
    /// What is different, in meaning and in text: `A B` of two revisions, `A` of one and the
    /// one in force, `DIR…` of the one in force and policy folders, `A DIR…` of A and those.
    /// Exit code 0: the same; 1: different; 2: could not be compared.
    Diff {
        /// Numbers of revisions, or policy folders (`./5` for one that is named like a number).
        #[arg(required = true, value_name = "A|DIR")]
        sides: Vec<String>,
        /// Without the texts; the same then means the same in meaning.
        #[arg(long)]
        meaning: bool,
    },
    /// Write a revision's files into a folder.
    Export {
        /// The revision; 0 is the one in force.
        revision: u64,
        /// The folder; made if it is not there.
        folder: PathBuf,
        /// Into a folder that is not empty: its other policy files go.
        #[arg(long)]
        force: bool,
    },
    /// Which replica runs which revision. Exit code 1: one of them is behind.
    Status,
    /// Tell of each revision as it comes into force.
    Watch {
        /// Those after this one; 0 is all.
        #[arg(long, default_value_t = 0)]
        after: u64,
    },
    /// Make a key that signs policies. Prints the public half, for `policy.signing_keys`.
    Keygen {
        /// Where the private key goes; must not exist.
        file: PathBuf,
        /// The key's name, for example `release.example.com`.
        #[arg(long)]
        name: String,
    },
    /// Sign policy folders, to change the revision in force. Prints the signature.
    Sign {
        /// Folders with `*.cedar` and `*.cedarschema` files.
        #[arg(required = true)]
        folders: Vec<PathBuf>,
        /// The file with the private key.
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// The revision that they change; without it the one in force.
        #[arg(long)]
        expected: Option<u64>,
    },
    /// Make recorded decisions again under a candidate, and say which would change. Exit
    /// code 1 if one would flip.
    Replay(super::replay::Request),
    /// Why a request is decided as it is: each policy whose scope matches, each condition
    /// with its outcome. Decides nothing; it is itself on record.
    Explain(super::explain::Request),
    /// Exactly Cedar's own semantics, offline: one JSON line for each request.
    Evaluate {
        /// The policies.
        #[arg(long, value_name = "FILE")]
        policies: PathBuf,
        /// The schema.
        #[arg(long, value_name = "FILE")]
        schema: Option<PathBuf>,
        /// The entities, JSON.
        #[arg(long, value_name = "FILE")]
        entities: Option<PathBuf>,
        /// The requests, in the format of Cedar's integration tests.
        #[arg(long, value_name = "FILE")]
        requests: PathBuf,
    },
}

pub(super) async fn run(options: &Options, command: Command) -> Result<(), Failure> {
    match command {
        Command::Check { folders } => check(options, &folders),
        Command::Test(request) => super::policy_test::test(options, request).await,
        Command::Apply {
            folders,
            message,
            expected,
            origin,
        } => apply(options, &folders, message, expected, &origin).await,
        Command::Propose {
            folders,
            message,
            expected,
            origin,
        } => proposal::propose(options, &folders, message, expected, &origin).await,
        Command::Proposals { number: None } => proposal::list(options).await,
        Command::Proposals {
            number: Some(number),
        } => proposal::show(options, number).await,
        Command::Approve { number } => proposal::approve(options, number).await,
        Command::Reject { number, note } => proposal::reject(options, number, note).await,
        Command::Rollback {
            revision,
            message,
            expected,
        } => rollback::rollback(options, revision, message, expected).await,
        Command::Diff { sides, meaning } => diff::diff(options, &sides, meaning).await,
        Command::Export {
            revision,
            folder,
            force,
        } => export::export(options, revision, &folder, force).await,
        Command::Status => status::status(options).await,
        Command::Watch { after } => status::watch(options, after).await,
        Command::Keygen { file, name } => sign::keygen(options, &file, &name),
        Command::Sign {
            folders,
            key,
            expected,
        } => sign::sign(options, &folders, &key, expected).await,
        Command::Log { limit } => log::log(options, limit).await,
        Command::Replay(request) => super::replay::replay(options, request).await,
        Command::Explain(request) => super::explain::explain(options, request).await,
        Command::Evaluate {
            policies,
            schema,
            entities,
            requests,
        } => evaluate::evaluate(&policies, schema.as_deref(), entities.as_deref(), &requests),
    }
}

fn diagnostic_text(severity: &str, d: &Diagnostic) -> String {
    let place = match (d.file.as_str(), d.line, d.column) {
        ("", _, _) => String::new(),
        (file, 0, _) => format!("{file}: "),
        (file, line, 0) => format!("{file}:{line}: "),
        (file, line, column) => format!("{file}:{line}:{column}: "),
    };
    let help = if d.help.is_empty() {
        String::new()
    } else {
        format!("\n    help: {}", d.help)
    };
    let lint = match d.lint.as_str() {
        "" => String::new(),
        lint => format!("[{lint}]"),
    };
    format!("{place}{severity}{lint}: {}{help}", d.message)
}

fn diagnostic_json(severity: &str, d: &Diagnostic) -> Value {
    json!({
        "severity": severity,
        "file": d.file,
        "line": d.line,
        "column": d.column,
        "message": d.message,
        "help": d.help,
        "policy_id": d.policy_id,
        "lint": d.lint,
    })
}

pub(super) fn show(
    options: &Options,
    severity: &str,
    diagnostics: &[Diagnostic],
) -> Result<(), Failure> {
    diagnostics.iter().try_for_each(|d| {
        if options.json {
            line(diagnostic_json(severity, d))
        } else {
            line(diagnostic_text(severity, d))
        }
    })
}

fn check(options: &Options, folders: &[PathBuf]) -> Result<(), Failure> {
    let source = PolicySource::read(folders).map_err(Failure::CouldNotRun)?;
    match pass_gates(&source, None, &|| false) {
        Ok(compiled) => {
            show(options, "warning", &compiled.warnings)?;
            if options.json {
                return line(json!({ "passed": true, "policies": compiled.policy_count() }));
            }
            line(format!("{} policies pass", compiled.policy_count()))
        }
        Err(errors) => {
            show(options, "error", &errors)?;
            Err(Failure::No(format!(
                "{} errors; nothing would be applied",
                errors.len()
            )))
        }
    }
}

/// What a command sends of policy folders: only what the server does not have.
pub(super) struct Offer {
    /// The revision that it changes.
    pub(super) number: u64,
    pub(super) patch: v1::PolicyPatch,
    pub(super) sent: Value,
}

pub(super) async fn offer(
    options: &Options,
    client: &zta_client::Client,
    folders: &[PathBuf],
    expected: Option<u64>,
) -> Result<Offer, Failure> {
    let source = PolicySource::read(folders).map_err(Failure::CouldNotRun)?;
    // The server says which texts it has.
    let request = v1::GetRevisionRequest {
        number: expected.unwrap_or(0),
        digests_only: true,
    };
    let base = client.policies().get_revision(request).await?.into_inner();
    let number = base.revision.map_or(0, |revision| revision.number);
    let patch = PolicyPatch::between(&digests(base.files)?, &source);
    let sent = sent_json(number, &patch);
    if !options.json {
        line(sent_text(number, &patch, source.files().count()))?;
    }
    let patch = v1::PolicyPatch {
        put_policies: wire_files(patch.put_policies),
        put_schemas: wire_files(patch.put_schemas),
        put_tests: wire_files(patch.put_tests),
        delete_files: patch.delete_files,
    };
    Ok(Offer {
        number,
        patch,
        sent,
    })
}

fn wire_files(files: Vec<SourceFile>) -> Vec<v1::SourceFile> {
    let file = |f: SourceFile| v1::SourceFile {
        text: f.text().to_string(),
        name: f.name,
    };
    files.into_iter().map(file).collect()
}

async fn apply(
    options: &Options,
    folders: &[PathBuf],
    message: String,
    expected: Option<u64>,
    origin: &Origin,
) -> Result<(), Failure> {
    let client = options.client()?;
    let Offer {
        number,
        patch,
        sent,
    } = offer(options, &client, folders, expected).await?;
    let request = v1::ApplyRequest {
        source: None,
        patch: Some(patch.clone()),
        expected_revision: number,
        message,
        commit: origin.commit(folders),
        signature: origin.signature()?,
    };
    let answer = match client.policies().apply(request).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return not_applied(options, &client, patch, status).await,
    };
    let revision = answer.revision.unwrap_or_default();
    if options.json {
        let mut shown = revision_json(&revision);
        shown["sent"] = sent;
        return line(shown);
    }
    applied(options, &revision)
}

/// Why nothing was applied. An error of Apply holds the first problems of a candidate;
/// Validate says all of them.
pub(super) async fn not_applied(
    options: &Options,
    client: &zta_client::Client,
    patch: v1::PolicyPatch,
    status: tonic::Status,
) -> Result<(), Failure> {
    let error = zta_client::Error::from(status);
    if error.reason() != Some("POLICY_INVALID") {
        return Err(error.into());
    }
    let request = v1::ValidateRequest {
        source: None,
        patch: Some(patch),
    };
    let answer = client.policies().validate(request).await?.into_inner();
    let errors: Vec<Diagnostic> = answer.errors.into_iter().map(diagnostic_of).collect();
    show(options, "error", &errors)?;
    let text = format!("{} errors; nothing was applied", errors.len());
    Err(Failure::No(text))
}

/// A diagnostic of the server.
pub(super) fn diagnostic_of(d: v1::Diagnostic) -> Diagnostic {
    Diagnostic {
        file: d.file,
        line: d.line,
        column: d.column,
        message: d.message,
        help: d.help,
        policy_id: d.policy_id,
        lint: d.lint,
    }
}

/// What the server has, as it says.
fn digests(files: Vec<v1::FileDigest>) -> Result<Vec<FileDigest>, Failure> {
    let digest = |file: v1::FileDigest| {
        Some(FileDigest {
            kind: match (file.schema, file.test) {
                (true, _) => FileKind::Schema,
                (false, true) => FileKind::Test,
                (false, false) => FileKind::Policy,
            },
            name: file.name,
            sha256: file.sha256.try_into().ok()?,
        })
    };
    let files: Option<Vec<_>> = files.into_iter().map(digest).collect();
    files.ok_or_else(|| Failure::CouldNotRun("the server's answer has no SHA-256".to_owned()))
}

/// Files and bytes of a patch.
fn size(patch: &PolicyPatch) -> (usize, usize) {
    let bytes = patch.put().map(|file| file.text().len()).sum();
    (patch.put().count(), bytes)
}

fn sent_json(number: u64, patch: &PolicyPatch) -> Value {
    let (files, bytes) = size(patch);
    let deleted = patch.delete_files.len();
    json!({ "against": number, "files": files, "bytes": bytes, "deleted": deleted })
}

fn sent_text(number: u64, patch: &PolicyPatch, all: usize) -> String {
    let (files, bytes) = size(patch);
    let deleted = match patch.delete_files.len() {
        0 => String::new(),
        n => format!(", deletes {n}"),
    };
    format!("against revision {number}: sends {files} of {all} files ({bytes} bytes){deleted}")
}
