//! The credential of a call: the connection's certificate and the metadata's token.

use std::sync::Arc;

use time::OffsetDateTime;
use tonic::Request;

use super::tls::PeerInfo;
use crate::identity::registry::{Credential, PresentedToken, TokenScheme};
use crate::identity::token::TokenError;

/// What a call brings to prove who makes it. Proves nothing by itself: the PDP
/// authenticates it, on every call.
pub(crate) fn credential<T>(request: &Request<T>, now: OffsetDateTime) -> Credential {
    let peer = request.extensions().get::<PeerInfo>();
    let token = request.metadata().get("authorization").map(|value| {
        let text = value.to_str().map_err(|_| TokenError::Malformed)?;
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
    });
    Credential {
        certificate: peer.and_then(|p| p.certificate.clone()),
        handshake_time: peer.map_or(now, |p| now - p.established.elapsed()),
        source: peer.map(|p| p.source.ip()),
        token,
        proof: None,
    }
}
