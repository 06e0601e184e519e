//! Waits until systemd-journal-upload has sent everything that was in the journal when the flush began.
//!
//! With `--save-state`, which its unit sets, it writes the cursor of the last entry that the receiver has acknowledged
//! to its state file, as `LAST_CURSOR=` (systemd-journal-upload(8)). A cursor's `i=` numbers the entries of one
//! journald, whose id is `s=`, and `t=` is the wall clock (<https://systemd.io/JOURNAL_EXPORT_FORMATS/>,
//! `sd_journal_get_cursor(3)`); so the difference of two numbers is the number of unsent entries.
//!
//! Only root can read the journal and that file: skep as its own user reads them through `skep-journal-upload.socket`,
//! once a second.

use std::io::ErrorKind;
use std::path::Path;
use std::process::Stdio;

use tokio::io::AsyncRead;
use tokio::net::UnixStream;

use super::journal;
use super::progress::{Progress, Reading};
use crate::common::flush_result::FlushResult;
use crate::common::process::{self, Lines};

/// The address in `systemd/skep-journal-upload.socket`.
const SOCKET: &str = "/run/skep-journal-upload.sock";
/// The same script as in the socket's service: prints the cursor of the journal's last entry, then the state file once
/// a second. The file belongs to the shipper's user, who must not choose what root reads: links are not followed.
const SCRIPT: &str = "journalctl --quiet --lines=1 --output=cat --show-cursor | tail -n 1; \
                      while dd if=/var/lib/systemd/journal-upload/state bs=4k count=1 \
                      iflag=nofollow,nonblock status=none; do sleep 1; done";
const LAST: &str = "-- cursor: ";
const SENT: &str = "LAST_CURSOR=";

pub async fn wait(progress: &Progress) -> Result<FlushResult, String> {
    // Lines on their way to the journal count, too.
    let synced = journal::sync().await;
    proven(synced, sent(progress).await)
}

/// Returns an error where everything is sent, but the journal could not be synced: lines on their way to it may be
/// missing.
fn proven(
    synced: Result<FlushResult, String>,
    sent: Result<FlushResult, String>,
) -> Result<FlushResult, String> {
    match (synced, sent) {
        (Err(problem), Ok(FlushResult::Done)) => {
            Err(format!("journal entries sent, but the journal could not be synced: {problem}"))
        }
        (_, sent) => sent,
    }
}

async fn sent(progress: &Progress) -> Result<FlushResult, String> {
    if nix::unistd::geteuid().is_root() {
        let mut child = process::command("sh")
            .args(["-c", &format!("exec 2>&1; {SCRIPT}")])
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("sh: {error}"))?;
        let Some(stdout) = child.stdout.take() else { return Err("sh: no output".to_owned()) };
        follow(stdout, progress).await
    } else {
        by_socket(SOCKET.as_ref(), progress).await
    }
}

async fn by_socket(socket: &Path, progress: &Progress) -> Result<FlushResult, String> {
    match UnixStream::connect(socket).await {
        Ok(stream) => follow(stream, progress).await,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err(format!("{}: {error}; start this socket of skep's package", socket.display()))
        }
        Err(error) => Err(format!("{}: {error}", socket.display())),
    }
}

/// Reads until the shipper has sent the entry that was the last one at the start.
async fn follow(
    source: impl AsyncRead + Unpin,
    progress: &Progress,
) -> Result<FlushResult, String> {
    let mut lines = Lines::new(Some(source));
    let mut last: Option<Cursor> = None;
    let mut complaint = "no answer".to_owned();
    while let Some(line) = lines.next().await {
        if let Some(cursor) = line.strip_prefix(LAST) {
            last = Some(Cursor::parse(cursor)?);
        } else if let Some(cursor) = line.strip_prefix(SENT) {
            let Some(last) = &last else { return Err("the journal has no entry".to_owned()) };
            let unsent = Cursor::parse(cursor)?.behind(last);
            progress.say(Reading { unsent, ..Reading::default() });
            if unsent == Some(0) {
                return Ok(FlushResult::Done);
            }
        } else if !line.is_empty() && !line.starts_with('#') {
            complaint = line;
        }
    }
    Err(complaint)
}

/// The position of an entry in the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cursor {
    /// The series in which `number` counts.
    series: String,
    number: u64,
    /// Microseconds since 1970.
    at: u64,
}

impl Cursor {
    fn parse(text: &str) -> Result<Self, String> {
        let field = |name: &str| {
            let fields = text.trim().split(';').filter_map(|field| field.split_once('='));
            fields.into_iter().find(|(own, _)| *own == name).map(|(_, value)| value)
        };
        let number = |name| field(name).and_then(|digits| u64::from_str_radix(digits, 16).ok());
        match (field("s"), number("i"), number("t")) {
            (Some(series), Some(number), Some(at)) => {
                Ok(Self { series: series.to_owned(), number, at })
            }
            _ => Err(format!("\"{}\" is not a cursor of the journal", text.trim())),
        }
    }

    /// Returns how many entries come after this one up to `last`. Between two journals it is unknown, unless the clock
    /// shows that this one is not older.
    fn behind(&self, last: &Self) -> Option<u64> {
        if self.series == last.series {
            Some(last.number.saturating_sub(self.number))
        } else {
            (self.at >= last.at).then_some(0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::state::StateHandle;

    const AT_9: &str = "s=ab;i=9;b=1;m=5;t=64b;x=1";
    const AT_10: &str = "s=ab;i=10;b=1;m=6;t=64c;x=2";

    /// Returns the outcome, and the reported number of unsent entries.
    async fn followed(text: String) -> (Result<FlushResult, String>, Option<u64>) {
        let state = StateHandle::default();
        let progress = Progress::begin(&state, "journal-upload");
        let outcome = follow(text.as_bytes(), &progress).await;
        (outcome, state.now().flush[0].unsent)
    }

    #[tokio::test]
    async fn it_waits_for_the_entry_that_was_the_last_one_at_the_start() {
        let state = |cursor: &str| format!("# This is private data.\n{SENT}{cursor}\n");
        let behind = format!("{LAST}{AT_10}\n{}", state(AT_9));
        let (outcome, unsent) = followed(behind.clone()).await;
        assert_eq!((outcome, unsent), (Err("no answer".into()), Some(7)));
        assert_eq!(followed(behind + &state(AT_10)).await, (Ok(FlushResult::Done), Some(0)));
    }

    #[tokio::test]
    async fn across_journals_only_the_clock_counts() {
        let state = |cursor: &str| format!("{LAST}{AT_10}\n{SENT}{cursor}\n");
        let older = "s=cd;i=ff;b=0;m=5;t=64b;x=1";
        assert_eq!(followed(state(older)).await.1, None);
        let newer = "s=cd;i=1;b=0;m=5;t=64c;x=1";
        assert_eq!(followed(state(newer)).await, (Ok(FlushResult::Done), Some(0)));
    }

    #[tokio::test]
    async fn what_is_missing_is_said() {
        for (text, problem) in [
            (String::new(), "no answer"),
            (format!("{LAST}{AT_9}\ndd: state: No such file or directory\n"), "No such file"),
            (format!("{SENT}{AT_9}\n"), "no entry"),
            (format!("{LAST}{AT_9}\n{SENT}s=x;i=zz\n"), "\"s=x;i=zz\" is not a cursor"),
            ("\u{1}\u{2}".repeat(9), "\u{1}\u{2}"),
        ] {
            let (outcome, _) = followed(text).await;
            assert!(outcome.as_ref().is_err_and(|said| said.contains(problem)), "{outcome:?}");
        }
    }

    #[test]
    fn a_journal_that_could_not_be_synced_may_hold_more() {
        let done = || Ok(FlushResult::Done);
        assert_eq!(proven(done(), done()), done());
        assert_eq!(proven(Ok(FlushResult::NotHere), done()), done());
        assert!(proven(Err("refused".into()), done()).unwrap_err().ends_with("synced: refused"));
        assert_eq!(proven(Err("refused".into()), Err("gone".into())), Err("gone".into()));
    }

    /// skep's own user reads from the socket the output that root gets from the script.
    #[test]
    fn the_service_runs_the_same_script() {
        let service = include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/systemd/skep-journal-upload@.service"
        ));
        assert!(service.contains(&format!("'{SCRIPT}'")), "{SCRIPT}");
        let socket = include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/systemd/skep-journal-upload.socket"
        ));
        assert!(socket.contains(&format!("ListenStream={SOCKET}\n")));
    }

    #[tokio::test]
    async fn root_reads_no_file_that_the_shippers_user_links_to() {
        let dir = tempfile::tempdir().unwrap();
        let (state, secret) = (dir.path().join("state"), dir.path().join("secret"));
        std::fs::write(&secret, "a secret").unwrap();
        let (_, read) = SCRIPT.split_once("; ").unwrap();
        let read = read.replace("/var/lib/systemd/journal-upload/state", state.to_str().unwrap());
        std::os::unix::fs::symlink(&secret, &state).unwrap();
        // Without an end of its own, if it reads the file.
        let script = format!("exec 2>&1; timeout 5 sh -c '{read}'");
        let output = process::command("sh").args(["-c", &script]).output().await.unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.starts_with("dd: ") && !said.contains("a secret"), "{said}");
    }
}
