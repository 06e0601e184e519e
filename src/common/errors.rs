//! Formats errors as one line, or as evidence and remedy.

use std::error::Error;
use std::fmt::Write;

/// An error whose evidence and remedy can be shown apart; its `Display` has both.
pub trait Explained: Error {
    /// Returns what is wrong, without the causes and without the remedy.
    fn evidence(&self) -> String;

    /// Returns the repair, where there is one.
    fn remedy(&self) -> Option<String>;

    /// Returns both as one sentence.
    fn sentence(&self, separator: &str) -> String {
        let evidence = self.evidence();
        self.remedy()
            .map_or_else(|| evidence.clone(), |remedy| format!("{evidence}{separator}{remedy}"))
    }
}

/// Returns an error and its causes, separated by colons. Callers use it once, where an error is logged or becomes part
/// of a state: the `Display` of a skep error never repeats its source.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    with_causes(error.to_string(), error.source())
}

/// Returns the evidence of an error and its causes, separated by colons.
#[must_use]
pub fn evidence_chain(error: &impl Explained) -> String {
    with_causes(error.evidence(), error.source())
}

fn with_causes(mut text: String, mut source: Option<&(dyn Error + 'static)>) -> String {
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
