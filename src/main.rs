use std::process::ExitCode;

use clap::Parser;
use skep::cli::{Cli, as_credential_helper};

fn main() -> ExitCode {
    as_credential_helper().unwrap_or_else(|| Cli::parse().execute())
}
