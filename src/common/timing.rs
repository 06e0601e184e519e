//! The times on which more than one part of skep rests, each with what it is derived from. Nodes that run different
//! parts must agree on them. A time that one module alone uses is a constant of that module.

use std::time::Duration;

/// Maximum age of a manager's row while its skep serves.
pub const MANAGER_ROW_EVERY: Duration = Duration::from_secs(60);

/// Age up to which a manager's row proves that its writer was alive a moment ago, and that what it says of the leader
/// still holds: one write may fail, the next may be late, and Docker, which is asked before each write, may hang for
/// half a minute.
pub const MANAGER_ROW_IS_FRESH: Duration = after(2 * MANAGER_ROW_EVERY.as_secs(), 30);

/// Maximum age of a worker's row while its skep serves. Changes are written at once.
pub const WORKER_ROW_EVERY: Duration = Duration::from_secs(6 * 3600);

/// Age at which managers may delete a manager's row without a group, whose node is not on the list: Auto Scaling's answer
/// is no evidence there, and a node that was removed by hand learns that from its row.
pub const UNGROUPED_ROW_KEPT: Duration = after(8 * WORKER_ROW_EVERY.as_secs(), 0);

/// Longest time without a leader that can be an election: an election takes 10 to 14 s, and Docker does not answer for
/// up to 30 s meanwhile (`docs/decisions/lost-quorum.md`).
pub const ELECTION: Duration = Duration::from_secs(30);

/// Timeout for an answer of which a missing leader must be told from a silent Docker: longer than [`ELECTION`].
pub const NO_LEADER_WITHIN: Duration = after(ELECTION.as_secs(), 5);

/// Timeout for a leader's answer where no answer is no evidence: a leader answers within milliseconds.
pub const LEADER_WITHIN: Duration = Duration::from_secs(5);

/// Time after which a join is over, whatever has become of it: Docker's call ends within 40 s, and its work in the
/// background within another 30 s.
pub const JOIN_IS_OVER: Duration = Duration::from_secs(90);

/// Time after which a skep that lives must have recorded what followed its join: Ready, a request to leave, or an end.
pub const JOIN_IS_RECORDED: Duration = after(JOIN_IS_OVER.as_secs(), 30);

/// Time after which a departing node tries a failed action again.
pub const LEAVE_RETRY: Duration = Duration::from_secs(30);

/// Time after an outage of the ledger in which a departing node has written what it could not write before: a round
/// that fails takes it 15 s.
pub const LEAVE_IS_RECORDED: Duration = after(LEAVE_RETRY.as_secs(), 15);

const fn after(seconds: u64, margin: u64) -> Duration {
    Duration::from_secs(seconds + margin)
}

/// Interval at which a broken worker repeats its request to be replaced, at the longest: managers follow a request only
/// while it is repeated.
pub const REPLACEMENT_ASKED_EVERY: Duration = Duration::from_secs(30);

/// Share of a departure's time that is kept for demoting and leaving, beside `leave.flush_share`: managers let a node wait
/// only in the time before.
pub const LEAVE_SHARE: f64 = 0.1;
