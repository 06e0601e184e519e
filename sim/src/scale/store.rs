//! Where the join tokens are.

use clap::ValueEnum;

/// `tokens.store`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Store {
    Dynamodb,
    Ssm,
}

impl Store {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Dynamodb => "dynamodb",
            Self::Ssm => "ssm",
        }
    }

    /// The target for the time until all are Ready, in seconds: SSM serves 40 reads per second.
    pub(super) fn ready_within(self) -> f64 {
        match self {
            Self::Dynamodb => 30.0,
            Self::Ssm => 60.0,
        }
    }
}
