//! What was observed of something outside: yes, no, or it cannot be told.

/// A three-valued fact. An error, a time-out and an unreadable answer are [`Fact::CannotTell`], never
/// one of the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Fact {
    Yes,
    No,
    /// Nobody has looked, or no answer came that can be believed.
    #[default]
    CannotTell,
}

impl Fact {
    /// A fact that was read without an error.
    #[must_use]
    pub fn of(is_so: bool) -> Self {
        if is_so { Self::Yes } else { Self::No }
    }
}
