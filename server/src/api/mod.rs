//! The front doors: they translate, and never decide.

pub(crate) mod tls;
