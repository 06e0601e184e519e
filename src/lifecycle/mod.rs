//! This node: boot, membership, notices, departure, recovery.

pub mod boot;
pub mod leave;
pub mod membership;
pub mod notices;
pub mod recover;
pub mod self_replacement;
pub mod signals;
