//! The proof of possession that comes with a call (DPoP): verified and used up once, before
//! the message is read, and handed on with the request.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Request, header};
use time::OffsetDateTime;

use super::caller::presented;
use super::tls::PeerInfo;
use crate::audit::throttle::network_of;
use crate::identity::dpop::{DpopVerifier, Place, ProvenCall, VerifiedProof};
use crate::identity::possession::{Possession, ProvenKey};
use crate::identity::registry::{AuthenticationError, TokenScheme};
use crate::model::InstanceState;
use crate::pdp::Pdp;

/// Where a call carries its proof.
pub(super) const PROOF: &str = "dpop";
/// Where an answer carries the next nonce.
const NONCE: &str = "dpop-nonce";

/// The RPC of ours that leads to the first certificate.
const ENROLL: &str = "/zta.v1.AgentService/Enroll";
/// The RPC of ours that leads to a certificate after the last one has ended.
const RECOVER: &str = "/zta.v1.AgentService/Recover";
/// The RPC of ours that leads to a token, for those whose TLS ends before this server.
const AUTHENTICATE: &str = "/zta.v1.AuthenticationService/Authenticate";

/// What is known of a call before its message is read.
#[derive(Debug, Default)]
pub(super) struct Admitted {
    /// The key that was proved.
    pub(super) key: Option<Arc<ProvenKey>>,
    /// The nonce that the caller is using is old.
    pub(super) nonce_is_old: bool,
}

/// Whether a call may go on to be authenticated: it has a client certificate, or it comes
/// with a token and a proof of the token's key, or it is one that leads to either.
///
/// # Errors
/// Who can be nobody.
pub(super) fn admit<R>(
    pdp: &Pdp,
    path: &str,
    request: &Request<R>,
    now: OffsetDateTime,
) -> Result<Admitted, AuthenticationError> {
    let headers = request.headers();
    let peer = request.extensions().get::<PeerInfo>();
    let certified = peer.is_some_and(|p| p.certificate.is_some());
    if !headers.contains_key(PROOF) {
        let token = presented(headers).and_then(Result::ok);
        let unbound = pdp.tokens.takes_unbound();
        return match token {
            _ if certified || path == ENROLL => Ok(Admitted::default()),
            Some(token) if token.scheme == TokenScheme::Dpop => {
                Err(AuthenticationError::ProofMissing)
            }
            Some(token) if unbound => {
                pdp.tokens.verify(&token.text, &Possession::Nothing, now)?;
                Ok(Admitted::default())
            }
            None if unbound && path == AUTHENTICATE => Ok(Admitted::default()),
            _ => Err(AuthenticationError::CredentialMissing),
        };
    }
    let token = presented(headers).transpose()?;
    let call = ProvenCall {
        path,
        authority: authority(request),
        token: token.as_ref().map(|token| &*token.text),
    };
    let proofs = headers.get_all(PROOF).iter().map(HeaderValue::as_bytes);
    let proof = pdp.proofs.verify(proofs, &call, now)?;
    // The proof of a token that is none would only fill the memory.
    let leads_on = match &token {
        Some(token) if token.scheme == TokenScheme::Dpop => {
            let possession = Possession::Key(proof.key());
            pdp.tokens.verify(&token.text, &possession, now)?;
            true
        }
        Some(_) => false,
        None => [AUTHENTICATE, ENROLL, RECOVER].contains(&path),
    };
    if !leads_on && !certified {
        return Err(AuthenticationError::CredentialMissing);
    }
    let place = match &token {
        Some(_) => Place::Enrolled,
        None => place(pdp, &proof, peer),
    };
    Ok(Admitted {
        nonce_is_old: proof.nonce_is_old(now),
        key: Some(Arc::new(pdp.proofs.spend(proof, place, now)?)),
    })
}

/// Whose places a proof takes: those of enrolled keys, which strangers cannot make, or those
/// of its address.
fn place(pdp: &Pdp, proof: &VerifiedProof, peer: Option<&PeerInfo>) -> Place {
    let key_sha256 = proof.key().public_key.sha256();
    let state = pdp.replica.current();
    let enrolled = state.registry.instance(&key_sha256);
    match enrolled.is_some_and(|key| key.state == InstanceState::Active) {
        true => Place::Enrolled,
        false => Place::Stranger(peer.map(|peer| network_of(peer.source.ip()))),
    }
}

/// Whether a call has to do with proofs of possession: its refusal brings a nonce.
pub(super) fn concerns(headers: &HeaderMap) -> bool {
    let by_token = || matches!(presented(headers), Some(Ok(t)) if t.scheme == TokenScheme::Dpop);
    headers.contains_key(PROOF) || by_token()
}

/// Puts a fresh nonce on an answer.
pub(super) fn add_nonce(headers: &mut HeaderMap, proofs: &DpopVerifier, now: OffsetDateTime) {
    if let Ok(nonce) = HeaderValue::from_str(&proofs.nonce(now)) {
        headers.insert(NONCE, nonce);
    }
}

/// The host, and port, that a call was sent to.
fn authority<R>(request: &Request<R>) -> Option<&str> {
    let named = request.uri().authority().map(http::uri::Authority::as_str);
    let host = || request.headers().get(header::HOST)?.to_str().ok();
    named.or_else(host)
}
