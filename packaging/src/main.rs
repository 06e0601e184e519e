//! Writes the packages' files beside the binary, from the binary's own sources: `skep-packaging <directory>` makes
//! `skep.toml`, `man/`, `completions/` and Debian's `changelog` there, with the date in `SOURCE_DATE_EPOCH`.

mod changelog;
mod example;

use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context, Result};
use clap::CommandFactory;
use skep::cli::{Cli, Shell};
use time::OffsetDateTime;

const VERSION: &str = env!("CARGO_PKG_VERSION");
const COMPLETIONS: [(&str, Shell); 3] =
    [("skep.bash", Shell::Bash), ("_skep", Shell::Zsh), ("skep.fish", Shell::Fish)];

fn main() -> Result<()> {
    let target = env::args_os().nth(1).context("usage: skep-packaging <directory>")?;
    let changelog = fs::read_to_string("CHANGELOG.md").context("CHANGELOG.md")?;
    let sections = changelog::sections(&changelog)?;
    let sources = env::var("SOURCE_DATE_EPOCH").context("SOURCE_DATE_EPOCH")?.parse()?;
    let sources = OffsetDateTime::from_unix_timestamp(sources)?;
    let target = PathBuf::from(target);
    write_all(&target)?;
    fs::write(target.join("changelog"), changelog::debian(&sections, VERSION, sources)?)?;
    Ok(())
}

fn write_all(target: &Path) -> Result<()> {
    let (man, completions) = (target.join("man"), target.join("completions"));
    for directory in [&man, &completions] {
        fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    }
    // The `help` subcommands, which clap adds by itself, need no page.
    clap_mangen::generate_to(Cli::command().disable_help_subcommand(true), &man)?;
    for (name, shell) in COMPLETIONS {
        fs::write(completions.join(name), shell.script())?;
    }
    fs::write(target.join("skep.toml"), example::configuration())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subcommand_has_its_page_and_is_completed_in_every_shell() {
        let target = tempfile::tempdir().unwrap();
        write_all(target.path()).unwrap();
        let read = |path: &str| fs::read_to_string(target.path().join(path)).unwrap();
        let overview = read("man/skep.1");
        let completions = ["skep.bash", "_skep", "skep.fish"].map(|name| {
            let text = read(&format!("completions/{name}"));
            assert!(text.contains("config-dir"), "{name} does not know --config-dir");
            (name, text)
        });
        let cli = Cli::command();
        assert!(cli.get_subcommands().count() >= 4);
        for command in cli.get_subcommands() {
            let name = command.get_name();
            // As roff escapes them.
            let escaped = |text: &str| text.replace('-', "\\-").replace('\'', "\\*(Aq");
            let about = command.get_about().unwrap().to_string();
            let listed = escaped(&format!("skep-{name}(1)"));
            assert!(overview.contains(&listed), "skep(1) lacks {name}");
            let page = read(&format!("man/skep-{name}.1"));
            assert!(page.contains(&escaped(&about)), "skep-{name}(1) lacks: {about}");
            for (shell, text) in &completions {
                assert!(text.contains(name), "{shell} does not complete {name}");
            }
        }
    }
}
