//! The log as static files (C2SP tlog-tiles): `/log/checkpoint`, `/log/tile/<L>/<N>` and
//! `/log/tile/entries/<N>`, each tile with `.p/<W>` where it is partial. Who may read is
//! decided, and put on record, as for `AuditService`: by the client certificate and the
//! action `read_audit`. With `public_log`, hash tiles and the checkpoint are anybody's.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::caller::credential_in;
use crate::audit::tile::TilePath;
use crate::identity::registry::Credential;
use crate::operations::Operations;

/// What never changes and what anybody may keep.
const PUBLIC: &str = "public, max-age=31536000, immutable";
/// What never changes and what no cache in between may keep.
const PRIVATE: &str = "private, max-age=31536000, immutable";
/// What changes each second.
const FRESH: &str = "no-cache";

/// The routes.
pub(super) fn routes(operations: Arc<Operations>) -> Router {
    Router::new()
        .route("/log/checkpoint", get(checkpoint))
        .route("/log/tile/{*path}", get(tile))
        .with_state(operations)
}

fn credential(operations: &Operations, parts: &Parts) -> Credential {
    let now = (operations.pdp.clock)();
    credential_in(&parts.extensions, &parts.headers, now)
}

async fn checkpoint(State(operations): State<Arc<Operations>>, parts: Parts) -> Response {
    let caller = credential(&operations, &parts);
    match operations.log_checkpoint(&caller).await {
        Ok(checkpoint) => file("text/plain; charset=utf-8", FRESH, checkpoint.note.into()),
        Err(error) => refusal(&error.into()),
    }
}

async fn tile(
    State(operations): State<Arc<Operations>>,
    Path(path): Path<String>,
    parts: Parts,
) -> Response {
    let Ok(path) = path.parse::<TilePath>() else {
        return not_found();
    };
    let caller = credential(&operations, &parts);
    let caching = match path.level {
        Some(_) if operations.public_log => PUBLIC,
        _ => PRIVATE,
    };
    match operations.log_tile(&caller, path).await {
        Ok(Some(bytes)) => file("application/octet-stream", caching, bytes),
        Ok(None) => not_found(),
        Err(error) => refusal(&error.into()),
    }
}

fn file(content_type: &'static str, caching: &'static str, bytes: Vec<u8>) -> Response {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(caching));
    (headers, bytes).into_response()
}

/// Not in the signed tree, or no name of a tile. It may come to be.
fn not_found() -> Response {
    let headers = [(header::CACHE_CONTROL, "no-store")];
    let text = "the signed log has no such tile\n";
    (StatusCode::NOT_FOUND, headers, text).into_response()
}

/// The reason of a refusal and what to do, as text.
fn refusal(status: &Status) -> Response {
    let code = match status.code() {
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let reason = status.get_details_error_info().map(|info| info.reason);
    let text = format!("{}: {}\n", reason.unwrap_or_default(), status.message());
    let headers = [(header::CACHE_CONTROL, "no-store")];
    (code, headers, text).into_response()
}
