//! Defines [`Origin`], the source of a value, and [`Mistakes`], all that is wrong with the values.

use std::fmt;
use std::path::PathBuf;

/// Source of a value, in the order of precedence.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// No source has a value.
    Default,
    /// A part of the instance metadata, such as `tag skep:role`.
    Metadata(&'static str),
    /// A file of the configuration, or the directory `conf.d` if it cannot be listed.
    File {
        /// Path of the file or the directory.
        path: PathBuf,
        /// Line of the value, counted from 1; `None` if the file cannot be read.
        line: Option<usize>,
    },
    /// An environment variable, by its name.
    Variable(String),
    /// A command-line flag, such as `--cluster`.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::Metadata(what) => f.write_str(what),
            Origin::File { path, line: None } => path.display().fmt(f),
            Origin::File { path, line: Some(line) } => write!(f, "{}:{line}", path.display()),
            Origin::Variable(name) => f.write_str(name),
            Origin::Flag(flag) => f.write_str(flag),
        }
    }
}

/// One mistake and its remedy. Displayed as `source: key: problem`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// `None` if the mistake is that no source has a value.
    pub origin: Option<Origin>,
    /// As the source writes it; `None` if the mistake concerns the source as a whole.
    pub key: Option<String>,
    /// The mistake and its remedy, in one line.
    pub problem: String,
}

impl Mistake {
    pub(super) fn at(origin: Origin, key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { origin: Some(origin), key: Some(key.into()), problem: problem.into() }
    }

    /// Returns a mistake that concerns the source as a whole.
    pub(super) fn of(origin: Origin, problem: impl Into<String>) -> Self {
        Self { origin: Some(origin), key: None, problem: problem.into() }
    }

    /// Returns the mistake that no source has a value for `key`.
    pub(super) fn missing(key: &str, problem: impl Into<String>) -> Self {
        Self { origin: None, key: Some(key.into()), problem: problem.into() }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        if let Some(key) = &self.key {
            write!(f, "{key}: ")?;
        }
        f.write_str(&self.problem)
    }
}

/// Every mistake at once; never empty. Displayed as one line, for logs; other callers print them one by one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes(pub Vec<Mistake>);

impl Mistakes {
    /// Whether each mistake is only a missing value; instance tags may supply it later.
    #[must_use]
    pub fn are_silence(&self) -> bool {
        self.0.iter().all(|mistake| mistake.origin.is_none())
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, mistake) in self.0.iter().enumerate() {
            let before = if n == 0 { "" } else { "; " };
            write!(f, "{before}{mistake}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}
