//! What the sources of the configuration hold.

use super::mistake::{Mistake, Origin};
use super::raw::Raw;
use super::settings::Key;

/// One value in one source.
#[derive(Debug)]
pub(super) struct Given {
    pub key: &'static Key,
    pub raw: Raw,
    pub origin: Origin,
}

/// What the sources hold; a later value wins over an earlier one.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub given: Vec<Given>,
    pub mistakes: Vec<Mistake>,
}
