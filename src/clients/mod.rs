//! The clients of the systems that skep uses, one folder each. A client does not import the code of a phase.

pub mod aws;
pub mod docker;
pub mod imds;
pub mod ledger;
pub mod secrets;
pub mod systemd;
