//! The no-op server: allows everything without looking at it. What is left is the cost
//! of gRPC over mutual TLS on this machine, the ceiling to compare with.
//!
//! It runs in a process of its own, as the real server does, and with the same TLS.

use std::{
    io,
    path::Path,
    pin::Pin,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
    version::TLS13,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Response, Status,
    transport::{Server, server::Connected},
};
use zta_client::Credential;
use zta_proto::v1::{
    self,
    authorization_service_server::{AuthorizationService, AuthorizationServiceServer},
};

use crate::{Result, server::wait_for_endpoint};

const DECISION_ID: &str = "00000000-0000-4000-8000-000000000000";

/// The no-op server as a child process; ends with this value.
#[derive(Debug)]
pub struct Noop {
    child: Child,
    dir: tempfile::TempDir,
    endpoint: String,
}

impl Noop {
    /// Starts this program again as the no-op server.
    ///
    /// # Errors
    /// It did not come up.
    pub async fn start() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        make_certificates(dir.path())?;
        let child = Command::new(std::env::current_exe()?)
            .arg("noop")
            .arg(dir.path())
            .stdin(Stdio::piped())
            .spawn()?;
        let mut noop = Self {
            child,
            dir,
            endpoint: String::new(),
        };
        noop.endpoint = wait_for_endpoint(noop.dir.path(), &mut noop.child).await?;
        Ok(noop)
    }

    /// A credential that it accepts.
    ///
    /// # Errors
    /// Its files are gone.
    pub fn credential(&self) -> Result<Credential> {
        let read = |name: &str| std::fs::read(self.dir.path().join(name));
        let (key, certificate) = (read("client-key.pem")?, read("client-cert.pem")?);
        let ca = read("ca.pem")?;
        Ok(Credential::from_pem(
            &self.endpoint,
            &key,
            &certificate,
            &ca,
        )?)
    }
}

impl Drop for Noop {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn make_certificates(dir: &Path) -> Result<()> {
    let ca_key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    std::fs::write(dir.join("ca.pem"), params.self_signed(&ca_key)?.pem())?;
    let ca = Issuer::new(params, ca_key);
    let issue = |name: &str, usage, san: SanType| -> Result<()> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![san];
        params.extended_key_usages = vec![usage];
        let certificate = params.signed_by(&key, &ca)?;
        std::fs::write(dir.join(format!("{name}-cert.pem")), certificate.pem())?;
        std::fs::write(dir.join(format!("{name}-key.pem")), key.serialize_pem())?;
        Ok(())
    };
    let loopback = SanType::IpAddress([127, 0, 0, 1].into());
    issue("server", ExtendedKeyUsagePurpose::ServerAuth, loopback)?;
    let agent = SanType::URI("spiffe://zta.local/agent/bench".try_into()?);
    issue("client", ExtendedKeyUsagePurpose::ClientAuth, agent)
}

/// Runs the no-op server over the certificates in `dir` until its standard input ends,
/// which it does with the process that started it.
///
/// # Errors
/// It cannot listen, or the certificates cannot be used.
pub async fn serve(dir: &Path) -> Result<()> {
    let acceptor = TlsAcceptor::from(Arc::new(tls_config(dir)?));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let endpoint = dir.join("endpoint.new");
    std::fs::write(&endpoint, listener.local_addr()?.to_string())?;
    std::fs::rename(&endpoint, dir.join("endpoint"))?;

    let (streams, incoming) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, streams) = (acceptor.clone(), streams.clone());
            tokio::spawn(async move {
                // A handshake that fails is the client's to report.
                if tcp.set_nodelay(true).is_ok()
                    && let Ok(tls) = acceptor.accept(tcp).await
                {
                    let _ = streams.send(Ok::<_, io::Error>(Stream(tls))).await;
                }
            });
        }
    });
    let (gone, parent_gone) = oneshot::channel();
    std::thread::spawn(move || {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        gone.send(())
    });
    Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .add_service(AuthorizationServiceServer::new(AllowAll::default()))
        .serve_with_incoming_shutdown(ReceiverStream::new(incoming), async {
            let _ = parent_gone.await;
        })
        .await?;
    Ok(())
}

fn tls_config(dir: &Path) -> Result<ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(dir.join("ca.pem"))?)?;
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()?;
    let certificate = CertificateDer::from_pem_file(dir.join("server-cert.pem"))?;
    let key = PrivateKeyDer::from_pem_file(dir.join("server-key.pem"))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate], key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// Counts, so that the generator can read the sequence as it does the real server's.
#[derive(Default)]
struct AllowAll(AtomicU64);

#[tonic::async_trait]
impl AuthorizationService for AllowAll {
    async fn authorize(
        &self,
        request: Request<v1::AuthorizeRequest>,
    ) -> std::result::Result<Response<v1::AuthorizeResponse>, Status> {
        Ok(Response::new(v1::AuthorizeResponse {
            effect: v1::Effect::Allow.into(),
            decision_id: DECISION_ID.to_owned(),
            sequence: self.0.fetch_add(1, Ordering::Relaxed) + 1,
            correlation_id: request.into_inner().correlation_id,
            ..Default::default()
        }))
    }

    async fn batch_authorize(
        &self,
        _: Request<v1::BatchAuthorizeRequest>,
    ) -> std::result::Result<Response<v1::BatchAuthorizeResponse>, Status> {
        Err(single_requests_only())
    }

    async fn list_permitted(
        &self,
        _: Request<v1::ListPermittedRequest>,
    ) -> std::result::Result<Response<v1::ListPermittedResponse>, Status> {
        Err(single_requests_only())
    }

    async fn explain(
        &self,
        _: Request<v1::ExplainRequest>,
    ) -> std::result::Result<Response<v1::ExplainResponse>, Status> {
        Err(single_requests_only())
    }

    async fn report_outcome(
        &self,
        _: Request<v1::ReportOutcomeRequest>,
    ) -> std::result::Result<Response<v1::ReportOutcomeResponse>, Status> {
        Err(single_requests_only())
    }
}

fn single_requests_only() -> Status {
    Status::unimplemented("the no-op server decides single requests")
}

/// tonic wants to know what a connection says about itself: nothing.
struct Stream(TlsStream<TcpStream>);

impl Connected for Stream {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}
