//! Writes the packages' files beside the binary, from the binary's own sources: `skep-packaging <directory>` makes
//! `skep.toml`, `man/` and `completions/` there. skep does not contain the generators: its size has a limit.

mod example;

use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_complete::{Shell, generate_to};
use skep::cli::Cli;

const NAME: &str = "skep";
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

fn main() -> Result<()> {
    let target = env::args_os().nth(1).context("usage: skep-packaging <directory>")?;
    write_all(&PathBuf::from(target))
}

fn write_all(target: &Path) -> Result<()> {
    let (man, completions) = (target.join("man"), target.join("completions"));
    for directory in [&man, &completions] {
        fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    }
    // The `help` subcommands, which clap adds by itself, need no page.
    clap_mangen::generate_to(Cli::command().disable_help_subcommand(true), &man)?;
    for shell in SHELLS {
        generate_to(shell, &mut Cli::command(), NAME, &completions)?;
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
