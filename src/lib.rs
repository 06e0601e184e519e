//! skep gives every EC2 instance its place in a Docker Swarm, and takes it out again with nothing
//! lost. Dependencies point one way, from the story to plain types:
//!
//! | room | what lives there |
//! |---|---|
//! | [`agent`] | the story: boot → serve → leave, on one page |
//! | [`boot`], [`care`], [`leave`], [`manager`], [`recover`], [`watch`] | the phases: observe → decide → act |
//! | [`flush`], [`health`], [`control`], [`announce`], [`events`], [`janitor`], [`demotion`], [`peers`] | what the phases use on this host and towards AWS |
//! | [`swarm`], [`ledger`], [`secrets`], [`imds`], [`autoscaling`], [`cloudformation`], [`ecr`], [`systemd`] | the outside world |
//! | [`config`], [`cli`], [`doctor`], [`ui`] | what the operator says and sees |
//! | [`instance`], [`fact`], [`labels`], [`flushed`], [`state`], [`story`], [`metrics`], [`node`], [`retry`], [`child`], [`disk`], [`errors`], [`prometheus`], `words` | plain types and values |

pub mod agent;
pub mod announce;
pub mod autoscaling;
pub mod aws;
pub mod boot;
pub mod care;
pub mod child;
pub mod cli;
pub mod cloudformation;
pub mod config;
pub mod control;
pub mod demotion;
pub mod disk;
pub mod doctor;
pub mod ecr;
pub mod errors;
pub mod events;
pub mod fact;
pub mod flush;
pub mod flushed;
#[cfg(test)]
mod fuzz;
pub mod health;
pub mod imds;
pub mod instance;
pub mod janitor;
pub mod labels;
pub mod leave;
pub mod ledger;
pub mod logging;
pub mod manager;
pub mod metrics;
pub mod node;
pub mod peers;
pub mod prometheus;
pub mod recover;
pub mod retry;
pub mod secrets;
pub mod state;
pub mod story;
pub mod swarm;
pub mod systemd;
pub mod ui;
pub mod watch;
mod words;
