//! What happened, provably: every decision, login and administrative act is a leaf of
//! an RFC 6962 Merkle tree, durable before the answer leaves.

pub mod checkpoint;
pub mod export;
pub mod export_verify;
pub mod merkle;
pub mod proof;
pub mod receipt;
pub mod record;
pub mod retention;
pub mod sequencer;
pub mod signer;
pub mod tail;
pub mod throttle;
pub mod tile;
pub mod tiles;
pub mod verify;
mod verify_pruned;
mod verify_roots;
mod verify_tiles;

pub use record::{AppendError, Appended, Record};
pub use sequencer::Audit;
