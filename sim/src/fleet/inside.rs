//! Stores how another process enters an instance; written when the instance is switched on.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// Name of the file in the instance's directory.
const FILE: &str = "inside.json";

/// An instance's namespaces, and the environment of a command line there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Inside {
    /// The pid of the instance's PID 1 in the root namespace.
    pub init: u32,
    /// The environment of its skep, with `skep` itself in the PATH.
    pub environment: BTreeMap<String, String>,
}

impl Inside {
    pub(super) fn write(&self, dir: &Path) -> anyhow::Result<()> {
        let file = dir.join(FILE);
        fs::write(&file, serde_json::to_vec(self)?)
            .with_context(|| format!("cannot write {}", file.display()))
    }

    pub(super) fn remove(dir: &Path) {
        fs::remove_file(dir.join(FILE)).ok();
    }

    /// Reads it from an instance's directory; `None` while the instance is off.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(dir: &Path) -> anyhow::Result<Option<Inside>> {
        let file = dir.join(FILE);
        match fs::read(&file) {
            Ok(json) => Ok(Some(serde_json::from_slice(&json)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
        }
    }
}
