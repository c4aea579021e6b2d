//! Connections without a client certificate: the plain HTTP paths, gRPC as a stranger
//! sends it, and raw bytes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

use super::Server;

/// A TLS connection without a client certificate.
pub(crate) async fn connect(server: &Server, protocol: &[u8]) -> TlsStream<TcpStream> {
    let ca = server.data().join("ca.pem");
    dial(server.endpoint(), &ca, None, protocol)
        .await
        .expect("connects")
}

/// A TLS connection to any server.
pub(crate) async fn dial(
    endpoint: &str,
    ca: &Path,
    credential: Option<&Path>,
    protocol: &[u8],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(ca).expect("ca.pem") {
        roots.add(root.expect("PEM")).expect("a root");
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots);
    let mut config = match credential {
        None => config.with_no_client_auth(),
        Some(folder) => {
            let chain = CertificateDer::pem_file_iter(folder.join("cert.pem")).expect("cert.pem");
            let chain = chain.map(|der| der.expect("PEM")).collect();
            let key = PrivateKeyDer::from_pem_file(folder.join("key.pem")).expect("key.pem");
            config
                .with_client_auth_cert(chain, key)
                .expect("a credential")
        }
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from("127.0.0.1").expect("a name");
    connector
        .connect(name, TcpStream::connect(endpoint).await?)
        .await
}

/// A handshake with a client certificate of the test's choice, and a first read: TLS 1.3
/// lets a client believe it is in before the server has looked.
pub(crate) async fn handshake_with(
    server: &Server,
    certificate: Arc<dyn rustls::client::ResolvesClientCert>,
) -> std::io::Result<()> {
    let mut roots = rustls::RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(server.data().join("ca.pem")).expect("ca.pem") {
        roots.add(root.expect("PEM")).expect("a root");
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_client_cert_resolver(certificate);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from("127.0.0.1").expect("a name");
    let stream = TcpStream::connect(server.endpoint()).await?;
    let mut stream = connector.connect(name, stream).await?;
    stream
        .write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await?;
    stream.read_u8().await.map(drop)
}

/// A gRPC channel without a client certificate.
pub(crate) fn anonymous(server: &Server) -> Channel {
    channel(server, None)
}

/// A gRPC channel under the certificate of a credential folder, for calls that no client
/// makes.
pub(crate) fn channel_as(server: &Server, folder: &Path) -> Channel {
    channel(server, Some(folder.to_owned()))
}

fn channel(server: &Server, credential: Option<PathBuf>) -> Channel {
    let (endpoint, ca) = (server.endpoint().to_owned(), server.data().join("ca.pem"));
    let connector = tower::service_fn(move |_: http::Uri| {
        let (endpoint, ca, credential) = (endpoint.clone(), ca.clone(), credential.clone());
        async move {
            let stream = dial(&endpoint, &ca, credential.as_deref(), b"h2").await;
            stream.map(TokioIo::new)
        }
    });
    Endpoint::from_shared(format!("https://{}", server.endpoint()))
        .expect("an endpoint")
        .connect_with_connector_lazy(connector)
}

/// GETs a path over HTTP/1.1; the status and the body.
pub(crate) async fn get(server: &Server, path: &str) -> (u16, String) {
    let ca = server.data().join("ca.pem");
    let answer = get_at(server.endpoint(), &ca, path).await;
    answer.expect("an HTTP answer")
}

/// GETs a path; the head and the body as they are.
pub(crate) async fn get_raw(server: &Server, path: &str) -> (String, Vec<u8>) {
    get_as(server, None, path).await
}

/// Likewise, under the certificate of a credential folder.
pub(crate) async fn get_as(
    server: &Server,
    credential: Option<&Path>,
    path: &str,
) -> (String, Vec<u8>) {
    let ca = server.data().join("ca.pem");
    let answer = raw(server.endpoint(), &ca, credential, path).await;
    answer.expect("an HTTP answer")
}

/// Likewise, of a server that may not be up yet.
pub(crate) async fn get_at(
    endpoint: &str,
    ca: &Path,
    path: &str,
) -> std::io::Result<(u16, String)> {
    let (head, body) = raw(endpoint, ca, None, path).await?;
    let body = String::from_utf8(body).expect("text");
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok());
    Ok((status.expect("a status"), body))
}

async fn raw(
    endpoint: &str,
    ca: &Path,
    credential: Option<&Path>,
    path: &str,
) -> std::io::Result<(String, Vec<u8>)> {
    let mut stream = dial(endpoint, ca, credential, b"http/1.1").await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n");
    let end = end.ok_or(std::io::ErrorKind::UnexpectedEof)?;
    let head = String::from_utf8(answer[..end].to_vec()).expect("text");
    Ok((head, answer[end + 4..].to_vec()))
}
