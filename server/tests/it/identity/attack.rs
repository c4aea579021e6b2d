//! What an independent attack on identity found, one file for each hole.

mod lockstep;
mod relay;
mod revoked;
mod scope;
mod strangers;
mod stripped;
