//! Reads files that an operator has configured. A file that never answers must not delay skep.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use nix::fcntl::OFlag;
use tokio::sync::oneshot;

/// Reading a file on a local disk takes milliseconds; on a mount whose server is gone, it never ends.
pub const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens a regular file for reading, through links. Refuses a FIFO or a device without waiting for it.
///
/// # Errors
/// Errors of the file system; `InvalidInput` for anything but a regular file.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let refused = || io::Error::new(io::ErrorKind::InvalidInput, "not a regular file");
    // Checked before the file is opened, because opening a device can have effects.
    if !std::fs::metadata(path)?.is_file() {
        return Err(refused());
    }
    let flags = (OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(refused()) }
}

/// Runs blocking work on its own thread for at most `limit`. A thread that hangs is abandoned. The runtime's own
/// blocking threads are not used, because the end of the process would wait for them.
///
/// # Errors
/// When the work is not done in time, or its thread cannot be started.
pub async fn on_a_thread<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    let (done, result) = oneshot::channel();
    let work = move || {
        // The caller may have stopped waiting.
        let _ = done.send(work());
    };
    std::thread::Builder::new()
        .name("flush-file".to_owned())
        .spawn(work)
        .map_err(|error| format!("could not start a thread: {error}"))?;
    match tokio::time::timeout(limit, result).await {
        Ok(Ok(result)) => Ok(result),
        Ok(Err(_)) => Err("the thread that reads the file has failed".to_owned()),
        Err(_) => Err(format!("not read within {limit:?}")),
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::stat::Mode;

    use super::*;

    #[tokio::test]
    async fn only_a_regular_file_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        let (fifo, file) = (dir.path().join("fifo"), dir.path().join("file"));
        nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        std::fs::write(&file, "text").unwrap();
        let open = |path: &Path| {
            let path = path.to_owned();
            on_a_thread(READ_TIMEOUT, move || {
                open_regular(&path).map_err(|error| error.to_string())
            })
        };
        for wrong in [&fifo, dir.path(), Path::new("/dev/null")] {
            assert_eq!(open(wrong).await.unwrap().unwrap_err(), "not a regular file");
        }
        assert!(open(&file).await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn what_hangs_is_left_behind() {
        let (release, held) = std::sync::mpsc::channel::<()>();
        let hangs = on_a_thread(Duration::from_millis(10), move || held.recv().is_ok());
        assert_eq!(hangs.await, Err("not read within 10ms".to_owned()));
        drop(release);
    }
}
