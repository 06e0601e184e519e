//! Runs a program together with all its child processes.
//!
//! Guarantees: when the program has ended, or the caller stops waiting for it, the processes that it started are
//! killed, except those that have left its process group. skep does not wait for a process that holds the output open
//! after the program's end. Memory is bounded, whatever the program prints.

use std::io::Result;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};

use super::lines::Lines;

/// Wait for the rest of the output: a process that has left the process group may hold it open.
const OUTPUT_PATIENCE: Duration = Duration::from_millis(200);

/// The stream on which a program has printed a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pipe {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A process group, killed on drop.
struct Group {
    child: Child,
    id: Option<Pid>,
}

impl Group {
    fn kill(&self) {
        if let Some(id) = self.id {
            // An error means that the group has ended already.
            let _ = killpg(id, Signal::SIGKILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The first process has not been reaped yet: its id still belongs to this group.
        if self.child.id().is_some() {
            self.kill();
        }
    }
}

/// Runs a program in a process group of its own, with `input` on its standard input, and passes each of its lines to
/// `line` at once. If the future is dropped before the end, the group is killed.
///
/// # Errors
/// The program cannot be started or awaited.
pub async fn run(
    mut command: Command,
    input: &[u8],
    mut line: impl FnMut(Pipe, &str),
) -> Result<ExitStatus> {
    if !input.is_empty() {
        command.stdin(Stdio::piped());
    }
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).spawn()?;
    let id = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
    let mut group = Group { child, id };
    let stdin = group.child.stdin.take();
    let mut out = Lines::new(group.child.stdout.take());
    let mut err = Lines::new(group.child.stderr.take());
    let write = async {
        if let Some(mut stdin) = stdin {
            // An error means that the program has ended or does not read its input.
            let _ = stdin.write_all(input).await;
        }
    };
    let (mut write, mut is_written) = (std::pin::pin!(write), false);
    let (mut out_ended, mut err_ended) = (false, false);
    let mut status = None;
    let patience = tokio::time::sleep(OUTPUT_PATIENCE);
    let mut patience = std::pin::pin!(patience);
    while status.is_none() || !(out_ended && err_ended) {
        tokio::select! {
            () = &mut write, if !is_written => is_written = true,
            text = out.next(), if !out_ended => match text {
                Some(text) => line(Pipe::Stdout, &text),
                None => out_ended = true,
            },
            text = err.next(), if !err_ended => match text {
                Some(text) => line(Pipe::Stderr, &text),
                None => err_ended = true,
            },
            ended = group.child.wait(), if status.is_none() => {
                status = Some(ended?);
                group.kill();
                patience.as_mut().reset(tokio::time::Instant::now() + OUTPUT_PATIENCE);
            }
            () = &mut patience, if status.is_some() => break,
        }
    }
    status.map_or_else(|| Err(std::io::Error::other("the program has not ended")), Ok)
}

/// Limits the part of a stream that is written to the log.
#[derive(Debug)]
pub struct Quota {
    left: usize,
    left_out: usize,
}

impl Quota {
    /// Returns a quota for lines of `bytes` bytes in total, without their line breaks.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self { left: bytes, left_out: 0 }
    }

    /// Counts a line; returns whether it still fits into the log.
    pub fn admits(&mut self, line: &str) -> bool {
        match self.left.checked_sub(line.len()) {
            Some(left) if self.left_out == 0 => {
                self.left = left;
                true
            }
            _ => {
                self.left_out += line.len();
                false
            }
        }
    }

    /// Returns the number of bytes that did not fit.
    #[must_use]
    pub fn left_out(&self) -> usize {
        self.left_out
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokio::time::{Instant, timeout};

    use super::*;
    use crate::common::process;

    /// Long enough for a busy machine, and far shorter than the sleeps in the scripts.
    const PATIENCE: Duration = Duration::from_secs(120);

    fn script(text: &str) -> Command {
        let mut command = process::command("sh");
        command.args(["-c", text]);
        command
    }

    /// Waits until the process has ended whose id a script has written to the file `pid`.
    async fn is_gone(pid: &Path) {
        let gone = async {
            loop {
                let text = std::fs::read_to_string(pid).unwrap_or_default();
                if let Ok(id) = text.trim().parse::<i32>()
                    && !is_running(id)
                {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, gone).await.expect("the process still runs");
    }

    /// Whether a process runs; a zombie, which has not been reaped yet, does not.
    fn is_running(id: i32) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    }

    #[tokio::test]
    async fn what_holds_the_output_open_does_not_hold_a_finished_program_up() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        let text = format!("sleep 600 & echo $! > {}; echo done", pid.display());
        let began = Instant::now();
        let mut said = Vec::new();
        let status = run(script(&text), b"", |_, line| said.push(line.to_owned())).await.unwrap();
        assert!(status.success() && began.elapsed() < PATIENCE);
        assert_eq!(said, ["done"]);
        is_gone(&pid).await;
        // The same for a process outside the process group.
        let began = Instant::now();
        let pid = dir.path().join("escaped");
        let text = format!(
            "setsid sh -c 'echo $$ > {}; exec sleep 600' &\nwhile ! [ -s {} ]; do sleep 0.1; done",
            pid.display(),
            pid.display()
        );
        assert!(run(script(&text), b"", |_, _| ()).await.unwrap().success());
        assert!(began.elapsed() < PATIENCE);
        let id = std::fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
        nix::sys::signal::kill(Pid::from_raw(id), Signal::SIGKILL).unwrap();
    }

    #[tokio::test]
    async fn a_program_that_is_given_up_ends_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        let text = format!("sleep 600 & echo $! > {}; echo started; wait", pid.display());
        let (started, mut has_started) = tokio::sync::mpsc::unbounded_channel();
        let running = run(script(&text), b"", move |_, _| {
            let _ = started.send(());
        });
        tokio::select! {
            _ = running => panic!("the program has ended"),
            _ = has_started.recv() => {}
        }
        is_gone(&pid).await;
    }

    #[tokio::test]
    async fn both_pipes_and_the_input_are_served() {
        let mut said = Vec::new();
        let text = "read line; echo \"$line\"; echo complaint >&2; exit 3";
        let status = run(script(text), b"hello\n", |pipe, line| said.push((pipe, line.to_owned())));
        assert_eq!(status.await.unwrap().code(), Some(3));
        said.sort_by_key(|(pipe, _)| *pipe == Pipe::Stderr);
        assert_eq!(said, [(Pipe::Stdout, "hello".into()), (Pipe::Stderr, "complaint".into())]);
    }

    #[test]
    fn a_quota_counts_what_it_leaves_out() {
        let mut quota = Quota::new(10);
        assert_eq!(
            ["12345", "12345", "1", ""].map(|line| quota.admits(line)),
            [true, true, false, false]
        );
        assert_eq!(quota.left_out(), 1);
    }
}
