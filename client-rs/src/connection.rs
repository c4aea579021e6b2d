//! One channel that outlives its certificates, with a deadline on every call.

use std::{
    pin::Pin,
    sync::{Arc, OnceLock, Weak},
    task::{Context, Poll},
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, header::AUTHORIZATION};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};
use tonic::{Status, body::Body, transport::Channel};
use tower::{Service, ServiceExt as _};

use crate::{acting::Acting, client::Inner, dpop::Possession};

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The channel below the generated clients. Cheap to clone; all clones share it.
///
/// A renewed certificate means a new channel. A call goes over the one that is current
/// when it begins; the old connection closes after the last call on it.
#[derive(Clone, Debug)]
pub struct Connection {
    current: Arc<ArcSwap<Channel>>,
    timeout: Duration,
    /// What proves each call, where no client certificate does.
    possession: Option<Arc<Possession>>,
    /// On whose behalf its calls are made.
    acting: Option<Arc<Acting>>,
    /// Who makes an expired certificate good before a call.
    owner: Arc<OnceLock<Weak<Inner>>>,
}

impl Connection {
    pub(crate) fn new(channel: Channel, timeout: Duration) -> Self {
        Self {
            current: Arc::new(ArcSwap::from_pointee(channel)),
            timeout,
            possession: None,
            acting: None,
            owner: Arc::default(),
        }
    }

    /// Has this client recover before a call whose certificate has expired.
    pub(crate) fn owned_by(&self, owner: Weak<Inner>) {
        // A connection has one owner, whom its clones share.
        let _ = self.owner.set(owner);
    }

    /// The same, with a proof of a key in each call.
    pub(crate) fn proving(mut self, possession: Arc<Possession>) -> Self {
        self.possession = Some(possession);
        self
    }

    /// The same channel with another deadline.
    pub(crate) fn with_timeout(&self, timeout: Duration) -> Self {
        Self {
            timeout,
            ..self.clone()
        }
    }

    /// The same channel, on somebody's behalf.
    pub(crate) fn acting(&self, acting: Arc<Acting>) -> Self {
        Self {
            acting: Some(acting),
            ..self.clone()
        }
    }

    /// The same channel, on the client's own behalf.
    fn own(&self) -> Self {
        Self {
            acting: None,
            ..self.clone()
        }
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(crate) fn replace(&self, channel: Channel) {
        self.current.store(Arc::new(channel));
    }
}

impl Service<Request<Body>> for Connection {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // Readiness belongs to the channel of the call, which is chosen in `call`.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let current = Arc::clone(&self.current);
        let acting = self.acting.clone();
        let owner = self.owner.get().and_then(Weak::upgrade);
        let expired = owner.filter(|owner| owner.has_expired());
        let deadline = Instant::now() + self.timeout;
        request
            .headers_mut()
            .entry(GRPC_TIMEOUT)
            .or_insert_with(|| header(self.timeout));
        let proving = self.possession.clone().map(|p| (p, self.own()));
        Box::pin(async move {
            if let Some(owner) = expired {
                // Without a certificate the call fails, and says why by itself.
                let _ = timeout_at(deadline, owner.recover_if_expired()).await;
            }
            let channel = current.load_full();
            let token = match acting {
                None => None,
                Some(acting) => {
                    let via = proving.as_ref().map(|(_, connection)| connection.clone());
                    Some(acting.token(&channel, via, deadline).await?)
                }
            };
            let channel = Channel::clone(&channel);
            let answer = async {
                if let Some((possession, connection)) = &proving {
                    return possession.call(connection, channel, request, token).await;
                }
                if let Some(token) = &token {
                    let header = secret(&format!("Bearer {token}"))?;
                    request.headers_mut().insert(AUTHORIZATION, header);
                }
                Ok(channel.oneshot(request).await?)
            };
            let answered = timeout_at(deadline, answer).await;
            let response = answered.map_err(|_| too_late())??;
            Ok(response.map(|inner| Body::new(DeadlineBody::new(inner, deadline))))
        })
    }
}

/// A header value that no log shows.
pub(crate) fn secret(text: &str) -> Result<HeaderValue, BoxError> {
    let mut value = HeaderValue::from_str(text)?;
    value.set_sensitive(true);
    Ok(value)
}

/// As the protocol has it: at most eight digits and a unit.
fn header(timeout: Duration) -> HeaderValue {
    let millis = timeout.as_millis().clamp(1, 99_999_999);
    HeaderValue::from_str(&format!("{millis}m")).unwrap_or(HeaderValue::from_static("1S"))
}

fn too_late() -> Status {
    Status::deadline_exceeded("no answer in time")
}

/// A response body that fails at the deadline: a server that sends its headers and then
/// nothing must not hold a caller.
struct DeadlineBody {
    inner: Body,
    deadline: Pin<Box<Sleep>>,
}

impl DeadlineBody {
    fn new(inner: Body, deadline: Instant) -> Self {
        Self {
            inner,
            deadline: Box::pin(sleep_until(deadline)),
        }
    }
}

impl HttpBody for DeadlineBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        self.deadline
            .as_mut()
            .poll(cx)
            .map(|()| Some(Err(too_late())))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A body that never comes.
    struct Silence;

    impl HttpBody for Silence {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn a_body_that_never_comes_fails_at_the_deadline() {
        let deadline = Instant::now() + Duration::from_millis(5);
        let mut body = DeadlineBody::new(Body::new(Silence), deadline);
        let frame = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
        let status = frame.expect("a frame").expect_err("an error");
        assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
    }

    #[test]
    fn the_timeout_header_has_at_most_eight_digits() {
        assert_eq!(header(Duration::from_secs(5)), "5000m");
        assert_eq!(header(Duration::from_micros(3)), "1m");
        assert_eq!(header(Duration::from_secs(1 << 40)), "99999999m");
    }
}
