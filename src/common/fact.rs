//! A fact with three values: yes, no, cannot tell.

/// An observed fact. An error, a timeout, an empty or an unreadable answer is neither yes nor no.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Fact {
    /// An answer confirms the fact.
    Yes,
    /// An answer denies the fact.
    No,
    /// skep ends, removes and completes nothing on this value; it waits for another answer.
    #[default]
    CannotTell,
}

impl Fact {
    /// Whether an answer confirms the fact; false on [`Fact::CannotTell`].
    #[must_use]
    pub fn is_yes(self) -> bool {
        self == Self::Yes
    }

    /// Whether an answer denies the fact; false on [`Fact::CannotTell`], so this is not the opposite of `is_yes`.
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
