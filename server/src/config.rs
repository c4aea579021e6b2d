//! Every setting, with its default and its meaning. Read once at the start from a TOML
//! file and `ZTA_…` variables (`__` between levels: `ZTA_LIMITS__MESSAGE_BYTES_MAX`). An
//! unknown key refuses the start and is named.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

mod issuer;
mod policy;
mod settings;

pub use issuer::{IssuerConfig, IssuerPrincipal};
pub use policy::PolicyConfig;

/// What the server is told.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where to listen. `127.0.0.1:0` takes a free port.
    pub listen: SocketAddr,
    /// The folder for keys, the embedded store and the administrator's credential.
    pub data_dir: PathBuf,
    /// The SPIFFE trust domain of every principal here.
    pub trust_domain: String,
    /// Further names of the server's certificate: DNS names and IP addresses.
    pub server_names: Vec<String>,
    /// What callers know the server by where TLS ends before it: `host` or `host:port` of
    /// the proxy. Proofs of possession (DPoP) name it.
    pub external_names: Vec<String>,
    /// The Postgres of a fleet; without it the store is embedded.
    pub database_url: Option<String>,
    /// A file that holds `database_url`, for a secret mounted as a file.
    pub database_url_file: Option<PathBuf>,
    /// The file with the secret that wraps the keys of a fleet; needed with Postgres.
    pub keyring_file: Option<PathBuf>,
    /// The file with the passphrase that private keys in files are encrypted with: those
    /// below `data_dir`, and `ca_key_file`. Unset, the systemd credential
    /// `zta-key-passphrase` is taken if there is one; without either, keys are in clear
    /// text, mode 0600. Encrypt keys that exist with `zta keys encrypt`.
    pub key_passphrase_file: Option<PathBuf>,
    /// The CA that signs, if not one that the server makes: PEM with the intermediate
    /// first, then the rest of its chain up to and including the trust anchor.
    pub ca_certificate_file: Option<PathBuf>,
    /// The key of `ca_certificate_file`: PKCS#8 PEM, ECDSA P-256, mode 0600.
    pub ca_key_file: Option<PathBuf>,
    /// The CA that takes the place of the one in `ca_certificate_file`, likewise: from
    /// `zta ca prepare` until the old one is retired.
    pub ca_next_certificate_file: Option<PathBuf>,
    /// The key of `ca_next_certificate_file`.
    pub ca_next_key_file: Option<PathBuf>,
    /// The policies of the first start; without it the built-in ones.
    pub policy_dir: Option<PathBuf>,
    /// `human` or `json`.
    pub log_format: LogFormat,
    /// A `tracing` filter, such as `info` or `zta_server=debug`.
    pub log_level: String,
    /// Where to send OpenTelemetry traces (OTLP over gRPC); without it nowhere.
    pub otlp_endpoint: Option<String>,
    /// Development: takes a provider's token without a proof of a key, for a bearer token
    /// that anybody can use who sees it. Loopback only.
    pub development_bearer: bool,
    /// Plain text instead of TLS. Loopback only; nobody can authenticate over it but by a
    /// proof of possession.
    pub plaintext: bool,
    /// How long calls in flight may take to end after a stop signal.
    pub drain_timeout_ms: u64,
    /// How long agents' certificates are good for, at most a day. Less than a minute is
    /// for tests.
    pub certificate_lifetime_s: u32,
    /// How often a key may get a new certificate after its last one has expired; 0: never.
    pub recoveries_max: u32,
    /// How long access tokens are good for, at most ten minutes.
    pub token_lifetime_s: u32,
    /// How often the key of an open connection has to be proved again; 0: never.
    pub key_proof_interval_s: u32,
    /// How many agents may act one after the other on somebody's behalf, 1 to 8.
    pub delegation_depth_max: usize,
    /// Whether policies come into force only when somebody else than their author approves
    /// them: `zta policy propose` and `approve` instead of `apply`.
    pub four_eyes: bool,
    /// Whether the log's hash tiles and newest checkpoint are shown to anybody, over HTTP.
    /// They say how many events there are and nothing of what is in them; entries are never
    /// shown without a credential.
    pub public_log: bool,
    /// How long after a decision its outcome is taken, in seconds, from 60 to 2592000.
    pub outcome_window_s: u32,
    /// What is demanded of policies.
    pub policy: PolicyConfig,
    /// What this replica is called in `zta policy status`; without it the address that it
    /// listens on.
    pub replica_name: Option<String>,
    /// Dotted paths of what is never stored of a request's inputs.
    pub redact: Vec<String>,
    /// Dotted paths of what is stored as a keyed hash only.
    pub redact_hash: Vec<String>,
    /// Identity providers whose tokens are taken for a login.
    pub issuers: Vec<IssuerConfig>,
    /// Limits of the door.
    pub limits: Limits,
}

/// Limits of the door.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Bytes of one request, other than to the policy and entity services.
    pub message_bytes_max: usize,
    /// Bytes of one request to the policy service: a policy set of 64 MiB with its names.
    pub policy_message_bytes_max: usize,
    /// Bytes of one request to the entity service: 10,000 entities.
    pub entity_message_bytes_max: usize,
    /// Requests in flight on one connection.
    pub streams_per_connection_max: u32,
    /// Logins of one key that may fail before it is locked out, longer with each further
    /// one; of one address, ten times as many.
    pub login_failures_max: u32,
    /// Open connections without a client certificate from one address.
    pub anonymous_connections_max: usize,
    /// How long one request may take.
    pub request_timeout_ms: u64,
    /// Streams of revisions and events that may be open at once; of one caller, a quarter.
    pub watch_streams_max: usize,
    /// How often a stream tells that nothing is new.
    pub watch_heartbeat_ms: u64,
}

/// The form of the log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7443)),
            data_dir: PathBuf::from("zta-data"),
            trust_domain: "zta.local".to_owned(),
            server_names: Vec::new(),
            external_names: Vec::new(),
            database_url: None,
            database_url_file: None,
            keyring_file: None,
            key_passphrase_file: None,
            ca_certificate_file: None,
            ca_key_file: None,
            ca_next_certificate_file: None,
            ca_next_key_file: None,
            policy_dir: None,
            log_format: LogFormat::Human,
            log_level: "info".to_owned(),
            otlp_endpoint: None,
            development_bearer: false,
            plaintext: false,
            drain_timeout_ms: 10_000,
            certificate_lifetime_s: 3600,
            recoveries_max: 3,
            token_lifetime_s: 600,
            key_proof_interval_s: 900,
            delegation_depth_max: 4,
            four_eyes: false,
            public_log: false,
            outcome_window_s: 86_400,
            policy: PolicyConfig::default(),
            replica_name: None,
            redact: [
                "password",
                "passwd",
                "secret",
                "token",
                "api_key",
                "apikey",
                "authorization",
                "access_token",
                "private_key",
            ]
            .map(|key| format!("**.{key}"))
            .to_vec(),
            redact_hash: Vec::new(),
            issuers: Vec::new(),
            limits: Limits::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes_max: 8 * 1024 * 1024,
            policy_message_bytes_max: 72 * 1024 * 1024,
            entity_message_bytes_max: 32 * 1024 * 1024,
            streams_per_connection_max: 512,
            login_failures_max: 5,
            anonymous_connections_max: 512,
            request_timeout_ms: 30_000,
            watch_streams_max: 64,
            watch_heartbeat_ms: 10_000,
        }
    }
}

/// Why the configuration is refused, with what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file or a variable cannot be read as the settings.
    #[error("configuration: {0}")]
    Read(#[from] config::ConfigError),
    /// A value is no good.
    #[error("configuration: `{key}` {why}")]
    Value {
        /// The setting.
        key: &'static str,
        /// What is wrong, and what would be right.
        why: String,
    },
}

/// Where systemd puts the credentials of a service.
const CREDENTIALS_VARIABLE: &str = "CREDENTIALS_DIRECTORY";
/// The credential that is the passphrase of key files.
const PASSPHRASE_CREDENTIAL: &str = "zta-key-passphrase";

/// Variables that belong to the clients and the tools, not to the server.
const FOREIGN_VARIABLES: [&str; 11] = [
    "join_token",
    "venv",
    "cedar_corpus",
    "config",
    "credential",
    "server",
    "bin",
    "log",
    "test_log_verifier",
    "test_oidc_provider",
    "test_postgres_url",
];

impl Config {
    /// Reads the file, then the variables on top of it.
    ///
    /// # Errors
    /// An unknown key, a value of another type, or one that cannot be used.
    pub fn read(file: Option<&Path>) -> Result<Self, ConfigError> {
        let mut builder = config::Config::builder();
        if let Some(file) = file {
            builder = builder.add_source(config::File::from(file).format(config::FileFormat::Toml));
        }
        let own: std::collections::HashMap<String, String> = std::env::vars()
            .filter(|(name, _)| {
                let key = name.strip_prefix("ZTA_").map(str::to_ascii_lowercase);
                key.is_some_and(|key| !FOREIGN_VARIABLES.contains(&key.as_str()))
            })
            .collect();
        let variables = config::Environment::with_prefix("ZTA")
            .prefix_separator("_")
            .separator("__")
            .try_parsing(true)
            .list_separator(",")
            .with_list_parse_key("server_names")
            .with_list_parse_key("external_names")
            .with_list_parse_key("redact")
            .with_list_parse_key("redact_hash")
            .with_list_parse_key("policy.signing_keys")
            .source(Some(own));
        let mut config: Self = builder.add_source(variables).build()?.try_deserialize()?;
        if config.key_passphrase_file.is_none() {
            let credentials = std::env::var_os(CREDENTIALS_VARIABLE).map(PathBuf::from);
            config.key_passphrase_file = credentials.and_then(|d| passphrase_in(&d));
        }
        config.usable()
    }

    fn usable(mut self) -> Result<Self, ConfigError> {
        let bad = |key, why: &str| {
            Err(ConfigError::Value {
                key,
                why: why.to_owned(),
            })
        };
        if self.plaintext && !self.listen.ip().is_loopback() {
            return bad(
                "plaintext",
                "is for loopback only; listen on 127.0.0.1 or use TLS",
            );
        }
        if let Some((key, why)) = self.identity_defect() {
            return bad(key, &why);
        }
        if let Some(why) = self.policy.defect() {
            return bad("policy.require_signed", why);
        }
        self.require_numbers()?;
        self.require_ca_pairs()?;
        if let Some(file) = &self.database_url_file {
            if self.database_url.is_some() {
                return bad(
                    "database_url_file",
                    "stands beside `database_url`; give one of them",
                );
            }
            let text = std::fs::read_to_string(file).map_err(|e| ConfigError::Value {
                key: "database_url_file",
                why: format!("cannot be read from `{}`: {e}", file.display()),
            })?;
            self.database_url = Some(text.trim().to_owned());
        }
        if let Some(url) = &self.database_url {
            if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
                return bad(
                    "database_url",
                    "must begin with `postgres://`; leave it out for the embedded store",
                );
            }
            if ["changeme", "CHANGE_ME", "<password>"]
                .iter()
                .any(|p| url.contains(p))
            {
                return bad(
                    "database_url",
                    "still holds a placeholder; put the real password in",
                );
            }
        }
        Ok(self)
    }

    /// Lifetimes and counts within their bounds.
    fn require_numbers(&self) -> Result<(), ConfigError> {
        let numbers = [
            (
                (2..=86_400).contains(&self.certificate_lifetime_s),
                ("certificate_lifetime_s", "must be 2 to 86400"),
            ),
            (
                self.recoveries_max <= 1000,
                ("recoveries_max", "must be 0 to 1000"),
            ),
            (
                (10..=600).contains(&self.token_lifetime_s),
                ("token_lifetime_s", "must be 10 to 600"),
            ),
            (
                self.key_proof_interval_s <= 86_400,
                ("key_proof_interval_s", "must be at most 86400; 0 is never"),
            ),
            (
                (60..=2_592_000).contains(&self.outcome_window_s),
                ("outcome_window_s", "must be 60 to 2592000"),
            ),
            (
                (100..=60_000).contains(&self.limits.watch_heartbeat_ms),
                ("limits.watch_heartbeat_ms", "must be 100 to 60000"),
            ),
            (
                self.replica_name
                    .as_ref()
                    .is_none_or(|n| (1..=255).contains(&n.len()) && !n.contains(char::is_control)),
                ("replica_name", "must have 1 to 255 printable characters"),
            ),
            (
                (1..=8).contains(&self.delegation_depth_max),
                ("delegation_depth_max", "must be 1 to 8"),
            ),
        ];
        match numbers.into_iter().find(|(fits, _)| !fits) {
            None => Ok(()),
            Some((_, (key, why))) => Err(ConfigError::Value {
                key,
                why: why.to_owned(),
            }),
        }
    }

    /// A CA's certificates and its key come together.
    fn require_ca_pairs(&self) -> Result<(), ConfigError> {
        let pairs = [
            (
                ("ca_certificate_file", &self.ca_certificate_file),
                ("ca_key_file", &self.ca_key_file),
            ),
            (
                ("ca_next_certificate_file", &self.ca_next_certificate_file),
                ("ca_next_key_file", &self.ca_next_key_file),
            ),
        ];
        for pair in pairs {
            let (key, other) = match pair {
                ((other, Some(_)), (key, None)) | ((key, None), (other, Some(_))) => (key, other),
                _ => continue,
            };
            return Err(ConfigError::Value {
                key,
                why: format!("is missing beside `{other}`"),
            });
        }
        Ok(())
    }

    /// How often the key of an open connection has to be proved again.
    pub fn key_proof_interval(&self) -> Option<time::Duration> {
        let seconds = i64::from(self.key_proof_interval_s);
        (seconds > 0).then(|| time::Duration::seconds(seconds))
    }

    /// The embedded store's file.
    pub fn sqlite_path(&self) -> PathBuf {
        self.data_dir.join("zta.db")
    }
}

/// The passphrase among systemd's credentials, if it is there. One that cannot be looked
/// at counts as there, so that the start is refused and not made without it.
fn passphrase_in(credentials: &Path) -> Option<PathBuf> {
    let file = credentials.join(PASSPHRASE_CREDENTIAL);
    file.try_exists().unwrap_or(true).then_some(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().expect("tempdir");
        let file = dir.path().join("zta.toml");
        std::fs::write(&file, text).expect("write");
        Config::read(Some(&file))
    }

    #[test]
    fn an_unknown_key_is_named_and_refused() {
        let error = read("listne = \"127.0.0.1:1\"")
            .expect_err("unknown key")
            .to_string();
        assert!(error.contains("listne"), "{error}");
        let error = read("[limits]\nmessage_bytes = 1")
            .expect_err("unknown key")
            .to_string();
        assert!(error.contains("message_bytes"), "{error}");
    }

    #[test]
    fn what_cannot_be_used_says_what_to_do() {
        for (text, why) in [
            ("plaintext = true\nlisten = \"0.0.0.0:1\"", "loopback only"),
            (
                "development_bearer = true\nlisten = \"0.0.0.0:1\"",
                "loopback only",
            ),
            ("token_lifetime_s = 601", "10 to 600"),
            ("certificate_lifetime_s = 1", "2 to 86400"),
            ("recoveries_max = 1001", "0 to 1000"),
            ("[policy]\nrequire_signed = true", "nobody could sign"),
            ("[policy]\nrequire_signd = true", "require_signd"),
            ("[limits]\nwatch_heartbeat_ms = 1", "100 to 60000"),
            ("replica_name = \"\"", "1 to 255"),
            ("external_names = [\"https://a\"]", "zta.example.com"),
            ("ca_certificate_file = \"ca.pem\"", "ca_key_file"),
            ("ca_key_file = \"ca.key\"", "ca_certificate_file"),
            ("database_url = \"mysql://x\"", "postgres://"),
            (
                "database_url = \"postgres://zta:changeme@db/zta\"",
                "placeholder",
            ),
        ] {
            let error = read(text).expect_err(text).to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn the_systemd_credential_is_taken_where_it_exists() {
        let credentials = tempfile::tempdir().expect("a folder");
        assert_eq!(passphrase_in(credentials.path()), None);
        let file = credentials.path().join("zta-key-passphrase");
        std::fs::write(&file, "x").expect("written");
        assert_eq!(passphrase_in(credentials.path()), Some(file));
    }
}
