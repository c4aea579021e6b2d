//! Integration tests, one binary. Each group but `store` and `architecture` drives the real
//! `zta` as a child process.

mod architecture;
mod crash;
mod doors;
mod identity;
mod policy;
mod store;
#[allow(dead_code, reason = "the next groups use the rest")]
mod support;
