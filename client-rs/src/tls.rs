//! Connections to a server: TLS 1.3 with aws-lc-rs and nothing else.

use std::{fmt, io, net::SocketAddr, str::FromStr, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    client::{Resumption, WebPkiServerVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName},
    version::TLS13,
};
use tokio::{
    net::TcpStream,
    time::{error::Elapsed, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint};

use crate::{credential::Credential, error::Error};

const PORT: u16 = 7443;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Bodies are small; this keeps one busy connection from stalling on flow control.
const WINDOW_BYTES: u32 = 1 << 20;

/// Where a server is: `host`, `host:port`, `[v6]:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    host: String,
    port: u16,
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = |problem| Error::Server {
            server: text.to_owned(),
            problem,
        };
        let authority = http::uri::Authority::from_str(text)
            .map_err(|_| refuse("is not of the form host:port"))?;
        if text.contains('@') {
            return Err(refuse("must not hold a user"));
        }
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let after_host = text.rsplit_once(']').map_or(text, |(_, after)| after);
        if host.is_empty() || (after_host.contains(':') && authority.port_u16().is_none()) {
            return Err(refuse("is not of the form host:port"));
        }
        Ok(Self {
            host,
            port: authority.port_u16().unwrap_or(PORT),
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl Address {
    fn server_name(&self) -> Result<ServerName<'static>, Error> {
        ServerName::try_from(self.host.clone()).map_err(|_| Error::Server {
            server: self.to_string(),
            problem: "has a host that is neither a DNS name nor an IP address",
        })
    }

    /// A connected socket. Nagle's algorithm would hold back small requests.
    async fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// A lazily connected channel that proves the credential.
pub(crate) fn channel(address: &Address, credential: &Credential) -> Result<Channel, Error> {
    let builder = builder(credential.roots())?;
    let mut config = builder.with_client_auth_cert(credential.chain(), credential.private_key())?;
    // Each connection proves the key; a resumed one would only refer to an earlier proof.
    config.resumption = Resumption::disabled();
    tls_channel(address, config)
}

/// A lazily connected channel without a client certificate, for enrollment.
pub(crate) fn anonymous_channel(
    address: &Address,
    root: CertificateDer<'static>,
) -> Result<Channel, Error> {
    tls_channel(address, builder(&[root])?.with_no_client_auth())
}

/// A lazily connected channel without a client certificate, to a proxy of these roots.
pub(crate) fn proven_channel(
    address: &Address,
    roots: &[CertificateDer<'static>],
) -> Result<Channel, Error> {
    tls_channel(address, builder(roots)?.with_no_client_auth())
}

/// A lazily connected channel in plain text. Refuses every address that is not loopback,
/// at each connection: a name may resolve to another address than it did before.
pub(crate) fn plaintext_channel(address: &Address) -> Result<Channel, Error> {
    let target = address.clone();
    let connector = tower::service_fn(move |_: http::Uri| {
        let target = target.clone();
        async move {
            let connected = async {
                let found: Vec<SocketAddr> =
                    tokio::net::lookup_host((target.host.as_str(), target.port))
                        .await?
                        .collect();
                if found.is_empty() || !found.iter().all(|address| address.ip().is_loopback()) {
                    return Err(io::Error::other(
                        "plain text is for loopback addresses only",
                    ));
                }
                let stream = TcpStream::connect(found.as_slice()).await?;
                stream.set_nodelay(true)?;
                Ok(TokioIo::new(stream))
            };
            timeout(CONNECT_TIMEOUT, connected)
                .await
                .map_err(timed_out)?
        }
    });
    Ok(endpoint(address, "http")?.connect_with_connector_lazy(connector))
}

/// One TLS connection by this configuration, for a caller with its own protocol.
pub(crate) async fn connect(
    address: &Address,
    config: Arc<ClientConfig>,
) -> Result<TlsStream<TcpStream>, Error> {
    let name = address.server_name()?;
    handshake(address, &TlsConnector::from(config), name)
        .await
        .map_err(|error| Error::unreachable(address, error))
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn builder(
    roots: &[CertificateDer<'static>],
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, Error> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone())?;
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider())
        .build()
        .map_err(|e| rustls::Error::General(e.to_string()))?;
    Ok(ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_webpki_verifier(verifier))
}

fn tls_channel(address: &Address, mut config: ClientConfig) -> Result<Channel, Error> {
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tls = TlsConnector::from(Arc::new(config));
    let (target, name) = (address.clone(), address.server_name()?);
    let connector = tower::service_fn(move |_: http::Uri| {
        let (target, tls, name) = (target.clone(), tls.clone(), name.clone());
        async move { handshake(&target, &tls, name).await.map(TokioIo::new) }
    });
    Ok(endpoint(address, "https")?.connect_with_connector_lazy(connector))
}

async fn handshake(
    address: &Address,
    tls: &TlsConnector,
    name: ServerName<'static>,
) -> io::Result<TlsStream<TcpStream>> {
    let connected = async { tls.connect(name, address.connect().await?).await };
    timeout(CONNECT_TIMEOUT, connected)
        .await
        .map_err(timed_out)?
}

fn timed_out(_: Elapsed) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "connecting took too long")
}

fn endpoint(address: &Address, scheme: &str) -> Result<Endpoint, Error> {
    let refuse = |_| Error::Server {
        server: address.to_string(),
        problem: "is not of the form host:port",
    };
    Ok(Endpoint::from_shared(format!("{scheme}://{address}"))
        .map_err(refuse)?
        .user_agent(concat!("zta-client/", env!("CARGO_PKG_VERSION")))
        .map_err(refuse)?
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_host_and_port() {
        for (text, shown) in [
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("localhost", "localhost:7443"),
            ("zta.example:443", "zta.example:443"),
            ("[::1]:9", "[::1]:9"),
            ("[::1]", "[::1]:7443"),
        ] {
            let address: Address = text.parse().expect(text);
            assert_eq!(address.to_string(), shown);
        }
        for text in [
            "",
            "http://localhost:1",
            "host:port",
            "host:",
            "host:70000",
            "me@host:1",
            "a b:1",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn plain_text_never_leaves_the_machine() {
        let address: Address = "192.0.2.1:7443".parse().expect("address");
        let channel = plaintext_channel(&address).expect("channel");
        let mut agents = zta_proto::v1::agent_service_client::AgentServiceClient::new(channel);
        let status = agents
            .renew(zta_proto::v1::RenewRequest::default())
            .await
            .expect_err("refused");
        let error = Error::from(status).to_string();
        assert!(error.contains("loopback addresses only"), "{error}");
    }
}
