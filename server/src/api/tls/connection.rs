//! An accepted connection, with what is known of its peer.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::strangers::Place;
use crate::identity::peer::PeerCertificate;

/// Who is at the other end. Each request carries it among its extensions.
#[derive(Clone, Debug)]
pub(crate) struct PeerInfo {
    /// The address the connection came from.
    pub(crate) source: SocketAddr,
    /// The verified client certificate, if one was presented.
    pub(crate) certificate: Option<Arc<PeerCertificate>>,
    /// When the handshake proved possession of the certificate's key.
    pub(crate) established: Instant,
}

/// A connection that requests are read from.
pub(crate) struct Connection {
    stream: Stream,
    peer: PeerInfo,
    /// Of one without a certificate, for as long as it is open.
    _place: Option<Place>,
}

enum Stream {
    Tls(Box<TlsStream<TcpStream>>),
    Plaintext(TcpStream),
}

impl Connection {
    pub(super) fn tls(stream: TlsStream<TcpStream>, peer: PeerInfo, place: Option<Place>) -> Self {
        Self {
            stream: Stream::Tls(Box::new(stream)),
            peer,
            _place: place,
        }
    }

    pub(super) fn plaintext(stream: TcpStream, peer: PeerInfo) -> Self {
        Self {
            stream: Stream::Plaintext(stream),
            peer,
            _place: None,
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = PeerInfo;

    fn connect_info(&self) -> PeerInfo {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Plaintext(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Plaintext(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Plaintext(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Plaintext(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Stream::Plaintext(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Tls(stream) => stream.is_write_vectored(),
            Stream::Plaintext(stream) => stream.is_write_vectored(),
        }
    }
}
