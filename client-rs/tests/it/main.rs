//! The client against a server in the same process: mutual TLS, scripted answers.

mod client;
mod enroll;
mod guard;
mod outcome;
mod support;
