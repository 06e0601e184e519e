//! The answers that an observation can lack.

/// The answers that an observation gets. A missing answer is neither yes nor no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    Clear,
    /// Docker does not report whether its swarm has a leader, and the leader's answers are missing, too.
    NoLeader,
    /// Some members' rows cannot be read.
    NoRows,
    /// Auto Scaling does not answer.
    NoList,
}

impl Sight {
    pub const DIM: [Self; 3] = [Self::NoLeader, Self::NoRows, Self::NoList];
}
