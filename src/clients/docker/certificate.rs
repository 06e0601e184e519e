//! Reads the certificate of this host's node, which contains the swarm id and the node id where `/info` does not.
//!
//! Guarantees: the answer is "no certificate" only where its file certainly does not exist. Everything else that
//! prevents the read is an error, since it is unknown then which node this is.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

/// Path of `systemd/skep-certificate.socket`.
pub(super) const CERTIFICATE_SOCKET: &str = "/run/skep-certificate.sock";
/// Time limit for an answer from the socket: systemd starts a service that reads a file.
const HANDOUT_TIMEOUT: Duration = Duration::from_secs(5);
/// Directory below Docker's root. Docker creates it at every start, whether it is in a swarm or not.
const SWARM_DIR: &str = "swarm";
const FILE: &str = "certificates/swarm-node.crt";
/// End of the error message of `cat` about a missing file.
const NOT_THERE: &str = "No such file or directory";
/// Shown part of an answer without a certificate, in characters.
const SHOWN: usize = 200;

/// The subject of `swarm/certificates/swarm-node.crt`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    pub swarm_id: String,
    pub node_id: String,
    pub is_manager: bool,
}

/// Reads the certificate. Only root can read the file; every other user gets it from a socket of skep's package. `None`
/// on a host that is in no swarm.
///
/// # Errors
/// When it is unknown whether there is a certificate, or when it cannot be parsed.
pub(super) async fn read(docker_root: &Path, socket: &str) -> io::Result<Option<Certificate>> {
    let swarm = docker_root.join(SWARM_DIR);
    let path = swarm.join(FILE);
    match tokio::fs::read(&path).await {
        Ok(pem) => match parse(&pem) {
            Some(certificate) => Ok(Some(certificate)),
            None => Err(invalid(format!("{} is not a node certificate", path.display()))),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => {
            // Without that directory skep reads another file system than Docker's.
            let here = tokio::fs::metadata(&swarm).await;
            here.map(|_| None)
                .map_err(|error| invalid(format!("{}, which Docker has: {error}", swarm.display())))
        }
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            take_handed_out(&path, socket).await
        }
        Err(error) => Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
    }
}

/// Whether another read would fail alike, because a file or a permission must be repaired first. Other failures may
/// pass.
pub(super) fn is_lasting(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::InvalidData)
}

async fn take_handed_out(path: &Path, socket: &str) -> io::Result<Option<Certificate>> {
    let handed = tokio::time::timeout(HANDOUT_TIMEOUT, hand_out(socket)).await;
    let text = match handed.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into())) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let why = format!(
                "only root can read {}, and {socket} does not exist; start \
                 skep-certificate.socket, or run skep as root",
                path.display()
            );
            return Err(io::Error::new(ErrorKind::PermissionDenied, why));
        }
        Err(error) => return Err(io::Error::new(error.kind(), format!("{socket}: {error}"))),
    };
    match parse(&text) {
        Some(certificate) => Ok(Some(certificate)),
        None if is_not_there(&text, path) => Ok(None),
        None => Err(invalid(format!("{socket}: {}", describe(&text)))),
    }
}

/// Reads the socket to its end.
async fn hand_out(socket: &str) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    UnixStream::connect(socket).await?.read_to_end(&mut text).await?;
    Ok(text)
}

/// Whether `cat` reports that Docker's file does not exist. The absence of another file proves nothing.
fn is_not_there(text: &[u8], path: &Path) -> bool {
    let text = String::from_utf8_lossy(text);
    text.trim_end().ends_with(NOT_THERE) && text.contains(&*path.to_string_lossy())
}

/// Describes an answer without a certificate. Never shows a key, which a drop-in may name by mistake.
fn describe(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    match text.trim() {
        "" => "the answer is empty".to_owned(),
        pem if pem.contains("-----BEGIN") => "the answer is not a node certificate".to_owned(),
        text => text.chars().take(SHOWN).collect(),
    }
}

fn invalid(why: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, why)
}

fn parse(pem: &[u8]) -> Option<Certificate> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem).ok()?;
    let certificate = pem.parse_x509().ok()?;
    let subject = certificate.subject();
    let node_id = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let swarm_id = subject.iter_organization().next()?.as_str().ok()?.to_owned();
    let unit = subject.iter_organizational_unit().next()?.as_str().ok()?;
    Some(Certificate { swarm_id, node_id, is_manager: unit == "swarm-manager" })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::net::UnixListener;

    use super::*;

    /// `O=swarm`, `OU=swarm-manager`, `CN=node`.
    const PEM: &str = "-----BEGIN CERTIFICATE-----
MIIBxTCCAWugAwIBAgIUVXkbo9dynVY3Hv12JhL6nXtv0U0wCgYIKoZIzj0EAwIw
NzEOMAwGA1UECgwFc3dhcm0xFjAUBgNVBAsMDXN3YXJtLW1hbmFnZXIxDTALBgNV
BAMMBG5vZGUwIBcNMjYxMTI4MjE1NzM5WhgPMjEyNjExMDQyMTU3MzlaMDcxDjAM
BgNVBAoMBXN3YXJtMRYwFAYDVQQLDA1zd2FybS1tYW5hZ2VyMQ0wCwYDVQQDDARu
b2RlMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEWt/5Zp9vi7clOv73iZpVXtzq
9HILL6408kzbTWnbg/xlRsjWfFxyWOKywgJWSu/zEDQ8EF1SJU/C+0OlxXTGS6NT
MFEwHQYDVR0OBBYEFKHZRymJejLQ+RapELABb3AUpZehMB8GA1UdIwQYMBaAFKHZ
RymJejLQ+RapELABb3AUpZehMA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0EAwID
SAAwRQIgY/gIEVDHc/Nqsp3HI9JwiV7JpEJXXlnZwYDV9W7KgFICIQDwC3pbS/hP
N26Nd54h++Y3QUQ2g3jG9tm+waLKNpL5kw==
-----END CERTIFICATE-----
";

    fn certificate() -> Certificate {
        Certificate { swarm_id: "swarm".into(), node_id: "node".into(), is_manager: true }
    }

    #[tokio::test]
    async fn there_is_none_only_where_docker_has_its_directory_and_no_file_in_it() {
        let root = tempfile::tempdir().unwrap();
        let swarm = root.path().join("swarm");
        let look = async || read(root.path(), "/nowhere").await;
        let error = look().await.unwrap_err();
        assert!(is_lasting(&error), "not the file system that Docker sees: {error}");
        fs::create_dir(&swarm).unwrap();
        assert_eq!(look().await.unwrap(), None);
        let file = swarm.join(FILE);
        fs::create_dir(file.parent().unwrap()).unwrap();
        assert_eq!(look().await.unwrap(), None);
        fs::write(&file, PEM).unwrap();
        assert_eq!(look().await.unwrap(), Some(certificate()));
        for broken in ["", "-----BEGIN CERTIFICATE-----\nMIIBxTCC\n", "\0\0\0\0"] {
            fs::write(&file, broken).unwrap();
            let error = look().await.unwrap_err();
            assert!(is_lasting(&error), "{error}");
        }
        // Stands for a failing disk: the file exists and cannot be read.
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        let error = look().await.unwrap_err();
        assert!(!is_lasting(&error) && error.to_string().contains("swarm-node.crt"), "{error}");
    }

    #[tokio::test]
    async fn what_the_socket_hands_out_is_a_certificate_its_absence_or_no_answer() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket").to_str().unwrap().to_owned();
        let path = Path::new("/var/lib/docker/swarm/certificates/swarm-node.crt");
        let take = async |answer: &str| {
            let _ = fs::remove_file(&socket);
            let listener = UnixListener::bind(&socket).unwrap();
            let answer = answer.to_owned();
            let server = std::thread::spawn(move || {
                use std::io::Write;
                listener.accept().unwrap().0.write_all(answer.as_bytes()).unwrap();
            });
            let taken = take_handed_out(path, &socket).await;
            server.join().unwrap();
            taken
        };
        assert_eq!(take(PEM).await.unwrap(), Some(certificate()));
        let cat = |path: &str, why: &str| format!("/bin/cat: {path}: {why}\n");
        let of_docker = path.to_str().unwrap();
        assert_eq!(take(&cat(of_docker, NOT_THERE)).await.unwrap(), None);
        for answer in [
            String::new(),
            cat("/data/swarm/certificates/swarm-node.crt", NOT_THERE),
            cat(of_docker, "Input/output error"),
            "-----BEGIN EC PRIVATE KEY-----\nc2VjcmV0\n-----END EC PRIVATE KEY-----\n".into(),
        ] {
            let error = take(&answer).await.unwrap_err();
            assert!(is_lasting(&error) && !error.to_string().contains("c2VjcmV0"), "{error}");
        }
        fs::remove_file(&socket).unwrap();
        let error = take_handed_out(path, &socket).await.unwrap_err();
        assert!(error.to_string().contains("start skep-certificate.socket"), "{error}");
    }
}
