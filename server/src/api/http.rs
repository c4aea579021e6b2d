//! The plain HTTP paths beside gRPC: `/livez`, `/readyz`, `/metrics`, `/ca.pem`, `/crl.der`
//! and `/crl.pem`.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
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
    /// For `/ca.pem`: the trust bundle.
    pub(crate) ca_pem: Arc<dyn Fn() -> String + Send + Sync>,
    /// For `/crl.der` and `/crl.pem`; `None` before the first list is signed.
    pub(crate) crl: Arc<dyn Fn() -> Option<Arc<RevocationLists>> + Send + Sync>,
}

/// The revocation lists in force.
pub(crate) struct RevocationLists {
    /// That of the CA that signs.
    pub(crate) der: Vec<u8>,
    /// Those of all CAs that are trusted, that of the one that signs first.
    pub(crate) pem: String,
}

/// The routes.
pub(crate) fn routes(pages: Pages) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/ca.pem", get(ca))
        .route("/crl.der", get(crl_der))
        .route("/crl.pem", get(crl_pem))
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
    typed("application/x-pem-file", (pages.ca_pem)())
}

async fn crl_der(State(pages): State<Pages>) -> Response {
    match (pages.crl)() {
        Some(lists) => typed("application/pkix-crl", lists.der.clone()),
        None => no_list(),
    }
}

async fn crl_pem(State(pages): State<Pages>) -> Response {
    match (pages.crl)() {
        Some(lists) => typed("application/x-pem-file", lists.pem.clone()),
        None => no_list(),
    }
}

/// Not an empty list, which would say that nobody is revoked.
fn no_list() -> Response {
    let text = "no revocation list is signed yet\n";
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

fn typed(content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    (headers, body.into()).into_response()
}
