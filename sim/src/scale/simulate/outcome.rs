//! The numbers of one simulated fleet.

use std::time::Duration;

use super::account::Calls;
use super::world::{Fates, Polls};

/// Virtual time of the idle measurement.
pub(super) const IDLE: Duration = Duration::from_secs(1800);

/// What one simulated fleet did.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Outcome {
    pub(super) nodes: usize,
    pub(super) fates: Fates,
    /// Until the last node was Ready, and of the signals also later ones.
    pub(super) at_boot: Calls,
    pub(super) idle: Calls,
    /// The leader's polls while idle, and while nodes leave.
    pub(super) idle_polls: Polls,
    pub(super) leave_polls: Polls,
    /// Shares of the idle time that the leader spends on its work and on node lists.
    pub(super) leader_busy: f64,
    pub(super) leader_lists: f64,
    pub(super) leaving: usize,
    /// When the departures began.
    pub(super) left_at: Duration,
}
