//! `zta health`: asks `/readyz` of the server of this configuration. For containers.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use zta_server::config::Config;

use super::{Failure, Options, line};

/// How long the server may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of an answer that are looked at.
const ANSWER_BYTES_MAX: u64 = 8 * 1024;

pub(super) async fn health(options: &Options) -> Result<(), Failure> {
    let config = options.server_config()?;
    let answer = tokio::time::timeout(TIMEOUT, ask(&config))
        .await
        .map_err(|_| Failure::No(format!("no answer within {TIMEOUT:?}")))?
        .map_err(|why| Failure::No(format!("not healthy: {why}")))?;
    let body = answer
        .split_once("\r\n\r\n")
        .map_or("", |(_, body)| body)
        .trim();
    if answer.starts_with("HTTP/1.1 200 ") {
        line(body)
    } else {
        Err(Failure::No(body.to_owned()))
    }
}

async fn ask(config: &Config) -> Result<String, String> {
    let endpoint = std::fs::read_to_string(config.data_dir.join("endpoint"))
        .map_err(|e| format!("the server has not started here: {e}"))?;
    let address: std::net::SocketAddr = endpoint
        .trim()
        .parse()
        .map_err(|_| "no endpoint".to_owned())?;
    // A server that listens everywhere is asked on loopback, which its certificate names.
    let host = if address.ip().is_unspecified() {
        [127, 0, 0, 1].into()
    } else {
        address.ip()
    };
    let stream = TcpStream::connect((host, address.port()))
        .await
        .map_err(|e| e.to_string())?;
    if config.plaintext {
        return exchange(stream).await;
    }
    let pem = std::fs::read(config.data_dir.join("ca.pem")).map_err(|e| e.to_string())?;
    let mut roots = rustls::RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(&pem) {
        roots
            .add(root.map_err(|e| e.to_string())?)
            .map_err(|e| e.to_string())?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::from(host);
    let connector = tokio_rustls::TlsConnector::from(Arc::new(tls));
    exchange(
        connector
            .connect(name, stream)
            .await
            .map_err(|e| e.to_string())?,
    )
    .await
}

async fn exchange<S>(mut stream: S) -> Result<String, String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let request = b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.map_err(|e| e.to_string())?;
    let mut answer = Vec::new();
    // An end without close_notify is fine: the status line says what matters.
    let _ = stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await;
    String::from_utf8(answer).map_err(|e| e.to_string())
}
