//! Integration tests, one binary. Each group but `store` and `architecture` drives the real
//! `zta` as a child process.

#![allow(
    clippy::too_many_lines,
    clippy::print_stderr,
    reason = "a scenario reads best in one piece; a skipped corpus and a dead server say so aloud"
)]

mod architecture;
mod audit;
mod crash;
mod doors;
mod engine;
mod entities;
mod identity;
mod operations;
mod policy;
mod store;
mod support;
