//! The acceptor under the server that it is for.

use std::time::Duration;

use axum::extract::Extension;
use axum::routing::get;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tonic::service::Routes;
use tonic::transport::Server;

use super::acceptor::HandshakeFailure;
use super::tests::{
    Credential, Door, NOW, TLS13, agent, ca_of, client, client_speaking, connect, material,
    trust_domain,
};
use super::*;
use crate::identity::ca::Ca;

async fn whoami(Extension(peer): Extension<PeerInfo>) -> String {
    match peer.certificate {
        Some(certificate) => certificate.spiffe_id().to_string(),
        None => "nobody".to_owned(),
    }
}

async fn ask(address: std::net::SocketAddr, ca: &Ca, credential: Option<&Credential>) -> String {
    let connector = client_speaking(b"http/1.1", ca, credential, TLS13);
    let mut stream = connect(address, &connector).await.expect("connected");
    let request = b"GET /whoami HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("HTTP");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    body.to_owned()
}

#[tokio::test]
async fn each_request_carries_its_peer_and_the_server_drains() {
    let ca = ca_of(&trust_domain());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
    let address = listener.local_addr().expect("its address");
    let reload = TlsReload::new(material(&ca, &ca, NOW)).expect("a configuration");
    let (acceptor, incoming) =
        Acceptor::tls(listener, reload, trust_domain(), Limits::default(), |_| ());
    let (stop, stopped) = watch::channel(false);
    let signal = || {
        let mut stopped = stopped.clone();
        async move { drop(stopped.wait_for(|stop| *stop).await) }
    };
    let accepting = tokio::spawn(acceptor.run(signal()));
    let routes = Routes::from(axum::Router::new().route("/whoami", get(whoami)));
    let server = Server::builder()
        .accept_http1(true)
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, signal());
    let serving = tokio::spawn(server);

    assert_eq!(ask(address, &ca, None).await, "nobody");
    let research = agent(&ca, "research");
    let name = ask(address, &ca, Some(&research)).await;
    assert_eq!(name, "spiffe://zta.local/agent/research");

    stop.send(true).expect("somebody listens");
    let both = async {
        accepting.await.expect("no panic");
        serving.await.expect("no panic").expect("served");
    };
    tokio::time::timeout(Duration::from_secs(10), both)
        .await
        .expect("drained");
    TcpStream::connect(address).await.expect_err("closed");
}

#[tokio::test]
async fn strangers_who_hold_connections_open_keep_nobody_out_who_has_a_certificate() {
    let ca = ca_of(&trust_domain());
    let limits = Limits {
        strangers_per_source_max: 3,
        ..Limits::default()
    };
    let mut door = Door::open(material(&ca, &ca, NOW), limits).await;
    let (stranger, research) = (client(&ca, None, TLS13), agent(&ca, "research"));
    let mut held = Vec::new();
    for _ in 0..3 {
        let open = connect(door.address, &stranger).await.expect("connected");
        held.push((open, door.connection().await));
    }
    let mut beyond = connect(door.address, &stranger)
        .await
        .expect("shakes hands");
    assert_eq!(door.failure().await, HandshakeFailure::TooMany);
    let closed = beyond.read(&mut [0]).await;
    assert!(!closed.is_ok_and(|read| read > 0), "closed");
    let agents = client(&ca, Some(&research), TLS13);
    for _ in 0..5 {
        let open = connect(door.address, &agents).await.expect("connected");
        held.push((open, door.connection().await));
    }
    // Each place comes back with its connection's end.
    drop(held);
    for _ in 0..3 {
        let open = connect(door.address, &stranger).await.expect("connected");
        drop((open, door.connection().await));
    }
}
