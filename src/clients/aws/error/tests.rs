//! Tests of the classification, with what the real SDK makes of real answers, and of the text for the operator.

use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_sdk_ssm::config::SharedCredentialsProvider;

use super::*;
use crate::clients::aws::stub::{Stub, provider_config};

const PLACE: &str = "/skep/prod/worker-token/1";

async fn get(client: &aws_sdk_ssm::Client) -> AwsError {
    let answer = client.get_parameter().name(PLACE).send().await;
    AwsError::new("ssm", "GetParameter", PLACE, answer.expect_err("the stub refuses"))
}

async fn refused(status: u16, code: &str, message: &str) -> AwsError {
    let stub = Stub::start().await;
    stub.answer(status, &format!(r#"{{"__type":"{code}","message":"{message}"}}"#));
    get(&stub.aws().await.ssm).await
}

#[tokio::test]
async fn each_refusal_has_its_kind_and_only_some_may_be_repeated() {
    use AwsErrorKind as Kind;
    let expired = "Signature expired: 20261120T080000Z is now earlier than 20261120T085500Z";
    let wrong = "The request signature we calculated does not match";
    for (status, code, message, kind, retryable) in [
        (400, "AccessDeniedException", "not authorized", Kind::AccessDenied, false),
        (400, "ParameterNotFound", "", Kind::NotFound, false),
        (400, "com.amazonaws.x#ResourceNotFoundException", "", Kind::NotFound, false),
        (400, "ThrottlingException", "Rate exceeded", Kind::Throttled, true),
        (400, "ProvisionedThroughputExceededException", "", Kind::Throttled, true),
        (429, "Something", "", Kind::Throttled, true),
        (400, "ConditionalCheckFailedException", "", Kind::ConditionFailed, false),
        (400, "ValidationException", "", Kind::Validation, false),
        (400, "InvalidParameterValue", "", Kind::Validation, false),
        (400, "InvalidSignatureException", expired, Kind::ClockSkew, false),
        (400, "InvalidSignatureException", wrong, Kind::Other, false),
        (403, "RequestExpired", "", Kind::ClockSkew, false),
        (400, "ExpiredTokenException", "", Kind::ExpiredCredentials, true),
        (400, "UnrecognizedClientException", "", Kind::ExpiredCredentials, true),
        (500, "InternalServerError", "", Kind::Failing, true),
        (503, "Anything", "", Kind::Failing, true),
        (400, "SomethingElse", "", Kind::Other, false),
    ] {
        let error = refused(status, code, message).await;
        assert_eq!(error.kind, kind, "{status} {code}");
        assert_eq!(error.is_retryable(), retryable, "{status} {code}");
        assert!(error.to_string().starts_with(&format!("ssm:GetParameter on {PLACE}: ")));
        let bare = code.rsplit('#').next().unwrap();
        assert_eq!(error.code.as_deref(), Some(bare));
    }
}

#[tokio::test]
async fn the_message_says_what_to_do() {
    let user = "User: arn:aws:sts::1:assumed-role/skep/i-0abc is not authorized";
    let denied = refused(400, "AccessDeniedException", user).await.to_string();
    assert_eq!(
        denied,
        format!(
            "ssm:GetParameter on {PLACE}: access denied (AccessDeniedException: {user}); grant \
             ssm:GetParameter on {PLACE} to the instance's role"
        )
    );
    let missing = refused(400, "ResourceNotFoundException", "").await.to_string();
    assert!(missing.contains("not found (ResourceNotFoundException); create"), "{missing}");
    let skewed = refused(400, "RequestExpired", "").await.to_string();
    assert!(skewed.contains("the clock is wrong") && skewed.contains("chrony"), "{skewed}");
}

#[tokio::test]
async fn nobody_there_is_unreachable() {
    let stub = Stub::start().await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let gone = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let credentials = aws_sdk_ssm::config::Credentials::new("a", "b", None, None, "test");
    let provider = SharedCredentialsProvider::new(credentials);
    let config = stub.config().endpoint_url(gone).credentials_provider(provider).load().await;
    let error = get(&aws_sdk_ssm::Client::new(&config)).await;
    assert_eq!(error.kind, AwsErrorKind::Unreachable);
    assert!(error.is_retryable() && error.code.is_none());
    assert!(error.message.contains("refused"), "{error}");
}

#[tokio::test]
async fn an_instance_without_a_role_is_told_from_metadata_that_fail() {
    for (status, kind) in [(404, AwsErrorKind::NoCredentials), (500, AwsErrorKind::Unreachable)] {
        let metadata = Stub::start().await;
        metadata.answer(200, "token");
        for _ in 0..10 {
            metadata.answer(status, "");
        }
        let imds = aws_config::imds::Client::builder()
            .configure(&provider_config())
            .endpoint(&metadata.endpoint)
            .unwrap()
            .max_attempts(1)
            .build();
        let provider = ImdsCredentialsProvider::builder().imds_client(imds).build();
        let provider = SharedCredentialsProvider::new(provider);
        let config = metadata.config().credentials_provider(provider).load().await;
        let error = get(&aws_sdk_ssm::Client::new(&config)).await;
        assert_eq!(error.kind, kind, "{status}: {error}");
        let remedy = if status == 404 { "instance profile" } else { "reach the instance metadata" };
        assert!(error.to_string().contains(remedy), "{error}");
    }
}

#[test]
fn values_in_messages_are_masked_and_long_ones_are_cut() {
    let value = "1 validation error detected: Value 'it's secret' at 'value' failed to satisfy";
    let masked = scrub(value);
    assert_eq!(masked, "1 validation error detected: Value '***' at 'value' failed to satisfy");
    assert_eq!(scrub("Value 'never closed"), "Value '***'");
    assert_eq!(scrub("bad token (SWMTKN-1-abc-def) in\nrequest"), "bad token *** in request");
    let long = scrub(&"ä".repeat(MAX_MESSAGE));
    assert!(long.len() <= MAX_MESSAGE + '…'.len_utf8() && long.ends_with('…'));
}

#[test]
fn a_certificate_that_is_not_trusted_is_no_matter_of_routes() {
    // As rustls writes it, below the SDK's own words.
    let why = "io error: TLS handshake failed: invalid peer certificate: UnknownIssuer".to_owned();
    let error = AwsError::unanswered("dynamodb", "GetItem", "table skep", why);
    let text = error.to_string();
    assert!(text.contains("not trusted") && text.contains("authority"), "{text}");
    assert!(!text.contains("NAT"), "{text}");
    assert!(error.is_retryable(), "the clock may be set meanwhile");
}
