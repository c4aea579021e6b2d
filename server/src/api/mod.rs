//! The front doors: they translate, and never decide.

pub(crate) mod caller;
pub(crate) mod gate;
pub(crate) mod grpc;
pub(crate) mod http;
mod log;
pub(crate) mod observe;
mod proof;
pub(crate) mod server;
pub(crate) mod status;
pub(crate) mod tls;
