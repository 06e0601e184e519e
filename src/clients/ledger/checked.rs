//! What a row may say. Any node writes rows, and people edit them: what skep calculates with, and what becomes a
//! part of a request to Docker or Auto Scaling, is checked when it is read.
//!
//! Guarantees for what passes: no time and no generation overflows where skep calculates with it; an id is one
//! part of a path of Docker's API, and names no other; no instance id and no group makes Auto Scaling refuse a
//! question that is also about others.

use serde::de::IgnoredAny;
use time::OffsetDateTime;
use time::macros::datetime;

use crate::common::instance::{HIGHEST_GENERATION, is_instance_id};

/// As far ahead as a time may be. It is far from the last one that can be written down, so that leases and
/// patience can be added to it.
const LATEST: OffsetDateTime = datetime!(3000-01-01 0:00 UTC);
/// Docker's own ids have 25 characters.
const LONGEST_ID: usize = 64;
/// As long as Auto Scaling lets the name of a group be.
const LONGEST_NAME: usize = 255;
/// So much of a value that is refused is shown.
const SHOWN: usize = 40;

/// A row of the ledger that was decoded.
pub(crate) trait Checked {
    /// # Errors
    /// What is wrong, in words: the row counts as one that cannot be read.
    fn check(&self) -> Result<(), String>;
}

/// Of such a row only that it is there counts.
impl Checked for IgnoredAny {
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

/// An EC2 instance's id.
pub fn instance(attribute: &str, id: &str) -> Result<(), String> {
    if is_instance_id(id) { Ok(()) } else { Err(not(attribute, id, "an instance id")) }
}

/// An id of Docker's, of a node, a swarm or a service.
pub fn docker_id(attribute: &str, id: &str) -> Result<(), String> {
    let is_right = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let is_id = (1..=LONGEST_ID).contains(&id.len()) && id.bytes().all(is_right);
    if is_id { Ok(()) } else { Err(not(attribute, id, "an id of Docker's")) }
}

/// The name of a group or a registry.
pub fn name(attribute: &str, name: &str) -> Result<(), String> {
    let is_name =
        (1..=LONGEST_NAME).contains(&name.chars().count()) && !name.chars().any(char::is_control);
    if is_name { Ok(()) } else { Err(not(attribute, name, "a name")) }
}

/// A time that skep may have written.
pub fn moment(attribute: &str, at: OffsetDateTime) -> Result<(), String> {
    if (OffsetDateTime::UNIX_EPOCH..LATEST).contains(&at) {
        return Ok(());
    }
    Err(format!("{attribute} is no time between 1970 and {}: {at}", LATEST.year()))
}

/// A generation that skep may have counted.
pub fn generation(generation: u64) -> Result<(), String> {
    if generation <= HIGHEST_GENERATION {
        return Ok(());
    }
    Err(format!("generation is above {HIGHEST_GENERATION}: {generation}"))
}

/// The value comes from a row: no control character of it reaches a terminal.
fn not(attribute: &str, value: &str, what: &str) -> String {
    let shown: String = value.chars().take(SHOWN).collect();
    format!("{attribute} is not {what}: {shown:?}")
}

#[cfg(test)]
mod tests;
