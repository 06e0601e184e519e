//! The local cloud: everything that skep talks to, on one machine, without an account.
//!
//! Each room imports only from the rooms below it; a test of skep's holds every path against this table. The binary's
//! `cli` stands above them all.
//!
//! | room | what it holds |
//! |---|---|
//! | [`chaos`] | random trouble by seed, judged from outside |
//! | [`bench`] | what skep costs, measured |
//! | [`demo`] | boot, scale-in, a lost leader and a spot notice in a minute |
//! | [`witness`] | what is seen of a fleet from outside, for the demo and the campaign |
//! | [`stage`] | what every command that runs a fleet needs |
//! | [`booted`] | instances that really boot, from an image that Packer has built |
//! | [`fleet`] | the instances: a network namespace, a real dockerd and a real skep each |
//! | [`cloud`] | the AWS services and the instance metadata, over their own wire protocols |
//! | [`machines`] | the seam between the cloud and either kind of instance |

pub mod bench;
pub mod booted;
pub mod chaos;
pub mod cloud;
pub mod demo;
pub mod fleet;
pub mod machines;
pub mod stage;
pub mod witness;
