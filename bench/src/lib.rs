//! Whole-system measurements of ZTA: a no-op gRPC server of ours and the real one, both
//! over mutual TLS, driven by one generator that reads every answer.
//!
//! - [`measure`] compares them in one run (`zta-bench`, `make bench`);
//! - [`crash`] kills the real one under load and looks for what it had answered.

pub mod crash;
pub mod database;
pub mod device;
pub mod load;
pub mod measure;
pub mod noop;
pub mod report;
pub mod requests;
pub mod server;
pub mod setup;

/// Whatever ends a run, as a sentence.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
/// The outcome of a step of a run.
pub type Result<T> = std::result::Result<T, Error>;
