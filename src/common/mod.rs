//! Plain types and small helpers that every room uses. Imports no other room.

pub mod capacity;
pub mod clock;
pub mod disk;
pub mod errors;
pub mod event;
pub mod fact;
pub mod flush_result;
pub mod held_since;
pub mod hook_wait;
pub mod instance;
pub(crate) mod known_words;
pub mod labels;
pub mod log_once;
pub mod outcome;
pub mod printable;
pub mod process;
pub mod prometheus;
pub mod redact;
pub mod report;
pub mod retry;
pub mod state;
pub mod timing;
