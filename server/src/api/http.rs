//! The plain HTTP paths beside gRPC: `/livez`, `/readyz`, `/metrics` and `/ca.pem`.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;

/// Whether the server can decide, and if not, why.
pub(crate) type Readiness = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// What the paths show.
#[derive(Clone)]
pub(crate) struct Pages {
    /// For `/readyz`.
    pub(crate) readiness: Readiness,
    /// What `/readyz` says beside it.
    pub(crate) notice: Option<&'static str>,
    /// For `/metrics`, in Prometheus' text format.
    pub(crate) metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// For `/ca.pem`.
    pub(crate) ca_pem: Arc<str>,
}

/// The routes.
pub(crate) fn routes(pages: Pages) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/ca.pem", get(ca))
        .with_state(pages)
}

async fn readyz(State(pages): State<Pages>) -> Response {
    let notice = pages.notice.map_or(String::new(), |n| format!("{n}\n"));
    match (pages.readiness)() {
        Ok(()) => format!("ready\n{notice}").into_response(),
        Err(why) => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("not ready: {why}\n{notice}"),
        )
            .into_response(),
    }
}

async fn metrics(State(pages): State<Pages>) -> Response {
    typed("text/plain; version=0.0.4", (pages.metrics)())
}

async fn ca(State(pages): State<Pages>) -> Response {
    typed("application/x-pem-file", pages.ca_pem.to_string())
}

fn typed(content_type: &'static str, body: String) -> Response {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    (headers, body).into_response()
}
