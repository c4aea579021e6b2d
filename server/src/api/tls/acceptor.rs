//! From sockets to connections.
//!
//! Each handshake runs in a task of its own, within a time limit; how many may
//! run at once is limited in all and per source, so that a caller who stalls
//! delays nobody else. No handshake and no refused socket ends the loop.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rustls::CertificateError;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{Id, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_stream::Stream;

use super::config::{Current, TlsReload};
use super::connection::{Connection, PeerInfo};
use super::strangers::{Place, Strangers};
use crate::audit::throttle::network_of;
use crate::identity::peer::{PeerCertificate, PeerError};
use crate::identity::spiffe::TrustDomain;

/// Finished connections that wait for the server to take them.
const READY_MAX: usize = 64;
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Bounds on handshakes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// The longest a handshake may take.
    pub(crate) handshake_timeout: Duration,
    /// Handshakes under way at once; further sockets wait in the kernel's queue.
    pub(crate) handshakes_max: usize,
    /// Handshakes under way at once from one address (IPv6: one /64 network);
    /// further sockets are closed.
    pub(crate) handshakes_per_source_max: usize,
    /// Open connections without a client certificate from one address (IPv6: one /64
    /// network); further ones are closed.
    pub(crate) strangers_per_source_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake_timeout: Duration::from_secs(10),
            handshakes_max: 1024,
            handshakes_per_source_max: 128,
            strangers_per_source_max: 512,
        }
    }
}

/// Why a socket did not become a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HandshakeFailure {
    /// It took too long.
    Timeout,
    /// Its source has too many handshakes under way, or connections without a certificate.
    TooMany,
    /// The peer closed the socket, or the network did.
    Closed,
    /// The peer does not speak TLS.
    NotTls,
    /// The peer shares no TLS version, cipher suite or application protocol with us.
    Incompatible,
    /// The peer refused us, for one because it does not know our CA.
    RefusedByPeer,
    /// The client certificate is not from our CA, or its key was not proven.
    CertificateUntrusted,
    /// The client certificate's time has passed or not begun.
    CertificateExpired,
    /// The client certificate has another defect, such as its usages.
    CertificateInvalid,
    /// The client certificate is from our CA but names no principal.
    NoPrincipal(PeerError),
    /// The client certificate names a principal of another trust domain.
    ForeignTrustDomain,
    /// The peer broke the protocol.
    Misbehaved,
}

impl HandshakeFailure {
    /// The category's stable name, for records and metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::TooMany => "too_many",
            Self::Closed => "closed",
            Self::NotTls => "not_tls",
            Self::Incompatible => "incompatible",
            Self::RefusedByPeer => "refused_by_peer",
            Self::CertificateUntrusted => "certificate_untrusted",
            Self::CertificateExpired => "certificate_expired",
            Self::CertificateInvalid => "certificate_invalid",
            Self::NoPrincipal(_) => "no_principal",
            Self::ForeignTrustDomain => "foreign_trust_domain",
            Self::Misbehaved => "misbehaved",
        }
    }

    /// Whether somebody tried to be somebody: a failed login, to be recorded.
    /// The rest is noise of networks and scanners, to be counted.
    pub(crate) const fn is_failed_login(self) -> bool {
        matches!(
            self,
            Self::CertificateUntrusted
                | Self::CertificateExpired
                | Self::CertificateInvalid
                | Self::NoPrincipal(_)
                | Self::ForeignTrustDomain
        )
    }

    fn of(error: &io::Error) -> Self {
        let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref()) else {
            return Self::Closed;
        };
        match error {
            rustls::Error::InvalidCertificate(defect) => match defect {
                CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                    Self::CertificateUntrusted
                }
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. } => Self::CertificateExpired,
                _ => Self::CertificateInvalid,
            },
            rustls::Error::InvalidMessage(_) => Self::NotTls,
            rustls::Error::PeerIncompatible(_) | rustls::Error::NoApplicationProtocol => {
                Self::Incompatible
            }
            rustls::Error::AlertReceived(_) => Self::RefusedByPeer,
            _ => Self::Misbehaved,
        }
    }
}

/// A socket that did not become a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FailedHandshake {
    /// Where it came from.
    pub(crate) source: SocketAddr,
    /// Why.
    pub(crate) failure: HandshakeFailure,
}

/// Told of every failure, from the accept loop or a handshake's task: must not block.
type FailureHook = Arc<dyn Fn(FailedHandshake) + Send + Sync>;

#[derive(Clone)]
enum Security {
    Tls(TlsReload, Arc<TrustDomain>),
    Plaintext,
}

/// The accept loop of one listener.
pub(crate) struct Acceptor {
    listener: TcpListener,
    security: Security,
    limits: Limits,
    on_failure: FailureHook,
    ready: mpsc::Sender<Connection>,
    strangers: Strangers,
}

impl Acceptor {
    /// Accepts TLS connections of principals of `trust_domain`, and of nobody in particular.
    pub(crate) fn tls(
        listener: TcpListener,
        config: TlsReload,
        trust_domain: TrustDomain,
        limits: Limits,
        on_failure: impl Fn(FailedHandshake) + Send + Sync + 'static,
    ) -> (Self, Incoming) {
        let security = Security::Tls(config, Arc::new(trust_domain));
        Self::new(listener, security, limits, Arc::new(on_failure))
    }

    /// Accepts connections without TLS and so without principals, for development:
    /// only on a loopback address.
    pub(crate) fn plaintext(listener: TcpListener) -> io::Result<(Self, Incoming)> {
        let address = listener.local_addr()?;
        if !address.ip().to_canonical().is_loopback() {
            let reason = format!("plain text is for loopback only, not for `{address}`");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        let security = Security::Plaintext;
        Ok(Self::new(
            listener,
            security,
            Limits::default(),
            Arc::new(|_| ()),
        ))
    }

    fn new(
        listener: TcpListener,
        security: Security,
        limits: Limits,
        on_failure: FailureHook,
    ) -> (Self, Incoming) {
        let (ready, taken) = mpsc::channel(READY_MAX);
        let acceptor = Self {
            listener,
            security,
            limits,
            on_failure,
            ready,
            strangers: Strangers::default(),
        };
        (acceptor, Incoming(taken))
    }

    /// Accepts until `shutdown` completes or [`Incoming`] is dropped. Then the
    /// listener is closed and handshakes under way are dropped; connections that
    /// were handed over live on.
    pub(crate) async fn run(self, shutdown: impl Future<Output = ()>) {
        let mut shutdown = std::pin::pin!(shutdown);
        let mut under_way = UnderWay::default();
        let mut pause = Duration::ZERO;
        loop {
            tokio::select! {
                biased;
                () = &mut shutdown => return,
                () = self.ready.closed() => return,
                () = under_way.one_ends(), if !under_way.is_empty() => (),
                accepted = accept_after(pause, &self.listener),
                    if under_way.len() < self.limits.handshakes_max =>
                {
                    match accepted {
                        Ok((socket, source)) => {
                            pause = Duration::ZERO;
                            self.start(socket, source, &mut under_way);
                        }
                        Err(error) => {
                            pause = pause_after(&error, pause);
                            if !pause.is_zero() {
                                tracing::warn!(%error, ?pause, "cannot accept connections");
                            }
                        }
                    }
                }
            }
        }
    }

    fn start(&self, socket: TcpStream, source: SocketAddr, under_way: &mut UnderWay) {
        let source = SocketAddr::new(source.ip().to_canonical(), source.port());
        let network = network_of(source.ip());
        if under_way.from(network) >= self.limits.handshakes_per_source_max {
            let failure = HandshakeFailure::TooMany;
            (self.on_failure)(FailedHandshake { source, failure });
            return;
        }
        let security = self.security.clone();
        let timeout = self.limits.handshake_timeout;
        let on_failure = Arc::clone(&self.on_failure);
        let ready = self.ready.clone();
        let (strangers, max) = (self.strangers.clone(), self.limits.strangers_per_source_max);
        let place = move || strangers.place(network, max);
        under_way.spawn(network, async move {
            let secured =
                tokio::time::timeout(timeout, secure(socket, source, security, place)).await;
            match secured.unwrap_or(Err(HandshakeFailure::Timeout)) {
                // The server is gone when this fails, and the connection with it.
                Ok(connection) => drop(ready.send(connection).await),
                Err(failure) => on_failure(FailedHandshake { source, failure }),
            }
        });
    }
}

/// The connections of an [`Acceptor`], as a server takes them.
pub(crate) struct Incoming(mpsc::Receiver<Connection>);

impl Stream for Incoming {
    type Item = Result<Connection, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx).map(|connection| connection.map(Ok))
    }
}

async fn secure(
    socket: TcpStream,
    source: SocketAddr,
    security: Security,
    place: impl FnOnce() -> Option<Place>,
) -> Result<Connection, HandshakeFailure> {
    // Answers are small and waited for; Nagle's algorithm would hold them back.
    socket
        .set_nodelay(true)
        .map_err(|_| HandshakeFailure::Closed)?;
    match security {
        Security::Plaintext => {
            let certificate = None;
            Ok(Connection::plaintext(
                socket,
                PeerInfo {
                    established: Instant::now(),
                    source,
                    certificate,
                },
            ))
        }
        Security::Tls(config, trust_domain) => {
            handshake(socket, source, config.current(), &trust_domain, place).await
        }
    }
}

async fn handshake(
    socket: TcpStream,
    source: SocketAddr,
    current: Arc<Current>,
    trust_domain: &TrustDomain,
    place: impl FnOnce() -> Option<Place>,
) -> Result<Connection, HandshakeFailure> {
    let stream = TlsAcceptor::from(Arc::clone(&current.config))
        .accept(socket)
        .await
        .map_err(|error| HandshakeFailure::of(&error))?;
    let presented = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(<[_]>::first);
    let certificate = match presented {
        None => None,
        Some(der) => {
            let peer = PeerCertificate::from_der(der).map_err(HandshakeFailure::NoPrincipal)?;
            if !peer.spiffe_id().is_in(trust_domain) {
                return Err(HandshakeFailure::ForeignTrustDomain);
            }
            let issuer = current.issuer_of(der);
            let issuer = issuer.ok_or(HandshakeFailure::CertificateUntrusted)?;
            Some(Arc::new(peer.issued_by(issuer.to_owned())))
        }
    };
    let place = match &certificate {
        None => Some(place().ok_or(HandshakeFailure::TooMany)?),
        Some(_) => None,
    };
    let peer = PeerInfo {
        established: Instant::now(),
        source,
        certificate,
    };
    Ok(Connection::tls(stream, peer, place))
}

async fn accept_after(
    pause: Duration,
    listener: &TcpListener,
) -> io::Result<(TcpStream, SocketAddr)> {
    if !pause.is_zero() {
        tokio::time::sleep(pause).await;
    }
    listener.accept().await
}

/// How long to wait after a failed accept. A socket that died in the queue costs
/// nothing; when the system is out of files or memory, retrying at once would only
/// burn the processor.
fn pause_after(error: &io::Error, previous: Duration) -> Duration {
    match error.kind() {
        io::ErrorKind::ConnectionAborted
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionRefused
        | io::ErrorKind::Interrupted => Duration::ZERO,
        _ => (previous * 2).clamp(PAUSE_MIN, PAUSE_MAX),
    }
}

/// The handshakes under way, counted per source. Dropping it drops them.
#[derive(Default)]
struct UnderWay {
    tasks: JoinSet<()>,
    network_of_task: HashMap<Id, IpAddr>,
    per_network: HashMap<IpAddr, usize>,
}

impl UnderWay {
    fn len(&self) -> usize {
        self.tasks.len()
    }

    fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    fn from(&self, network: IpAddr) -> usize {
        self.per_network.get(&network).copied().unwrap_or(0)
    }

    fn spawn(&mut self, network: IpAddr, task: impl Future<Output = ()> + Send + 'static) {
        let id = self.tasks.spawn(task).id();
        self.network_of_task.insert(id, network);
        *self.per_network.entry(network).or_default() += 1;
    }

    /// Waits until a handshake ends, well or badly, and gives its place back.
    async fn one_ends(&mut self) {
        let id = match self.tasks.join_next_with_id().await {
            None => return,
            Some(Ok((id, ()))) => id,
            Some(Err(error)) => error.id(),
        };
        let Some(network) = self.network_of_task.remove(&id) else {
            return;
        };
        if let Some(count) = self.per_network.get_mut(&network) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.per_network.remove(&network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_errors_pause_longer_and_longer_unless_the_socket_is_to_blame() {
        let out_of_files = io::Error::from_raw_os_error(24);
        let mut pause = Duration::ZERO;
        let mut pauses = Vec::new();
        for _ in 0..9 {
            pause = pause_after(&out_of_files, pause);
            pauses.push(pause.as_millis());
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        let aborted = io::Error::from(io::ErrorKind::ConnectionAborted);
        assert_eq!(pause_after(&aborted, pause), Duration::ZERO);
    }

    #[test]
    fn a_source_is_an_address_or_an_ipv6_network() {
        let network = |text: &str| network_of(text.parse().expect("an address"));
        assert_ne!(network("192.0.2.1"), network("192.0.2.2"));
        assert_eq!(network("2001:db8::1"), network("2001:db8::ffff:1"));
        assert_ne!(network("2001:db8::1"), network("2001:db8:0:1::1"));
    }

    #[tokio::test]
    async fn a_task_that_panics_gives_its_place_back() {
        let mut under_way = UnderWay::default();
        let network = IpAddr::from([192, 0, 2, 1]);
        under_way.spawn(network, async { panic!("on purpose") });
        under_way.spawn(network, async {});
        assert_eq!((under_way.len(), under_way.from(network)), (2, 2));
        under_way.one_ends().await;
        under_way.one_ends().await;
        assert!(under_way.is_empty());
        assert_eq!(under_way.from(network), 0);
        assert!(under_way.network_of_task.is_empty());
    }
}
