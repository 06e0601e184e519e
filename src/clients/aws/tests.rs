//! Tests of the clients' configuration, and of the credentials that they share.

use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_sdk_ssm::config::SharedCredentialsProvider;

use super::*;
use stub::{Stub, provider_config};

const CREDENTIALS: &str = r#"{"Code": "Success", "LastUpdated": "2026-11-20T08:00:00Z",
    "Type": "AWS-HMAC", "AccessKeyId": "ASIATEST", "SecretAccessKey": "secret", "Token": "session",
    "Expiration": "2036-11-20T08:00:00Z"}"#;

#[tokio::test]
async fn every_client_has_the_region_the_time_outs_and_the_attempts() {
    let aws = Aws::load(Some("eu-south-2"), "eu-central-1").await;
    let config = aws.ssm.config();
    assert_eq!(config.region().map(Region::as_ref), Some("eu-south-2"));
    let timeouts = config.timeout_config().unwrap();
    assert_eq!(timeouts.connect_timeout(), Some(CONNECT_TIMEOUT));
    assert_eq!(timeouts.operation_attempt_timeout(), Some(ATTEMPT_TIMEOUT));
    assert_eq!(timeouts.operation_timeout(), Some(OPERATION_TIMEOUT));
    assert_eq!(config.retry_config().unwrap().max_attempts(), SDK_ATTEMPTS);
    assert_eq!(aws.dynamodb.config().region().map(Region::as_ref), Some("eu-south-2"));
    // The region of the ledger does not apply to group and stack.
    assert_eq!(aws.autoscaling.region().as_deref(), Some("eu-central-1"));
    assert_eq!(aws.cloudformation.region().as_deref(), Some("eu-central-1"));
    let at_home = Aws::load(None, "eu-central-1").await;
    assert_eq!(at_home.ssm.config().region().map(Region::as_ref), Some("eu-central-1"));
}

#[tokio::test]
async fn credentials_are_fetched_at_the_first_call_and_shared_by_all_services() {
    let (metadata, services) = (Stub::start().await, Stub::start().await);
    for answer in ["token", "skep-role", CREDENTIALS] {
        metadata.answer(200, answer);
    }
    let imds = aws_config::imds::Client::builder()
        .configure(&provider_config())
        .endpoint(&metadata.endpoint)
        .unwrap()
        .build();
    let provider = ImdsCredentialsProvider::builder().imds_client(imds).build();
    let provider = SharedCredentialsProvider::new(provider);
    let aws = Aws::new(&services.config().credentials_provider(provider).load().await);
    assert_eq!(metadata.requests().len(), 0, "making the clients costs no round trip");
    services.answer(200, r#"{"Parameter": {"Value": "x"}}"#);
    aws.ssm.get_parameter().name("/skep").send().await.unwrap();
    services.answer(200, "{}");
    aws.dynamodb.get_item().table_name("skep").send().await.unwrap();
    services.answer(400, &Stub::xml_error("AccessDenied", ""));
    let denied = aws.autoscaling.fetch_instance("i-0abc").await.unwrap_err();
    assert_eq!(denied.kind, AwsErrorKind::AccessDenied);
    assert_eq!(metadata.requests().len(), 3, "token, role, credentials; once");
}

#[tokio::test]
async fn a_call_is_signed_with_the_services_time_if_this_clock_is_refused() {
    let stub = Stub::start().await;
    let aws = stub.aws().await;
    stub.set_date("Fri, 20 Nov 2026 10:00:00 GMT");
    let hooks = "<DescribeLifecycleHooksResponse><DescribeLifecycleHooksResult><LifecycleHooks/>\
                 </DescribeLifecycleHooksResult></DescribeLifecycleHooksResponse>";
    let refusal = Stub::xml_error("SignatureDoesNotMatch", "Signature not yet current");
    for (status, body) in [(403, refusal.as_str()), (200, hooks), (200, hooks)] {
        stub.answer(status, body);
    }
    aws.autoscaling.fetch_hooks("workers").await.unwrap();
    aws.autoscaling.fetch_hooks("workers").await.unwrap();
    let by_the_service = |at: &String| at.starts_with("20261120T100");
    let signed_at = stub.signed_at();
    assert_eq!(signed_at.iter().map(by_the_service).collect::<Vec<_>>(), [false, true, true]);

    // A refusal for another reason is final.
    stub.answer(403, &Stub::xml_error("AccessDenied", ""));
    assert!(aws.autoscaling.fetch_hooks("workers").await.is_err());
    assert_eq!(stub.requests().len(), 4);
}
