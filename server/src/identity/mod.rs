//! Who is asking: names, certificates, challenges and tokens.
//!
//! Everything here is pure: keys, stored records and `now` come in as
//! arguments, and values or named errors go out.

pub(crate) mod authorities;
pub(crate) mod ca;
pub(crate) mod challenge;
pub(crate) mod continuous;
pub(crate) mod dpop;
pub(crate) mod generation;
pub(crate) mod join_token;
pub(crate) mod lockout;
pub(crate) mod oidc;
pub(crate) mod peer;
pub(crate) mod possession;
pub(crate) mod public_key;
pub(crate) mod registry;
pub(crate) mod spiffe;
pub(crate) mod svid;
pub(crate) mod token;

use aws_lc_rs::digest::{SHA256, digest};

/// SHA-256 of `bytes`.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}
