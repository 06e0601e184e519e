//! Stores the record on disk. Without it every image counts as in use, and stays a while longer.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::decide::Record;
use crate::common::disk;

const FILE: &str = "images.json";

/// Seconds since 1970 by image id.
type Written = std::collections::BTreeMap<String, i64>;

/// Returns the stored record; empty if it cannot be read.
#[must_use]
pub fn load(state_dir: &Path) -> Record {
    let read = fs::read(path(state_dir)).unwrap_or_default();
    let written: Written = serde_json::from_slice(&read).unwrap_or_default();
    let time = |seconds| time::OffsetDateTime::from_unix_timestamp(seconds).ok();
    written.into_iter().filter_map(|(id, seconds)| Some((id, time(seconds)?))).collect()
}

/// Replaces the stored record, as a whole or not at all.
///
/// # Errors
/// When the file cannot be written, as on a full disk.
pub fn save(state_dir: &Path, record: &Record) -> io::Result<()> {
    let written: Written =
        record.iter().map(|(id, at)| (id.clone(), at.unix_timestamp())).collect();
    disk::replace(&path(state_dir), &serde_json::to_vec(&written)?)
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join(FILE)
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn it_survives_a_restart_and_a_record_that_makes_no_sense() {
        let dir = tempfile::tempdir().unwrap();
        let record = Record::from([("sha256:1".to_owned(), datetime!(2026-11-02 12:00 UTC))]);
        assert_eq!(load(dir.path()), Record::new());
        save(dir.path(), &record).unwrap();
        assert_eq!(load(dir.path()), record);
        fs::write(path(dir.path()), "{\"sha256:1\": ").unwrap();
        assert_eq!(load(dir.path()), Record::new());
    }
}
