//! The errors of the metadata client, with their remedies.

use std::sync::Arc;

use crate::common::errors::Explained;

/// A failed read of the metadata. Cheap to clone, because callers that waited for the same token share its failure.
/// Never contains a token or a tag's value.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}", self.sentence("; "))]
pub enum ImdsError {
    /// The operator forbids every AWS client to use the metadata.
    Disabled,

    /// An endpoint variable of the environment has a wrong value.
    BadEndpoint {
        /// Name of the variable; `endpoint` where a caller passed the value.
        variable: &'static str,
        /// The wrong value.
        value: String,
        /// The values that are valid, in words.
        expected: &'static str,
    },

    /// The HTTP client could not be created.
    Client(#[source] Arc<reqwest::Error>),

    /// The service does not answer, or not in time.
    NoAnswer {
        /// What skep was doing, such as `reading the metadata`.
        operation: &'static str,
        /// Path of the item below `latest/meta-data/`, also where its token could not be fetched.
        path: String,
        /// URL of the request, for the item or for its token.
        uri: String,
        /// The HTTP client's error, without the URL.
        #[source]
        source: Arc<reqwest::Error>,
    },

    /// 403: the service answers, and refuses everything.
    SwitchedOff {
        /// What skep was doing, such as `reading the metadata`.
        operation: &'static str,
        /// Path of the item below `latest/meta-data/`, also where its token could not be fetched.
        path: String,
        /// URL of the request, for the item or for its token.
        uri: String,
    },

    /// 401 for a token that skep has just fetched.
    TokenRefused {
        /// What skep was doing, such as `reading the metadata`.
        operation: &'static str,
        /// Path of the item below `latest/meta-data/`, also where its token could not be fetched.
        path: String,
        /// URL of the request, for the item or for its token.
        uri: String,
    },

    /// 429 or 5xx: a retry may succeed.
    Busy {
        /// What skep was doing, such as `reading the metadata`.
        operation: &'static str,
        /// Path of the item below `latest/meta-data/`, also where its token could not be fetched.
        path: String,
        /// URL of the request, for the item or for its token.
        uri: String,
        /// HTTP status code of the answer.
        status: u16,
    },

    /// A status that this service does not normally return.
    UnexpectedStatus {
        /// What skep was doing, such as `reading the metadata`.
        operation: &'static str,
        /// Path of the item below `latest/meta-data/`, also where its token could not be fetched.
        path: String,
        /// URL of the request, for the item or for its token.
        uri: String,
        /// HTTP status code of the answer.
        status: u16,
    },

    /// An item that every instance has does not exist.
    Missing {
        /// What skep was doing, such as `reading the metadata`.
        operation: &'static str,
        /// Path of the item below `latest/meta-data/`.
        path: String,
        /// URL of the item.
        uri: String,
    },

    /// The answer cannot be parsed.
    Malformed {
        /// What skep was doing, such as `reading the metadata`.
        operation: &'static str,
        /// Path of the item below `latest/meta-data/`, also where its token could not be fetched.
        path: String,
        /// URL of the request, for the item or for its token.
        uri: String,
        /// Why the answer cannot be parsed.
        problem: String,
    },
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

impl Explained for ImdsError {
    fn evidence(&self) -> String {
        match self {
            Self::Disabled => {
                "the instance metadata is switched off by AWS_EC2_METADATA_DISABLED=true, \
                 but skep needs it to identify its instance"
                    .to_owned()
            }
            Self::BadEndpoint { variable, value, .. } => {
                format!("{variable}={value:?} is not valid for the metadata service")
            }
            Self::Client(_) => "cannot create the HTTP client for the instance metadata".to_owned(),
            Self::NoAnswer { operation, uri, .. } => format!("{operation}: no answer from {uri}"),
            Self::SwitchedOff { operation, uri, .. } => {
                format!("{operation}: the instance metadata is switched off (403 from {uri})")
            }
            Self::TokenRefused { operation, uri, .. } => {
                format!("{operation}: {uri} refused a fresh token (401)")
            }
            Self::Busy { operation, uri, status, .. } => {
                format!("{operation}: {uri} is busy or failing (status {status})")
            }
            Self::UnexpectedStatus { operation, uri, status, .. } => {
                format!("{operation}: {uri} answered with status {status}")
            }
            Self::Missing { operation, uri, .. } => {
                format!("{operation}: {uri} does not exist, although every EC2 instance has it")
            }
            Self::Malformed { operation, uri, problem, .. } => {
                format!("{operation}: the answer from {uri} is malformed: {problem}")
            }
        }
    }

    fn remedy(&self) -> Option<String> {
        let remedy = match self {
            Self::Disabled => "unset the variable",
            Self::BadEndpoint { expected, .. } => {
                return Some(format!(
                    "set it to {expected}, or unset it to use http://169.254.169.254"
                ));
            }
            Self::NoAnswer { .. } => {
                "check that this is an EC2 instance with HttpEndpoint enabled, that \
                 169.254.169.254 is routed and not firewalled, and, if skep runs in a container, \
                 that HttpPutResponseHopLimit is at least 2"
            }
            Self::SwitchedOff { .. } => {
                "switch it on with `aws ec2 modify-instance-metadata-options --instance-id <id> \
                 --http-endpoint enabled`"
            }
            Self::Client(_)
            | Self::TokenRefused { .. }
            | Self::Busy { .. }
            | Self::UnexpectedStatus { .. }
            | Self::Missing { .. }
            | Self::Malformed { .. } => return None,
        };
        Some(remedy.to_owned())
    }
}
