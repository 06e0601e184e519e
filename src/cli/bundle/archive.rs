//! Writes files as a compressed tar archive.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, Header};
use time::OffsetDateTime;

/// Only the owner can read the archive and, once it is unpacked, its files.
const MODE: u32 = 0o600;

/// Writes the archive, with its files in a folder of its name. Returns its size in bytes. A file that exists stays as it
/// is; one that could not be written to its end is removed.
///
/// # Errors
/// The file exists, or cannot be written.
pub fn write(path: &Path, files: &[(String, Vec<u8>)], at: OffsetDateTime) -> io::Result<u64> {
    let file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(path)?;
    let written = fill(file, &folder(path), files, at);
    if written.is_err() {
        // The first error is the one to report.
        let _ = std::fs::remove_file(path);
    }
    written
}

fn fill(
    file: File,
    folder: &str,
    files: &[(String, Vec<u8>)],
    at: OffsetDateTime,
) -> io::Result<u64> {
    let mut archive = Builder::new(GzEncoder::new(file, Compression::default()));
    for (name, content) in files {
        let mut header = Header::new_gnu();
        header.set_mode(MODE);
        header.set_size(content.len() as u64);
        header.set_mtime(at.unix_timestamp().unsigned_abs());
        archive.append_data(&mut header, format!("{folder}/{name}"), content.as_slice())?;
    }
    let file = archive.into_inner()?.finish()?;
    file.sync_all()?;
    Ok(file.metadata()?.len())
}

/// Returns the name of the archive without its ending.
fn folder(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let bare = name.strip_suffix(".tar.gz").or_else(|| name.strip_suffix(".tgz"));
    let bare = bare.unwrap_or(&name);
    if bare.is_empty() || bare.starts_with('.') {
        "skep-bundle".to_owned()
    } else {
        bare.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_named_like_the_archive_and_is_never_a_parent() {
        for (path, expected) in [
            ("/tmp/skep-bundle-i-0abc.tar.gz", "skep-bundle-i-0abc"),
            ("a.tgz", "a"),
            ("report", "report"),
            ("/tmp/..", "skep-bundle"),
            (".tar.gz", "skep-bundle"),
        ] {
            assert_eq!(folder(Path::new(path)), expected, "{path}");
        }
    }
}
