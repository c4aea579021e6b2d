//! Integration tests, one binary. Each group but `store` and `architecture` drives the real
//! `zta` as a child process.

mod architecture;
mod audit;
mod crash;
mod doors;
mod identity;
mod operations;
mod policy;
mod store;
mod support;
