//! Helpers of every command that runs a fleet: the binary, the output, and a fleet that is stopped in every case.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, ensure};
use tokio::signal::unix::{SignalKind, signal};

use crate::fleet::{Fleet, FleetOptions};

/// Returns the skep binary: the named one, or the one beside this program.
///
/// # Errors
/// When it does not exist.
pub fn skep_binary(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    let file = match named {
        Some(file) => file.to_owned(),
        None => std::env::current_exe()?.with_file_name("skep"),
    };
    ensure!(
        file.is_file(),
        "{} does not exist: build it with `cargo build -p skep`, or say --skep FILE",
        file.display()
    );
    Ok(file.canonicalize()?)
}

/// `target/<name>` of this workspace.
pub(crate) fn output_dir(name: &str) -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    workspace.unwrap_or(Path::new(".")).join("target").join(name)
}

/// Writes a report, and creates its parent directories.
pub(crate) fn write_json(file: &Path, value: &impl serde::Serialize) -> anyhow::Result<()> {
    if let Some(dir) = file.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let text = serde_json::to_string_pretty(value)? + "\n";
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

/// Starts a fleet, runs `play` on it, and stops it, also after an error or an interruption.
pub(crate) async fn on_stage<T>(
    options: FleetOptions,
    play: impl AsyncFnOnce(&Fleet) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    // Before anything exists: an interruption at any time must lead to the clean-up.
    let mut interruption = std::pin::pin!(interrupted()?);
    let fleet = tokio::select! {
        fleet = Fleet::start(options) => fleet?,
        signal = &mut interruption => return Err(anyhow!("{signal}")),
    };
    let outcome = tokio::select! {
        outcome = play(&fleet) => outcome,
        signal = &mut interruption => Err(anyhow!("{signal}")),
    };
    let stopped = fleet.stop().await;
    // The error of `play` is the cause; an error of the stop may be its consequence.
    let value = outcome?;
    stopped?;
    Ok(value)
}

/// Resolves with the name of the first signal that asks for an end.
///
/// # Errors
/// When signal handlers cannot be installed.
pub fn interrupted() -> anyhow::Result<impl Future<Output = &'static str>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => "interrupted",
            _ = terminate.recv() => "terminated",
            _ = hangup.recv() => "hung up",
        }
    })
}

/// A mark of text on a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    Heading,
    Good,
    Bad,
    Warning,
    Faint,
}

/// Whether marks are shown: on a terminal, unless `NO_COLOR` is set (<https://no-color.org>).
#[derive(Clone, Copy, Debug)]
pub struct Style {
    colour: bool,
}

impl Style {
    pub(crate) fn of_stdout() -> Style {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Style { colour: !unwanted && std::io::stdout().is_terminal() }
    }

    pub(crate) fn paint(self, mark: Mark, text: &str) -> String {
        if !self.colour {
            return text.to_owned();
        }
        let code = match mark {
            Mark::Heading => "1;36",
            Mark::Good => "32",
            Mark::Bad => "1;31",
            Mark::Warning => "33",
            Mark::Faint => "2",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}
