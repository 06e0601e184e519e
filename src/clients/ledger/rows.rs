//! All rows of one kind, and which cannot be read: for those who conclude something from a row that is not
//! there.

use std::collections::BTreeSet;

/// What a query has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows<T> {
    pub rows: Vec<T>,
    /// Sort keys of rows that are there and cannot be read, such as `member#manager#i-0abc`.
    pub unreadable: BTreeSet<String>,
}

impl<T> Rows<T> {
    /// A row of this instance cannot be read: whether it says anything against what follows from the others,
    /// nobody can tell.
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
