//! Turns away whoever cannot be anybody before the call's message is read. The handler
//! would refuse, too, but only after up to `message_bytes_max` of each stream lie in
//! memory: one connection without a certificate could fill it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use time::OffsetDateTime;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use super::observe::method;
use super::proof;
use super::tls::PeerInfo;
use crate::identity::registry::{AuthenticationError, Credential};
use crate::pdp::{Pdp, PdpError};

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

    fn call(&mut self, mut request: Request<R>) -> Self::Future {
        let Some(path) = method(request.uri().path()) else {
            return Box::pin(self.inner.call(request));
        };
        let now = (self.pdp.clock)();
        let pdp = Arc::clone(&self.pdp);
        match proof::admit(&pdp, path, &request, now) {
            Ok(admitted) => {
                if let Some(key) = admitted.key {
                    request.extensions_mut().insert(key);
                }
                let answer = self.inner.call(request);
                if !admitted.nonce_is_old {
                    return Box::pin(answer);
                }
                Box::pin(async move {
                    let mut answer = answer.await?;
                    proof::add_nonce(answer.headers_mut(), &pdp.proofs, now);
                    Ok(answer)
                })
            }
            Err(error) => {
                let peer = request.extensions().get::<PeerInfo>();
                let credential = Credential {
                    certificate: peer.and_then(|p| p.certificate.clone()),
                    ..Credential::none(peer.map(|p| p.source.ip()), now)
                };
                let wants_nonce = proof::concerns(request.headers());
                Box::pin(async move {
                    let error = turn_away(&pdp, &credential, error, now).await;
                    let mut answer = Status::from(error).into_http();
                    if wants_nonce {
                        proof::add_nonce(answer.headers_mut(), &pdp.proofs, now);
                    }
                    Ok(answer)
                })
            }
        }
    }
}

/// On record, like every refused credential, before the answer is. To be told a nonce is the
/// first step of a login (RFC 9449, 8) and no failure of one: behind a balancer those would
/// bury the failures.
async fn turn_away(
    pdp: &Pdp,
    credential: &Credential,
    error: AuthenticationError,
    now: OffsetDateTime,
) -> PdpError {
    if matches!(&error, AuthenticationError::Proof(e) if e.is_first_step()) {
        return error.into();
    }
    match pdp
        .record_refusal(credential, &error.to_string(), now)
        .await
    {
        Ok(()) => error.into(),
        Err(error) => error,
    }
}
