//! The content of the sources of the configuration.

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

/// Values and mistakes of the sources; a later value wins over an earlier one.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub given: Vec<Given>,
    pub mistakes: Vec<Mistake>,
}
