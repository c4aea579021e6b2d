//! What the groups share: databases of their own, servers that end with their test, and
//! the few calls that every test makes.

pub(crate) mod cluster;
pub(crate) mod database;
pub(crate) mod descriptors;
pub(crate) mod documented;
pub(crate) mod dpop;
pub(crate) mod http;
pub(crate) mod openssl;
pub(crate) mod pki;
pub(crate) mod provider;
pub(crate) mod proxy;
pub(crate) mod rpc;
pub(crate) mod server;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) use cluster::Cluster;
pub(crate) use database::Database;
pub(crate) use server::{Server, Setup};

/// How long anything may take that should happen soon, on a machine that others use too.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A file of the repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Copies policy and schema files into one new folder below `target`.
pub(crate) fn policy_folder(target: &Path, sources: &[&str]) -> PathBuf {
    let folder = target.join("policies");
    std::fs::create_dir_all(&folder).expect("policy folder");
    for source in sources {
        for entry in std::fs::read_dir(repository(source)).expect("policies") {
            let path = entry.expect("entry").path();
            let extension = path.extension().and_then(|e| e.to_str());
            if matches!(extension, Some("cedar" | "cedarschema")) {
                let name = path.file_name().expect("a name");
                std::fs::copy(&path, folder.join(name)).expect("copy");
            }
        }
    }
    folder
}

/// The repository's rules and the demo crew's.
pub(crate) const CREW: [&str; 2] = ["policies", "policies/examples/research_crew"];

/// Tries until it succeeds, or says what kept it from succeeding.
pub(crate) async fn eventually<T, E, F>(what: &str, mut attempt: F) -> T
where
    E: std::fmt::Debug,
    F: AsyncFnMut() -> Result<T, E>,
{
    let deadline = tokio::time::Instant::now() + SOON;
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(error) if tokio::time::Instant::now() > deadline => {
                panic!("{what}: not within {SOON:?}: {error:?}")
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
