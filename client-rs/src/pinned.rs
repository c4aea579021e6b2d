//! Fetches the CA bundle of a server that cannot be verified yet. Nothing secret goes
//! over this connection, and nothing that comes back is believed before its fingerprint
//! has been compared.

use std::sync::Arc;

use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    version::TLS13,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};

use crate::{credential::certificates, error::Error, tls};

const HEAD_BYTES_MAX: usize = 16 << 10;
const BODY_BYTES_MAX: usize = 1 << 20;

/// The certificates under `/ca.pem`.
pub(crate) async fn fetch_bundle(
    address: &tls::Address,
) -> Result<Vec<CertificateDer<'static>>, Error> {
    let mut stream = tls::connect(address, Arc::new(config()?)).await?;
    let request = format!(
        "GET /ca.pem HTTP/1.1\r\nHost: {address}\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    let unreachable = |e| Error::unreachable(address, e);
    stream
        .write_all(request.as_bytes())
        .await
        .map_err(unreachable)?;
    stream.flush().await.map_err(unreachable)?;
    let body = read_response(&mut stream)
        .await
        .map_err(|problem| Error::unreachable(address, problem))?;
    certificates(&body)
        .map_err(|problem| Error::unreachable(address, format!("its /ca.pem {problem}")))
}

/// The body of a plain HTTP/1.1 answer of known length.
async fn read_response(stream: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, String> {
    let mut received = Vec::new();
    let head_len = loop {
        if let Some(at) = find(&received, b"\r\n\r\n") {
            break at;
        }
        if received.len() > HEAD_BYTES_MAX {
            return Err("its answer to GET /ca.pem is not HTTP".to_owned());
        }
        read_more(stream, &mut received).await?;
    };
    let length = content_length(&received[..head_len])?;
    let end = head_len + 4 + length;
    while received.len() < end {
        read_more(stream, &mut received).await?;
    }
    Ok(received[head_len + 4..end].to_vec())
}

async fn read_more(
    stream: &mut (impl AsyncRead + Unpin),
    received: &mut Vec<u8>,
) -> Result<(), String> {
    let mut chunk = [0; 4096];
    let count = stream
        .read(&mut chunk)
        .await
        .map_err(|e| format!("GET /ca.pem: {e}"))?;
    if count == 0 {
        return Err("its answer to GET /ca.pem ends too early".to_owned());
    }
    received.extend_from_slice(&chunk[..count]);
    Ok(())
}

fn content_length(head: &[u8]) -> Result<usize, String> {
    let head = std::str::from_utf8(head).map_err(|_| "its answer is not HTTP".to_owned())?;
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    let Some(("HTTP/1.1", rest)) = status.split_once(' ') else {
        return Err("its answer to GET /ca.pem is not HTTP/1.1".to_owned());
    };
    if !rest.starts_with("200") {
        let code: String = rest.chars().take_while(char::is_ascii_digit).collect();
        return Err(format!("it answered {code} to GET /ca.pem"));
    }
    lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok())
        .filter(|length| *length <= BODY_BYTES_MAX)
        .ok_or_else(|| "its answer to GET /ca.pem has no fit content-length".to_owned())
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}

fn config() -> Result<ClientConfig, Error> {
    let provider = tls::provider();
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Accepts every certificate, for a server that is compared with a fingerprint later.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn body(response: &str) -> Result<Vec<u8>, String> {
        read_response(&mut response.as_bytes()).await
    }

    #[tokio::test]
    async fn a_body_of_known_length_is_read() {
        let response = "HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: 3\r\n\r\nabcdef";
        assert_eq!(body(response).await.expect("body"), b"abc");
    }

    #[tokio::test]
    async fn everything_else_is_refused() {
        for (response, problem) in [
            ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "404"),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
                "too early",
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n",
                "content-length",
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
                "content-length",
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                "content-length",
            ),
            ("SSH-2.0-OpenSSH\r\n\r\n", "not HTTP"),
            ("", "too early"),
        ] {
            let error = body(response).await.expect_err(response);
            assert!(error.contains(problem), "{response}: {error}");
        }
        let endless = "x".repeat(HEAD_BYTES_MAX + 5000);
        assert!(body(&endless).await.expect_err("head").contains("not HTTP"));
    }
}
