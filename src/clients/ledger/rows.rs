//! All rows of one kind and the keys of those that are missing from them, for code that draws a conclusion from a missing
//! row.

use std::collections::BTreeSet;

/// The result of a read of many rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows<T> {
    /// The rows that can be read.
    pub rows: Vec<T>,
    /// Sort keys of the rows that exist but cannot be read, such as `member#manager#i-0abc`.
    pub unreadable: BTreeSet<String>,
    /// Sort keys that DynamoDB did not read this time; they may have a row.
    pub unanswered: BTreeSet<String>,
}

impl<T> Rows<T> {
    /// Whether a row of this instance may exist and is not among `rows`: its content may contradict what they show.
    #[must_use]
    pub fn hides(&self, instance_id: &str) -> bool {
        let mut keys = self.unreadable.iter().chain(&self.unanswered);
        keys.any(|key| key.rsplit('#').next() == Some(instance_id))
    }

    /// Adds the rows of another read.
    pub fn extend(&mut self, more: Self) {
        self.rows.extend(more.rows);
        self.unreadable.extend(more.unreadable);
        self.unanswered.extend(more.unanswered);
    }
}

impl<T> Default for Rows<T> {
    fn default() -> Self {
        Self { rows: Vec::new(), unreadable: BTreeSet::new(), unanswered: BTreeSet::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_cannot_be_read_is_its_instances_alone() {
        for key in ["departure#i-1", "attempt#i-1", "member#manager#i-1"] {
            let key: BTreeSet<String> = [key.to_owned()].into();
            let unreadable = Rows::<()> { unreadable: key.clone(), ..Rows::default() };
            let unanswered = Rows::<()> { unanswered: key, ..Rows::default() };
            for rows in [unreadable, unanswered] {
                assert!(rows.hides("i-1") && !rows.hides("i-12") && !rows.hides("1"), "{rows:?}");
            }
        }
        assert!(!Rows::<()>::default().hides("i-1"));
    }
}
