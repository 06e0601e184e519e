//! Syncs the journal (`journalctl --sync`): everything that was written to it is on the disk.
//!
//! Only root can request this. skep runs as its own user and uses a socket of its package: each connection starts
//! `skep-journal-sync@.service`, and returns `synced` or the problem.

use std::fmt::Display;
use std::io::{Error, ErrorKind};
use std::path::Path;
use std::process::Stdio;

use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use crate::common::flush_result::FlushResult;
use crate::common::process;

/// The address in `systemd/skep-journal-sync.socket`.
const SOCKET: &str = "/run/skep-journal-sync.sock";
/// In bytes: a word, or a line of `journalctl`.
const LONGEST_ANSWER: u64 = 1000;

pub async fn sync() -> Result<FlushResult, String> {
    if nix::unistd::geteuid().is_root() {
        by_journalctl().await
    } else {
        by_socket(SOCKET.as_ref()).await
    }
}

async fn by_journalctl() -> Result<FlushResult, String> {
    let status = process::command("journalctl")
        .arg("--sync")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .await;
    match status {
        Ok(status) if status.success() => Ok(FlushResult::Done),
        // No journald on this host, or none that skep may use.
        Ok(_) => Ok(FlushResult::NotHere),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(FlushResult::NotHere),
        Err(error) => Err(format!("journalctl --sync: {error}")),
    }
}

async fn by_socket(socket: &Path) -> Result<FlushResult, String> {
    let failed = |problem: &dyn Display| format!("{}: {problem}", socket.display());
    let stream = match UnixStream::connect(socket).await {
        Ok(stream) => stream,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(FlushResult::NotHere),
        Err(error) => return Err(failed(&error)),
    };
    let mut answer = String::new();
    let read = stream.take(LONGEST_ANSWER).read_to_string(&mut answer).await;
    read.map_err(|error: Error| failed(&error))?;
    match answer.trim() {
        "synced" => Ok(FlushResult::Done),
        // The service could not start.
        "" => Err(failed(&"no answer")),
        complaint => Err(failed(&complaint)),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::UnixListener;

    use super::*;

    async fn answered(answer: &'static str) -> Result<FlushResult, String> {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("sync.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let service = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
        };
        tokio::join!(by_socket(&socket), service).0
    }

    #[tokio::test]
    async fn only_one_word_means_synced() {
        assert_eq!(answered("synced\n").await.unwrap(), FlushResult::Done);
        let error = answered("Failed to sync: Connection refused\n").await.unwrap_err();
        assert!(error.ends_with("Failed to sync: Connection refused"), "{error}");
        assert!(answered("").await.unwrap_err().ends_with("no answer"));
    }

    #[tokio::test]
    async fn without_the_socket_there_is_nothing_to_sync_by() {
        assert_eq!(by_socket("/nonexistent/x.sock".as_ref()).await.unwrap(), FlushResult::NotHere);
    }
}
