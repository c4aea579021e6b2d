//! The CA that an operator brings in files.

use std::borrow::Cow;
use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

use time::OffsetDateTime;

use super::AppError;
use super::material::passphrase;
use crate::config::Config;
use crate::identity::ca::{Ca, CaChain};
use crate::identity::spiffe::TrustDomain;
use crate::keys::{KeyAlgorithm, KeyFile, KeyNotes, KeyStep};

/// What an operator's encrypted key is bound to.
const KEY_NAME: &str = "operator-ca";
/// A chain of a few certificates; more is another file.
const CHAIN_BYTES_MAX: u64 = 256 * 1024;
/// An operator is told this long before the CA ends.
const WARNING: time::Duration = time::Duration::days(30);

/// The operator's key in this file.
pub(super) fn key_file(path: &Path) -> KeyFile<'_> {
    KeyFile {
        path,
        name: Cow::Borrowed(KEY_NAME),
        algorithm: KeyAlgorithm::EcdsaP256,
    }
}

/// The CAs of the configured files: the one that signs, and the one to come.
///
/// # Errors
/// When one cannot issue what clients accept, with what to do.
pub(super) fn load(
    config: &Config,
    trust_domain: &TrustDomain,
    server_names: &[String],
    notes: &KeyNotes,
    now: OffsetDateTime,
) -> Result<Vec<Ca>, AppError> {
    let mut brought = Vec::new();
    for pair in pairs(config) {
        let ca = load_one(config, &pair, trust_domain, notes)?;
        ca.verify_chain(server_names, now)
            .map_err(|e| refuse(pair.chain_setting, pair.chain, &e))?;
        if ca.not_after() - now < WARNING {
            let file = pair.chain.display();
            tracing::warn!(%file, not_after = %ca.not_after(), "a CA ends soon; bring the next one");
        }
        brought.push(ca);
    }
    Ok(brought)
}

/// The key files of the configured CAs.
pub(super) fn key_files(config: &Config) -> impl Iterator<Item = &Path> {
    pairs(config).map(|pair| pair.key)
}

/// A CA's two files, with the settings that name them.
struct Pair<'a> {
    chain_setting: &'static str,
    chain: &'a Path,
    key_setting: &'static str,
    key: &'a Path,
}

fn pairs(config: &Config) -> impl Iterator<Item = Pair<'_>> {
    [
        (
            "ca_certificate_file",
            &config.ca_certificate_file,
            "ca_key_file",
            &config.ca_key_file,
        ),
        (
            "ca_next_certificate_file",
            &config.ca_next_certificate_file,
            "ca_next_key_file",
            &config.ca_next_key_file,
        ),
    ]
    .into_iter()
    .filter_map(|(chain_setting, chain, key_setting, key)| {
        Some(Pair {
            chain_setting,
            chain: chain.as_deref()?,
            key_setting,
            key: key.as_deref()?,
        })
    })
}

fn load_one(
    config: &Config,
    pair: &Pair<'_>,
    trust_domain: &TrustDomain,
    notes: &KeyNotes,
) -> Result<Ca, AppError> {
    let of_chain = |why: &dyn Display| refuse(pair.chain_setting, pair.chain, why);
    let of_key = |why: &dyn Display| refuse(pair.key_setting, pair.key, why);
    let text = read(pair.chain).map_err(|e| of_chain(&e))?;
    let chain = CaChain::from_pem(&text).map_err(|e| of_chain(&e))?;
    let key = key_file(pair.key)
        .load(passphrase(config)?.as_deref())
        .map_err(|e| of_key(&e))?
        .ok_or_else(|| of_key(&"there is no such file"))?;
    let key = notes.follow(KEY_NAME.into(), KeyStep::Loaded, Arc::new(key));
    Ca::load_chain(key, chain, trust_domain).map_err(|e| of_chain(&e))
}

fn refuse(setting: &str, path: &Path, why: &dyn Display) -> AppError {
    let path = path.display();
    AppError::Start(format!("configuration: `{setting}` (`{path}`): {why}"))
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut text = Vec::new();
    let file = std::fs::File::open(path)?;
    file.take(CHAIN_BYTES_MAX).read_to_end(&mut text)?;
    Ok(text)
}
