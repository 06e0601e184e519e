//! What a look may fail to see.

/// What a look sees of what is there. Each answer that does not come is neither yes nor no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    Clear,
    /// Docker does not say whether its swarm has a leader, nor what that one would say.
    NoLeader,
    /// There are members' rows that cannot be read.
    NoRows,
    /// Auto Scaling does not answer.
    NoList,
}

impl Sight {
    pub const DIM: [Self; 3] = [Self::NoLeader, Self::NoRows, Self::NoList];
}
