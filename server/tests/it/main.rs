//! Integration tests, one binary. Each group but `store` and `architecture` drives the real
//! `zta` as a child process.

mod crash;
mod doors;
mod store;
mod support;
