//! Stores, lists, reads and deletes objects in one S3 bucket. The API is four calls of plain HTTP, so it is signed by
//! hand, as for EC2.
//!
//! Guarantees: an object is only written with encryption by a KMS key (SSE-KMS), which the request names; no error and no
//! `Debug` shows the content of an object. Assumes keys of ASCII letters, digits and `._-/`, which need no escapes.
//!
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/API_PutObject.html>,
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html>

use std::fmt;
use std::sync::Arc;

use aws_config::{Region, SdkConfig};
use reqwest::Url;
use roxmltree::{Document, Node};

use super::query::{child, text};
use super::signed::{Answer, Attempts};
use super::{AwsError, Signed};
use crate::telemetry::metrics::metrics;

const SERVICE: &str = "s3";
/// The variable of the SDKs for the endpoint of this service.
const ENDPOINT: &str = "AWS_ENDPOINT_URL_S3";
/// Pages of a list that are read at most, of 1,000 objects each. Backups of ten years are a tenth of that.
const MOST_PAGES: usize = 100;

/// S3 in every region. Cheap to clone.
#[derive(Clone)]
pub struct S3 {
    config: SdkConfig,
}

impl fmt::Debug for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3").finish_non_exhaustive()
    }
}

/// One bucket. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Bucket {
    name: String,
    service: Arc<Result<Signed, String>>,
    attempts: Attempts,
}

impl S3 {
    pub(super) fn new(config: &SdkConfig) -> Self {
        Self { config: config.clone() }
    }

    /// Returns a bucket; `region` is its region, by default the instance's. Makes no request.
    #[must_use]
    pub fn bucket(&self, name: &str, region: Option<&str>, endpoint: Option<&Url>) -> Bucket {
        let mut config = self.config.to_builder();
        if let Some(region) = region {
            config = config.region(Region::new(region.to_owned()));
        }
        let config = config.build();
        let of_environment = std::env::var(ENDPOINT).ok();
        let endpoint = endpoint.map(Url::as_str).or(of_environment.as_deref());
        let service = Signed::new(&config, SERVICE, endpoint);
        let attempts = Attempts::of(&config);
        Bucket { name: name.to_owned(), service: Arc::new(service), attempts }
    }
}

impl Bucket {
    /// Stores an object, encrypted with a KMS key; replaces one with the same key.
    ///
    /// # Errors
    /// When S3 did not answer, or refused.
    pub async fn put(&self, key: &str, kms_key: &str, body: &[u8]) -> Result<(), AwsError> {
        let headers = [
            ("content-type", "application/json"),
            ("x-amz-server-side-encryption", "aws:kms"),
            ("x-amz-server-side-encryption-aws-kms-key-id", kms_key),
        ];
        let path = self.path(key);
        self.call("PutObject", "PUT", &path, &headers, body).await.map(drop)
    }

    /// Returns the content of an object.
    ///
    /// # Errors
    /// As for [`Bucket::put`]; [`super::AwsErrorKind::NotFound`] where there is no such object.
    pub async fn get(&self, key: &str) -> Result<String, AwsError> {
        Ok(self.call("GetObject", "GET", &self.path(key), &[], &[]).await?.body)
    }

    /// Deletes an object; no error if there is none.
    ///
    /// # Errors
    /// As for [`Bucket::put`].
    pub async fn delete(&self, key: &str) -> Result<(), AwsError> {
        self.call("DeleteObject", "DELETE", &self.path(key), &[], &[]).await.map(drop)
    }

    /// Returns the keys that begin with `prefix`, in S3's order, that of their bytes.
    ///
    /// # Errors
    /// As for [`Bucket::put`]; also when the list is incomplete, which must not count as the whole one.
    pub async fn list(&self, prefix: &str) -> Result<Vec<String>, AwsError> {
        const OPERATION: &str = "ListObjectsV2";
        let mut keys = vec![];
        let mut token: Option<String> = None;
        for _ in 0..MOST_PAGES {
            // Sorted by name, as they are signed.
            let mut query = String::new();
            if let Some(token) = &token {
                query.push_str(&format!("continuation-token={}&", escaped(token)));
            }
            query.push_str(&format!("list-type=2&prefix={}", escaped(prefix)));
            let path = format!("/{}?{query}", self.name);
            let answer = self.call(OPERATION, "GET", &path, &[], &[]).await?;
            let page = Page::parse(&answer.body);
            let page =
                page.ok_or_else(|| AwsError::malformed(SERVICE, OPERATION, &self.words()))?;
            keys.extend(page.keys);
            token = page.next;
            if token.is_none() {
                return Ok(keys);
            }
        }
        let why = format!("more than {MOST_PAGES} pages of objects begin with {prefix}");
        Err(AwsError::unanswered(SERVICE, OPERATION, &self.words(), why))
    }

    /// Returns how far this host's clock is ahead of S3's, by the last answer; zero as long as it is good enough for
    /// signatures, or before the first answer.
    #[must_use]
    pub fn clock_error(&self) -> time::Duration {
        (*self.service).as_ref().map(Signed::clock_error).unwrap_or_default()
    }

    fn path(&self, key: &str) -> String {
        format!("/{}/{key}", self.name)
    }

    fn words(&self) -> String {
        format!("bucket {}", self.name)
    }

    async fn call(
        &self,
        operation: &'static str,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer, AwsError> {
        let attempt = || self.attempt(operation, method, path, headers, body);
        self.attempts.make(operation, attempt).await
    }

    async fn attempt(
        &self,
        operation: &'static str,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer, AwsError> {
        let resource = self.words();
        let failed = |why: String| AwsError::unanswered(SERVICE, operation, &resource, why);
        let service = (*self.service).as_ref().map_err(|why| failed(why.clone()))?;
        let answer = service.call(method, path, headers, body.to_vec()).await.map_err(failed);
        let result = answer.and_then(|answer| match answer.status {
            200..=299 => Ok(answer),
            _ => Err(refused(operation, &resource, &answer)),
        });
        let outcome = result.as_ref().map_or_else(|error| error.kind.as_str(), |_| "ok");
        metrics().aws_call(SERVICE, operation, outcome);
        result
    }
}

/// One page of a list.
#[derive(Debug, PartialEq, Eq)]
struct Page {
    keys: Vec<String>,
    /// The token of the next page.
    next: Option<String>,
}

impl Page {
    /// Returns `None` for an answer that lacks something that S3 always sends.
    fn parse(body: &str) -> Option<Self> {
        let document = Document::parse(body).ok()?;
        let root = document.root_element();
        let contents = |node: &Node<'_, '_>| node.tag_name().name() == "Contents";
        let keys = root.children().filter(contents).map(|node| text(node, "Key"));
        let keys = keys.collect::<Option<Vec<String>>>()?;
        let is_truncated = text(root, "IsTruncated")? == "true";
        let next = text(root, "NextContinuationToken").filter(|_| is_truncated);
        // A token is missing.
        if is_truncated && next.is_none() {
            return None;
        }
        Some(Self { keys, next })
    }
}

/// Returns the error for a refusal. A bucket in another region is refused with the region in a header, in the error's
/// `Region`, or as part of its `Endpoint`.
fn refused(operation: &'static str, resource: &str, answer: &Answer) -> AwsError {
    let document = Document::parse(&answer.body).ok();
    let error = document.as_ref().map(Document::root_element);
    let part = |name: &str| error.and_then(|node| child(node, name).and(text(node, name)));
    let code = part("Code").unwrap_or_default();
    let message = match error {
        Some(_) => part("Message").unwrap_or_default(),
        None => format!("status {}", answer.status),
    };
    let is_elsewhere = matches!(answer.status, 301 | 307)
        || ["PermanentRedirect", "AuthorizationHeaderMalformed"].contains(&code.as_str());
    if !is_elsewhere {
        return AwsError::refused(SERVICE, operation, resource, answer.status, &code, &message);
    }
    let of_header = answer.bucket_region.clone();
    let region = of_header.or(part("Region")).or_else(|| region_of(&part("Endpoint")?));
    AwsError::other_region(SERVICE, operation, resource, region.as_deref(), &code, &message)
}

/// Returns the region in a host name such as `bucket.s3.eu-west-1.amazonaws.com` or `bucket.s3-eu-west-1.amazonaws.com`.
fn region_of(endpoint: &str) -> Option<String> {
    let (_, rest) = endpoint.rsplit_once(".s3").or_else(|| endpoint.rsplit_once("s3"))?;
    let region = rest.trim_start_matches(['.', '-']).split('.').next()?;
    region.contains('-').then(|| region.to_owned())
}

/// Escapes a value of a query, as it is signed.
fn escaped(value: &str) -> String {
    let mut escaped = String::new();
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::aws::AwsErrorKind;
    use crate::clients::aws::stub::Stub;

    const LIST: &str = "<?xml version=\"1.0\"?><ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">";

    async fn bucket(stub: &Stub) -> Bucket {
        stub.aws().await.s3.bucket("backups", None, None)
    }

    fn error(code: &str, more: &str) -> String {
        format!("<Error><Code>{code}</Code><Message>said</Message>{more}</Error>")
    }

    #[tokio::test]
    async fn pages_of_a_list_are_put_together_and_a_part_is_no_list() {
        let stub = Stub::start().await;
        let bucket = bucket(&stub).await;
        let page = |keys: &str, end: &str| format!("{LIST}{keys}{end}</ListBucketResult>");
        let next =
            "<IsTruncated>true</IsTruncated><NextContinuationToken>a+/=</NextContinuationToken>";
        stub.answer(200, &page("<Contents><Key>p/1</Key><Size>3</Size></Contents>", next));
        let end = "<IsTruncated>false</IsTruncated>";
        stub.answer(200, &page("<Contents><Key>p/2</Key></Contents>", end));
        assert_eq!(bucket.list("p/").await.unwrap(), ["p/1", "p/2"]);
        for incomplete in [page("", "<IsTruncated>true</IsTruncated>"), page("", ""), String::new()]
        {
            stub.answer(200, &incomplete);
            let error = bucket.list("p/").await.unwrap_err();
            assert!(error.to_string().contains("the answer is incomplete"), "{error}");
        }
        stub.answer(200, &page("", end));
        assert_eq!(bucket.list("p/").await.unwrap(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn what_s3_refuses_is_told_apart() {
        let endpoint = "<Endpoint>backups.s3.eu-west-1.amazonaws.com</Endpoint>";
        for (status, body, kind, said) in [
            (403, error("AccessDenied", ""), AwsErrorKind::AccessDenied, "grant s3:GetObject"),
            (404, error("NoSuchBucket", ""), AwsErrorKind::NotFound, "create bucket backups"),
            (404, error("NoSuchKey", ""), AwsErrorKind::NotFound, "no such object"),
            (301, error("PermanentRedirect", endpoint), AwsErrorKind::OtherRegion, "eu-west-1"),
            (
                400,
                error("AuthorizationHeaderMalformed", "<Region>us-east-2</Region>"),
                AwsErrorKind::OtherRegion,
                "us-east-2",
            ),
            (301, String::new(), AwsErrorKind::OtherRegion, "another region"),
            (503, error("SlowDown", ""), AwsErrorKind::Throttled, "SlowDown"),
        ] {
            let stub = Stub::start().await;
            // Some are tried twice.
            for _ in 0..2 {
                stub.answer(status, &body);
            }
            let error = bucket(&stub).await.get("p/1").await.unwrap_err();
            assert_eq!(error.kind, kind, "{error}");
            assert!(error.to_string().contains(said), "{error}");
        }
    }

    #[tokio::test]
    async fn a_denied_list_names_the_permission_of_iam() {
        let stub = Stub::start().await;
        stub.answer(403, &error("AccessDenied", ""));
        let error = bucket(&stub).await.list("p/").await.unwrap_err().to_string();
        assert!(error.contains("grant s3:ListBucket on bucket backups"), "{error}");
    }

    #[tokio::test]
    async fn no_debug_shows_what_an_object_holds() {
        let stub = Stub::start().await;
        stub.answer(200, "PASSWORD=secret");
        let answer = bucket(&stub).await.call("GetObject", "GET", "/b/k", &[], &[]).await.unwrap();
        assert_eq!(answer.body, "PASSWORD=secret");
        assert!(!format!("{answer:?}").contains("secret"));
    }

    #[test]
    fn the_region_is_read_from_a_host_name() {
        for (endpoint, region) in [
            ("b.s3.eu-west-1.amazonaws.com", Some("eu-west-1")),
            ("b.s3-us-gov-west-1.amazonaws.com", Some("us-gov-west-1")),
            ("my.s3bucket.s3.eu-west-1.amazonaws.com", Some("eu-west-1")),
            ("b.s3.amazonaws.com", None),
            ("localhost", None),
        ] {
            assert_eq!(region_of(endpoint).as_deref(), region, "{endpoint}");
        }
        assert_eq!(escaped("a/b+c=d e~"), "a%2Fb%2Bc%3Dd%20e~");
    }
}
