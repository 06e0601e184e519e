//! Lists the executables that an operator has put into a directory.

use std::io::{ErrorKind, Result};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Returns the executable files of a directory, in the order of their names; none if the directory does not exist.
///
/// # Errors
/// The directory cannot be read.
pub async fn executables(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut entries = match tokio::fs::read_dir(dir).await {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(found),
        entries => entries?,
    };
    while let Some(entry) = entries.next_entry().await? {
        // Follows symbolic links, because operators use them; a dangling one is skipped.
        if let Ok(metadata) = tokio::fs::metadata(entry.path()).await
            && metadata.is_file()
            && metadata.permissions().mode() & 0o111 != 0
        {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_directory_that_cannot_be_read_is_not_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        for (name, mode) in [("2-b", 0o755), ("1-a", 0o700), ("0-note", 0o644)] {
            let path = dir.path().join(name);
            std::fs::write(&path, "").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let found = executables(dir.path()).await.unwrap();
        assert_eq!(found, [dir.path().join("1-a"), dir.path().join("2-b")]);
        assert!(executables(&dir.path().join("none")).await.unwrap().is_empty());
        assert!(executables(&found[0]).await.is_err());
    }
}
