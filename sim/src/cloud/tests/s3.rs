//! Tests an instance's calls to S3: its permissions, the faults, and the log.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::*;

const BUCKET: &str = "backups";
const KEY: &str = "arn:aws:kms:eu-central-1:123456789012:key/1-2";

struct Caller {
    bench: Bench,
    credentials: Value,
}

impl Caller {
    async fn start() -> Self {
        let bench = Bench::start().await;
        bench.cloud.create_bucket(BUCKET, "eu-central-1").unwrap();
        let credentials = bench.credentials().await;
        Self { bench, credentials }
    }

    /// Returns a call that is signed at this time.
    fn request(
        &self,
        method: Method,
        path: &str,
        body: &str,
        at: OffsetDateTime,
    ) -> RequestBuilder {
        let key = self.credentials["AccessKeyId"].as_str().unwrap();
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={key}/20261120/eu-central-1/s3/aws4_request, \
             SignedHeaders=host, Signature=00"
        );
        let digest = Sha256::digest(body.as_bytes());
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let url = format!("http://{}{path}", self.bench.aws);
        let mut request = self.bench.client.request(method.clone(), url);
        if method == Method::PUT {
            request = request
                .header("x-amz-server-side-encryption", "aws:kms")
                .header("x-amz-server-side-encryption-aws-kms-key-id", KEY);
        }
        request
            .header("x-amz-date", clock::amz_date(at))
            .header("x-amz-security-token", self.credentials["Token"].as_str().unwrap())
            .header("x-amz-content-sha256", digest)
            .header("authorization", authorization)
            .body(body.to_owned())
    }

    async fn send(&self, method: Method, path: &str, body: &str) -> reqwest::Result<Response> {
        self.request(method, path, body, self.bench.cloud.now()).send().await
    }

    async fn call(&self, method: Method, path: &str) -> (u16, String) {
        let response = self.send(method, path, "hush").await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    /// Asserts that a call is refused for want of a permission.
    async fn lacks(&self, method: Method, path: &str, permission: &str) {
        let (status, body) = self.call(method, path).await;
        assert_eq!(status, 403, "{body}");
        assert!(body.contains("<Code>AccessDenied</Code>"), "{body}");
        assert!(body.contains(&format!("is not authorized to perform: {permission} ")), "{body}");
    }

    fn allow(&self, statements: &Value) {
        let document = json!({ "Version": "2012-10-17", "Statement": statements });
        self.bench.cloud.set_role_policies("worker", &[document]).unwrap();
    }
}

#[tokio::test]
async fn an_object_needs_the_permissions_of_the_bucket_and_of_the_key() {
    let caller = Caller::start().await;
    let via = json!({ "StringEquals": { "kms:ViaService": "s3.eu-central-1.amazonaws.com" } });
    let objects = json!({
        "Sid": "Objects", "Effect": "Allow",
        "Action": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"],
        "Resource": "arn:aws:s3:::backups/skep/*",
    });
    let list = json!({
        "Sid": "List", "Effect": "Allow", "Action": "s3:ListBucket",
        "Resource": "arn:aws:s3:::backups", "Condition": { "StringLike": { "s3:prefix": "skep/*" } },
    });
    let key = |action: &str| {
        json!({
            "Sid": "Key", "Effect": "Allow", "Action": action, "Resource": KEY, "Condition": via,
        })
    };
    let path = "/backups/skep/1";
    caller.allow(&json!([]));
    caller.lacks(Method::PUT, path, "s3:PutObject").await;
    caller.allow(&json!([objects, list]));
    caller.lacks(Method::PUT, path, "kms:GenerateDataKey").await;
    caller.allow(&json!([objects, list, key("kms:GenerateDataKey")]));
    assert_eq!(caller.call(Method::PUT, path).await.0, 200);
    caller.lacks(Method::GET, path, "kms:Decrypt").await;
    caller.allow(&json!([objects, list, key("kms:Decrypt")]));
    assert_eq!(caller.call(Method::GET, path).await, (200, "hush".to_owned()));
    caller.lacks(Method::GET, "/backups/other", "s3:GetObject").await;
    // The permission to list is for a prefix, which this call does not have.
    caller.lacks(Method::GET, "/backups/skep/2", "s3:ListBucket").await;
    let listed = caller.call(Method::GET, "/backups?list-type=2&prefix=skep/").await;
    assert!(listed.0 == 200 && listed.1.contains("<Key>skep/1</Key>"), "{listed:?}");
    caller.lacks(Method::GET, "/backups?list-type=2&prefix=", "s3:ListBucket").await;
    caller.lacks(Method::PUT, "/other", "s3:CreateBucket").await;
    assert_eq!(
        caller.bench.cloud.unused_permissions("worker"),
        [
            "Objects: s3:PutObject on arn:aws:s3:::backups/skep/*",
            "Objects: s3:DeleteObject on arn:aws:s3:::backups/skep/*"
        ]
    );
    assert_eq!(caller.call(Method::DELETE, path).await.0, 204);
    // A missing bucket is told to everybody.
    let missing = caller.call(Method::GET, "/none/k").await;
    assert!(missing.0 == 404 && missing.1.contains("<Code>NoSuchBucket</Code>"), "{missing:?}");
}

#[tokio::test]
async fn faults_denials_and_clocks_are_answered_in_the_form_of_s3() {
    let caller = Caller::start().await;
    let cloud = &caller.bench.cloud;
    let path = "/backups/1";
    let error = |code: &str| format!("<Error><Code>{code}</Code>");
    for (fault, status, code) in [
        (Fault { throttle: 1.0, ..Fault::default() }, 503, "SlowDown"),
        (Fault { error: 1.0, ..Fault::default() }, 500, "InternalError"),
    ] {
        cloud.faults().set(Service::S3, Some("PutObject"), fault);
        let answer = caller.call(Method::PUT, path).await;
        assert!(answer.0 == status && answer.1.contains(&error(code)), "{answer:?}");
        assert_eq!(caller.call(Method::DELETE, path).await.0, 204, "another operation");
    }
    let lost = Fault { lose_answer: 1.0, times: Some(1), ..Fault::default() };
    cloud.faults().set(Service::S3, Some("PutObject"), lost);
    assert!(caller.send(Method::PUT, path, "hush").await.is_err());
    let [object] = &cloud.objects(BUCKET).unwrap()[..] else { panic!("one object") };
    assert_eq!((object.key.as_str(), &object.body[..]), ("1", &b"hush"[..]));
    assert_eq!(object.kms_key.as_deref(), Some(KEY));
    assert!(!format!("{object:?}").contains("hush"));

    for (resource, refused) in [("backups", true), ("backups/1", true), ("backups/2", false)] {
        let role = Who::Role("worker".to_owned());
        cloud.deny(Deny::new(role, Service::S3, "Get*").on(resource));
        let answer = caller.call(Method::GET, path).await;
        assert_eq!(answer.0 == 403 && answer.1.contains(&error("AccessDenied")), refused);
        cloud.allow_all();
    }
    cloud.deny(Deny::new(Who::Anyone, Service::S3, "ListBucket").on(BUCKET));
    caller.lacks(Method::GET, "/backups?list-type=2", "s3:ListBucket").await;
    cloud.allow_all();

    let signed_at = async |at: OffsetDateTime| {
        let request = caller.request(Method::GET, path, "", at);
        request.send().await.unwrap().text().await.unwrap()
    };
    assert_eq!(signed_at(cloud.now() - time::Duration::minutes(14)).await, "hush");
    for off in [-16, 16] {
        let answer = signed_at(cloud.now() + time::Duration::minutes(off)).await;
        assert!(answer.contains(&error("RequestTimeTooSkewed")), "{answer}");
    }
    let mut stale = caller;
    stale.credentials["Token"] = "other".into();
    let answer = stale.call(Method::GET, path).await;
    assert!(answer.0 == 403 && answer.1.contains(&error("InvalidAccessKeyId")), "{answer:?}");
}

#[tokio::test]
async fn the_log_names_buckets_and_keys_and_no_content() {
    let caller = Caller::start().await;
    let cloud = &caller.bench.cloud;
    cloud.create_bucket("abroad", "eu-west-1").unwrap();
    caller.call(Method::PUT, "/backups/skep/1").await;
    caller.call(Method::GET, "/backups?list-type=2&prefix=skep/").await;
    let redirected = caller.send(Method::GET, "/abroad/1", "").await.unwrap();
    assert_eq!(redirected.status(), StatusCode::MOVED_PERMANENTLY);
    assert_eq!(redirected.headers()["x-amz-bucket-region"], "eu-west-1");
    assert!(redirected.headers().contains_key("date"));
    let logged: Vec<_> =
        cloud.requests().into_iter().filter(|one| one.service == Service::S3).collect();
    let told: Vec<_> = logged
        .iter()
        .map(|one| (one.action.as_str(), one.summary.as_str(), one.status, one.code.as_deref()))
        .collect();
    assert_eq!(
        told,
        [
            ("PutObject", "backups/skep/1", 200, None),
            ("ListObjectsV2", "backups/skep/", 200, None),
            ("GetObject", "abroad/1", 301, Some("PermanentRedirect")),
        ]
    );
    assert_eq!(logged[0].instance_id.as_ref(), Some(&caller.bench.id));
    assert!(!serde_json::to_string(&logged).unwrap().contains("hush"));

    assert!(cloud.put_object("none", "k", vec![]).is_err());
    cloud.put_object(BUCKET, "skep/0", b"damaged".to_vec()).unwrap();
    let keys = || -> Vec<_> {
        cloud.objects(BUCKET).unwrap().into_iter().map(|object| object.key).collect()
    };
    assert_eq!(keys(), ["skep/0", "skep/1"]);
    assert_eq!(cloud.delete_object(BUCKET, "skep/1"), Ok(true));
    assert_eq!(cloud.delete_object(BUCKET, "skep/1"), Ok(false));
    assert_eq!(keys(), ["skep/0"]);
    cloud.delete_bucket(BUCKET).unwrap();
    assert_eq!(cloud.delete_bucket(BUCKET).unwrap_err().code, "NoSuchBucket");
    assert_eq!(cloud.create_bucket("A", "eu-west-1").unwrap_err().code, "InvalidBucketName");
}
