//! The policy decision server of ZTA, zero trust for AI agents.
//!
//! | module | what it is | may import |
//! |---|---|---|
//! | [`model`] | plain types of the domain | nothing of ours |
//! | [`config`] | every setting | nothing of ours |
//! | [`telemetry`] | logs, traces, metrics | `config`, `model` |
//! | `keys`, [`store`] | signing keys; the databases | `model` |
//! | [`policy`] | what the rules say | `model`, `store` |
//! | `identity`, [`audit`] | who is asking; what happened | `model`, `store`, `keys` |
//! | `replica` | what this replica knows, of one epoch | the capabilities, `store`, `model` |
//! | `pdp` | the one path to a decision | `replica`, the capabilities, `store`, `model` |
//! | `operations` | administrative acts: decide, write, record | `pdp`, `replica`, the capabilities, `store`, `model` |
//! | `api` | front doors: translate, never decide | `operations`, `pdp`, `model`, `config`, `telemetry`; types of the capabilities, `store` and `keys` |
//! | [`app`] | the composition root | everything |
//!
//! Capabilities (`identity`, `policy`, `audit`) never import each other; they meet in
//! `pdp`. `tests/it/architecture.rs` holds this table true.

pub mod app;
pub mod audit;
pub mod config;
pub mod model;
pub mod policy;
pub mod store;
pub mod telemetry;

mod api;
mod identity;
mod keys;
mod operations;
mod pdp;
mod replica;
