//! A fact with three values: yes, no, cannot tell.

/// An observed fact. An error, a timeout, an empty or an unreadable answer is neither yes nor no.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Fact {
    Yes,
    No,
    /// skep ends, removes and completes nothing on this value; it waits for another answer.
    #[default]
    CannotTell,
}

impl Fact {
    #[must_use]
    pub fn is_yes(self) -> bool {
        self == Self::Yes
    }

    #[must_use]
    pub fn is_no(self) -> bool {
        self == Self::No
    }
}

impl From<bool> for Fact {
    fn from(answer: bool) -> Self {
        if answer { Self::Yes } else { Self::No }
    }
}
