//! Running it: what refuses to start, what happens when the store is away, how it stops,
//! and several replicas on one database.

mod drain;
mod freshness;
mod http;
mod loading;
mod replicas;
mod start;
mod store_away;
