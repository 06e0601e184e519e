//! Reads every source of values into one list, in order of precedence.

use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::found::{Found, Given};
use super::fragment;
use super::mistake::{Mistake, Origin};
use super::nearest::{did_you_mean, nearest};
use super::raw::Raw;
use super::settings::{KEYS, Key};

/// The configuration directory, unless a flag or a variable names another one.
pub const DEFAULT_DIRECTORY: &str = "/etc/skep";

const DIRECTORY_VARIABLE: &str = "SKEP_CONFIG_DIR";
/// Variables with the prefix `SKEP_` that are not settings.
const NOT_SETTINGS: [&str; 2] = [DIRECTORY_VARIABLE, "SKEP_BOOT_ID"];

/// A setting given as a command-line flag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flag {
    /// As the operator typed it, such as `--cluster` or `--set`.
    pub flag: &'static str,
    /// With its section, such as `boot.deadline`.
    pub key: String,
    /// Text of the value, not checked yet.
    pub value: String,
}

/// The sources before they are read.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// `--config-dir`.
    pub directory: Option<PathBuf>,
    /// Names and values of the environment variables; an empty value counts as not set.
    pub variables: Vec<(OsString, OsString)>,
    /// Settings on the command line; of two for the same key the later one wins.
    pub flags: Vec<Flag>,
}

impl Inputs {
    /// Returns this process's environment, with the values of its command line.
    #[must_use]
    pub fn of_this_process(directory: Option<PathBuf>, flags: Vec<Flag>) -> Self {
        Self { directory, variables: std::env::vars_os().collect(), flags }
    }

    pub(super) fn read(&self) -> Found {
        let mut found = Found::default();
        self.read_files(&mut found);
        self.read_variables(&mut found);
        self.read_flags(&mut found);
        self.read_stand_ins(&mut found);
        found
    }

    fn read_files(&self, found: &mut Found) {
        let named =
            self.directory.clone().or_else(|| self.variable(DIRECTORY_VARIABLE).map(PathBuf::from));
        if let Some(directory) = named.as_ref().filter(|directory| !directory.is_dir()) {
            let origin = match self.directory {
                Some(_) => Origin::Flag("--config-dir".into()),
                None => Origin::Variable(DIRECTORY_VARIABLE.into()),
            };
            let problem = format!("{} is not a directory", directory.display());
            found.mistakes.push(Mistake::of(origin, problem));
            return;
        }
        let directory = named.unwrap_or_else(|| DEFAULT_DIRECTORY.into());
        read_file(&directory.join("skep.toml"), found);
        let fragments = directory.join("conf.d");
        match toml_files(&fragments) {
            Ok(paths) => paths.iter().for_each(|path| read_file(path, found)),
            Err(error) => unreadable(&fragments, &error, found),
        }
    }

    fn read_variables(&self, found: &mut Found) {
        for (name, value) in &self.variables {
            let name = name.to_string_lossy();
            if !name.starts_with("SKEP_") || NOT_SETTINGS.contains(&&*name) || value.is_empty() {
                continue;
            }
            let origin = Origin::Variable(name.to_string());
            match (KEYS.iter().find(|key| key.variable() == name), value.to_str()) {
                (Some(key), Some(value)) => {
                    found.given.push(Given { key, raw: Raw::bare(value), origin });
                }
                (Some(key), None) => {
                    found.mistakes.push(Mistake::at(origin, key.name, "not valid UTF-8"));
                }
                (None, _) => {
                    let known: Vec<String> = KEYS.iter().map(Key::variable).collect();
                    let known = known.iter().map(String::as_str).chain(NOT_SETTINGS);
                    let hint = did_you_mean(&nearest(&name, known));
                    found.mistakes.push(Mistake::of(origin, format!("unknown variable{hint}")));
                }
            }
        }
    }

    fn read_flags(&self, found: &mut Found) {
        for Flag { flag, key: name, value } in &self.flags {
            let origin = Origin::Flag((*flag).into());
            match KEYS.iter().find(|key| key.name == name) {
                Some(key) => found.given.push(Given { key, raw: Raw::bare(value), origin }),
                None => {
                    let hint = did_you_mean(&fragment::similar_keys(name));
                    found.mistakes.push(Mistake::at(origin, name, format!("unknown key{hint}")));
                }
            }
        }
    }

    /// Reads the variables of other programs, only for keys without a value of skep's own. A value that is not in force
    /// is not checked, because it is not meant for skep.
    fn read_stand_ins(&self, found: &mut Found) {
        for key in KEYS {
            let told = found.given.iter().any(|given| given.key.name == key.name);
            let Some(name) = key.stand_in.filter(|_| !told) else { continue };
            let Some(value) = self.variable(name) else { continue };
            let origin = Origin::Variable(name.into());
            match value.to_str() {
                Some(value) => {
                    // systemd separates directories with colons; skep uses the first.
                    let ours = if name.ends_with("_DIRECTORY") {
                        value.split(':').next().unwrap_or(value)
                    } else {
                        value
                    };
                    found.given.push(Given { key, raw: Raw::bare(ours), origin });
                }
                None => found.mistakes.push(Mistake::at(origin, key.name, "not valid UTF-8")),
            }
        }
    }

    /// Returns a variable's value. An empty one counts as not set, because templates create empty ones.
    fn variable(&self, name: &str) -> Option<&OsStr> {
        let (_, value) = self.variables.iter().find(|(candidate, _)| candidate == name)?;
        (!value.is_empty()).then_some(value)
    }
}

fn read_file(path: &Path, found: &mut Found) {
    match fs::read_to_string(path) {
        Ok(text) => fragment::read(path, &text, found),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => unreadable(path, &error, found),
    }
}

fn unreadable(path: &Path, error: &io::Error, found: &mut Found) {
    let origin = Origin::File { path: path.into(), line: None };
    found.mistakes.push(Mistake::of(origin, format!("cannot be read: {error}")));
}

/// Returns the `*.toml` files of a directory, by name; none if the directory does not exist.
fn toml_files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<PathBuf>>>()?;
    paths.retain(|path| path.extension() == Some(OsStr::new("toml")));
    paths.sort();
    Ok(paths)
}
