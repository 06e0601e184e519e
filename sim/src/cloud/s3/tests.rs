use axum::http::{HeaderName, Method, Request};

use super::*;

const HOME: &str = "eu-central-1";
const NOW: OffsetDateTime = time::macros::datetime!(2026-11-30 12:00 UTC);
const KEY: &str = "arn:aws:kms:eu-central-1:123456789012:key/11111111-2222-3333-4444-555555555555";

/// A call as a client sends it, signed for a region.
struct Call {
    method: &'static str,
    path: String,
    region: &'static str,
    body: &'static [u8],
    headers: Vec<(&'static str, String)>,
}

impl Call {
    fn new(method: &'static str, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), region: HOME, body: b"", headers: vec![] }
    }

    fn region(self, region: &'static str) -> Self {
        Self { region, ..self }
    }

    fn body(self, body: &'static [u8]) -> Self {
        Self { body, ..self }
    }

    fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn encrypted(self, key: &str) -> Self {
        self.header(ENCRYPTION, "aws:kms").header(KMS_KEY, key)
    }

    fn input(&self) -> (String, Input) {
        let scope = format!("AWS4-HMAC-SHA256 Credential=A/20261130/{}/s3/aws4", self.region);
        let mut request = Request::builder()
            .method(Method::from_bytes(self.method.as_bytes()).unwrap())
            .uri(&self.path)
            .header("authorization", scope)
            .header("x-amz-content-sha256", hex(self.body));
        let headers = request.headers_mut().unwrap();
        for (name, value) in &self.headers {
            headers.insert(HeaderName::from_static(name), value.parse().unwrap());
        }
        Input::parse(&request.body(()).unwrap().into_parts().0)
    }

    /// Returns the answer of a caller with all permissions.
    fn send(&self, s3: &mut S3) -> Result<Response<Body>, ApiError> {
        let (action, input) = self.input();
        s3.check(&action, &input, self.body)?;
        s3.handle(&action, &input, &Bytes::from_static(self.body), NOW)
    }

    fn refused(&self, s3: &mut S3) -> (u16, String) {
        let error = self.send(s3).expect_err(&self.path);
        (error.status, error.code)
    }

    /// Returns the permissions that it needs: action and resource.
    fn asked(&self, s3: &S3) -> Vec<(String, String)> {
        let (action, input) = self.input();
        let asked = s3.asked(&action, &input).into_iter();
        asked.map(|one| (one.actions.concat(), one.resources.concat())).collect()
    }
}

fn put(path: &str, body: &'static [u8]) -> Call {
    Call::new("PUT", path).body(body).encrypted(KEY)
}

fn with_bucket() -> S3 {
    let mut s3 = S3::default();
    s3.create("backups", HOME).unwrap();
    s3
}

async fn text(response: Response<Body>) -> String {
    let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    String::from_utf8(body.to_vec()).unwrap()
}

/// Returns the contents of all elements with this name.
fn all(xml: &str, name: &str) -> Vec<String> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let after = xml.split(&open).skip(1);
    after.map(|rest| rest.split(&close).next().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn an_object_is_stored_encrypted_read_replaced_and_deleted() {
    let mut s3 = with_bucket();
    let path = "/backups/skep/a%2Bb/1.json";
    let written =
        put(path, b"{}").header("content-type", "application/json").send(&mut s3).unwrap();
    assert_eq!(written.headers()[KMS_KEY], KEY);
    let read = Call::new("GET", path).send(&mut s3).unwrap();
    let headers = read.headers();
    assert_eq!(headers[ENCRYPTION], "aws:kms");
    assert_eq!(headers[KMS_KEY], KEY);
    assert_eq!(headers["etag"], written.headers()["etag"]);
    assert_eq!(headers["content-type"], "application/json");
    assert_eq!(headers["last-modified"], "Mon, 30 Nov 2026 12:00:00 GMT");
    assert_eq!(text(read).await, "{}");
    assert!(s3.buckets["backups"].objects.contains_key("skep/a+b/1.json"));

    let again = Call::new("PUT", path).body(b"two").header("content-encoding", "gzip");
    assert_eq!(again.send(&mut s3).unwrap().headers()[ENCRYPTION], "AES256");
    let read = Call::new("GET", path).send(&mut s3).unwrap();
    assert!(!read.headers().contains_key(KMS_KEY));
    assert_eq!(read.headers()["content-encoding"], "gzip");
    assert_eq!(text(read).await, "two");
    for _ in 0..2 {
        assert_eq!(Call::new("DELETE", path).send(&mut s3).unwrap().status(), 204);
    }
    assert_eq!(Call::new("GET", path).refused(&mut s3), (404, "NoSuchKey".to_owned()));
}

#[tokio::test]
async fn lists_have_pages_in_the_order_of_bytes() {
    let mut s3 = with_bucket();
    for key in ["b", "p/2", "p/10", "p/a&b", "p/é", "p/Z", "q"] {
        let path = format!("/backups/{}", utf8_percent_encode(key, NON_ALPHANUMERIC));
        put(&path, b"123").send(&mut s3).unwrap();
    }
    let ordered = ["p/10", "p/2", "p/Z", "p/a&amp;b", "p/é"];
    let mut list = async |query: &str| {
        let path = format!("/backups?list-type=2&prefix=p%2F{query}");
        text(Call::new("GET", path).send(&mut s3).unwrap()).await
    };
    let whole = list("").await;
    assert_eq!(all(&whole, "Key"), ordered);
    assert_eq!(all(&whole, "IsTruncated"), ["false"]);
    assert_eq!(all(&whole, "KeyCount"), ["5"]);
    assert_eq!(all(&whole, "Size"), ["3"; 5]);
    assert_eq!(all(&whole, "LastModified")[0], "2026-11-30T12:00:00.000Z");
    assert!(all(&whole, "NextContinuationToken").is_empty());
    assert_eq!(all(&list("&start-after=p%2FZ").await, "Key"), ordered[3..]);
    assert_eq!(all(&list("&encoding-type=url").await, "Key")[3..], ["p%2Fa%26b", "p%2F%C3%A9"]);
    assert_eq!(all(&list("none").await, "KeyCount"), ["0"]);
    let nothing = list("&max-keys=0").await;
    assert_eq!(
        (all(&nothing, "KeyCount"), all(&nothing, "IsTruncated")[0].as_str()),
        (vec!["0".to_owned()], "false")
    );
    assert_eq!(all(&list("&max-keys=5").await, "IsTruncated"), ["false"]);
    assert_eq!(all(&list("&max-keys=9999").await, "MaxKeys"), ["1000"]);

    let (mut pages, mut token) = (vec![], String::new());
    for _ in 0..3 {
        let page = list(&format!("&max-keys=2{token}")).await;
        pages.push(all(&page, "Key"));
        let next = all(&page, "NextContinuationToken");
        assert_eq!(next.is_empty(), all(&page, "IsTruncated")[0] == "false");
        let escaped = |token: &String| utf8_percent_encode(token, NON_ALPHANUMERIC).to_string();
        token = next
            .first()
            .map(|next| format!("&continuation-token={}", escaped(next)))
            .unwrap_or_default();
    }
    assert_eq!(pages, [&ordered[..2], &ordered[2..4], &ordered[4..]]);
    assert!(token.is_empty());
}

#[test]
fn buckets_are_in_a_region_and_calls_must_be_signed_for_it() {
    let constraint =
        b"<CreateBucketConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
        <LocationConstraint>eu-west-1</LocationConstraint></CreateBucketConfiguration>";
    let mut s3 = with_bucket();
    let create = |name: &str| Call::new("PUT", format!("/{name}"));
    let abroad = create("abroad").body(constraint);
    assert_eq!(abroad.refused(&mut s3), (400, "IllegalLocationConstraintException".to_owned()));
    assert_eq!(create("here").refused(&mut s3).1, "IllegalLocationConstraintException");
    abroad.region("eu-west-1").send(&mut s3).unwrap();
    create("first").region("us-east-1").send(&mut s3).unwrap();
    create("second").region("us-east-1").body(constraint).send(&mut s3).unwrap();
    assert_eq!(s3.buckets["first"].region, "us-east-1");
    assert_eq!(s3.buckets["second"].region, "eu-west-1");
    let again = create("first").region("us-east-1");
    assert_eq!(again.refused(&mut s3), (409, "BucketAlreadyOwnedByYou".to_owned()));
    assert_eq!(create("here").body(b"EU").refused(&mut s3), (400, "MalformedXML".to_owned()));
    for name in ["Upper", "ab", "-ab", "a_b", &"a".repeat(64)] {
        assert_eq!(create(name).refused(&mut s3), (400, "InvalidBucketName".to_owned()), "{name}");
    }

    let get = Call::new("GET", "/abroad/k");
    assert_eq!(get.refused(&mut s3), (301, "PermanentRedirect".to_owned()));
    let mut response = get.send(&mut s3).unwrap_err().response(Service::S3);
    s3.name_region(&get.input().1, &mut response);
    assert_eq!(response.headers()["x-amz-bucket-region"], "eu-west-1");
    assert_eq!(get.region("eu-west-1").refused(&mut s3).1, "NoSuchKey");
    let missing = Call::new("GET", "/none?list-type=2&prefix=");
    assert_eq!(missing.refused(&mut s3), (404, "NoSuchBucket".to_owned()));
}

#[test]
fn a_key_must_be_in_the_region_of_the_bucket() {
    let mut s3 = with_bucket();
    let abroad = KEY.replace(HOME, "eu-west-1");
    let foreign = KEY.replace("123456789012", "210987654321");
    for key in [&abroad, &foreign, "a key", "alias/", "", "arn:aws:s3:::backups"] {
        let put = Call::new("PUT", "/backups/k").encrypted(key);
        assert_eq!(put.refused(&mut s3), (400, "KMS.NotFoundException".to_owned()), "{key}");
    }
    let mut stored_with = |key: &str| {
        let answer = Call::new("PUT", "/backups/k").encrypted(key).send(&mut s3).unwrap();
        answer.headers()[KMS_KEY].to_str().unwrap().to_owned()
    };
    let id = KEY.rsplit_once('/').unwrap().1;
    assert_eq!(stored_with(id), KEY);
    let alias = stored_with("alias/skep");
    assert!(alias.starts_with("arn:aws:kms:eu-central-1:123456789012:key/"), "{alias}");
    assert_eq!(alias.len(), KEY.len());
    assert_eq!(stored_with("arn:aws:kms:eu-central-1:123456789012:alias/skep"), alias);
    assert_ne!(stored_with("alias/other"), alias);

    let put = || Call::new("PUT", "/backups/k");
    let incomplete = put().header(KMS_KEY, KEY);
    assert_eq!(incomplete.refused(&mut s3), (400, "InvalidArgument".to_owned()));
    let unknown = put().header(ENCRYPTION, "rot13");
    assert_eq!(unknown.refused(&mut s3), (400, "InvalidArgument".to_owned()));
    assert_eq!(put().header(ENCRYPTION, "aws:kms").refused(&mut s3).1, "NotImplemented");
}

#[test]
fn nothing_is_answered_as_if_it_had_not_been_asked() {
    let mut s3 = with_bucket();
    put("/backups/k", b"x").send(&mut s3).unwrap();
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/backups"),
        ("GET", "/backups?location"),
        ("GET", "/backups?list-type=2&delimiter=%2F"),
        ("GET", "/backups/k?versionId=1"),
        ("PUT", "/backups/k?partNumber=1&uploadId=2"),
        ("PUT", "/backups?acl"),
        ("POST", "/backups?delete"),
        ("DELETE", "/backups"),
        ("HEAD", "/backups/k"),
    ] {
        let refused = Call::new(method, path).refused(&mut s3);
        assert_eq!(refused, (501, "NotImplemented".to_owned()), "{method} {path}");
    }
    for name in ["if-none-match", "range", "x-amz-copy-source", "x-amz-acl", "x-amz-meta-a"] {
        let refused = Call::new("PUT", "/backups/k").header(name, "*").refused(&mut s3);
        assert_eq!(refused.1, "NotImplemented", "{name}");
    }
    for query in ["max-keys=-1", "max-keys=many", "continuation-token=a", "encoding-type=xml"] {
        let refused = Call::new("GET", format!("/backups?list-type=2&{query}")).refused(&mut s3);
        assert_eq!(refused, (400, "InvalidArgument".to_owned()), "{query}");
    }
    let long = put(&format!("/backups/{}", "k".repeat(1025)), b"x");
    assert_eq!(long.refused(&mut s3), (400, "KeyTooLongError".to_owned()));

    let signed = |digest: &str| put("/backups/k", b"y").header("x-amz-content-sha256", digest);
    let changed = signed(&hex(b"z")).refused(&mut s3);
    assert_eq!(changed, (400, "XAmzContentSHA256Mismatch".to_owned()));
    let chunked = signed("STREAMING-UNSIGNED-PAYLOAD-TRAILER").refused(&mut s3);
    assert_eq!(chunked.1, "NotImplemented");
    signed("UNSIGNED-PAYLOAD").send(&mut s3).unwrap();
    let (action, mut input) = put("/backups/k", b"y").input();
    input.headers.remove("x-amz-content-sha256");
    assert_eq!(s3.check(&action, &input, b"y").unwrap_err().code, "InvalidRequest");
}

#[test]
fn a_call_needs_the_permissions_that_aws_asks_for() {
    let mut s3 = with_bucket();
    put("/backups/skep/1", b"x").send(&mut s3).unwrap();
    Call::new("PUT", "/backups/plain").send(&mut s3).unwrap();
    let (bucket, object) = ("arn:aws:s3:::backups", "arn:aws:s3:::backups/skep/1");
    let needed = |call: Call, wanted: &[(&str, &str)]| {
        let asked = call.asked(&s3);
        let asked: Vec<_> = asked.iter().map(|(a, r)| (a.as_str(), r.as_str())).collect();
        assert_eq!(asked, wanted, "{} {}", call.method, call.path);
    };
    needed(put("/backups/skep/1", b""), &[("s3:PutObject", object), ("kms:GenerateDataKey", KEY)]);
    needed(Call::new("PUT", "/backups/skep/1"), &[("s3:PutObject", object)]);
    let path = "/backups/skep/1";
    needed(Call::new("GET", path), &[("s3:GetObject", object), ("kms:Decrypt", KEY)]);
    needed(Call::new("DELETE", path), &[("s3:DeleteObject", object)]);
    needed(Call::new("GET", "/backups/plain"), &[("s3:GetObject", "arn:aws:s3:::backups/plain")]);
    needed(
        Call::new("GET", "/backups/none"),
        &[("s3:GetObject", "arn:aws:s3:::backups/none"), ("s3:ListBucket", bucket)],
    );
    let list = || Call::new("GET", "/backups?list-type=2&prefix=skep%2F");
    needed(list(), &[("s3:ListBucket", bucket)]);
    needed(Call::new("PUT", "/new"), &[("s3:CreateBucket", "arn:aws:s3:::new")]);

    let values = |call: Call| {
        let (action, input) = call.input();
        s3.asked(&action, &input).into_iter().map(|one| one.values).collect::<Vec<_>>()
    };
    let account = ("s3:resourceaccount", "123456789012".to_owned());
    let prefix = ("s3:prefix", "skep/".to_owned());
    assert_eq!(values(list()), [BTreeMap::from([account.clone(), prefix])]);
    let of_put = BTreeMap::from([
        account,
        ("s3:x-amz-server-side-encryption", "aws:kms".to_owned()),
        ("s3:x-amz-server-side-encryption-aws-kms-key-id", KEY.to_owned()),
    ]);
    let of_key = BTreeMap::from([("kms:viaservice", "s3.eu-central-1.amazonaws.com".to_owned())]);
    assert_eq!(values(put(path, b"")), [of_put, of_key]);
}
