//! Reads the configuration: fragments → inputs → validated [`Settings`].
//!
//! A value has five possible sources; a later one wins over an earlier one:
//!
//! 1. the default in [`settings`], or the variable of another program that is named beside it
//!    (`STATE_DIRECTORY`, `DOCKER_HOST`, …);
//! 2. `skep.toml`;
//! 3. `conf.d/*.toml`, in the order of their names;
//! 4. `SKEP_*` variables; an empty one counts as not set;
//! 5. command-line flags.
//!
//! Guarantees: nothing unknown is ignored, a value is checked even if a later one wins over it, and [`load`] reports
//! every mistake at once, each with its source. [`identity`] reads the instance tags.

mod check;
mod condition;
mod found;
mod fragment;
#[cfg(test)]
mod fuzz;
pub mod identity;
mod inputs;
mod keys;
mod mistake;
mod nearest;
mod parse;
mod raw;
mod settings;
mod show;
#[cfg(test)]
mod tests;
mod values;

use std::collections::BTreeMap;
use std::time::Duration;

pub use condition::{Comparison, Condition};
pub use inputs::{Flag, Inputs};
pub use mistake::{Mistake, Mistakes, Origin};
pub use settings::*;
pub use values::{
    BackupPlace, Destination, DockerHost, JoinAvailability, LogFilter, LogFormat, Rebalance,
    Shipper, TokenStore, is_private, overlap,
};

use found::Found;
use ipnet::Ipv4Net;

/// Exit code for a mistake in the configuration: `EX_CONFIG` of sysexits(3). The unit file lists it in
/// `RestartPreventExitStatus=`, because a restart does not help.
pub const EXIT_CODE: u8 = 78;

/// The settings, and the source of each of them.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// For each setting the value in force.
    pub settings: Settings,
    origins: BTreeMap<&'static str, Origin>,
}

impl Loaded {
    /// Returns the source of the value of `key`.
    #[must_use]
    pub fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or(Origin::Default)
    }
}

/// Parses a duration in the format of the settings: with a unit, more than 0, at most 48 hours.
///
/// # Errors
///
/// The mistake and its remedy, in one line.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    parse::duration(&raw::Raw::bare(text))
}

/// Parses an age in the format of the settings: with a unit, more than 0, at most 10 years.
///
/// # Errors
///
/// As for [`parse_duration`].
pub fn parse_age(text: &str) -> Result<Duration, String> {
    parse::age(&raw::Raw::bare(text))
}

/// Parses an IPv4 range in the format of the settings.
///
/// # Errors
///
/// As for [`parse_duration`].
pub fn parse_range(text: &str) -> Result<Ipv4Net, String> {
    parse::range(text)
}

/// Reads every source and validates every value in it.
///
/// # Errors
///
/// Every mistake in every source, in the order of the sources.
pub fn load(inputs: &Inputs) -> Result<Loaded, Mistakes> {
    let (loaded, mistakes) = read(inputs);
    if mistakes.is_empty() { Ok(loaded) } else { Err(Mistakes(mistakes)) }
}

/// Returns the valid settings of sources with mistakes: enough to report that this node has failed, and not to be used
/// for anything else.
#[must_use]
pub fn salvage(inputs: &Inputs) -> Settings {
    read(inputs).0.settings
}

fn read(inputs: &Inputs) -> (Loaded, Vec<Mistake>) {
    settle(inputs.read())
}

fn settle(found: Found) -> (Loaded, Vec<Mistake>) {
    let Found { given, mut mistakes } = found;
    let mut loaded = Loaded::default();
    for value in &given {
        match (value.key.set)(&mut loaded.settings, &value.raw) {
            Ok(()) => {
                loaded.origins.insert(value.key.name, value.origin.clone());
            }
            Err(problem) => {
                mistakes.push(Mistake::at(value.origin.clone(), value.key.name, problem));
            }
        }
    }
    check::together(&loaded, &given, &mut mistakes);
    mistakes.sort_by(|a, b| a.origin.cmp(&b.origin));
    (loaded, mistakes)
}
