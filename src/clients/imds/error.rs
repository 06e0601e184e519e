//! What can go wrong between skep and the metadata service, and what to do about it.

use std::sync::Arc;

/// An answer that is not a fact. Cheap to clone, because callers that waited for the same token
/// share its failure. Never holds a token or a tag's value.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ImdsError {
    /// The operator told every AWS client to stay away from the metadata.
    #[error(
        "the instance metadata is switched off by AWS_EC2_METADATA_DISABLED=true: skep cannot know \
         its instance without it, unset the variable"
    )]
    Disabled,

    /// The endpoint variables of the environment make no address.
    #[error(
        "{variable}={value:?} names no metadata service: expected {expected}, or unset it for \
         http://169.254.169.254"
    )]
    BadEndpoint { variable: &'static str, value: String, expected: &'static str },

    /// The HTTP client itself could not be made.
    #[error("the client for the instance metadata could not be built")]
    Client(#[source] Arc<reqwest::Error>),

    /// No answer: nobody there, or nobody in time.
    #[error(
        "{operation}: no answer from {uri}; check that this is an EC2 instance with HttpEndpoint \
         enabled, that 169.254.169.254 is routed and not firewalled, and, where skep runs in a \
         container, that HttpPutResponseHopLimit is at least 2"
    )]
    NoAnswer {
        operation: &'static str,
        path: String,
        uri: String,
        #[source]
        source: Arc<reqwest::Error>,
    },

    /// 403: the service is there, and refuses everything.
    #[error(
        "{operation}: the instance metadata is switched off (403 from {uri}); switch it on with \
         `aws ec2 modify-instance-metadata-options --instance-id <id> --http-endpoint enabled`"
    )]
    SwitchedOff { operation: &'static str, path: String, uri: String },

    /// 401 with a token that had been fetched a moment ago.
    #[error("{operation}: {uri} refused a fresh token (401)")]
    TokenRefused { operation: &'static str, path: String, uri: String },

    /// 429 or 5xx: it may do better in a moment.
    #[error("{operation}: {uri} is busy or failing (status {status})")]
    Busy { operation: &'static str, path: String, uri: String, status: u16 },

    /// A status nobody expects of this service.
    #[error("{operation}: {uri} answered with status {status}")]
    UnexpectedStatus { operation: &'static str, path: String, uri: String, status: u16 },

    /// A fact that every instance has is not there.
    #[error("{operation}: {uri} does not exist, yet every EC2 instance has it")]
    Missing { operation: &'static str, path: String, uri: String },

    /// There was an answer, and it makes no sense.
    #[error("{operation}: {uri} is malformed: {problem}")]
    Malformed { operation: &'static str, path: String, uri: String, problem: String },
}

impl ImdsError {
    /// May the same request do better in a moment?
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, ImdsError::NoAnswer { .. } | ImdsError::Busy { .. })
    }

    /// Is it an answer that the service gives before it knows this instance? In the first seconds of an
    /// instance its metadata answer 404, 401 or nothing where every instance has something.
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
