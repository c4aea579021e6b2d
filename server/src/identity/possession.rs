//! What a caller proved to possess: the key of its client certificate, by the handshake,
//! or a key whose proof came with the call (DPoP, RFC 9449).

use super::peer::PeerCertificate;
use super::public_key::PublicKey;

/// What was proved for one call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Possession<'a> {
    /// The key of the connection's client certificate.
    Certificate(&'a PeerCertificate),
    /// The key of a proof that came with the call.
    Key(&'a ProvenKey),
    /// Nothing: whoever has the token may use it. In the development mode only, where the
    /// server listens on loopback.
    Nothing,
}

/// The key of a verified proof, which is used up.
#[derive(Clone, Debug)]
pub(crate) struct ProvenKey {
    /// The key.
    pub(crate) public_key: PublicKey,
    /// Its JWK thumbprint (RFC 7638): `jkt`.
    pub(crate) thumbprint: [u8; 32],
    /// SHA-256 of the access token that the proof was made for (`ath`).
    pub(crate) token_sha256: Option<[u8; 32]>,
}
