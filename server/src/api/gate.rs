//! Turns away whoever cannot be anybody before the call's message is read. The handler
//! would refuse, too, but only after up to `message_bytes_max` of each stream lie in
//! memory: one connection without a certificate could fill it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use super::observe::method;
use super::tls::PeerInfo;
use crate::identity::registry::{AuthenticationError, Credential};
use crate::pdp::{Pdp, PdpError};

/// The RPCs of ours that need no certificate: they lead to one.
const OPEN: [&str; 2] = [
    "/zta.v1.AgentService/Enroll",
    "/zta.v1.AgentService/Recover",
];

/// The layer.
#[derive(Clone)]
pub(crate) struct Gate(pub(crate) Arc<Pdp>);

impl<S> Layer<S> for Gate {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated {
            inner,
            pdp: Arc::clone(&self.0),
        }
    }
}

/// A service behind the gate.
#[derive(Clone)]
pub(crate) struct Gated<S> {
    inner: S,
    pdp: Arc<Pdp>,
}

type Answer<E> = Pin<Box<dyn Future<Output = Result<Response<Body>, E>> + Send>>;

impl<S, R> Service<Request<R>> for Gated<S>
where
    S: Service<Request<R>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Answer<S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<R>) -> Self::Future {
        let peer = request.extensions().get::<PeerInfo>();
        let known = peer.is_some_and(|p| p.certificate.is_some());
        let path = request.uri().path();
        if known || OPEN.contains(&path) || method(path).is_none() {
            return Box::pin(self.inner.call(request));
        }
        let source = peer.map(|p| p.source.ip());
        let pdp = Arc::clone(&self.pdp);
        Box::pin(async move {
            let error = turn_away(&pdp, source).await;
            Ok(Status::from(error).into_http())
        })
    }
}

/// On record, like every refused credential, before the answer is.
async fn turn_away(pdp: &Pdp, source: Option<std::net::IpAddr>) -> PdpError {
    let now = (pdp.clock)();
    let credential = Credential::none(source, now);
    let missing = AuthenticationError::CredentialMissing;
    match pdp
        .record_refusal(&credential, &missing.to_string(), now)
        .await
    {
        Ok(()) => missing.into(),
        Err(error) => error,
    }
}
