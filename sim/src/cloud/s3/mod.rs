//! S3, as far as backups need it: buckets in any region, and their objects, called path style.
//!
//! Guarantees: a call with a parameter or header that this module does not support is refused with `NotImplemented`,
//! and never answered without it; a call is judged in S3's order: its bucket, the bucket's region, the permissions, the
//! object; an object that is encrypted with a KMS key needs the permission for the key; `NoSuchKey` needs
//! `s3:ListBucket`, without which S3 answers `AccessDenied`; no error, log or `Debug` shows the content of an object.
//!
//! Differences from AWS: every KMS key exists and its own policy allows the account everything; there are no versions,
//! no bucket policies and no multipart uploads; checksums other than the signed digest are not compared.

mod admin;
mod call;

use std::collections::BTreeMap;

use axum::body::{Body, Bytes};
use axum::http::{HeaderName, HeaderValue, Response, StatusCode, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use time::OffsetDateTime;

pub use admin::ObjectView;
pub(super) use call::Input;
use call::{ENCRYPTION, KMS_KEY, hex, invalid};

use super::clock;
use super::errors::ApiError;
use super::iam::Asked;
use super::ids;
use super::requests::Service;
use super::xml::{self, Xml};

const DECLARATION: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";
const LIST: &str = "ListObjectsV2";
/// The region that has no location constraint.
const FIRST_REGION: &str = "us-east-1";
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html>
const LARGEST_PAGE: usize = 1000;
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html>
const LONGEST_KEY: usize = 1024;
const BUCKET_REGION: HeaderName = HeaderName::from_static("x-amz-bucket-region");

/// No `Debug`: objects can hold secrets.
#[derive(Default)]
pub(super) struct S3 {
    buckets: BTreeMap<String, Bucket>,
}

struct Bucket {
    region: String,
    /// In the order of their keys' bytes.
    objects: BTreeMap<String, Object>,
}

struct Object {
    body: Bytes,
    content_type: String,
    content_encoding: Option<String>,
    etag: String,
    modified: OffsetDateTime,
    /// An ARN; `None`: S3's own keys.
    kms_key: Option<String>,
}

impl Object {
    fn new(body: Bytes, kms_key: Option<String>, modified: OffsetDateTime) -> Self {
        let etag = format!("\"{}\"", &hex(&body)[..32]);
        let content_type = "binary/octet-stream".to_owned();
        Self { body, content_type, content_encoding: None, etag, modified, kms_key }
    }

    /// Returns the headers with which S3 answers a call that wrote or read the object.
    fn headers(&self) -> Vec<(&'static str, String)> {
        let method = if self.kms_key.is_some() { "aws:kms" } else { "AES256" };
        let key = self.kms_key.clone().map(|key| (KMS_KEY, key));
        let headers = [("etag", self.etag.clone()), (ENCRYPTION, method.to_owned())];
        headers.into_iter().chain(key).collect()
    }
}

#[derive(Deserialize)]
struct BucketConfiguration {
    #[serde(rename = "LocationConstraint")]
    location: Option<String>,
}

impl S3 {
    /// Refuses a call before its permissions are judged.
    pub fn check(&self, action: &str, input: &Input, body: &[u8]) -> Result<(), ApiError> {
        input.check(action, body)?;
        if action == "CreateBucket" {
            return Ok(());
        }
        match self.buckets.get(&input.bucket) {
            Some(bucket) if bucket.region == input.region => Ok(()),
            Some(_) => Err(ApiError::new(
                301,
                "PermanentRedirect",
                "The bucket you are attempting to access must be addressed using the specified \
                 endpoint. Please send all future requests to this endpoint.",
            )),
            None => Err(no_bucket()),
        }
    }

    /// Returns what a call must be allowed, in the order in which AWS asks:
    /// <https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazons3.html>,
    /// <https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObject.html>
    pub fn asked(&self, action: &str, input: &Input) -> Vec<Asked> {
        let (bucket, region) = (format!("arn:aws:s3:::{}", input.bucket), &input.region);
        let list = |values| Asked::s3(permission(LIST), &bucket, values, region);
        if action == LIST {
            let prefix = input.query.get("prefix").map(|prefix| ("s3:prefix", prefix.to_owned()));
            return vec![list(prefix.into_iter().collect())];
        }
        if input.key.is_empty() {
            return vec![Asked::s3(action, &bucket, BTreeMap::new(), region)];
        }
        let names = [ENCRYPTION, KMS_KEY].into_iter().zip(CONDITIONS);
        let values = names.filter_map(|(header, name)| Some((name, input.header(header)?.into())));
        let values = values.filter(|_| action == "PutObject").collect();
        let object = Asked::s3(action, &format!("{bucket}/{}", input.key), values, region);
        let stored = self.buckets.get(&input.bucket).and_then(|of| of.objects.get(&input.key));
        let kms = |action, key: &str| Asked::kms_of_s3(action, key, region);
        let more = match (action, stored) {
            // A key that cannot be used is refused later.
            ("PutObject", _) => {
                let key = input.kms_key(region).ok().flatten();
                key.map(|key| kms("GenerateDataKey", &key))
            }
            ("GetObject", None) => Some(list(BTreeMap::new())),
            ("GetObject", Some(stored)) => stored.kms_key.as_ref().map(|key| kms("Decrypt", key)),
            _ => None,
        };
        [object].into_iter().chain(more).collect()
    }

    /// Answers a call that is allowed.
    pub fn handle(
        &mut self,
        action: &str,
        input: &Input,
        body: &Bytes,
        now: OffsetDateTime,
    ) -> Result<Response<Body>, ApiError> {
        if action == "CreateBucket" {
            return self.create_bucket(input, body);
        }
        let Bucket { region, objects } =
            self.buckets.get_mut(&input.bucket).ok_or_else(no_bucket)?;
        match action {
            "PutObject" if input.key.len() > LONGEST_KEY => {
                Err(ApiError::new(400, "KeyTooLongError", "Your key is too long"))
            }
            "PutObject" => {
                let mut object = Object::new(body.clone(), input.kms_key(region)?, now);
                if let Some(kind) = input.header("content-type") {
                    kind.clone_into(&mut object.content_type);
                }
                object.content_encoding = input.header("content-encoding").map(str::to_owned);
                let headers = object.headers();
                objects.insert(input.key.clone(), object);
                Ok(respond(200, headers, Bytes::new()))
            }
            "GetObject" => {
                let object = objects.get(&input.key).ok_or_else(|| {
                    ApiError::new(404, "NoSuchKey", "The specified key does not exist.")
                })?;
                let mut headers = object.headers();
                headers.push(("content-type", object.content_type.clone()));
                headers.push(("last-modified", clock::http_date(object.modified)));
                let encoding = object.content_encoding.clone();
                headers.extend(encoding.map(|encoding| ("content-encoding", encoding)));
                Ok(respond(200, headers, object.body.clone()))
            }
            "DeleteObject" => {
                objects.remove(&input.key);
                Ok(respond(204, vec![], Bytes::new()))
            }
            _ => list(objects, input),
        }
    }

    /// Names the region of the bucket in a redirection.
    pub fn name_region(&self, input: &Input, response: &mut Response<Body>) {
        let region = self.buckets.get(&input.bucket).map(|bucket| &bucket.region);
        let value = region.and_then(|region| HeaderValue::from_str(region).ok());
        if let Some(value) = value.filter(|_| response.status() == StatusCode::MOVED_PERMANENTLY) {
            response.headers_mut().insert(BUCKET_REGION, value);
        }
    }

    /// <https://docs.aws.amazon.com/AmazonS3/latest/API/API_CreateBucket.html>
    fn create_bucket(&mut self, input: &Input, body: &[u8]) -> Result<Response<Body>, ApiError> {
        check_name(&input.bucket)?;
        let location = if body.is_empty() { None } else { location(body)? };
        let region = location.as_deref().unwrap_or(FIRST_REGION);
        if input.region != FIRST_REGION && input.region != region {
            let named = location.as_deref().unwrap_or("unspecified");
            return Err(ApiError::new(
                400,
                "IllegalLocationConstraintException",
                format!(
                    "The {named} location constraint is incompatible for the region specific \
                     endpoint this request was sent to."
                ),
            ));
        }
        self.create(&input.bucket, region)?;
        Ok(respond(200, vec![("location", format!("/{}", input.bucket))], Bytes::new()))
    }

    fn create(&mut self, name: &str, region: &str) -> Result<(), ApiError> {
        if self.buckets.contains_key(name) {
            return Err(ApiError::new(
                409,
                "BucketAlreadyOwnedByYou",
                "Your previous request to create the named bucket succeeded and you already own \
                 it.",
            ));
        }
        let bucket = Bucket { region: region.to_owned(), objects: BTreeMap::new() };
        self.buckets.insert(name.to_owned(), bucket);
        Ok(())
    }
}

/// Returns the name in IAM of the permission for an operation.
pub(super) fn permission(action: &str) -> &str {
    if action == LIST { "ListBucket" } else { action }
}

/// The condition keys of the headers `ENCRYPTION` and `KMS_KEY`.
const CONDITIONS: [&str; 2] =
    ["s3:x-amz-server-side-encryption", "s3:x-amz-server-side-encryption-aws-kms-key-id"];

fn list(objects: &BTreeMap<String, Object>, input: &Input) -> Result<Response<Body>, ApiError> {
    let query = &input.query;
    let most = query.get("max-keys").map_or(Ok(LARGEST_PAGE), |text| {
        let most = text.parse::<usize>().map(|most| most.min(LARGEST_PAGE));
        most.map_err(|_| invalid("Provided max-keys not an integer or within integer range"))
    })?;
    let token = query.get("continuation-token");
    let after = token.map(|token| {
        let last = STANDARD.decode(token).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        last.ok_or_else(|| invalid("The continuation token provided is incorrect"))
    });
    let after = after.transpose()?.or_else(|| query.get("start-after").map(str::to_owned));
    let is_url = match query.get("encoding-type") {
        None => false,
        Some("url") => true,
        Some(_) => return Err(invalid("Invalid Encoding Method specified in Request")),
    };
    let encoded = |text: &str| match is_url {
        true => utf8_percent_encode(text, NON_ALPHANUMERIC).to_string(),
        false => text.to_owned(),
    };
    let prefix = query.get("prefix").unwrap_or_default();
    let found = objects.iter().filter(|(key, _)| {
        key.starts_with(prefix) && after.as_ref().is_none_or(|after| *key > after)
    });
    let mut found: Vec<_> = found.take(most + 1).collect();
    let is_truncated = found.len() > most && most > 0;
    found.truncate(most);
    let last = found.last().filter(|_| is_truncated);

    let mut xml = Xml::default();
    xml.open_with("ListBucketResult", xml::namespace(Service::S3));
    xml.text("Name", &input.bucket);
    xml.text("Prefix", &encoded(prefix));
    xml.maybe("StartAfter", query.get("start-after").map(encoded).as_deref());
    xml.maybe("ContinuationToken", token);
    xml.maybe("NextContinuationToken", last.map(|(key, _)| STANDARD.encode(key)).as_deref());
    xml.display("KeyCount", found.len());
    xml.display("MaxKeys", most);
    xml.maybe("EncodingType", is_url.then_some("url"));
    xml.display("IsTruncated", is_truncated);
    for (key, object) in found {
        xml.open("Contents");
        xml.text("Key", &encoded(key));
        xml.text("LastModified", &clock::iso_millis(object.modified));
        xml.text("ETag", &object.etag);
        xml.display("Size", object.body.len());
        xml.text("StorageClass", "STANDARD");
        xml.close("Contents");
    }
    xml.close("ListBucketResult");
    let headers = vec![("content-type", "application/xml".to_owned())];
    Ok(respond(200, headers, format!("{DECLARATION}{}", xml.finish()).into()))
}

/// Returns the location constraint in the body of `CreateBucket`.
fn location(body: &[u8]) -> Result<Option<String>, ApiError> {
    let malformed = || {
        let message = "The XML you provided was not well-formed or did not validate against our \
                       published schema";
        ApiError::new(400, "MalformedXML", message)
    };
    let text = std::str::from_utf8(body).map_err(|_| malformed())?;
    let read: BucketConfiguration = quick_xml::de::from_str(text).map_err(|_| malformed())?;
    Ok(read.location.filter(|location| !location.is_empty()))
}

/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html>
fn check_name(name: &str) -> Result<(), ApiError> {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends = [name.bytes().next(), name.bytes().next_back()];
    let is_valid = (3..=63).contains(&name.len())
        && ends.into_iter().flatten().all(is_inner)
        && name.bytes().all(|byte| is_inner(byte) || b".-".contains(&byte));
    let refused = || ApiError::new(400, "InvalidBucketName", "The specified bucket is not valid.");
    is_valid.then_some(()).ok_or_else(refused)
}

fn no_bucket() -> ApiError {
    ApiError::new(404, "NoSuchBucket", "The specified bucket does not exist")
}

fn respond(status: u16, headers: Vec<(&'static str, String)>, body: Bytes) -> Response<Body> {
    let mut response = Response::builder()
        .status(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR))
        .header(header::SERVER, "AmazonS3")
        .header("x-amz-request-id", ids::request_id());
    for (name, value) in headers {
        response = response.header(name, value);
    }
    // A value that is no header, such as a content type with a line break, cannot have been received in one.
    response.body(Body::from(body)).unwrap_or_default()
}

#[cfg(test)]
mod tests;
