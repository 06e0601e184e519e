//! All rows of one kind and the keys of the unreadable ones, for code that draws a conclusion from a missing row.

use std::collections::BTreeSet;

/// The result of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows<T> {
    /// The rows that can be read.
    pub rows: Vec<T>,
    /// Sort keys of the rows that exist but cannot be read, such as `member#manager#i-0abc`.
    pub unreadable: BTreeSet<String>,
}

impl<T> Rows<T> {
    /// Whether a row of this instance cannot be read: its content may contradict what the other rows show.
    #[must_use]
    pub fn hides(&self, instance_id: &str) -> bool {
        self.unreadable.iter().any(|key| key.rsplit('#').next() == Some(instance_id))
    }
}

impl<T> Default for Rows<T> {
    fn default() -> Self {
        Self { rows: Vec::new(), unreadable: BTreeSet::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_cannot_be_read_is_its_instances_alone() {
        for key in ["departure#i-1", "attempt#i-1", "member#manager#i-1"] {
            let rows = Rows::<()> { unreadable: [key.to_owned()].into(), ..Rows::default() };
            assert!(rows.hides("i-1") && !rows.hides("i-12") && !rows.hides("1"), "{key}");
        }
        assert!(!Rows::<()>::default().hides("i-1"));
    }
}
