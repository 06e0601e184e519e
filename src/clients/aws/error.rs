//! Defines one error for every AWS call: the failure, the resource, and the remedy.

use std::error::Error;
use std::fmt;

use aws_sdk_ssm::config::http::HttpResponse;
use aws_sdk_ssm::error::{ProvideErrorMetadata, SdkError};

use crate::common::errors::{Explained, chain};

/// Longer messages are cut: AWS's authorisation messages can hold kilobytes of encoded context.
const MAX_MESSAGE: usize = 400;

/// The kind of a failure; callers decide by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AwsErrorKind {
    /// The role lacks a permission.
    AccessDenied,
    /// The table, parameter, group or stack does not exist.
    NotFound,
    /// Too many calls, or another call on the same resource is under way.
    Throttled,
    /// No answer, or an unreadable one.
    Unreachable,
    /// The service answered with an error of its own (5xx).
    Failing,
    /// The service refused the request's time.
    ClockSkew,
    /// A conditional write whose condition did not hold.
    ConditionFailed,
    /// The bucket is in another region.
    OtherRegion,
    /// The service refused the request as invalid.
    Validation,
    /// There are no credentials at all.
    NoCredentials,
    /// There are credentials, but the service treats them as expired or unknown.
    ExpiredCredentials,
    /// An error code that no other kind names, or a request that the SDK could not build.
    Other,
}

impl AwsErrorKind {
    /// Returns the kind in one word, for a label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AccessDenied => "access_denied",
            Self::NotFound => "not_found",
            Self::Throttled => "throttled",
            Self::Unreachable => "no_answer",
            Self::Failing => "failing",
            Self::ClockSkew => "clock_skew",
            Self::ConditionFailed => "condition_failed",
            Self::OtherRegion => "other_region",
            Self::Validation => "invalid",
            Self::NoCredentials => "no_credentials",
            Self::ExpiredCredentials => "expired_credentials",
            Self::Other => "other",
        }
    }
}

/// Returns the kind of a failed attempt, from the answer itself: the SDK's retries hide all attempts but the last from
/// the caller. Bodies are read by then.
pub(crate) fn result_of(response: Option<&HttpResponse>) -> AwsErrorKind {
    let Some(response) = response else { return AwsErrorKind::Unreachable };
    let body = response.body().bytes().unwrap_or_default();
    let body = String::from_utf8_lossy(body);
    // The JSON protocols, and the query protocol's XML.
    let code = [("\"__type\":\"", '"'), ("\"__type\": \"", '"'), ("<Code>", '<')]
        .into_iter()
        .find_map(|(before, after)| body.split_once(before)?.1.split_once(after));
    let code = code.map_or("", |(code, _)| code);
    classify(code, &body, response.status().as_u16())
}

/// A failed AWS call. Holds no secret: values that a service repeats in its message are masked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwsError {
    /// As in IAM actions: `dynamodb`, `ssm`, `autoscaling`, `cloudformation`, `ecr`.
    pub service: &'static str,
    /// As in IAM actions: `GetItem`.
    pub operation: &'static str,
    /// The resource, in words that complete "on …": `table skep`.
    pub resource: String,
    /// The kind, from the service's code and status; from the cause if the service did not answer.
    pub kind: AwsErrorKind,
    /// The service's own code, if it answered.
    pub code: Option<String>,
    /// The service's own message, or the chain of causes if it did not answer.
    pub message: String,
}

impl AwsError {
    /// Classifies the failure of `service:operation` on `resource`.
    pub fn new<E>(
        service: &'static str,
        operation: &'static str,
        resource: &str,
        error: SdkError<E, HttpResponse>,
    ) -> Self
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let status = error.raw_response().map(|response| response.status().as_u16());
        let (kind, code, message) = match &error {
            SdkError::ServiceError(context) => {
                let meta = context.err().meta();
                let (code, message) = (meta.code(), meta.message().unwrap_or_default());
                let kind = classify(code.unwrap_or_default(), message, status.unwrap_or_default());
                (kind, code.map(str::to_owned), message.to_owned())
            }
            _ => {
                let causes = error.source().map(chain).unwrap_or_default();
                (unanswered_kind(&error), None, causes)
            }
        };
        let message = scrub(&message);
        Self { service, operation, resource: resource.to_owned(), kind, code, message }
    }

    /// Makes the error for a call without an answer, for the reason `why`.
    #[must_use]
    pub fn unanswered(
        service: &'static str,
        operation: &'static str,
        resource: &str,
        why: String,
    ) -> Self {
        let is_without = why.contains("no credentials") || why.contains(NOT_LOADED);
        let kind = if is_without { AwsErrorKind::NoCredentials } else { AwsErrorKind::Unreachable };
        let (resource, message) = (resource.to_owned(), scrub(&why));
        Self { service, operation, resource, kind, code: None, message }
    }

    /// Makes the error for an answer with an error code.
    #[must_use]
    pub fn refused(
        service: &'static str,
        operation: &'static str,
        resource: &str,
        status: u16,
        code: &str,
        message: &str,
    ) -> Self {
        let kind = classify(code, message, status);
        let code = Some(code.to_owned()).filter(|code| !code.is_empty());
        let (resource, message) = (resource.to_owned(), scrub(message));
        Self { service, operation, resource, kind, code, message }
    }

    /// Makes the error for a bucket that is in another region, which S3 may name.
    #[must_use]
    pub fn other_region(
        service: &'static str,
        operation: &'static str,
        resource: &str,
        region: Option<&str>,
        code: &str,
        message: &str,
    ) -> Self {
        let is_in = region.map(|region| format!("the bucket is in {region}"));
        let message = is_in.unwrap_or_else(|| message.to_owned());
        let error = Self::refused(service, operation, resource, 301, code, &message);
        Self { kind: AwsErrorKind::OtherRegion, ..error }
    }

    /// Makes the error for an answer that lacks something that the service always sends: it must not count as an empty
    /// one.
    #[must_use]
    pub fn malformed(service: &'static str, operation: &'static str, resource: &str) -> Self {
        Self {
            service,
            operation,
            resource: resource.to_owned(),
            kind: AwsErrorKind::Unreachable,
            code: None,
            message: "the answer is incomplete".into(),
        }
    }

    /// Whether the same call may succeed a moment later. Waiting does not bring missing permissions, credentials or
    /// resources; it does help with expired credentials, because EC2 renews them.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        use AwsErrorKind as Kind;
        matches!(
            self.kind,
            Kind::Throttled | Kind::Unreachable | Kind::Failing | Kind::ExpiredCredentials
        )
    }

    /// Returns the failure, and the remedy where there is one.
    fn story(&self) -> (&'static str, Option<String>) {
        let resource = &self.resource;
        match self.kind {
            AwsErrorKind::AccessDenied => (
                "access denied",
                Some(format!("grant {} on {resource} to the instance's role", self.permission())),
            ),
            // A restore chooses from a list, so the object was deleted since.
            AwsErrorKind::NotFound if self.code.as_deref() == Some("NoSuchKey") => {
                ("no such object", Some("run the command again".into()))
            }
            AwsErrorKind::NotFound => (
                "not found",
                Some(format!("create {resource}, or correct its name, region or account")),
            ),
            AwsErrorKind::Throttled => ("throttled", None),
            AwsErrorKind::Unreachable if self.message.contains(LOADING_CREDENTIALS) => (
                "could not get credentials",
                Some("check that skep can reach the instance metadata".into()),
            ),
            AwsErrorKind::Unreachable if self.message.contains(NOT_TRUSTED) => (
                "the service's certificate is not trusted",
                Some(
                    "add its authority to the host's certificates, or correct the host's clock"
                        .into(),
                ),
            ),
            AwsErrorKind::Unreachable => (
                "no answer",
                Some(
                    "check DNS and the route to the service: NAT, VPC endpoint, security group"
                        .into(),
                ),
            ),
            AwsErrorKind::Failing => ("the service reports an internal error", None),
            AwsErrorKind::ClockSkew => (
                "the clock is wrong",
                Some("start chrony: AWS offers the time at 169.254.169.123".into()),
            ),
            AwsErrorKind::ConditionFailed => ("the condition did not hold", None),
            AwsErrorKind::OtherRegion => (
                "the bucket is in another region",
                Some("set backup.region to the bucket's region".into()),
            ),
            AwsErrorKind::Validation => ("the service refused the request as invalid", None),
            AwsErrorKind::NoCredentials => (
                "no credentials",
                Some("give the instance an instance profile with skep's role".into()),
            ),
            AwsErrorKind::ExpiredCredentials => (
                "the credentials are expired or unknown",
                Some("check that the instance profile and its role still exist".into()),
            ),
            AwsErrorKind::Other => ("failed", None),
        }
    }

    /// Returns IAM's name of the permission for the operation, which is not always the operation's own.
    fn permission(&self) -> String {
        let name = match (self.service, self.operation) {
            ("s3", "ListObjectsV2") => "ListBucket",
            (_, name) => name,
        };
        format!("{}:{name}", self.service)
    }
}

impl Explained for AwsError {
    fn evidence(&self) -> String {
        let (what, _) = self.story();
        let words = match (&self.code, self.message.as_str()) {
            (Some(code), "") => format!(" ({code})"),
            (Some(code), message) => format!(" ({code}: {message})"),
            (None, "") => String::new(),
            (None, message) => format!(" ({message})"),
        };
        format!("{}:{} on {}: {what}{words}", self.service, self.operation, self.resource)
    }

    fn remedy(&self) -> Option<String> {
        self.story().1
    }
}

impl fmt::Display for AwsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence("; "))
    }
}

/// The message contains the causes: the SDK's errors are generic and do not survive classification.
impl Error for AwsError {}

/// Returns the kind of an error that a service answered with. The codes are those of the services' API models and of
/// AWS's list of common errors.
fn classify(code: &str, message: &str, status: u16) -> AwsErrorKind {
    use AwsErrorKind as Kind;
    // Some of the JSON protocols prefix the code with its namespace.
    let code = code.rsplit('#').next().unwrap_or(code);
    match code {
        "RequestTimeTooSkewed" | "RequestExpired" | "RequestInTheFuture" => Kind::ClockSkew,
        "InvalidSignatureException" | "SignatureDoesNotMatch"
            if message.contains("Signature expired") || message.contains("not yet current") =>
        {
            Kind::ClockSkew
        }
        "AccessDenied" | "AccessDeniedException" | "UnauthorizedOperation" | "NotAuthorized" => {
            Kind::AccessDenied
        }
        "ResourceNotFoundException"
        | "ParameterNotFound"
        | "ParameterVersionNotFound"
        | "NoSuchBucket"
        | "NoSuchKey" => Kind::NotFound,
        "ConditionalCheckFailedException" => Kind::ConditionFailed,
        "Throttling"
        | "ThrottlingException"
        | "ThrottledException"
        | "RequestThrottled"
        | "RequestThrottledException"
        | "RequestLimitExceeded"
        | "ProvisionedThroughputExceededException"
        | "LimitExceededException"
        | "TooManyRequestsException"
        | "TooManyUpdates"
        | "TransactionConflictException"
        | "TransactionInProgressException"
        | "ResourceContention"
        | "ResourceContentionFault"
        | "SlowDown" => Kind::Throttled,
        "ExpiredToken"
        | "ExpiredTokenException"
        | "InvalidClientTokenId"
        | "AuthFailure"
        | "UnrecognizedClientException" => Kind::ExpiredCredentials,
        "MissingAuthenticationToken" | "MissingAuthenticationTokenException" => Kind::NoCredentials,
        "ValidationError"
        | "ValidationException"
        | "SerializationException"
        | "MissingParameter" => Kind::Validation,
        _ if status == 429 => Kind::Throttled,
        _ if status >= 500 => Kind::Failing,
        _ if code.starts_with("InvalidParameter") => Kind::Validation,
        _ => Kind::Other,
    }
}

/// The text of `CredentialsError` when no provider has credentials. The SDKs do not re-export its type, so skep
/// compares the text; tests check it against the SDK.
const NOT_LOADED: &str = "the credential provider was not enabled";
/// The text when a provider's configuration is invalid.
const MISCONFIGURED: &str = "the credentials provider was not properly configured";

/// The text when the metadata or another source of credentials did not return them.
const LOADING_CREDENTIALS: &str = "an error occurred while loading credentials";

/// The text of rustls when a server's certificate is refused.
const NOT_TRUSTED: &str = "invalid peer certificate";

/// Returns the kind of an error without an answer.
fn unanswered_kind<E: Error + 'static>(error: &SdkError<E, HttpResponse>) -> AwsErrorKind {
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if words == NOT_LOADED || words == MISCONFIGURED {
            return AwsErrorKind::NoCredentials;
        }
        source = cause.source();
    }
    match error {
        SdkError::ConstructionFailure(_) => AwsErrorKind::Other,
        _ => AwsErrorKind::Unreachable,
    }
}

/// Masks the values of a request that a service may repeat, and cuts a text that is too long for a line.
fn scrub(message: &str) -> String {
    let mut clean = String::with_capacity(message.len().min(MAX_MESSAGE));
    // Validation messages of several services: `Value '…' at 'value' failed to satisfy …`.
    let mut rest = message;
    while let Some((before, value)) = rest.split_once("Value '") {
        clean.push_str(before);
        clean.push_str("Value '***'");
        rest = value.split_once("' at ").map_or("", |(_, after)| after);
        if !rest.is_empty() {
            clean.push_str(" at ");
        }
    }
    clean.push_str(rest);
    let words: Vec<&str> = clean
        .split_whitespace()
        .map(|word| if word.contains("SWMTKN-") { "***" } else { word })
        .collect();
    let mut line = words.join(" ");
    if line.len() > MAX_MESSAGE {
        let end = (0..=MAX_MESSAGE).rev().find(|&at| line.is_char_boundary(at)).unwrap_or(0);
        line.truncate(end);
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests;
