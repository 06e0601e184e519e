//! The local cloud: the services that skep calls, on one machine, without an AWS account.
//!
//! Each room imports only from the rooms below it; a test of skep compares every path with this table. The binary's
//! `cli` is above all of them.
//!
//! | room | content |
//! |---|---|
//! | [`chaos`] | random failures by seed, judged from outside |
//! | [`scale`] | a thousand instances at once: real skep processes, and engines in one process |
//! | [`bench`] | measurements of skep's cost |
//! | [`demo`] | boot, scale-in, a lost leader and a spot notice in a minute |
//! | [`witness`] | observation of a fleet from outside, for the demo and the campaign |
//! | [`stage`] | shared parts of the commands that run a fleet: the binary, the output, the fleet's end |
//! | [`booted`] | instances that boot from an image that Packer has built |
//! | [`fleet`] | the instances: a network namespace, a real dockerd and a real skep each |
//! | [`cloud`] | the AWS services and the instance metadata, over their own wire protocols |
//! | [`machines`] | the interface between the cloud and both kinds of instance |

pub mod bench;
pub mod booted;
pub mod chaos;
pub mod cloud;
pub mod demo;
pub mod fleet;
pub mod machines;
pub mod scale;
pub mod stage;
pub mod witness;
