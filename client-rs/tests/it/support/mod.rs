//! A server with scripted answers: the port, the TLS and the protocol are real.

mod answers;
mod pki;
mod stream;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, atomic::AtomicUsize},
    time::Duration,
};

pub(crate) use pki::{Pki, seconds_from_now};
use rustls::{ServerConfig, server::WebPkiClientVerifier, version::TLS13};
use stream::{Peer, Stream};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    sync::mpsc,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use zta_client::{
    Client, Credential,
    v1::{
        self, agent_service_server::AgentServiceServer,
        authentication_service_server::AuthenticationServiceServer,
        authorization_service_server::AuthorizationServiceServer,
    },
};

/// What the server was asked.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) requests: Mutex<Vec<v1::AuthorizeRequest>>,
    /// Reports, in the order in which they came; those that were told to come again, too.
    pub(crate) outcomes: Mutex<Vec<v1::CallOutcome>>,
    pub(crate) enrolls: AtomicUsize,
    pub(crate) renews: AtomicUsize,
    pub(crate) connections: AtomicUsize,
    /// The client certificates of the calls, in order, without repetition.
    pub(crate) certificates: Mutex<Vec<Option<Vec<u8>>>>,
}

/// A running server, in a runtime of its own: when it is dropped, every connection ends.
pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    pub(crate) pki: Arc<Pki>,
    pub(crate) seen: Arc<Seen>,
    runtime: Option<Runtime>,
}

impl Fake {
    pub(crate) fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        listener.set_nonblocking(true).expect("non-blocking");
        let address = listener.local_addr().expect("address");
        let (pki, seen) = (Arc::new(Pki::new()), Arc::new(Seen::default()));
        let (streams, incoming) = mpsc::channel(16);
        let service = answers::Answers {
            pki: Arc::clone(&pki),
            seen: Arc::clone(&seen),
        };
        let runtime = Runtime::new().expect("runtime");
        runtime.spawn(accept(
            listener,
            Arc::clone(&pki),
            Arc::clone(&seen),
            streams,
        ));
        runtime.spawn(async move {
            Server::builder()
                .add_service(AuthorizationServiceServer::new(service.clone()))
                .add_service(AuthenticationServiceServer::new(service.clone()))
                .add_service(AgentServiceServer::new(service))
                .serve_with_incoming(ReceiverStream::new(incoming))
                .await
                .expect("serve");
        });
        Self {
            address,
            pki,
            seen,
            runtime: Some(runtime),
        }
    }

    /// An enrolled agent's credential, in memory, good for an hour.
    pub(crate) fn credential(&self) -> Credential {
        self.pki.credential(&self.address.to_string())
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.credential()).expect("client")
    }

    pub(crate) fn last_request(&self) -> v1::AuthorizeRequest {
        let requests = self.seen.requests.lock().expect("lock");
        requests.last().expect("a request").clone()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let runtime = self.runtime.take().expect("not dropped twice");
        // A runtime must not be waited for inside another one.
        std::thread::spawn(move || runtime.shutdown_timeout(Duration::from_secs(5)))
            .join()
            .expect("stopped");
    }
}

async fn accept(
    listener: std::net::TcpListener,
    pki: Arc<Pki>,
    seen: Arc<Seen>,
    streams: mpsc::Sender<std::io::Result<Stream>>,
) {
    let listener = TcpListener::from_std(listener).expect("listener");
    let acceptor = TlsAcceptor::from(Arc::new(server_config(&pki)));
    let mut handshakes = JoinSet::new();
    while let Ok((tcp, _)) = listener.accept().await {
        seen.connections
            .fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let (acceptor, pki, streams) = (acceptor.clone(), Arc::clone(&pki), streams.clone());
        handshakes.spawn(async move { connection(&acceptor, tcp, &pki, &streams).await });
    }
}

async fn connection(
    acceptor: &TlsAcceptor,
    tcp: TcpStream,
    pki: &Pki,
    streams: &mpsc::Sender<std::io::Result<Stream>>,
) {
    let Ok(mut tls) = acceptor.accept(tcp).await else {
        return;
    };
    let (_, session) = tls.get_ref();
    if session.alpn_protocol() == Some(b"h2") {
        let peer = session.peer_certificates().and_then(|chain| chain.first());
        let peer = Peer(peer.map(|der| der.to_vec()));
        let _ = streams.send(Ok(Stream::new(tls, peer))).await;
        return;
    }
    let body = pki.ca_pem();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
    let _ = tls.write_all((head + &body).as_bytes()).await;
    let _ = tls.shutdown().await;
}

fn server_config(pki: &Pki) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(pki.roots(), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .expect("verifier");
    let (chain, key) = pki.server_certificate();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .expect("TLS 1.3")
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .expect("certificate");
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}
