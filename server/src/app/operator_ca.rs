//! The CA that an operator brings in files.

use std::path::Path;
use std::sync::Arc;

use time::OffsetDateTime;

use super::AppError;
use super::material::passphrase;
use crate::config::Config;
use crate::identity::ca::{Ca, CaChain};
use crate::identity::spiffe::TrustDomain;
use crate::keys::{KeyAlgorithm, KeyFile};

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
        name: KEY_NAME,
        algorithm: KeyAlgorithm::EcdsaP256,
    }
}

/// The CA of the configured files, if there are any.
///
/// # Errors
/// When it cannot issue what clients accept, with what to do.
pub(super) fn load(
    config: &Config,
    trust_domain: &TrustDomain,
    server_names: &[String],
    now: OffsetDateTime,
) -> Result<Option<Ca>, AppError> {
    let files = (&config.ca_certificate_file, &config.ca_key_file);
    let (Some(chain_file), Some(key)) = files else {
        return Ok(None);
    };
    let refuse = |setting: &str, path: &Path, why: &dyn std::fmt::Display| {
        let path = path.display();
        AppError::Start(format!("configuration: `{setting}` (`{path}`): {why}"))
    };
    let chain = read(chain_file)
        .map_err(|e| refuse("ca_certificate_file", chain_file, &e))
        .and_then(|text| {
            CaChain::from_pem(&text).map_err(|e| refuse("ca_certificate_file", chain_file, &e))
        })?;
    let loaded = key_file(key)
        .load(passphrase(config)?.as_deref())
        .map_err(|e| refuse("ca_key_file", key, &e))?
        .ok_or_else(|| refuse("ca_key_file", key, &"there is no such file"))?;
    let ca = Ca::load_chain(Arc::new(loaded), chain, trust_domain)
        .map_err(|e| refuse("ca_certificate_file", chain_file, &e))?;
    ca.verify_chain(server_names, now)
        .map_err(|e| refuse("ca_certificate_file", chain_file, &e))?;
    if ca.not_after() - now < WARNING {
        tracing::warn!(not_after = %ca.not_after(), "the CA's chain ends soon; bring the next one");
    }
    Ok(Some(ca))
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut text = Vec::new();
    let file = std::fs::File::open(path)?;
    file.take(CHAIN_BYTES_MAX).read_to_end(&mut text)?;
    Ok(text)
}
