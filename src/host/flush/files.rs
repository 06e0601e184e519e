//! Reading of files that an operator has named: one that never answers must not hold skep up.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use nix::fcntl::OFlag;
use tokio::sync::oneshot;

/// A file on a local disk is read within milliseconds; one on a mount whose server is gone, never.
pub const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens a regular file for reading, through links. A FIFO or a device is refused, and not waited for.
///
/// # Errors
/// As of the file system; `InvalidInput` for what is no regular file.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let refused = || io::Error::new(io::ErrorKind::InvalidInput, "not a regular file");
    // Before it is opened, for opening a device may do something.
    if !std::fs::metadata(path)?.is_file() {
        return Err(refused());
    }
    let flags = (OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(refused()) }
}

/// Runs blocking work on a thread of its own for no longer than `limit`. A thread that hangs is left
/// behind: the runtime's own blocking threads would be waited for at the end of the process.
///
/// # Errors
/// When the work is not done in time, or there is no thread for it.
pub async fn on_a_thread<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    let (done, result) = oneshot::channel();
    let work = move || {
        // Nobody may be waiting any more.
        let _ = done.send(work());
    };
    std::thread::Builder::new()
        .name("flush-file".to_owned())
        .spawn(work)
        .map_err(|error| format!("no thread: {error}"))?;
    match tokio::time::timeout(limit, result).await {
        Ok(Ok(result)) => Ok(result),
        Ok(Err(_)) => Err("the reading thread has failed".to_owned()),
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
