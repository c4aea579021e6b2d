//! Whole-system measurements of ZTA, driven by generators that read every answer.
//!
//! A run ([`measure`], `zta-bench`, `make bench`) has parts; `--only PART` picks some.
//!
//! | part | servers | what is measured |
//! |---|---|---|
//! | `throughput` | no-op, ours on SQLite, ours on Postgres | requests a second in a closed loop and their ratio to the no-op server; latency in an open loop ([`openloop`]) at half of what SQLite just did; batches of 128 ([`batch`]) |
//! | `policies` | ours with 10 and with 100,000 policies ([`policies`]) | throughput of both; one changed policy from Apply to the first decision by it; a start on the large store; memory |
//! | `decide` | none: the library, in this process ([`inprocess`]) | one evaluation at 100 and at 100,000 policies, and where none of them is scoped |
//! | `entities` | ours with 1,000,000 entities ([`entities`]) | putting, loading, memory, throughput of requests that read attributes and hierarchy |
//! | `identity` | [`noop`]; ours over mutual TLS and over proofs of possession | logins; the cost of each kind of proof; how soon a revocation on one replica bites on another one under load |
//! | `follow` | ours under load, on SQLite; two replicas on Postgres | from the answer of an Authorize to the arrival of its event at a watcher of everything, on the same and on another replica |
//! | `append` | none: the writer of the log in this process; then ours | events a second on each store, by one replica and by two; how long one takes to be durable; decisions with tiles and signing beside decisions without |
//! | `audit` | ours with 1,000,000 records | receipts of single records (a call that is decided and recorded, the proof from tiles, verified by the client); an export of all, and its verification |
//! | `compare` | ours and Cerbos, where that is installed | both with the same workload |
//!
//! What holds for every part: the generator runs on the same cores as the servers; both
//! sides of a ratio are driven in alternation, round by round, and the median over the
//! rounds counts; everything is switched on (mutual TLS, authentication of every call, a
//! durable record before each answer); a wrong answer ends the run; the log must verify
//! afterwards. Inputs are seeded. [`goals`] holds what the figures shall be.
//!
//! [`crash`] is something else: it kills the real server under load and looks for what it
//! had answered.

pub mod batch;
pub mod crash;
pub mod database;
pub mod device;
pub mod entities;
pub mod goals;
pub mod inprocess;
pub mod load;
pub mod measure;
pub mod memory;
pub mod noop;
pub mod openloop;
mod outcomes;
pub mod policies;
pub mod random;
pub mod report;
pub mod requests;
pub mod server;
pub mod setup;
pub mod workload;

mod append;
mod audit;
mod compare;
mod decide;
mod follow;
mod identity;
mod lifecycle;
mod scale;
mod throughput;

/// Whatever ends a run, as a sentence.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
/// The outcome of a step of a run.
pub type Result<T> = std::result::Result<T, Error>;
