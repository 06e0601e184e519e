//! The outside world, one folder each. A client imports no phase.

pub mod aws;
pub mod docker;
pub mod imds;
pub mod ledger;
pub mod secrets;
pub mod systemd;
