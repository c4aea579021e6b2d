//! The server's own keys and certificates, loaded or made at the start.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use rustls::time_provider::DefaultTimeProvider;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::{AppError, start_error};
use crate::api::tls::{TlsConfigError, TlsMaterial, TlsReload};
use crate::audit::checkpoint::{self, VerifierKey};
use crate::config::Config;
use crate::identity::ca::Ca;
use crate::identity::public_key::PublicKey;
use crate::identity::spiffe::TrustDomain;
use crate::identity::token::{TokenAuthority, TokenError};
use crate::keys::{
    KeyName, KeyService, KeyringSecret, LocalKeys, SigningKey, WrappedKeyStore, WrappedKeys,
};
use crate::store::{SharedStore, StoreError};

/// How long the server's own certificate is good for; renewed at half of it.
pub(super) const SERVER_CERTIFICATE_LIFETIME: Duration = Duration::days(14);
/// The CA certificate's name among the blobs. The first one stored is the one.
const CA_BLOB: &str = "ca_certificate";

/// The log's public key among the blobs.
const VKEY_BLOB: &str = "log_vkey";

/// The names that a local client uses.
const LOCAL_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Keys and certificates.
#[derive(Clone)]
pub(super) struct Material {
    pub(super) ca: Arc<Ca>,
    pub(super) log_key: Arc<dyn SigningKey>,
    /// The log's name in checkpoints.
    pub(super) origin: String,
    /// The log's public key in the note format.
    pub(super) vkey: String,
    token_key: Arc<dyn SigningKey>,
    server_key: Arc<dyn SigningKey>,
    server_names: Vec<String>,
}

impl Material {
    pub(super) async fn load(
        config: &Config,
        store: &SharedStore,
        log_id: Uuid,
        now: OffsetDateTime,
    ) -> Result<Self, AppError> {
        let trust_domain = TrustDomain::parse(&config.trust_domain)
            .map_err(|e| AppError::Start(format!("configuration: `trust_domain`: {e}")))?;
        let keys = key_service(config, store, log_id)?;
        let key = async |name| keys.load_or_create(name).await.map_err(start_error);
        let ca_key = key(KeyName::Ca).await?;
        let fresh = Ca::create(&ca_key, &trust_domain, now).map_err(start_error)?;
        // Two replicas that start together make two roots; the first one stored wins.
        let der = store.put_blob_if_absent(CA_BLOB, &fresh).await?;
        let ca = Ca::load(ca_key, der, &trust_domain).map_err(|e| {
            AppError::Start(format!(
                "the stored CA does not fit this configuration: {e}"
            ))
        })?;
        let mut server_names: Vec<String> = LOCAL_NAMES.map(str::to_owned).to_vec();
        server_names.extend(
            config
                .server_names
                .iter()
                .filter(|n| !n.is_empty())
                .cloned(),
        );
        let origin = checkpoint::origin(&config.trust_domain, log_id);
        let log_key = key(KeyName::Log).await?;
        let vkey = VerifierKey::from_spki(origin.clone(), log_key.public_key_spki_der())
            .map_err(start_error)?
            .vkey();
        let pinned = store.put_blob_if_absent(VKEY_BLOB, vkey.as_bytes()).await?;
        // With another key, checkpoints would go on that nobody who holds the old one accepts.
        if pinned != vkey.as_bytes() {
            let text = "the log's key is not the one that this log began with; restore it \
                        from a backup";
            return Err(AppError::Start(text.to_owned()));
        }
        Ok(Self {
            ca: Arc::new(ca),
            log_key,
            origin,
            vkey,
            token_key: key(KeyName::Token).await?,
            server_key: key(KeyName::ServerTls).await?,
            server_names,
        })
    }

    pub(super) fn token_authority(&self, config: &Config) -> Result<TokenAuthority, TokenError> {
        let key = Arc::clone(&self.token_key);
        let authority = TokenAuthority::new(key, self.ca.trust_domain(), None)?;
        Ok(authority.taking_unbound(config.development_bearer))
    }

    /// A TLS configuration with a fresh server certificate.
    pub(super) fn tls(&self, now: OffsetDateTime) -> Result<TlsReload, String> {
        TlsReload::new(self.tls_material(now)?).map_err(|e| e.to_string())
    }

    /// Puts a fresh server certificate in force.
    pub(super) fn renew_tls(&self, reload: &TlsReload, now: OffsetDateTime) -> Result<(), String> {
        reload
            .replace(self.tls_material(now)?)
            .map_err(|e: TlsConfigError| e.to_string())
    }

    fn tls_material(&self, now: OffsetDateTime) -> Result<TlsMaterial, String> {
        let key = PublicKey::from_spki(self.server_key.public_key_spki_der())
            .map_err(|e| e.to_string())?;
        let certificate = self
            .ca
            .issue_server(&key, &self.server_names, SERVER_CERTIFICATE_LIFETIME, now)
            .map_err(|e| e.to_string())?;
        Ok(TlsMaterial {
            chain: vec![certificate.der],
            key: Arc::clone(&self.server_key),
            client_roots: vec![self.ca.certificate_der().to_vec()],
            time: Arc::new(DefaultTimeProvider),
        })
    }
}

/// Files beside the embedded store; sealed rows of the database in a fleet.
pub(super) fn key_service(
    config: &Config,
    store: &SharedStore,
    log_id: Uuid,
) -> Result<Box<dyn KeyService>, AppError> {
    if config.database_url.is_none() {
        return Ok(Box::new(
            LocalKeys::open(&config.data_dir).map_err(start_error)?,
        ));
    }
    let file = config.keyring_file.as_deref().ok_or_else(|| {
        AppError::Start(
            "configuration: `keyring_file` is missing: a fleet keeps its keys in the database, \
             sealed under the secret in this file; make one with `openssl rand -base64 48`"
                .to_owned(),
        )
    })?;
    let secret = KeyringSecret::from_file(file).map_err(start_error)?;
    let sealed = Sealed(Arc::clone(store));
    let keys = WrappedKeys::new(sealed, &secret, &log_id.to_string()).map_err(start_error)?;
    Ok(Box::new(keys))
}

/// The store's blobs as the rows that sealed keys lie in.
struct Sealed(SharedStore);

#[async_trait]
impl WrappedKeyStore for Sealed {
    type Error = StoreError;

    async fn get(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.0.get_blob(&format!("key/{name}")).await
    }

    async fn put_if_absent(&self, name: &str, sealed: Vec<u8>) -> Result<Vec<u8>, StoreError> {
        self.0
            .put_blob_if_absent(&format!("key/{name}"), &sealed)
            .await
    }
}

/// Makes a folder that only its owner can enter; an existing one is left as it is.
pub(super) fn private_dir(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}
