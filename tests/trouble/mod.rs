//! Trouble around a node: bad input, metadata and AWS that fail, secrets that must stay secret.

mod adversary;
mod aws;
mod bad_input;
mod campaign;
mod doctor;
mod fleet_findings;
mod ledger_rows;
mod metadata;
mod secrets_stay_secret;
mod signals;
