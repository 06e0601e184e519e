//! S3: buckets, and objects that are encrypted with a KMS key.

use super::bench::{Bench, names};

const KEY: &str = "arn:aws:kms:eu-central-1:123456789012:key/11111111-2222-3333-4444-555555555555";

fn s3<'a>(operation: &'a str, bucket: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["s3api", operation, "--bucket", bucket][..], more].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_written_listed_read_and_deleted() {
    let bench = Bench::start().await;
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (source, target) = (path("source"), path("target"));
    std::fs::write(&source, "a backup").unwrap();
    let home = ["--create-bucket-configuration", "LocationConstraint=eu-central-1"];
    bench.aws(&s3("create-bucket", "backups", &home)).await;
    for key in ["p/1 +&é", "p/2", "p/3", "q"] {
        let put = [
            "--key",
            key,
            "--body",
            &source,
            "--server-side-encryption",
            "aws:kms",
            "--ssekms-key-id",
            KEY,
        ];
        let put = bench.aws(&s3("put-object", "backups", &put)).await;
        assert_eq!(
            (&put["ServerSideEncryption"], &put["SSEKMSKeyId"]),
            (&"aws:kms".into(), &KEY.into())
        );
    }
    let list = ["--prefix", "p/"];
    let whole = bench.aws(&s3("list-objects-v2", "backups", &list)).await;
    assert_eq!(names(&whole, "Contents", "Key"), ["p/1 +&é", "p/2", "p/3"]);
    assert_eq!(whole["Contents"][0]["Size"], 8);
    let paged = [&list[..], &["--page-size", "2"]].concat();
    let paged = bench.aws(&s3("list-objects-v2", "backups", &paged)).await;
    assert_eq!(paged["Contents"], whole["Contents"]);
    let get = ["--key", "p/1 +&é", &target];
    let got = bench.aws(&s3("get-object", "backups", &get)).await;
    assert_eq!(got["SSEKMSKeyId"], KEY);
    assert_eq!(std::fs::read_to_string(&target).unwrap(), "a backup");
    bench.aws(&s3("delete-object", "backups", &["--key", "p/1 +&é"])).await;
    let refused = bench.refused(&s3("get-object", "backups", &get)).await;
    assert!(refused.contains("(NoSuchKey)"), "{refused}");
    let empty = bench.aws(&s3("list-objects-v2", "backups", &["--prefix", "none"])).await;
    assert!(empty["Contents"].is_null(), "{empty}");

    let pages = bench.cloud.requests();
    let pages = pages.iter().filter(|one| one.action == "ListObjectsV2").count();
    assert_eq!(pages, 1 + 2 + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_s3_refuses_reaches_the_caller() {
    let bench = Bench::start().await;
    let refused = bench.refused(&s3("list-objects-v2", "backups", &[])).await;
    assert!(refused.contains("(NoSuchBucket)"), "{refused}");
    let refused = bench.refused(&s3("create-bucket", "backups", &[])).await;
    assert!(refused.contains("(IllegalLocationConstraintException)"), "{refused}");
    bench.cloud.create_bucket("backups", "eu-central-1").unwrap();
    let abroad = KEY.replace("eu-central-1", "eu-west-1");
    let put = ["--key", "k", "--server-side-encryption", "aws:kms", "--ssekms-key-id", &abroad];
    let refused = bench.refused(&s3("put-object", "backups", &put)).await;
    assert!(refused.contains("(KMS.NotFoundException)"), "{refused}");

    // The command line obeys the redirection, and signs for the other region.
    bench.cloud.create_bucket("abroad", "eu-west-1").unwrap();
    bench.cloud.put_object("abroad", "k", b"far".to_vec()).unwrap();
    bench.cloud.clear_requests();
    let list = s3("list-objects-v2", "abroad", &[]);
    let listed = bench.try_aws(&list).await;
    let calls = bench.cloud.requests();
    assert_eq!(calls[0].status, 301);
    assert_eq!(calls[0].code.as_deref(), Some("PermanentRedirect"));
    assert_eq!(names(&listed.unwrap(), "Contents", "Key"), ["k"]);
    let signed_for = [&list[..], &["--region", "eu-west-1"]].concat();
    assert_eq!(names(&bench.aws(&signed_for).await, "Contents", "Key"), ["k"]);
}
