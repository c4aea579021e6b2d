//! ZTA server.
pub mod model;
pub mod store;
