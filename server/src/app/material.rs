//! The server's own keys and certificates, loaded or made at the start.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use rustls::time_provider::DefaultTimeProvider;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::{AppError, operator_ca, start_error};
use crate::api::tls::{TlsConfigError, TlsMaterial, TlsReload};
use crate::audit::checkpoint::{self, VerifierKey};
use crate::config::Config;
use crate::identity::authorities::{Authorities, CaKeys};
use crate::identity::ca::{Ca, CaChain, CaError};
use crate::identity::public_key::PublicKey;
use crate::identity::spiffe::TrustDomain;
use crate::identity::token::{TokenAuthority, TokenError};
use crate::keys::cursor::{CURSOR_KEY_LEN, CursorSeal};
use crate::keys::{
    KeyError, KeyName, KeyNotes, KeyService, KeyStep, KeyringSecret, LocalKeys, NotedKeys,
    Passphrase, SigningKey, WrappedKeyStore, WrappedKeys,
};
use crate::model::redaction::Redaction;
use crate::store::{SharedStore, StoreError};

/// How long the server's own certificate is good for; renewed at half of it.
pub(super) const SERVER_CERTIFICATE_LIFETIME: Duration = Duration::days(14);
/// The CA's chain among the blobs, in PEM. The first one stored is the one.
const CA_BLOB: &str = "ca_certificate";

/// The key of sealed cursors among the blobs.
const CURSOR_KEY_BLOB: &str = "cursor_key";
/// The log's public key among the blobs.
const VKEY_BLOB: &str = "log_vkey";

/// The names that a local client uses.
const LOCAL_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Keys and certificates.
#[derive(Clone)]
pub(super) struct Material {
    pub(super) ca: Authorities,
    pub(super) log_key: Arc<dyn SigningKey>,
    /// The log's name in checkpoints.
    pub(super) origin: String,
    /// The log's public key in the note format.
    pub(super) vkey: String,
    token_key: Arc<dyn SigningKey>,
    server_key: Arc<dyn SigningKey>,
    server_names: Vec<String>,
    cursor_key: Vec<u8>,
    redaction_key: Arc<dyn SigningKey>,
}

impl Material {
    pub(super) async fn load(
        config: &Config,
        store: &SharedStore,
        log_id: Uuid,
        notes: KeyNotes,
        now: OffsetDateTime,
    ) -> Result<Self, AppError> {
        let trust_domain = TrustDomain::parse(&config.trust_domain)
            .map_err(|e| AppError::Start(format!("configuration: `trust_domain`: {e}")))?;
        let keys = NotedKeys::new(key_service(config, store, log_id)?, notes.clone());
        if config.database_url.is_some() {
            notes.note("keyring".into(), KeyStep::Loaded, &[]);
        }
        let key = async |name| keys.load_or_create(name).await.map_err(start_error);
        let server_names = server_names(config);
        let brought = operator_ca::load(config, &trust_domain, &server_names, &notes, now)?;
        let ca = authorities(config, store, log_id, (trust_domain, brought), notes, now).await?;
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
            ca,
            log_key,
            origin,
            vkey,
            token_key: key(KeyName::Token).await?,
            server_key: key(KeyName::ServerTls).await?,
            server_names,
            cursor_key: cursor_key(store).await?,
            redaction_key: key(KeyName::Redaction).await?,
        })
    }

    /// Seals the cursors of listings, the same on each replica.
    pub(super) fn cursors(&self) -> Result<CursorSeal, KeyError> {
        CursorSeal::new(&self.cursor_key)
    }

    /// A keyed hash of a message, whose first bytes say what it is for.
    pub(super) fn keyed_hash(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        self.redaction_key.sign(message)
    }

    /// What is not stored of a request's inputs.
    pub(super) fn redaction(&self, config: &Config) -> Redaction {
        let key = Arc::clone(&self.redaction_key);
        let hash = Arc::new(move |message: &[u8]| key.sign(message).ok()?.try_into().ok());
        Redaction::new(&config.redact).hashing(&config.redact_hash, hash)
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
            .signing()
            .issue_server(&key, &self.server_names, SERVER_CERTIFICATE_LIFETIME, now)
            .map_err(|e| e.to_string())?;
        Ok(TlsMaterial {
            chain: certificate.chain(),
            key: Arc::clone(&self.server_key),
            client_roots: self.ca.current().issuers(),
            time: Arc::new(DefaultTimeProvider),
        })
    }
}

/// The names of the server's certificate.
pub(super) fn server_names(config: &Config) -> Vec<String> {
    let mut names: Vec<String> = LOCAL_NAMES.map(str::to_owned).to_vec();
    let further = config.server_names.iter().filter(|n| !n.is_empty());
    names.extend(further.cloned());
    names
}

/// The CAs of this log, made if it has none yet.
async fn authorities(
    config: &Config,
    store: &SharedStore,
    log_id: Uuid,
    (trust_domain, brought): (TrustDomain, Vec<Ca>),
    notes: KeyNotes,
    now: OffsetDateTime,
) -> Result<Authorities, AppError> {
    let misfit = |e: CaError| {
        AppError::Start(format!(
            "the stored CA does not fit this configuration (see `ca_certificate_file` and \
             `trust_domain`): {e}"
        ))
    };
    let keys = NotedKeys::new(key_service(config, store, log_id)?, notes);
    let keys = CaKeys::new(trust_domain, Box::new(keys), brought);
    let stored = match store.get_blob(CA_BLOB).await? {
        Some(stored) => stored,
        None => {
            let fresh = keys.first(now).await.map_err(start_error)?;
            // Two replicas that start together make two roots; the first one stored wins.
            let fresh = fresh.pem();
            store.put_blob_if_absent(CA_BLOB, fresh.as_bytes()).await?
        }
    };
    let chain = CaChain::from_pem(&stored).map_err(|e| misfit(e.into()))?;
    let first = keys.first_record(&chain).map_err(misfit)?;
    let records = store.authorities().await?;
    Authorities::start(keys, first, &records)
        .await
        .map_err(misfit)
}

/// Lies in the open beside the names that it keeps from callers.
async fn cursor_key(store: &SharedStore) -> Result<Vec<u8>, AppError> {
    let mut fresh = [0; CURSOR_KEY_LEN];
    aws_lc_rs::rand::fill(&mut fresh)
        .map_err(|_| AppError::Start("no randomness for a key".to_owned()))?;
    Ok(store.put_blob_if_absent(CURSOR_KEY_BLOB, &fresh).await?)
}

/// Files beside the embedded store; sealed rows of the database in a fleet.
pub(super) fn key_service(
    config: &Config,
    store: &SharedStore,
    log_id: Uuid,
) -> Result<Box<dyn KeyService>, AppError> {
    if config.database_url.is_none() {
        let keys = LocalKeys::open(&config.data_dir, passphrase(config)?).map_err(start_error)?;
        return Ok(Box::new(keys));
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

/// What private keys in files are encrypted with, if that is configured.
pub(super) fn passphrase(config: &Config) -> Result<Option<Arc<Passphrase>>, AppError> {
    let file = config.key_passphrase_file.as_deref();
    let passphrase = file.map(Passphrase::from_file).transpose();
    passphrase
        .map(|passphrase| passphrase.map(Arc::new))
        .map_err(|e| AppError::Start(format!("configuration: `key_passphrase_file`: {e}")))
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
