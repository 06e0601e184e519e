//! A call to S3, path style: its operation, and what it asks for.

use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};
use percent_encoding::percent_decode_str;
use sha2::{Digest, Sha256};

use crate::cloud::errors::ApiError;
use crate::cloud::wire::Params;
use crate::cloud::{ACCOUNT, access};

pub(super) const ENCRYPTION: &str = "x-amz-server-side-encryption";
pub(super) const KMS_KEY: &str = "x-amz-server-side-encryption-aws-kms-key-id";
const DIGEST: &str = "x-amz-content-sha256";
/// The operations, and the parameters of a query that this cloud obeys.
const OPERATIONS: [(&str, &[&str]); 5] = [
    ("PutObject", &["x-id"]),
    ("GetObject", &["x-id"]),
    ("DeleteObject", &["x-id"]),
    ("CreateBucket", &[]),
    (
        "ListObjectsV2",
        &["list-type", "prefix", "max-keys", "continuation-token", "start-after", "encoding-type"],
    ),
];
/// S3's headers that this cloud obeys, or that change nothing here. A checksum beside the digest is not compared.
const HEADERS: [&str; 10] = [
    ENCRYPTION,
    KMS_KEY,
    DIGEST,
    "x-amz-date",
    "x-amz-security-token",
    "x-amz-user-agent",
    "x-amz-sdk-checksum-algorithm",
    "x-amz-checksum-mode",
    "x-amz-checksum-crc32",
    "x-amz-checksum-crc64nvme",
];

/// What a call asks for. No `Debug`: the headers hold a session token.
pub(in crate::cloud) struct Input {
    pub bucket: String,
    /// Empty in a call about a bucket.
    pub key: String,
    /// The region that the call is signed for.
    pub region: String,
    pub(super) query: Params,
    pub(super) headers: HeaderMap,
}

impl Input {
    /// Returns the name of the operation, and its input.
    pub fn parse(parts: &Parts) -> (String, Self) {
        let path = parts.uri.path().trim_start_matches('/');
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        let query = Params::parse(parts.uri.query().unwrap_or_default().as_bytes());
        let action = match (parts.method.as_str(), key.is_empty()) {
            ("PUT", false) => "PutObject".to_owned(),
            ("GET", false) => "GetObject".to_owned(),
            ("DELETE", false) => "DeleteObject".to_owned(),
            ("PUT", true) => "CreateBucket".to_owned(),
            ("GET", true) if query.get("list-type") == Some("2") => "ListObjectsV2".to_owned(),
            (method, is_bucket) => format!("{method} {}", if is_bucket { "bucket" } else { "key" }),
        };
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let input = Self {
            bucket: decoded(bucket),
            key: decoded(key),
            region: access::signed_region(&parts.headers).unwrap_or_default().to_owned(),
            query,
            headers: parts.headers.clone(),
        };
        (action, input)
    }

    /// Refuses what this cloud would not do as S3 does, and a body that is not the signed one.
    pub(super) fn check(&self, action: &str, body: &[u8]) -> Result<(), ApiError> {
        let known = OPERATIONS.iter().find(|(name, _)| *name == action);
        let (_, parameters) = known.ok_or_else(|| not_implemented(action))?;
        if let Some((name, _)) = self.query.pairs().find(|(name, _)| !parameters.contains(name)) {
            return Err(not_implemented(name));
        }
        let changes = |name: &&str| {
            name.starts_with("if-")
                || *name == "range"
                || name.starts_with("x-amz-") && !HEADERS.contains(name)
        };
        if let Some(name) = self.headers.keys().map(HeaderName::as_str).find(changes) {
            return Err(not_implemented(name));
        }
        match self.header(DIGEST) {
            Some("UNSIGNED-PAYLOAD") => Ok(()),
            Some(chunks) if chunks.starts_with("STREAMING-") => Err(not_implemented(chunks)),
            Some(digest) if digest == hex(body) => Ok(()),
            Some(_) => Err(ApiError::new(
                400,
                "XAmzContentSHA256Mismatch",
                "The provided 'x-amz-content-sha256' header does not match what was computed.",
            )),
            None => Err(ApiError::new(
                400,
                "InvalidRequest",
                format!("Missing required header for this request: {DIGEST}"),
            )),
        }
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Returns the ARN of the KMS key that an object in a bucket of `region` is to be encrypted with; `None`: S3's own
    /// keys, its default.
    pub(super) fn kms_key(&self, region: &str) -> Result<Option<String>, ApiError> {
        match (self.header(ENCRYPTION), self.header(KMS_KEY)) {
            (None | Some("AES256"), None) => Ok(None),
            (Some("aws:kms"), Some(key)) => key_arn(key, region).map(Some),
            (Some("aws:kms"), None) => Err(not_implemented("aws:kms with the key of AWS")),
            (_, Some(_)) => Err(invalid(
                "Server Side Encryption with AWS KMS managed key requires HTTP header \
                 x-amz-server-side-encryption : aws:kms",
            )),
            (Some(_), None) => Err(invalid("The encryption method specified is not supported")),
        }
    }

    /// Returns the bucket, and the bucket with the key, for denials.
    pub fn resources(&self) -> Vec<String> {
        let key = (!self.key.is_empty()).then(|| format!("{}/{}", self.bucket, self.key));
        [self.bucket.clone()].into_iter().chain(key).collect()
    }

    /// Returns the bucket with the key or the prefix, for the log.
    pub fn summary(&self) -> String {
        let prefix = self.query.get("prefix").unwrap_or_default();
        format!("{}/{}{prefix}", self.bucket, self.key)
    }
}

/// Returns the ARN of a key that is named by its id, its ARN, or an alias. Every key and every alias exists; a key must
/// be in the region of the bucket.
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/UsingKMSEncryption.html>
fn key_arn(key: &str, region: &str) -> Result<String, ApiError> {
    let not_found = |message: String| ApiError::new(400, "KMS.NotFoundException", message);
    let name = match key.strip_prefix("arn:") {
        None => key,
        Some(rest) => {
            let mut parts = rest.splitn(5, ':');
            let mut part = || parts.next().unwrap_or_default();
            let (_, service, of, account, resource) = (part(), part(), part(), part(), part());
            if (service, account) != ("kms", ACCOUNT) {
                return Err(not_found(format!("Invalid arn {key}")));
            }
            if of != region {
                return Err(not_found(format!("Invalid arn {of}")));
            }
            resource.strip_prefix("key/").unwrap_or(resource)
        }
    };
    let id = match name.strip_prefix("alias/") {
        Some(alias) if !alias.is_empty() => {
            let digits = hex(alias.as_bytes());
            let part = |from, to| &digits[from..to];
            let (a, b, c, d, e) =
                (part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32));
            format!("{a}-{b}-{c}-{d}-{e}")
        }
        _ => name.to_owned(),
    };
    if id.is_empty() || !id.chars().all(|char| char.is_ascii_alphanumeric() || char == '-') {
        return Err(not_found(format!("Invalid keyId '{key}'")));
    }
    Ok(format!("arn:aws:kms:{region}:{ACCOUNT}:key/{id}"))
}

/// Returns the SHA-256 in hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn invalid(message: &str) -> ApiError {
    ApiError::new(400, "InvalidArgument", message)
}

fn not_implemented(what: &str) -> ApiError {
    let message = format!("This cloud does not implement {what}");
    ApiError::new(501, "NotImplemented", message)
}
