//! Real clients against the real acceptor, over loopback sockets.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::ResolvesClientCert;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion};
use time::OffsetDateTime;
use time::macros::datetime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_stream::StreamExt as _;
use tonic::transport::server::Connected as _;

use super::acceptor::HandshakeFailure;
use super::connection::Connection;
use super::*;
use crate::identity::ca::{Ca, IssuedCertificate, SVID_LIFETIME};
use crate::identity::peer::PeerError;
use crate::identity::public_key::PublicKey;
use crate::identity::spiffe::{PrincipalName, SpiffeId, TrustDomain};
use crate::keys::{KeyAlgorithm, SigningKey, SoftwareKey};

pub(super) const NOW: OffsetDateTime = datetime!(2026-11-22 12:00 UTC);

#[derive(Debug)]
struct Clock(OffsetDateTime);

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.0.unix_timestamp()).expect("after 1970");
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

pub(super) fn trust_domain() -> TrustDomain {
    TrustDomain::parse("zta.local").expect("a trust domain")
}

fn software_key() -> SoftwareKey {
    SoftwareKey::generate(KeyAlgorithm::EcdsaP256).expect("a key")
}

fn public_key(key: &dyn SigningKey) -> PublicKey {
    PublicKey::from_spki(key.public_key_spki_der()).expect("P-256")
}

pub(super) fn ca_of(domain: &TrustDomain) -> Ca {
    let key: Arc<dyn SigningKey> = Arc::new(software_key());
    let root = Ca::create(&key, domain, NOW).expect("a root");
    Ca::load(key, root, domain).expect("its CA")
}

/// A client's certificate with its key.
pub(super) struct Credential {
    certificate: Vec<u8>,
    key: SoftwareKey,
}

pub(super) fn agent(ca: &Ca, name: &str) -> Credential {
    let key = software_key();
    let name = PrincipalName::parse(name).expect("a name");
    let id = SpiffeId::agent(ca.trust_domain(), &name);
    let issued = ca
        .issue_svid(&public_key(&key), &id, 1, SVID_LIFETIME, NOW)
        .expect("a certificate");
    Credential {
        certificate: issued.der,
        key,
    }
}

fn server_certificate(ca: &Ca, key: &dyn SigningKey) -> IssuedCertificate {
    let names = ["localhost".to_owned()];
    let lifetime = time::Duration::WEEK;
    ca.issue_server(&public_key(key), &names, lifetime, NOW)
        .expect("a certificate")
}

pub(super) fn material(server: &Ca, clients: &Ca, now: OffsetDateTime) -> TlsMaterial {
    let key = software_key();
    TlsMaterial {
        chain: vec![server_certificate(server, &key).der],
        key: Arc::new(key),
        client_roots: vec![clients.certificate_der().to_vec()],
        time: Arc::new(Clock(now)),
    }
}

/// An acceptor at work, and what comes out of it.
pub(super) struct Door {
    pub(super) address: SocketAddr,
    reload: TlsReload,
    incoming: Incoming,
    failures: mpsc::UnboundedReceiver<FailedHandshake>,
    task: JoinHandle<()>,
}

impl Door {
    pub(super) async fn open(material: TlsMaterial, limits: Limits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
        let address = listener.local_addr().expect("its address");
        let reload = TlsReload::new(material).expect("a configuration");
        let (failed, failures) = mpsc::unbounded_channel();
        let (acceptor, incoming) = Acceptor::tls(
            listener,
            reload.clone(),
            trust_domain(),
            limits,
            move |failure| {
                failed.send(failure).expect("the test listens");
            },
        );
        Self {
            address,
            reload,
            incoming,
            failures,
            task: tokio::spawn(acceptor.run(pending())),
        }
    }

    pub(super) async fn connection(&mut self) -> Connection {
        let next = tokio::time::timeout(Duration::from_secs(10), self.incoming.next());
        next.await
            .expect("in time")
            .expect("open")
            .expect("infallible")
    }

    pub(super) async fn failure(&mut self) -> HandshakeFailure {
        let next = tokio::time::timeout(Duration::from_secs(10), self.failures.recv());
        let failed = next.await.expect("in time").expect("open");
        assert!(failed.source.ip().is_loopback());
        failed.failure
    }
}

#[derive(Debug)]
struct Shows(Arc<CertifiedKey>);

impl ResolvesClientCert for Shows {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

pub(super) fn client(
    server: &Ca,
    credential: Option<&Credential>,
    version: &'static SupportedProtocolVersion,
) -> TlsConnector {
    client_speaking(b"h2", server, credential, version)
}

pub(super) fn client_speaking(
    protocol: &[u8],
    server: &Ca,
    credential: Option<&Credential>,
    version: &'static SupportedProtocolVersion,
) -> TlsConnector {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from(server.certificate_der().to_vec());
    roots.add(root).expect("a root");
    let builder = ClientConfig::builder_with_details(provider, Arc::new(Clock(NOW)))
        .with_protocol_versions(&[version])
        .expect("a version")
        .with_root_certificates(roots);
    let mut config = match credential {
        None => builder.with_no_client_auth(),
        Some(credential) => {
            let key = credential.key.pkcs8_der().expect("PKCS#8");
            let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.to_vec()));
            let key = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&key).expect("a key");
            let chain = vec![CertificateDer::from(credential.certificate.clone())];
            // Not checked to fit: a thief has the certificate and some key.
            let shown = Arc::new(CertifiedKey::new(chain, key));
            builder.with_client_cert_resolver(Arc::new(Shows(shown)))
        }
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    TlsConnector::from(Arc::new(config))
}

pub(super) async fn connect(
    address: SocketAddr,
    connector: &TlsConnector,
) -> std::io::Result<TlsStream<TcpStream>> {
    let socket = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").expect("a name");
    connector.connect(name, socket).await
}

pub(super) const TLS13: &SupportedProtocolVersion = &rustls::version::TLS13;

async fn failure_of(credential: &Credential, ca: &Ca, now: OffsetDateTime) -> HandshakeFailure {
    let mut door = Door::open(material(ca, ca, now), Limits::default()).await;
    let connected = connect(door.address, &client(ca, Some(credential), TLS13)).await;
    let failure = door.failure().await;
    // In TLS 1.3 a client learns of its refusal when it first reads.
    if let Ok(mut stream) = connected {
        assert!(stream.read_u8().await.is_err(), "refused");
    }
    assert!(failure.is_failed_login());
    failure
}

#[tokio::test]
async fn a_client_without_a_certificate_is_let_in_as_nobody() {
    let ca = ca_of(&trust_domain());
    let mut door = Door::open(material(&ca, &ca, NOW), Limits::default()).await;
    let mut client = connect(door.address, &client(&ca, None, TLS13))
        .await
        .expect("connected");
    assert_eq!(client.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let mut connection = door.connection().await;
    let peer = connection.connect_info();
    assert!(peer.certificate.is_none());
    assert_eq!(
        peer.source,
        client.get_ref().0.local_addr().expect("an address")
    );
    client.write_all(b"ping").await.expect("sent");
    let mut bytes = [0; 4];
    connection.read_exact(&mut bytes).await.expect("received");
    assert_eq!(&bytes, b"ping");
    connection.write_all(b"pong").await.expect("sent");
    connection.flush().await.expect("sent");
    client.read_exact(&mut bytes).await.expect("received");
    assert_eq!(&bytes, b"pong");
}

#[tokio::test]
async fn a_client_with_a_certificate_is_its_principal() {
    let ca = ca_of(&trust_domain());
    let mut door = Door::open(material(&ca, &ca, NOW), Limits::default()).await;
    let research = agent(&ca, "research");
    let connector = client(&ca, Some(&research), TLS13);
    let _client = connect(door.address, &connector).await.expect("connected");
    let peer = door.connection().await.connect_info();
    let certificate = peer.certificate.expect("a certificate");
    let id = "spiffe://zta.local/agent/research";
    assert_eq!(certificate.spiffe_id().as_str(), id);
    assert_eq!(certificate.public_key(), &public_key(&research.key));
    assert!(door.failures.try_recv().is_err());
}

#[tokio::test]
async fn bad_certificates_are_refused_and_reported() {
    let ca = ca_of(&trust_domain());
    let good = agent(&ca, "research");
    let late = NOW + SVID_LIFETIME + time::Duration::SECOND;
    assert_eq!(
        failure_of(&good, &ca, late).await,
        HandshakeFailure::CertificateExpired
    );

    let forged = agent(&ca_of(&trust_domain()), "research");
    assert_eq!(
        failure_of(&forged, &ca, NOW).await,
        HandshakeFailure::CertificateUntrusted
    );

    let stolen = Credential {
        certificate: good.certificate.clone(),
        key: software_key(),
    };
    assert_eq!(
        failure_of(&stolen, &ca, NOW).await,
        HandshakeFailure::CertificateUntrusted
    );

    let key = software_key();
    let server = Credential {
        certificate: server_certificate(&ca, &key).der,
        key,
    };
    assert_eq!(
        failure_of(&server, &ca, NOW).await,
        HandshakeFailure::CertificateInvalid
    );

    let foreign_ca = ca_of(&TrustDomain::parse("zta.example").expect("a trust domain"));
    let foreign = agent(&foreign_ca, "research");
    assert_eq!(
        failure_of(&foreign, &foreign_ca, NOW).await,
        HandshakeFailure::ForeignTrustDomain
    );
}

#[tokio::test]
async fn a_certificate_of_our_ca_that_names_nobody_is_refused() {
    // An operator's own root may certify more than principals.
    let root_key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root = params
        .self_signed(&root_key)
        .expect("a root")
        .der()
        .to_vec();
    let issuer = rcgen::Issuer::new(params, root_key);

    let key = software_key();
    let pair =
        rcgen::KeyPair::try_from(key.pkcs8_der().expect("PKCS#8").as_slice()).expect("a key");
    let mut leaf = rcgen::CertificateParams::new(["host.example".to_owned()]).expect("a name");
    leaf.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    let certificate = leaf
        .signed_by(&pair, &issuer)
        .expect("a certificate")
        .der()
        .to_vec();

    let ca = ca_of(&trust_domain());
    let mut material = material(&ca, &ca, NOW);
    material.client_roots.push(root);
    let mut door = Door::open(material, Limits::default()).await;
    let host = Credential { certificate, key };
    let _client = connect(door.address, &client(&ca, Some(&host), TLS13)).await;
    let expected = HandshakeFailure::NoPrincipal(PeerError::NoSpiffeId);
    assert_eq!(door.failure().await, expected);
}

#[tokio::test]
async fn tls_1_2_and_other_protocols_are_refused() {
    let ca = ca_of(&trust_domain());
    let mut door = Door::open(material(&ca, &ca, NOW), Limits::default()).await;
    let old = client(&ca, Some(&agent(&ca, "research")), &rustls::version::TLS12);
    connect(door.address, &old).await.expect_err("refused");
    assert_eq!(door.failure().await, HandshakeFailure::Incompatible);

    let mut plain = TcpStream::connect(door.address).await.expect("connected");
    plain
        .write_all(b"GET / HTTP/1.1\r\n\r\n")
        .await
        .expect("sent");
    assert_eq!(door.failure().await, HandshakeFailure::NotTls);

    drop(TcpStream::connect(door.address).await.expect("connected"));
    assert_eq!(door.failure().await, HandshakeFailure::Closed);

    let stranger = client(&ca_of(&trust_domain()), None, TLS13);
    connect(door.address, &stranger)
        .await
        .expect_err("an unknown server");
    assert_eq!(door.failure().await, HandshakeFailure::RefusedByPeer);

    connect(door.address, &client(&ca, None, TLS13))
        .await
        .expect("the door is still open");
    door.connection().await;
}

#[tokio::test]
async fn a_stalled_handshake_times_out_while_others_go_on() {
    let ca = ca_of(&trust_domain());
    let limits = Limits {
        handshake_timeout: Duration::from_millis(500),
        ..Limits::default()
    };
    let mut door = Door::open(material(&ca, &ca, NOW), limits).await;
    let mut silent = TcpStream::connect(door.address).await.expect("connected");
    connect(door.address, &client(&ca, None, TLS13))
        .await
        .expect("not held up");
    door.connection().await;
    assert_eq!(door.failure().await, HandshakeFailure::Timeout);
    assert_eq!(silent.read(&mut [0]).await.expect("closed"), 0);
}

#[tokio::test]
async fn one_source_can_stall_only_its_share() {
    let ca = ca_of(&trust_domain());
    let limits = Limits {
        handshakes_per_source_max: 2,
        ..Limits::default()
    };
    let mut door = Door::open(material(&ca, &ca, NOW), limits).await;
    let first = TcpStream::connect(door.address).await.expect("connected");
    let _second = TcpStream::connect(door.address).await.expect("connected");
    let mut third = TcpStream::connect(door.address).await.expect("connected");
    assert_eq!(door.failure().await, HandshakeFailure::TooMany);
    assert_eq!(third.read(&mut [0]).await.expect("closed"), 0);
    drop(first);
    assert_eq!(door.failure().await, HandshakeFailure::Closed);
    // The place comes back when the loop has seen the task's end, a moment later.
    let connector = client(&ca, None, TLS13);
    while connect(door.address, &connector).await.is_err() {
        assert_eq!(door.failure().await, HandshakeFailure::TooMany);
    }
    door.connection().await;
}

#[tokio::test]
async fn a_full_house_leaves_sockets_waiting() {
    let ca = ca_of(&trust_domain());
    let limits = Limits {
        handshake_timeout: Duration::from_millis(500),
        handshakes_max: 1,
        ..Limits::default()
    };
    let mut door = Door::open(material(&ca, &ca, NOW), limits).await;
    let _silent = TcpStream::connect(door.address).await.expect("connected");
    connect(door.address, &client(&ca, None, TLS13))
        .await
        .expect("after the timeout");
    assert_eq!(door.failure().await, HandshakeFailure::Timeout);
    door.connection().await;
}

#[tokio::test]
async fn a_replaced_configuration_binds_the_next_handshake_and_nothing_resumes() {
    let (old, new) = (ca_of(&trust_domain()), ca_of(&trust_domain()));
    let mut door = Door::open(material(&old, &old, NOW), Limits::default()).await;
    let connector = client(&old, Some(&agent(&old, "research")), TLS13);
    for _ in 0..2 {
        let mut client = connect(door.address, &connector).await.expect("connected");
        let mut connection = door.connection().await;
        connection.write_u8(1).await.expect("sent");
        connection.flush().await.expect("sent");
        assert_eq!(client.read_u8().await.expect("tickets would come first"), 1);
        let kind = client.get_ref().1.handshake_kind();
        assert_eq!(kind, Some(HandshakeKind::Full));
    }
    door.reload
        .replace(material(&old, &new, NOW))
        .expect("a configuration");
    let _client = connect(door.address, &connector).await;
    assert_eq!(door.failure().await, HandshakeFailure::CertificateUntrusted);

    let mut wrong = material(&old, &new, NOW);
    wrong.key = Arc::new(software_key());
    assert!(matches!(
        door.reload.replace(wrong),
        Err(TlsConfigError::Material(_))
    ));
    let mut rootless = material(&old, &new, NOW);
    rootless.client_roots.clear();
    assert!(matches!(
        door.reload.replace(rootless),
        Err(TlsConfigError::Roots(_))
    ));
    let connector = client(&old, Some(&agent(&new, "research")), TLS13);
    let _client = connect(door.address, &connector)
        .await
        .expect("the last good one");
    door.connection().await;
}

#[tokio::test]
async fn the_loop_ends_with_its_server() {
    let ca = ca_of(&trust_domain());
    let door = Door::open(material(&ca, &ca, NOW), Limits::default()).await;
    drop(door.incoming);
    door.task.await.expect("ended");
    TcpStream::connect(door.address).await.expect_err("closed");

    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
    let (acceptor, mut incoming) = Acceptor::plaintext(listener).expect("loopback");
    acceptor.run(async {}).await;
    assert!(incoming.next().await.is_none());
}

#[tokio::test]
async fn plain_text_is_for_loopback_and_for_nobody() {
    let listener = TcpListener::bind("0.0.0.0:0").await.expect("a socket");
    assert!(Acceptor::plaintext(listener).is_err());

    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
    let address = listener.local_addr().expect("its address");
    let (acceptor, mut incoming) = Acceptor::plaintext(listener).expect("loopback");
    tokio::spawn(acceptor.run(pending()));
    let mut client = TcpStream::connect(address).await.expect("connected");
    let mut connection = incoming.next().await.expect("open").expect("infallible");
    assert!(connection.connect_info().certificate.is_none());
    client.write_u8(7).await.expect("sent");
    assert_eq!(connection.read_u8().await.expect("received"), 7);
}
