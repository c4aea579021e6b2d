//! Postgres (placeholder until it lands)
