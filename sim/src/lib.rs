//! The local cloud: everything that skep talks to, on one machine, without an account.
//!
//! - [`cloud`]: the AWS services and the instance metadata, over their own wire protocols.
//! - [`fleet`]: the instances: a network namespace, a real dockerd and a real skep each.
//! - [`booted`]: instances that really boot, from an image that Packer has built.
//! - [`machines`]: the seam between the cloud and either.
//! - [`demo`]: what both are for, shown in a minute.
//! - [`bench`]: what skep costs, measured on them.
//! - [`chaos`]: random trouble by seed, judged from outside.
//! - [`witness`]: what is seen of a fleet from outside, for the demo and the campaign.
//! - [`stage`]: what every command that runs a fleet needs.

pub mod bench;
pub mod booted;
pub mod chaos;
pub mod cloud;
pub mod demo;
pub mod fleet;
pub mod machines;
pub mod stage;
pub mod witness;
