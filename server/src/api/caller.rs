//! The credential of a call: the connection's certificate and the metadata's token.

use std::sync::Arc;

use http::{Extensions, HeaderMap};
use time::OffsetDateTime;
use tonic::Request;

use super::tls::PeerInfo;
use crate::identity::possession::ProvenKey;
use crate::identity::registry::{Credential, PresentedToken, TokenScheme};
use crate::identity::token::TokenError;

/// What a call brings to prove who makes it. Proves nothing by itself: the PDP
/// authenticates it, on every call.
pub(crate) fn credential<T>(request: &Request<T>, now: OffsetDateTime) -> Credential {
    credential_in(request.extensions(), request.metadata().as_ref(), now)
}

/// Likewise, of a request over plain HTTP.
pub(super) fn credential_in(
    extensions: &Extensions,
    headers: &HeaderMap,
    now: OffsetDateTime,
) -> Credential {
    let peer = extensions.get::<PeerInfo>();
    Credential {
        certificate: peer.and_then(|p| p.certificate.clone()),
        handshake_time: peer.map_or(now, |p| now - p.established.elapsed()),
        connection: peer.map(|p| Arc::clone(&p.proof)),
        source: peer.map(|p| p.source.ip()),
        token: presented(headers),
        proof: extensions.get::<Arc<ProvenKey>>().cloned(),
    }
}

/// The access token of a call's metadata.
pub(super) fn presented(headers: &HeaderMap) -> Option<Result<PresentedToken, TokenError>> {
    let mut values = headers.get_all("authorization").iter();
    let value = values.next()?;
    // Two could be one for the proof and another one for the answer.
    if values.next().is_some() {
        return Some(Err(TokenError::Malformed));
    }
    let text = value.to_str().map_err(|_| TokenError::Malformed);
    Some(text.and_then(|text| {
        let (scheme, token) = text.split_once(' ').ok_or(TokenError::Malformed)?;
        let scheme = match scheme {
            s if s.eq_ignore_ascii_case("bearer") => TokenScheme::Bearer,
            s if s.eq_ignore_ascii_case("dpop") => TokenScheme::Dpop,
            _ => return Err(TokenError::Malformed),
        };
        Ok(PresentedToken {
            scheme,
            text: Arc::from(token),
        })
    }))
}
