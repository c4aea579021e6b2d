//! A proxy that ends TLS in front of a server: it has a certificate of a CA of its own,
//! wants none from its clients, and has none for the server behind it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::{Channel, Endpoint};

use super::Server;
use super::http::dial;

/// A CA that is not the server's, and a web server's certificate of it.
pub(crate) struct WebPki {
    /// The CA.
    pub(crate) ca_pem: String,
    /// The certificate for `localhost` and `127.0.0.1`.
    pub(crate) certificate: rcgen::Certificate,
    /// Its key.
    pub(crate) key: KeyPair,
}

impl WebPki {
    pub(crate) fn new() -> Self {
        let ca_key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("params");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let ca = params.self_signed(&ca_key).expect("a CA");
        let issuer = Issuer::new(params, ca_key);
        let key = KeyPair::generate().expect("a key");
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let params = CertificateParams::new(names).expect("params");
        Self {
            ca_pem: ca.pem(),
            certificate: params.signed_by(&key, &issuer).expect("a certificate"),
            key,
        }
    }
}

/// A running proxy; it ends with the test.
pub(crate) struct Proxy {
    /// Where it listens.
    pub(crate) endpoint: String,
    /// The file with its CA.
    pub(crate) ca: PathBuf,
    task: tokio::task::JoinHandle<()>,
}

impl Proxy {
    /// In front of a server.
    pub(crate) async fn before(server: &Server) -> Self {
        let pki = WebPki::new();
        let ca = server
            .folder()
            .join(format!("proxy-ca-{}.pem", uuid::Uuid::new_v4()));
        std::fs::write(&ca, &pki.ca_pem).expect("written");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(pki.key.serialize_der()));
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_no_client_auth()
            .with_single_cert(vec![pki.certificate.der().clone()], key)
            .expect("a certificate");
        config.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let endpoint = listener.local_addr().expect("an address").to_string();
        let (behind, behind_ca) = (server.endpoint().to_owned(), server.data().join("ca.pem"));
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                let (behind, behind_ca) = (behind.clone(), behind_ca.clone());
                tokio::spawn(async move {
                    let _ = forward(socket, acceptor, &behind, &behind_ca).await;
                });
            }
        });
        Self { endpoint, ca, task }
    }

    /// A gRPC channel through it.
    pub(crate) fn channel(&self) -> Channel {
        self.channel_to(&self.endpoint)
    }

    /// The same, with another address in `:authority` than where it leads.
    pub(crate) fn channel_to(&self, authority: &str) -> Channel {
        let (endpoint, ca) = (self.endpoint.clone(), self.ca.clone());
        let connector = tower::service_fn(move |_: http::Uri| {
            let (endpoint, ca) = (endpoint.clone(), ca.clone());
            async move { dial(&endpoint, &ca, None, b"h2").await.map(TokioIo::new) }
        });
        Endpoint::from_shared(format!("https://{authority}"))
            .expect("an endpoint")
            .connect_with_connector_lazy(connector)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn forward(
    socket: TcpStream,
    acceptor: tokio_rustls::TlsAcceptor,
    behind: &str,
    ca: &Path,
) -> std::io::Result<()> {
    let mut from = acceptor.accept(socket).await?;
    let mut to = dial(behind, ca, None, b"h2").await?;
    tokio::io::copy_bidirectional(&mut from, &mut to).await?;
    Ok(())
}
