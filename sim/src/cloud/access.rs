//! Identifies the caller of a request, and refuses the calls that a denial covers.
//!
//! Signatures are not verified: the cloud trusts its test. Checked are the causes of failures in the field: a missing
//! signature, a wrong clock, unknown credentials, and missing permissions of a role.

use axum::http::HeaderMap;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::autoscaling::Scaling;
use super::clock::{amz_date, parse_amz_date};
use super::errors::ApiError;
use super::iam::Refusal;
use super::requests::Service;

/// Largest accepted difference between the caller's clock and the cloud's; S3 accepts a larger one.
const CLOCK_TOLERANCE: time::Duration = time::Duration::minutes(5);
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/RESTAuthentication.html>
const CLOCK_TOLERANCE_OF_S3: time::Duration = time::Duration::minutes(15);

/// The callers that a denial applies to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Who {
    Anyone,
    Role(String),
    Instance(String),
}

/// A removed permission, like an explicit deny in IAM. `*` matches any text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deny {
    pub who: Who,
    /// `None`: every service.
    pub service: Option<Service>,
    pub action: String,
    /// A parameter's name; `table` or `table/partition-key`; a group's or a stack's name; the ARN of a target group or
    /// of a load balancer; the namespace of metrics; `bucket` or `bucket/key`.
    pub resource: String,
}

impl Deny {
    /// Denies an action on every resource.
    pub fn new(who: Who, service: impl Into<Option<Service>>, action: &str) -> Self {
        Self { who, service: service.into(), action: action.to_owned(), resource: "*".to_owned() }
    }

    #[must_use]
    pub fn on(mut self, resource: &str) -> Self {
        self.resource = resource.to_owned();
        self
    }

    /// Returns the resource that this denial refuses, if it refuses one.
    fn refuses<'a>(
        &self,
        caller: &Caller,
        service: Service,
        action: &str,
        resources: &'a [String],
    ) -> Option<&'a str> {
        let who = match &self.who {
            Who::Anyone => true,
            Who::Role(role) => caller.role.as_ref() == Some(role),
            Who::Instance(id) => caller.instance_id.as_ref() == Some(id),
        };
        let of = self.service.is_none_or(|of| of == service);
        if !(who && of && matches(&self.action, action)) {
            return None;
        }
        let found = resources.iter().find(|resource| matches(&self.resource, resource));
        // A call that names no resource is refused only by a denial on every resource.
        found.map(String::as_str).or((self.resource == "*").then_some("*"))
    }
}

/// Whether `text` matches `pattern`; `*` matches any number of characters.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(text) = text.strip_prefix(start) else {
        return false;
    };
    text.char_indices()
        .map(|(index, _)| index)
        .chain([text.len()])
        .any(|index| matches(rest, &text[index..]))
}

/// The signer of a request.
#[derive(Clone, Debug, Default)]
pub(super) struct Caller {
    pub access_key_id: String,
    pub role: Option<String>,
    pub instance_id: Option<String>,
}

impl Caller {
    /// Returns the role, or else the access key id, for the log.
    pub fn name(&self) -> String {
        self.role.clone().unwrap_or_else(|| self.access_key_id.clone())
    }

    /// Returns the ARN of the instance whose role signs.
    pub fn instance_arn(&self, region: &str) -> Option<String> {
        let (id, account) = (self.instance_id.as_ref()?, super::ACCOUNT);
        Some(format!("arn:aws:ec2:{region}:{account}:instance/{id}"))
    }

    fn arn(&self) -> String {
        let account = super::ACCOUNT;
        match (&self.role, &self.instance_id) {
            (Some(role), Some(instance)) => {
                format!("arn:aws:sts::{account}:assumed-role/{role}/{instance}")
            }
            _ => format!("arn:aws:iam::{account}:user/{}", self.access_key_id),
        }
    }
}

/// Reads the parts of the signature and finds the caller.
pub(super) fn authenticate(
    headers: &HeaderMap,
    service: Service,
    now: OffsetDateTime,
    scaling: &Scaling,
) -> Result<Caller, ApiError> {
    let protocol = Protocol::of(service);
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(authorization) = header("authorization") else {
        return Err(
            protocol.error("MissingAuthenticationToken", "Request is missing Authentication Token")
        );
    };
    let access_key_id = access_key_id(authorization).ok_or_else(|| {
        protocol.error(
            "IncompleteSignature",
            "Authorization header requires 'Credential', 'Signature' and 'SignedHeaders' \
             parameters.",
        )
    })?;
    let signed = header("x-amz-date").and_then(parse_amz_date).ok_or_else(|| {
        protocol.error(
            "IncompleteSignature",
            "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header.",
        )
    })?;
    check_clock(signed, now, protocol)?;
    match scaling.principal(access_key_id) {
        Some(principal) if header("x-amz-security-token") == Some(&principal.session_token) => {
            Ok(Caller {
                access_key_id: access_key_id.to_owned(),
                role: Some(principal.role_name.clone()),
                instance_id: Some(principal.instance_id.clone()),
            })
        }
        // The cloud knows all temporary credentials that it has issued; other access keys are an operator's.
        None if !access_key_id.starts_with("ASIA") => {
            Ok(Caller { access_key_id: access_key_id.to_owned(), ..Caller::default() })
        }
        _ => Err(protocol.unknown_credentials()),
    }
}

/// Returns the region that a request is signed for: here, all regions have the same endpoint.
pub(super) fn signed_region(headers: &HeaderMap) -> Option<&str> {
    signed_scope(headers)?.nth(2)
}

/// Returns the service that a request is signed for.
pub(super) fn signed_service(headers: &HeaderMap) -> Option<&str> {
    signed_scope(headers)?.nth(3)
}

/// Returns the parts of the credential: its key, date, region and service.
fn signed_scope(headers: &HeaderMap) -> Option<std::str::Split<'_, char>> {
    let authorization = headers.get("authorization")?.to_str().ok()?;
    Some(authorization.split_once("Credential=")?.1.split('/'))
}

fn access_key_id(authorization: &str) -> Option<&str> {
    let parameters = authorization.strip_prefix("AWS4-HMAC-SHA256 ")?;
    let parameter = |name: &str| {
        parameters.split(',').find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('='))
    };
    parameter("SignedHeaders")?;
    parameter("Signature")?;
    parameter("Credential")?.split('/').next()
}

fn check_clock(
    signed: OffsetDateTime,
    now: OffsetDateTime,
    protocol: Protocol,
) -> Result<(), ApiError> {
    if matches!(protocol, Protocol::S3) {
        let message = "The difference between the request time and the current time is too large.";
        let is_near = (signed - now).abs() <= CLOCK_TOLERANCE_OF_S3;
        let error = || ApiError::new(403, "RequestTimeTooSkewed", message);
        return is_near.then_some(()).ok_or_else(error);
    }
    let (signed_text, now_text) = (amz_date(signed), amz_date(now));
    let message = if signed < now - CLOCK_TOLERANCE {
        let limit = amz_date(now - CLOCK_TOLERANCE);
        format!(
            "Signature expired: {signed_text} is now earlier than {limit} ({now_text} - 5 min.)"
        )
    } else if signed > now + CLOCK_TOLERANCE {
        let limit = amz_date(now + CLOCK_TOLERANCE);
        format!(
            "Signature not yet current: {signed_text} is still later than {limit} ({now_text} + \
             5 min.)"
        )
    } else {
        return Ok(());
    };
    Err(match protocol {
        Protocol::Json => ApiError::new(400, "InvalidSignatureException", message),
        Protocol::Query | Protocol::S3 => ApiError::new(403, "SignatureDoesNotMatch", message),
    })
}

/// Refuses a call that a denial covers.
pub(super) fn authorize(
    denials: &[Deny],
    caller: &Caller,
    service: Service,
    action: &str,
    resources: &[String],
) -> Result<(), ApiError> {
    let refused = denials.iter().find_map(|deny| deny.refuses(caller, service, action, resources));
    match refused {
        None => Ok(()),
        Some(resource) => {
            let (action, resource) = (format!("{service}:{action}"), resource.to_owned());
            Err(denied(caller, service, &Refusal { action, resource, is_explicit: true }))
        }
    }
}

/// Returns a refusal in IAM's wording.
pub(super) fn denied(caller: &Caller, service: Service, refusal: &Refusal) -> ApiError {
    let arn = caller.arn();
    let Refusal { action, resource, is_explicit } = refusal;
    let why = if *is_explicit {
        "with an explicit deny in an identity-based policy".to_owned()
    } else {
        format!("because no identity-based policy allows the {action} action")
    };
    let words =
        format!("User: {arn} is not authorized to perform: {action} on resource: {resource} {why}");
    if service == Service::Ec2 {
        let words = format!("You are not authorized to perform this operation. {words}");
        return ApiError::new(403, "UnauthorizedOperation", words);
    }
    Protocol::of(service).error("AccessDenied", &words)
}

/// The protocol families, which have different names for the same errors.
#[derive(Clone, Copy)]
enum Protocol {
    Json,
    Query,
    S3,
}

impl Protocol {
    fn of(service: Service) -> Self {
        match service {
            Service::DynamoDb | Service::Ssm | Service::Ecr => Self::Json,
            Service::S3 => Self::S3,
            Service::AutoScaling
            | Service::CloudFormation
            | Service::Ec2
            | Service::ElasticLoadBalancing
            | Service::CloudWatch
            | Service::Imds => Self::Query,
        }
    }

    fn error(self, code: &str, message: &str) -> ApiError {
        match self {
            Self::Json => ApiError::new(400, &format!("{code}Exception"), message),
            Self::Query | Self::S3 => ApiError::new(403, code, message),
        }
    }

    fn unknown_credentials(self) -> ApiError {
        let message = "The security token included in the request is invalid.";
        match self {
            Self::Json => ApiError::new(400, "UnrecognizedClientException", message),
            Self::Query => ApiError::new(403, "InvalidClientTokenId", message),
            Self::S3 => ApiError::new(
                403,
                "InvalidAccessKeyId",
                "The AWS Access Key Id you provided does not exist in our records.",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_anything() {
        assert!(matches("*", ""));
        assert!(matches("Get*", "GetParameters"));
        assert!(matches("/skep/*/manager-token/*", "/skep/demo/manager-token/1"));
        assert!(!matches("/skep/*/manager-token/*", "/skep/demo/worker-token/1"));
        assert!(!matches("GetParameter", "GetParameters"));
    }

    #[test]
    fn a_wrong_clock_is_told_in_the_words_of_the_protocol() {
        let now = time::macros::datetime!(2026-11-20 12:00:00 UTC);
        let late = check_clock(now - time::Duration::minutes(6), now, Protocol::Json).unwrap_err();
        assert_eq!(late.code, "InvalidSignatureException");
        assert_eq!(
            late.message,
            "Signature expired: 20261120T115400Z is now earlier than 20261120T115500Z \
             (20261120T120000Z - 5 min.)"
        );
        let early =
            check_clock(now + time::Duration::minutes(6), now, Protocol::Query).unwrap_err();
        assert_eq!((early.status, early.code.as_str()), (403, "SignatureDoesNotMatch"));
        assert!(early.message.starts_with("Signature not yet current: 20261120T120600Z"));
        assert!(check_clock(now, now, Protocol::Json).is_ok());
    }

    #[test]
    fn a_denial_is_for_its_role_and_its_resource() {
        let caller = Caller {
            access_key_id: "ASIA".to_owned(),
            role: Some("worker".to_owned()),
            instance_id: Some("i-1".to_owned()),
        };
        let deny =
            Deny::new(Who::Role("worker".to_owned()), Service::Ssm, "Get*").on("*/manager-token/*");
        let check = |action, resource: &str| {
            let denials = std::slice::from_ref(&deny);
            authorize(denials, &caller, Service::Ssm, action, &[resource.to_owned()])
        };
        let denied = check("GetParameter", "/skep/a/manager-token/1").unwrap_err();
        assert_eq!(denied.code, "AccessDeniedException");
        assert!(check("GetParameter", "/skep/a/worker-token/1").is_ok());
        assert!(check("PutParameter", "/skep/a/manager-token/1").is_ok());
    }

    #[test]
    fn the_access_key_is_read_from_the_signature() {
        let header = "AWS4-HMAC-SHA256 Credential=AKIA1/20261120/eu/ssm/aws4_request, \
                      SignedHeaders=host, Signature=00";
        assert_eq!(access_key_id(header), Some("AKIA1"));
        assert_eq!(access_key_id("AWS4-HMAC-SHA256 Credential=AKIA1/x"), None);
        assert_eq!(access_key_id("Basic abc"), None);
    }
}
