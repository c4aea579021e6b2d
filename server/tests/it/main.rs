//! Integration tests, one binary.

mod crash;
mod store;
