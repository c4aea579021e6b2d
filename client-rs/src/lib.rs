//! Client and guard (PEP) for ZTA, zero trust for AI agents.
//!
//! Every tool call of an agent is decided by a server, under an identity that the agent
//! cannot forge, and is on record before it happens. This crate is what an agent written
//! in Rust needs for that:
//!
//! 1. [`enroll()`] exchanges a join token for an identity: a credential folder with a key
//!    that never leaves it.
//! 2. [`Client`] calls the server with that identity over mutual TLS and renews its
//!    certificate by itself.
//! 3. [`Guard`] stands before a tool and lets it run only when the server allowed this
//!    very call.
//!
//! ```no_run
//! use zta_client::{Client, Credential, Guard};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::new(Credential::load("identities/research")?)?;
//! let guard = Guard::new(client).session("run-7");
//!
//! let arguments = serde_json::json!({"query": "zero trust"});
//! match guard.run("web_search", &arguments, || async { "results" }).await {
//!     Ok(results) => println!("{results}"),
//!     Err(denied) => println!("{denied}"), // the tool did not run; tell the model why
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # What fails closed
//! [`Guard::run`] runs the function only after an explicit allow whose obligations were
//! all carried out. No connection, no answer in time, an unknown effect, an error of any
//! kind: the function does not run.
//!
//! # What becomes of calls
//! [`Guard::run`] and [`Guard::try_run`] tell the server in the background how each call
//! ended, without its result; [`Guard::without_outcomes`] turns that off. Call
//! [`Guard::flush_outcomes`] before the process ends.
//!
//! # Arguments
//! The digest sent with each call binds the decision to it; see [`arguments`]. A
//! [`serde_json::Value`] will do. Where integers beyond 64 bits matter, pass the JSON text
//! as it came from the model.
//!
//! # What is on record
//! [`LogKey`] verifies receipts of the server's log without the server, and [`LogView`] keeps
//! the last checkpoint that was seen, so that a log that was rewritten is found; see [`log`].
//!
//! [`Client::watch_events`] follows the log as it grows.
//!
//! # Everything else
//! The generated clients of all services are at hand over the same connection:
//! [`Client::agents`], [`Client::policies`], [`Client::audit`],
//! [`Client::authorization`], [`Client::authentication`]. Turn their
//! [`tonic::Status`] into an [`Error`] to read its reason:
//!
//! ```no_run
//! # async fn example(client: zta_client::Client) {
//! use zta_client::{Error, v1};
//!
//! let request = v1::RegisterRequest { name: "research".into(), ..Default::default() };
//! if let Err(status) = client.agents().register(request).await {
//!     let error = Error::from(status);
//!     if error.reason() == Some("AGENT_EXISTS") { /* fine */ }
//! }
//! # }
//! ```

mod acting;
pub mod arguments;
mod client;
mod connection;
mod credential;
mod decision;
mod dpop;
mod enroll;
mod error;
mod events;
mod folder;
mod guard;
mod key;
pub mod log;
mod outcome;
mod pinned;
mod proving;
mod renewal;
mod tls;

pub use arguments::Arguments;
pub use client::{Client, ClientBuilder};
pub use connection::Connection;
pub use credential::{Credential, Validity};
pub use decision::{Decision, Denied, Effect};
pub use enroll::enroll;
pub use error::{ArgumentsError, Error, RpcError};
pub use events::EventStream;
pub use guard::Guard;
pub use log::{LogError, LogKey, LogView};
pub use outcome::Outcome;
pub use zta_proto::v1;
