//! Checks the content of rows. Every node writes rows, and people edit them: skep checks each value that it
//! calculates with, or that becomes part of a request to Docker or Auto Scaling, when it reads the row.
//!
//! Guarantees for a row that passes: no time and no generation overflows when skep calculates with it; an id is one
//! segment of a path of Docker's API, and cannot name another path; no instance id and no group makes Auto Scaling
//! refuse a request that is also about others.

use serde::de::IgnoredAny;
use time::OffsetDateTime;
use time::macros::datetime;

use crate::common::instance::{HIGHEST_GENERATION, is_instance_id};

/// The first time that is too far ahead. It is far below the highest time that can be represented, so that leases and
/// waiting times can be added to it.
const LATEST: OffsetDateTime = datetime!(3000-01-01 0:00 UTC);
/// Docker's own ids have 25 characters.
const LONGEST_ID: usize = 64;
/// Auto Scaling's limit for the name of a group.
const LONGEST_NAME: usize = 255;
/// Number of characters of a refused value that the error shows.
const SHOWN: usize = 40;

/// A decoded row of the ledger whose content can be checked.
pub(crate) trait Checked {
    /// # Errors
    /// The problem, as text: the row then counts as unreadable.
    fn check(&self) -> Result<(), String>;
}

/// The content of such a row is not used.
impl Checked for IgnoredAny {
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

/// Checks an EC2 instance's id.
pub fn instance(attribute: &str, id: &str) -> Result<(), String> {
    if is_instance_id(id) { Ok(()) } else { Err(not(attribute, id, "an instance id")) }
}

/// Checks Docker's id of a node, a swarm or a service.
pub fn docker_id(attribute: &str, id: &str) -> Result<(), String> {
    let is_right = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let is_id = (1..=LONGEST_ID).contains(&id.len()) && id.bytes().all(is_right);
    if is_id { Ok(()) } else { Err(not(attribute, id, "a Docker id")) }
}

/// Checks the name of a group or a registry.
pub fn name(attribute: &str, name: &str) -> Result<(), String> {
    let is_name =
        (1..=LONGEST_NAME).contains(&name.chars().count()) && !name.chars().any(char::is_control);
    if is_name { Ok(()) } else { Err(not(attribute, name, "a valid name")) }
}

/// Checks that skep can have written this time.
pub fn moment(attribute: &str, at: OffsetDateTime) -> Result<(), String> {
    if (OffsetDateTime::UNIX_EPOCH..LATEST).contains(&at) {
        return Ok(());
    }
    Err(format!("{attribute} is not a time between 1970 and {}: {at}", LATEST.year()))
}

/// Checks that claims can have counted up to this generation.
pub fn generation(generation: u64) -> Result<(), String> {
    if generation <= HIGHEST_GENERATION {
        return Ok(());
    }
    Err(format!("generation is above {HIGHEST_GENERATION}: {generation}"))
}

/// Returns the error text. The value comes from a row, so its control characters are escaped for the terminal.
fn not(attribute: &str, value: &str, what: &str) -> String {
    let shown: String = value.chars().take(SHOWN).collect();
    format!("{attribute} is not {what}: {shown:?}")
}

#[cfg(test)]
mod tests;
