//! Work on this host: flushing logs, freeing Docker's disk.

pub mod flush;
pub mod janitor;
