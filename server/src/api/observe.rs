//! A layer around all gRPC services: counts and times calls, and gives the errors that
//! tonic raises before a handler runs their `ErrorInfo`.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::Instant;

use http::{HeaderMap, Request, Response};
use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};
use tower::{Layer, Service};
use tracing::{Instrument as _, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use zta_proto::v1::{ErrorReason, FILE_DESCRIPTOR_SET};

use super::status::{DOMAIN, reason_name};
use crate::telemetry::Metrics;

/// The paths of our RPCs. Only these become labels: a path is the caller's text.
static METHODS: LazyLock<HashSet<&'static str>> = LazyLock::new(|| {
    let set = prost_types::FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap_or_default();
    let mut paths = HashSet::new();
    for file in &set.file {
        for service in &file.service {
            for method in &service.method {
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                // Once per process, as many as there are RPCs.
                paths.insert(&*Box::leak(path.into_boxed_str()));
            }
        }
    }
    paths
});

/// The path of one of our RPCs as we know it.
pub(super) fn method(path: &str) -> Option<&'static str> {
    METHODS.get(path).copied()
}

/// The layer.
#[derive(Clone, Debug)]
pub(crate) struct Observe {
    metrics: Arc<Metrics>,
    spans: bool,
}

impl Observe {
    /// With `spans`, each call is a span under its caller's W3C trace context.
    pub(crate) fn new(metrics: Metrics, spans: bool) -> Self {
        Self {
            metrics: Arc::new(metrics),
            spans,
        }
    }
}

impl<S> Layer<S> for Observe {
    type Service = Observed<S>;

    fn layer(&self, inner: S) -> Observed<S> {
        Observed {
            inner,
            metrics: Arc::clone(&self.metrics),
            spans: self.spans,
        }
    }
}

/// A service with the layer around it.
#[derive(Clone, Debug)]
pub(crate) struct Observed<S> {
    inner: S,
    metrics: Arc<Metrics>,
    spans: bool,
}

type Answer<B, E> = std::pin::Pin<Box<dyn Future<Output = Result<Response<B>, E>> + Send>>;

impl<S, B, R> Service<Request<R>> for Observed<S>
where
    S: Service<Request<R>, Response = Response<B>>,
    S::Future: Send + 'static,
    B: 'static,
    S::Error: 'static,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = Answer<B, S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<R>) -> Self::Future {
        let method = method(request.uri().path());
        let metrics = Arc::clone(&self.metrics);
        let start = Instant::now();
        let span = match method {
            Some(method) if self.spans => rpc_span(method, request.headers()),
            _ => Span::none(),
        };
        let answer = span.in_scope(|| self.inner.call(request));
        let of_call = span.clone();
        let answer = answer.instrument(span);
        Box::pin(async move {
            let mut response = answer.await?;
            let Some(method) = method else {
                return Ok(response);
            };
            let code = explain(method, response.headers_mut());
            of_call.record("rpc.grpc.status_code", code as i32);
            metrics.called(method, code as i32, start.elapsed());
            Ok(response)
        })
    }
}

/// The span of a call, a child of the caller's if it sent a `traceparent`.
fn rpc_span(method: &'static str, headers: &HeaderMap) -> Span {
    let span = tracing::info_span!(
        "rpc",
        otel.name = method,
        otel.kind = "server",
        rpc.system = "grpc",
        rpc.grpc.status_code = tracing::field::Empty,
    );
    let parent = TraceContextPropagator::new().extract(&Headers(headers));
    if let Err(error) = span.set_parent(parent) {
        tracing::debug!(%error, "a span has no parent");
    }
    span
}

/// Headers as the propagator reads them.
struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

/// The call's code; an error without details gets them. An error after the headers, in
/// a stream's trailers, is counted as OK: there are no such RPCs yet.
fn explain(method: &str, headers: &mut HeaderMap) -> Code {
    let Some(status) = Status::from_header_map(headers) else {
        return Code::Ok;
    };
    let code = status.code();
    if code == Code::Ok || !status.details().is_empty() {
        return code;
    }
    let limit = match method.split('/').nth(1) {
        Some("zta.v1.PolicyService") => "policy_message_bytes_max",
        Some("zta.v1.EntityService") => "entity_message_bytes_max",
        _ => "message_bytes_max",
    };
    let (reason, metadata) = match code {
        Code::OutOfRange | Code::ResourceExhausted => (
            ErrorReason::LimitExceeded,
            HashMap::from([("limit".to_owned(), limit.to_owned())]),
        ),
        Code::Internal | Code::InvalidArgument => (ErrorReason::MessageInvalid, HashMap::new()),
        _ => return code,
    };
    // tonic calls a message that does not decode INTERNAL; it is the caller's.
    let code = match reason {
        ErrorReason::LimitExceeded => Code::ResourceExhausted,
        _ => Code::InvalidArgument,
    };
    let mut details = ErrorDetails::new();
    details.set_error_info(reason_name(reason), DOMAIN, metadata);
    let explained = Status::with_error_details(code, status.message(), details);
    let fields = explained.into_http::<()>();
    for (name, value) in fields.headers() {
        headers.insert(name, value.clone());
    }
    code
}
