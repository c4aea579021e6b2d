//! Fetches the keys of the identity providers: by HTTPS from listed hosts only, without
//! redirects, bounded in size, time and rate.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, HOST};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::tasks::Tasks;
use super::{AppError, start_error};
use crate::config::{Config, IssuerConfig, IssuerPrincipal};
use crate::identity::oidc::{IssuerRules, KeySet, host_of, jwks_uri};
use crate::model::PrincipalKind;
use crate::operations::issuers::{Issuer, Issuers};
use crate::pdp::Clock;

/// Bytes of one document.
const DOCUMENT_LEN_MAX: usize = 256 * 1024;
/// How long one document may take, connecting included.
const FETCH_TIMEOUT: Duration = Duration::from_secs(3);
/// How often keys are fetched that nobody misses.
const REFRESH_INTERVAL: Duration = Duration::from_secs(600);
/// How soon an attempt is repeated that failed.
const RETRY_INTERVAL: Duration = Duration::from_secs(30);

/// The providers of this configuration, each with a task that keeps its keys fresh.
///
/// # Errors
/// When one cannot be used.
pub(super) fn follow(
    config: &Config,
    clock: &Clock,
    tasks: &mut Tasks,
) -> Result<Issuers, AppError> {
    let mut tables: BTreeMap<&str, Vec<&IssuerConfig>> = BTreeMap::new();
    for table in &config.issuers {
        tables.entry(&table.issuer).or_default().push(table);
    }
    let providers = tables.values().filter_map(|tables| Provider::new(tables));
    let providers = providers.collect::<Result<Vec<_>, _>>()?;
    let issuers = Issuers::new(providers.iter().map(|p| Arc::clone(&p.issuer)));
    for provider in providers {
        let task = provider.keep_fresh(Arc::clone(clock));
        tasks.spawn("the keys of an issuer", task);
    }
    Ok(issuers)
}

/// A provider and the way to its keys.
struct Provider {
    issuer: Arc<Issuer>,
    discovery: Option<String>,
    jwks_uri: Option<String>,
    hosts: Vec<String>,
    tls: Arc<ClientConfig>,
    interval: Duration,
}

impl Provider {
    /// By its tables in the configuration, which have one way to its keys; `None`: there are
    /// none.
    ///
    /// # Errors
    /// When its CA file cannot be used.
    fn new(tables: &[&IssuerConfig]) -> Option<Result<Self, AppError>> {
        let first = *tables.first()?;
        let rules = tables.iter().copied().map(rules).collect();
        Some(Self::reached_by(first, rules))
    }

    fn reached_by(config: &IssuerConfig, rules: Vec<IssuerRules>) -> Result<Self, AppError> {
        let stale_max = config.keys_stale_max_s;
        let discovery = format!(
            "{}/.well-known/openid-configuration",
            config.issuer.trim_end_matches('/')
        );
        Ok(Self {
            issuer: Arc::new(Issuer::new(
                rules,
                time::Duration::seconds(stale_max.into()),
            )),
            discovery: config.jwks_uri.is_none().then_some(discovery),
            jwks_uri: config.jwks_uri.clone(),
            hosts: config.hosts.clone(),
            tls: Arc::new(tls(config)?),
            interval: REFRESH_INTERVAL.min(Duration::from_secs((stale_max / 2).max(1).into())),
        })
    }

    /// Keeps its keys fresh, for ever. One attempt at a time.
    async fn keep_fresh(self, clock: Clock) {
        loop {
            let attempt = self.fetch_keys().await;
            let issuer = self.issuer.name();
            let pause = match &attempt {
                Ok(_) => self.interval,
                Err(error) => {
                    tracing::warn!(%issuer, %error, "the issuer's keys could not be fetched");
                    RETRY_INTERVAL
                }
            };
            self.issuer.fetched(attempt.ok(), clock());
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.issuer.wanted(&clock) => {}
            }
        }
    }

    async fn fetch_keys(&self) -> Result<KeySet, String> {
        let found = match &self.discovery {
            None => self.jwks_uri.clone(),
            Some(discovery) => {
                let document = self.fetch(discovery).await?;
                let issuer = self.issuer.name();
                let uri = jwks_uri(&document, issuer, &self.hosts);
                Some(uri.map_err(|e| format!("{discovery}: {e}"))?)
            }
        };
        let uri = found.ok_or("no address of the keys")?;
        KeySet::read(&self.fetch(&uri).await?).map_err(|e| format!("{uri}: {e}"))
    }

    async fn fetch(&self, url: &str) -> Result<Bytes, String> {
        let fetched = tokio::time::timeout(FETCH_TIMEOUT, get(url, &self.tls)).await;
        let fetched = fetched.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        fetched.map_err(|error| format!("{url}: {error}"))
    }
}

fn rules(config: &IssuerConfig) -> IssuerRules {
    let kind = match config.principal {
        IssuerPrincipal::User => PrincipalKind::User,
        IssuerPrincipal::Workload => PrincipalKind::Workload,
    };
    IssuerRules {
        issuer: config.issuer.clone(),
        audiences: config.audiences.clone(),
        algorithms: config.algorithms.clone(),
        token_types: config.token_types.clone(),
        kind,
        id_claim: config.id_claim.clone(),
        name_claim: config.name_claim.clone(),
        groups_claim: config.groups_claim.clone(),
        roles: config.roles.clone(),
        attributes: config.attributes.clone(),
        required_claims: config.required_claims.clone(),
        age_max: time::Duration::seconds(config.token_age_max_s.into()),
    }
}

/// One GET over a connection of its own: keys are fetched every ten minutes.
async fn get(url: &str, tls: &Arc<ClientConfig>) -> Result<Bytes, String> {
    let told = |error: &dyn std::fmt::Display| error.to_string();
    let (host, port) = host_of(url).ok_or("not an https URL")?;
    let uri: http::Uri = url.parse().map_err(|e: http::uri::InvalidUri| told(&e))?;
    let bare = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    let socket = TcpStream::connect((bare.as_str(), port)).await;
    let socket = socket.map_err(|e| told(&e))?;
    let name = ServerName::try_from(bare).map_err(|e| told(&e))?;
    let stream = TlsConnector::from(Arc::clone(tls)).connect(name, socket);
    let stream = stream.await.map_err(|e| told(&e))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| told(&e))?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let authority = uri.authority().map_or("", |a| a.as_str());
    let request = Request::get(path)
        .header(HOST, authority)
        .header(ACCEPT, "application/json")
        .body(Empty::<Bytes>::new())
        .map_err(|e| told(&e))?;
    let exchange = async {
        let answer = sender.send_request(request).await.map_err(|e| told(&e))?;
        // A redirect could lead anywhere.
        if answer.status() != StatusCode::OK {
            return Err(format!("the answer is {}", answer.status()));
        }
        let body = Limited::new(answer.into_body(), DOCUMENT_LEN_MAX).collect();
        Ok(body.await.map_err(|e| told(&e))?.to_bytes())
    };
    tokio::pin!(exchange);
    tokio::pin!(connection);
    tokio::select! {
        got = &mut exchange => got,
        ended = &mut connection => match ended {
            Ok(()) => exchange.await,
            Err(error) => Err(told(&error)),
        },
    }
}

fn tls(config: &IssuerConfig) -> Result<ClientConfig, AppError> {
    let mut roots = RootCertStore::empty();
    match &config.ca_file {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(file) => {
            let unusable = |error: &dyn std::fmt::Display| {
                AppError::Start(format!(
                    "configuration: `ca_file` of issuer `{}`: `{}` cannot be used: {error}",
                    config.issuer,
                    file.display()
                ))
            };
            let certificates = rustls::pki_types::CertificateDer::pem_file_iter(file);
            for certificate in certificates.map_err(|e| unusable(&e))? {
                let certificate = certificate.map_err(|e| unusable(&e))?;
                roots.add(certificate).map_err(|e| unusable(&e))?;
            }
            if roots.is_empty() {
                return Err(unusable(&"it holds no certificate"));
            }
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(start_error)?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}
