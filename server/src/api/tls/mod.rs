//! The front door's lock: TLS 1.3 with optional client certificates.
//!
//! gRPC and plain HTTP share one port, and enrolment has to work before a client
//! has a certificate; so a certificate is optional here and required by each RPC
//! that needs it. One that is presented must be good, or there is no connection.
//! What the handshake proved is not proof for the life of the connection: expiry,
//! revocation and isolation are looked at again on every RPC.
//!
//! [`config`] builds the TLS configuration, [`acceptor`] turns sockets into
//! connections, [`connection`] is what the server reads requests from.

pub(crate) mod acceptor;
pub(crate) mod config;
pub(crate) mod connection;
mod strangers;

pub(crate) use acceptor::{Acceptor, FailedHandshake, Incoming, Limits};
pub(crate) use config::{TlsConfigError, TlsMaterial, TlsReload};
pub(crate) use connection::PeerInfo;

#[cfg(test)]
mod served_tests;
#[cfg(test)]
mod tests;
