//! The errors of the metadata client, with their remedies.

use std::sync::Arc;

/// A failed read of the metadata. Cheap to clone, because callers that waited for the same token share its failure.
/// Never contains a token or a tag's value.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ImdsError {
    /// The operator forbids every AWS client to use the metadata.
    #[error(
        "the instance metadata is switched off by AWS_EC2_METADATA_DISABLED=true, \
         but skep needs it to identify its instance; unset the variable"
    )]
    Disabled,

    /// An endpoint variable of the environment has a wrong value.
    #[error(
        "{variable}={value:?} is not valid for the metadata service; set it to {expected}, or unset \
         it to use http://169.254.169.254"
    )]
    BadEndpoint { variable: &'static str, value: String, expected: &'static str },

    /// The HTTP client could not be created.
    #[error("cannot create the HTTP client for the instance metadata")]
    Client(#[source] Arc<reqwest::Error>),

    /// The service does not answer, or not in time.
    #[error(
        "{operation}: no answer from {uri}; check that this is an EC2 instance with HttpEndpoint \
         enabled, that 169.254.169.254 is routed and not firewalled, and, if skep runs in a \
         container, that HttpPutResponseHopLimit is at least 2"
    )]
    NoAnswer {
        operation: &'static str,
        path: String,
        uri: String,
        #[source]
        source: Arc<reqwest::Error>,
    },

    /// 403: the service answers, and refuses everything.
    #[error(
        "{operation}: the instance metadata is switched off (403 from {uri}); switch it on with \
         `aws ec2 modify-instance-metadata-options --instance-id <id> --http-endpoint enabled`"
    )]
    SwitchedOff { operation: &'static str, path: String, uri: String },

    /// 401 for a token that skep has just fetched.
    #[error("{operation}: {uri} refused a fresh token (401)")]
    TokenRefused { operation: &'static str, path: String, uri: String },

    /// 429 or 5xx: a retry may succeed.
    #[error("{operation}: {uri} is busy or failing (status {status})")]
    Busy { operation: &'static str, path: String, uri: String, status: u16 },

    /// A status that this service does not normally return.
    #[error("{operation}: {uri} answered with status {status}")]
    UnexpectedStatus { operation: &'static str, path: String, uri: String, status: u16 },

    /// An item that every instance has does not exist.
    #[error("{operation}: {uri} does not exist, although every EC2 instance has it")]
    Missing { operation: &'static str, path: String, uri: String },

    /// The answer cannot be parsed.
    #[error("{operation}: the answer from {uri} is malformed: {problem}")]
    Malformed { operation: &'static str, path: String, uri: String, problem: String },
}

impl ImdsError {
    /// Whether the same request may succeed a moment later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, ImdsError::NoAnswer { .. } | ImdsError::Busy { .. })
    }

    /// Whether the service may return this answer because the instance is new: in the first seconds of an instance it
    /// answers 404, 401 or an empty text for items that every instance has.
    #[must_use]
    pub fn may_settle(&self) -> bool {
        match self {
            ImdsError::Missing { .. }
            | ImdsError::Malformed { .. }
            | ImdsError::TokenRefused { .. } => true,
            ImdsError::UnexpectedStatus { status, .. } => *status == 404,
            _ => false,
        }
    }
}
