//! The cloud's certificate authority, and the server certificate of its AWS endpoints.
//!
//! As on AWS: TLS 1.3 and 1.2, HTTP/1.1, a server certificate that an intermediate authority has signed, and session
//! tickets. Unlike there, all keys are elliptic (P-256): a signature of AWS's servers costs a client no processor
//! time, but here both share the machine, and these signatures are the cheapest.
//!
//! Guarantee: the private keys are only in memory.

use std::fmt;
use std::sync::Arc;

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::{Ticketer, default_provider};
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;

/// Certificates are valid for this long before and after they are made: clocks differ, and a cloud may run for weeks.
const VALID: Duration = Duration::days(365);

/// An authority that no other cloud has, and a certificate of it for the servers of one cloud.
#[derive(Clone)]
pub struct Tls {
    authority: String,
    acceptor: TlsAcceptor,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The acceptor holds the server's key.
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

impl Tls {
    /// Makes the keys and certificates; the server's is valid for `names`, which are addresses or host names.
    ///
    /// # Errors
    /// When a name is neither, or there are no random numbers.
    pub fn new(names: &[String]) -> anyhow::Result<Self> {
        let root = authority("skep-sim root", KeyPair::generate()?, None)?;
        let intermediate = authority("skep-sim", KeyPair::generate()?, Some(&root))?;
        let mut server = validity(CertificateParams::new(names)?);
        server.distinguished_name.push(DnType::CommonName, "skep-sim AWS endpoints");
        server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        server.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = server.signed_by(&key, &intermediate)?;
        let chain = vec![certificate.der().clone(), intermediate.der().clone()];
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key.into())
            .context("the server's certificate")?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.ticketer = Ticketer::new()?;
        Ok(Self { authority: root.pem(), acceptor: Arc::new(config).into() })
    }

    /// The authority's certificate in PEM: clients that trust it are served.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    pub(super) fn acceptor(&self) -> &TlsAcceptor {
        &self.acceptor
    }
}

type Authority = CertifiedIssuer<'static, KeyPair>;

/// Makes an authority; it signs itself if no other one signs it.
fn authority(name: &str, key: KeyPair, signer: Option<&Authority>) -> anyhow::Result<Authority> {
    let mut params = validity(CertificateParams::default());
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(match signer {
        None => CertifiedIssuer::self_signed(params, key)?,
        Some(signer) => {
            params.use_authority_key_identifier_extension = true;
            CertifiedIssuer::signed_by(params, key, signer)?
        }
    })
}

/// Gives the certificate no name, and a time.
fn validity(mut params: CertificateParams) -> CertificateParams {
    let now = OffsetDateTime::now_utc();
    (params.not_before, params.not_after) = (now - VALID, now + VALID);
    params.distinguished_name = DistinguishedName::new();
    params
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_rustls::TlsConnector;
    use tokio_rustls::client::TlsStream;
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
    use tokio_rustls::rustls::{
        ClientConfig, HandshakeKind, ProtocolVersion, RootCertStore, SupportedProtocolVersion,
        version,
    };

    use super::*;
    use crate::cloud::{Cloud, CloudOptions, Fault, Service};

    /// A cloud with a listener for TLS.
    struct Bench {
        cloud: Cloud,
        tls: Tls,
        address: SocketAddr,
    }

    impl Bench {
        async fn start() -> Self {
            let cloud = Cloud::new(CloudOptions {
                region: "eu-central-1".to_owned(),
                zones: vec!["eu-central-1a".to_owned()],
                subnet: (Ipv4Addr::new(10, 78, 0, 0), 24),
                seed: 7,
            })
            .unwrap();
            let tls = Tls::new(&["127.0.0.1".to_owned(), "aws.test".to_owned()]).unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(cloud.clone().serve_aws_tls(listener, tls.clone()));
            Self { cloud, tls, address }
        }

        fn client(&self) -> Arc<ClientConfig> {
            client(&self.tls, &version::TLS13)
        }

        async fn connect(
            &self,
            client: &Arc<ClientConfig>,
            name: &str,
        ) -> std::io::Result<TlsStream<TcpStream>> {
            let stream = TcpStream::connect(self.address).await?;
            let name = ServerName::try_from(name.to_owned()).unwrap();
            TlsConnector::from(Arc::clone(client)).connect(name, stream).await
        }
    }

    /// A client that trusts one authority, and speaks one version.
    fn client(trusted: &Tls, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(trusted.authority().as_bytes()).unwrap()).unwrap();
        let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }

    /// Sends a call as an operator; returns the whole answer.
    async fn call(stream: &mut TlsStream<TcpStream>, bench: &Bench) -> String {
        let format =
            time::macros::format_description!("[year][month][day]T[hour][minute][second]Z");
        let now = bench.cloud.now().format(format).unwrap();
        let body = "Action=DescribeAutoScalingGroups&Version=2011-01-01";
        let request = format!(
            "POST / HTTP/1.1\r\nHost: aws\r\nConnection: close\r\nX-Amz-Date: {now}\r\n\
             Authorization: AWS4-HMAC-SHA256 Credential=AKIAOPERATOR/1/r/s/aws4_request, \
             SignedHeaders=host, Signature=00\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test]
    async fn serves_a_client_that_trusts_the_authority() {
        let bench = Bench::start().await;
        for (version, number) in [
            (&version::TLS13, ProtocolVersion::TLSv1_3),
            (&version::TLS12, ProtocolVersion::TLSv1_2),
        ] {
            let client = client(&bench.tls, version);
            for name in ["127.0.0.1", "aws.test"] {
                let mut stream = bench.connect(&client, name).await.unwrap();
                let session = stream.get_ref().1;
                assert_eq!(session.protocol_version(), Some(number));
                assert_eq!(session.alpn_protocol(), Some(b"http/1.1".as_slice()));
                let answer = call(&mut stream, &bench).await;
                assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            }
        }
        let requests = bench.cloud.requests();
        assert_eq!(requests.len(), 4);
        assert!(requests.iter().all(|it| it.action == "DescribeAutoScalingGroups"));
    }

    #[tokio::test]
    async fn a_client_that_does_not_trust_the_authority_sends_nothing() {
        let bench = Bench::start().await;
        // Of the same names, and of another cloud.
        let other = Tls::new(&["127.0.0.1".to_owned()]).unwrap();
        let client = client(&other, &version::TLS13);
        let refused = bench.connect(&client, "127.0.0.1").await.unwrap_err().to_string();
        assert!(refused.contains("certificate"), "{refused}");
        assert_eq!(bench.cloud.requests().len(), 0);
    }

    #[tokio::test]
    async fn the_certificate_is_for_its_names_only() {
        let bench = Bench::start().await;
        let client = bench.client();
        let refused = bench.connect(&client, "127.0.0.2").await.unwrap_err().to_string();
        assert!(refused.contains("not valid for name"), "{refused}");
    }

    #[tokio::test]
    async fn faults_apply_to_calls_over_tls() {
        let bench = Bench::start().await;
        let client = bench.client();
        let throttled = Fault { throttle: 1.0, ..Fault::default() };
        bench.cloud.faults().set(Service::AutoScaling, None, throttled);
        let mut stream = bench.connect(&client, "127.0.0.1").await.unwrap();
        let answer = call(&mut stream, &bench).await;
        assert!(answer.contains("Throttling"), "{answer}");
    }

    #[tokio::test]
    async fn a_second_connection_resumes_the_session() {
        let bench = Bench::start().await;
        let client = bench.client();
        let mut resumed = Vec::new();
        for _ in 0..2 {
            let mut stream = bench.connect(&client, "127.0.0.1").await.unwrap();
            // The ticket comes after the handshake.
            call(&mut stream, &bench).await;
            resumed.push(stream.get_ref().1.handshake_kind());
        }
        assert_eq!(resumed, [Some(HandshakeKind::Full), Some(HandshakeKind::Resumed)]);
    }
}
