//! Where policy folders come from: the commit that git says they are at, and a signature.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;
use zta_server::model::revision::{DIRTY, is_commit};

use crate::cli::Failure;

/// What is said of a policy set beside its content.
#[derive(Debug, Args)]
pub(in crate::cli) struct Origin {
    /// The commit that it was taken from; without it the one that git says the folders are
    /// at, with `-dirty` behind it if they are not as committed. `none`: none.
    #[arg(long, value_name = "HEX")]
    commit: Option<String>,
    /// The file with its signature, as `zta policy sign` writes it.
    #[arg(long, value_name = "FILE")]
    signature: Option<PathBuf>,
}

impl Origin {
    /// The commit; empty where there is none.
    pub(in crate::cli) fn commit(&self, folders: &[PathBuf]) -> String {
        match self.commit.as_deref() {
            Some("none") => String::new(),
            Some(commit) => commit.to_owned(),
            None => commit_of(folders).unwrap_or_default(),
        }
    }

    /// The signature; empty where there is none.
    pub(in crate::cli) fn signature(&self) -> Result<String, Failure> {
        let Some(file) = &self.signature else {
            return Ok(String::new());
        };
        std::fs::read_to_string(file)
            .map_err(|e| Failure::CouldNotRun(format!("cannot read `{}`: {e}", file.display())))
    }
}

/// Says which policy files of a folder, and not of those below, are not as committed.
const STATUS: [&str; 9] = [
    "status",
    "--porcelain",
    "--ignored",
    "--untracked-files=all",
    "--",
    ":(glob)*.cedar",
    ":(glob)*.cedarschema",
    ":(glob)*.test.yaml",
    ":(glob)*.test.json",
];

/// The commit that all folders are at. None where git is missing, or one of them is in no
/// checkout or in another one: what is claimed has to be true of the whole.
fn commit_of(folders: &[PathBuf]) -> Option<String> {
    let mut commits = folders.iter().map(|folder| {
        let commit = git(folder, &["rev-parse", "--verify", "HEAD"])?;
        is_commit(&commit).then_some(commit)
    });
    let commit = commits.next()??;
    if !commits.all(|other| other.as_ref() == Some(&commit)) {
        return None;
    }
    // A folder that git cannot look at counts as changed.
    let unchanged = |folder: &PathBuf| git(folder, &STATUS).is_some_and(|s| s.is_empty());
    match folders.iter().all(unchanged) {
        true => Some(commit),
        false => Some(format!("{commit}{DIRTY}")),
    }
}

/// What git says, without its last line break. Runs nothing that the checkout names.
fn git(folder: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .args(["-c", "core.fsmonitor=false", "-C"])
        .arg(folder)
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim_end().to_owned())
}
