//! This node: boot, adoption, membership, notices, departure, recovery.

pub mod adopt;
pub mod boot;
pub mod leave;
pub mod membership;
pub mod notices;
pub mod recover;
pub mod self_replacement;
pub mod signals;
