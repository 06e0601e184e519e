//! Work on this host: flushes logs and frees space on Docker's disk.

pub mod flush;
pub mod janitor;
