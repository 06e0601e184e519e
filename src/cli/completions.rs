//! `skep completions`: prints the completion script of a shell.

use std::process::ExitCode;

use clap::{Args, CommandFactory, ValueEnum};
use clap_complete::Shell as Generator;

use super::{Cli, print};

#[derive(Debug, Args)]
pub struct Arguments {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// The shells that the packages serve.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Shell {
    /// The script for bash-completion
    Bash,
    /// The script for a directory of `vendor_completions.d`
    Fish,
    /// The function `_skep`, for a directory of `fpath`
    Zsh,
}

impl Shell {
    /// Returns the script, which completes commands, flags and their values.
    #[must_use]
    pub fn script(self) -> String {
        let generator = match self {
            Self::Bash => Generator::Bash,
            Self::Fish => Generator::Fish,
            Self::Zsh => Generator::Zsh,
        };
        let mut script = Vec::new();
        clap_complete::generate(generator, &mut Cli::command(), "skep", &mut script);
        String::from_utf8_lossy(&script).into_owned()
    }
}

/// Prints the script.
///
/// # Errors
/// When standard output cannot be written.
pub fn print(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    print::as_it_is(&arguments.shell.script())?;
    Ok(ExitCode::SUCCESS)
}
