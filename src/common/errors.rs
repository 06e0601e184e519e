//! Formats errors as one line.

use std::error::Error;
use std::fmt::Write;

/// Returns an error and its causes, separated by colons. Callers use it once, where an error is logged or becomes part
/// of a state: the `Display` of a skep error never repeats its source.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some errors of other crates repeat their source.
        if !text.ends_with(&cause_text) {
            let _ = write!(text, ": {cause_text}");
        }
        source = cause.source();
    }
    text
}
