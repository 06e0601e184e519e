//! Reads a file with a secret, if no other user can read or change it.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::unistd::{Gid, Uid, User, getegid, geteuid};
use secrecy::SecretSlice;
use thiserror::Error;
use tokio::fs::OpenOptions;
use tokio::io::AsyncReadExt;

/// The user of `skep.service`.
pub const SERVICE_USER: &str = "skep";
/// Larger files hold something else.
const MOST_BYTES: u64 = 16 * 1024;
const GROUP: u32 = 0o070;
const OTHERS: u32 = 0o007;

/// Why a file with a secret is not used.
#[derive(Debug, Error)]
pub enum PrivateFileError {
    /// It is missing, not readable or not a regular file.
    #[error("cannot read {path}", path = path.display())]
    Unreadable {
        /// Path of the file.
        path: PathBuf,
        /// The error of the file system.
        source: io::Error,
    },
    /// Users other than skep and root can read or change it.
    #[error(
        "other users can access {path}; run `chown {SERVICE_USER} {path}; chmod 400 {path}`",
        path = path.display()
    )]
    Open {
        /// Path of the file.
        path: PathBuf,
    },
    /// It holds nothing but white space.
    #[error("{path} is empty", path = path.display())]
    Empty {
        /// Path of the file.
        path: PathBuf,
    },
}

/// Returns the content without white space around it, at most 16 KiB.
///
/// # Errors
/// When the file cannot be read, is not a regular one, is empty, or is not only for skep and root.
pub async fn read(path: &Path) -> Result<SecretSlice<u8>, PrivateFileError> {
    let unreadable = |source| PrivateFileError::Unreadable { path: path.to_owned(), source };
    // Opening a FIFO that nobody writes must not wait.
    let flags = (OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).await;
    let file = file.map_err(unreadable)?;
    let metadata = file.metadata().await.map_err(unreadable)?;
    if !metadata.is_file() {
        let what = io::Error::new(io::ErrorKind::InvalidInput, "not a regular file");
        return Err(unreadable(what));
    }
    if !is_private(Access::of(&metadata), &trusted()) {
        return Err(PrivateFileError::Open { path: path.to_owned() });
    }
    let mut content = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut content).await.map_err(unreadable)?;
    match content.trim_ascii() {
        [] => Err(PrivateFileError::Empty { path: path.to_owned() }),
        content => Ok(content.to_vec().into()),
    }
}

/// Whether the user of `skep.service` can read the file, by its mode. For a root that asks on its behalf.
#[must_use]
pub fn service_can_read(metadata: &Metadata, service: &User) -> bool {
    let Access { uid, gid, mode } = Access::of(metadata);
    (uid == service.uid && mode & 0o400 != 0) || (gid == service.gid && mode & 0o040 != 0)
}

/// Owner, group and mode of a file.
#[derive(Clone, Copy)]
struct Access {
    uid: Uid,
    gid: Gid,
    mode: u32,
}

impl Access {
    fn of(metadata: &Metadata) -> Self {
        let (uid, gid) = (Uid::from_raw(metadata.uid()), Gid::from_raw(metadata.gid()));
        Self { uid, gid, mode: metadata.mode() }
    }
}

fn is_private(Access { uid, gid, mode }: Access, trusted: &[(Uid, Gid)]) -> bool {
    let owner_is_trusted = trusted.iter().any(|(user, _)| *user == uid);
    let group_is_trusted = trusted.iter().any(|(_, group)| *group == gid);
    owner_is_trusted && mode & OTHERS == 0 && (mode & GROUP == 0 || group_is_trusted)
}

/// Returns root, this process's own user and, for root, the user of the service.
fn trusted() -> Vec<(Uid, Gid)> {
    let mut users = vec![(Uid::from_raw(0), Gid::from_raw(0)), (geteuid(), getegid())];
    if geteuid().is_root()
        && let Ok(Some(service)) = User::from_name(SERVICE_USER)
    {
        users.push((service.uid, service.gid));
    }
    users
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_private_if_only_skep_and_root_can_read_or_change_it() {
        const ROOT: u32 = 0;
        const SKEP: u32 = 990;
        const ALICE: u32 = 1000;
        let id = |id| (Uid::from_raw(id), Gid::from_raw(id));
        let check = |uid: u32, gid: u32, mode: u32| {
            let access = Access { uid: id(uid).0, gid: id(gid).1, mode: 0o100_000 | mode };
            is_private(access, &[id(ROOT), id(SKEP)])
        };
        for (uid, gid, mode) in
            [(SKEP, SKEP, 0o400), (SKEP, ALICE, 0o600), (ROOT, SKEP, 0o440), (ROOT, ROOT, 0o640)]
        {
            assert!(check(uid, gid, mode), "{uid} {gid} {mode:o}");
        }
        for (uid, gid, mode) in [
            (SKEP, SKEP, 0o444),
            (SKEP, SKEP, 0o402),
            (ROOT, SKEP, 0o441),
            (SKEP, ALICE, 0o440),
            (ROOT, ALICE, 0o420),
            (ALICE, SKEP, 0o440),
            (ALICE, ALICE, 0o400),
        ] {
            assert!(!check(uid, gid, mode), "{uid} {gid} {mode:o}");
        }
    }

    #[tokio::test]
    async fn what_is_not_a_private_file_with_a_content_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &str, mode: u32| {
            let path = dir.path().join(name);
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
        for (path, problem) in [
            (file("open", "hive", 0o644), "other users can access"),
            (file("empty", " \n", 0o400), "is empty"),
            (dir.path().join("missing"), "cannot read"),
            (dir.path().to_owned(), "cannot read"),
            (fifo, "cannot read"),
        ] {
            let error = read(&path).await.unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
        let secret = read(&file("private", " hive\n", 0o400)).await.unwrap();
        assert_eq!(secrecy::ExposeSecret::expose_secret(&secret), b"hive");
    }
}
