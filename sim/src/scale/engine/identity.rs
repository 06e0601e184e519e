//! Creates what identifies a swarm and its nodes, in the formats of swarmkit: ids, join tokens, the root CA, and the node
//! certificates that skep reads.

use std::fs;
use std::path::Path;

use anyhow::Context;
use fastrand::Rng;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
};
use sha2::{Digest, Sha256};

/// Digits of ids and of the secret of a join token (swarmkit, `identity/randomid.go` and `ca/config.go`).
const ID_DIGITS: usize = 25;
/// Digits of the root CA's digest in a join token (swarmkit, `ca/config.go`).
const DIGEST_DIGITS: usize = 50;
const BASE36: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
/// The file with a node's certificate, below Docker's root.
const CERTIFICATE: &str = "swarm/certificates/swarm-node.crt";

/// Returns an id of a node or a swarm, or the secret of a join token.
pub(super) fn id(random: &mut Rng) -> String {
    (0..ID_DIGITS).map(|_| char::from(BASE36[random.usize(..36)])).collect()
}

/// The root CA of one swarm.
pub(super) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    pub(super) fn new() -> anyhow::Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "swarm-ca");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)
            .context("cannot make the root CA")?;
        let pem = issuer.pem();
        Ok(Self { issuer, pem })
    }

    /// Returns the root certificate.
    pub(super) fn pem(&self) -> &str {
        &self.pem
    }

    /// Returns the second field of join tokens: swarmkit takes the digest of the PEM text.
    pub(super) fn digest(&self) -> String {
        base36(Sha256::digest(self.pem.as_bytes()).as_slice(), DIGEST_DIGITS)
    }

    /// Writes a node's certificate: O is the swarm, OU the role, CN the node.
    pub(super) fn certify(
        &self,
        docker_root: &Path,
        swarm: &str,
        node: &str,
        is_manager: bool,
    ) -> anyhow::Result<()> {
        let mut params = CertificateParams::default();
        let mut name = DistinguishedName::new();
        name.push(DnType::OrganizationName, swarm);
        let unit = if is_manager { "swarm-manager" } else { "swarm-worker" };
        name.push(DnType::OrganizationalUnitName, unit);
        name.push(DnType::CommonName, node);
        params.distinguished_name = name;
        let certificate = params.signed_by(&KeyPair::generate()?, &self.issuer)?;
        let file = docker_root.join(CERTIFICATE);
        if let Some(parent) = file.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&file, certificate.pem())
            .with_context(|| format!("cannot write {}", file.display()))
    }
}

/// Removes a node's certificate, as leaving does; succeeds if there is none.
pub(super) fn discard(docker_root: &Path) {
    fs::remove_file(docker_root.join(CERTIFICATE)).ok();
}

/// The fields of a join token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token<'a> {
    pub(super) digest: &'a str,
    pub(super) secret: &'a str,
}

impl<'a> Token<'a> {
    /// Returns `None` for a text that is no token.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let mut fields = text.strip_prefix("SWMTKN-1-")?.split('-');
        let (digest, secret) = (fields.next()?, fields.next()?);
        let is_token = digest.len() == DIGEST_DIGITS && secret.len() == ID_DIGITS;
        (is_token && fields.next().is_none()).then_some(Self { digest, secret })
    }
}

pub(super) fn token(digest: &str, secret: &str) -> String {
    format!("SWMTKN-1-{digest}-{secret}")
}

/// Returns a number of big-endian bytes in base 36, with leading zeros.
fn base36(bytes: &[u8], digits: usize) -> String {
    let mut number = bytes.to_vec();
    let mut text = vec![b'0'; digits];
    for digit in text.iter_mut().rev() {
        let mut rest = 0u32;
        for byte in &mut number {
            let value = rest << 8 | u32::from(*byte);
            // Less than 256, because the rest is less than 36.
            *byte = (value / 36) as u8;
            rest = value % 36;
        }
        *digit = BASE36[rest as usize];
    }
    text.into_iter().map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_padded_in_base_36() {
        assert_eq!(base36(&[0], 3), "000");
        assert_eq!(base36(&[35], 2), "0z");
        assert_eq!(base36(&[1, 0], 4), "0074");
        assert_eq!(base36(&[0xff; 32], 50).trim_start_matches('0').len(), 50);
    }

    #[test]
    fn a_token_has_the_form_of_swarmkit() {
        let authority = Authority::new().unwrap();
        let (digest, secret) = (authority.digest(), id(&mut Rng::with_seed(1)));
        let text = token(&digest, &secret);
        assert_eq!(text.len(), 85);
        assert_eq!(Token::parse(&text), Some(Token { digest: &digest, secret: &secret }));
        for text in ["", "SWMTKN-1-a-b", &text[1..], &format!("{text}-x")] {
            assert_eq!(Token::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_certificate_names_the_swarm_the_role_and_the_node() {
        let root = tempfile::tempdir().unwrap();
        let authority = Authority::new().unwrap();
        authority.certify(root.path(), "s1", "n1", true).unwrap();
        let text = fs::read(root.path().join(CERTIFICATE)).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(&text).unwrap();
        let certificate = pem.parse_x509().unwrap();
        let subject = certificate.subject().to_string();
        for part in ["O=s1", "OU=swarm-manager", "CN=n1"] {
            assert!(subject.contains(part), "{subject}");
        }
        discard(root.path());
        assert!(!root.path().join(CERTIFICATE).exists());
    }
}
