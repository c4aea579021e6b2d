//! ZTA server.
pub mod audit;
pub mod model;
pub mod policy;
pub mod store;

#[allow(dead_code, unused_imports, reason = "`app` wires it next")]
mod api;
#[allow(dead_code, unused_imports, reason = "`app` wires it next")]
mod identity;
#[allow(dead_code, unused_imports, reason = "`app` wires it next")]
mod keys;
