use std::process::ExitCode;

use clap::Parser;
use skep::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().execute()
}
