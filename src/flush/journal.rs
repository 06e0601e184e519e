//! `journalctl --sync`: what was written to the journal is on the disk.

use std::io::{Error, ErrorKind, Result};
use std::process::Stdio;

use super::Flushed;
use crate::child;

pub async fn sync() -> Result<Flushed> {
    let status = child::command("journalctl")
        .arg("--sync")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .await;
    match status {
        Ok(status) if status.success() => Ok(Flushed::Done),
        // No journald on this host, or none that we may ask.
        Ok(_) => Ok(Flushed::NotHere),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Flushed::NotHere),
        Err(error) => Err(Error::new(error.kind(), format!("journalctl --sync: {error}"))),
    }
}
