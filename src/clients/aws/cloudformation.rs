//! Reports the result of this instance's boot to the CloudFormation stack that waits for it.
//!
//! Guarantee: a stack that does not wait, or not any more, is an answer, because a node of a later scale-out signals it
//! too. Assumption: the instance id is the unique id, so repeated signals of one instance count once.

use std::sync::Arc;

use aws_config::SdkConfig;

use crate::clients::aws::query::{Api, Query, field};
use crate::clients::aws::{AwsError, AwsErrorKind};
use crate::common::instance::StackResource;

const API: Api = Api {
    service: "cloudformation",
    signed_as: "cloudformation",
    endpoint: "AWS_ENDPOINT_URL_CLOUDFORMATION",
    version: "2010-05-15",
};

/// CloudFormation as skep uses it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct CloudFormation(Arc<Query>);

/// The result of the boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignalStatus {
    /// Counts as one of the signals that the stack waits for.
    Success,
    /// Fails the stack operation at once.
    Failure,
}

/// CloudFormation's answer to a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignalAnswer {
    /// The stack counts it.
    Sent,
    /// The stack does not wait: it is complete, failed or being deleted.
    NotInProgress,
    /// CloudFormation has no stack of this name: `Stack … does not exist`.
    NoSuchStack,
    /// The stack has no resource with this logical id: `Resource … does not exist for stack …`.
    NoSuchResource,
}

impl CloudFormation {
    #[cfg(test)]
    pub(crate) fn region(&self) -> Option<String> {
        self.0.region()
    }

    pub(super) fn new(config: &SdkConfig) -> Self {
        Self(Arc::new(Query::new(config, API)))
    }

    /// Sends one signal for `resource`; `unique_id` is the instance id, 1 to 64 characters.
    ///
    /// # Errors
    /// When CloudFormation did not answer, or refused for a reason other than those of [`SignalAnswer`].
    pub async fn signal(
        &self,
        resource: &StackResource,
        unique_id: &str,
        status: SignalStatus,
    ) -> Result<SignalAnswer, AwsError> {
        let status = match status {
            SignalStatus::Success => "SUCCESS",
            SignalStatus::Failure => "FAILURE",
        };
        let fields = vec![
            field("StackName", &resource.stack),
            field("LogicalResourceId", &resource.logical_id),
            field("UniqueId", unique_id),
            field("Status", status),
        ];
        let about = format!("resource {} of stack {}", resource.logical_id, resource.stack);
        match self.0.call("SignalResource", &about, fields, |_| Ok(())).await {
            Ok(()) => Ok(SignalAnswer::Sent),
            Err(error) => refusal(&error).ok_or(error),
        }
    }
}

/// Returns the answers that come as `ValidationError`, by their text; `can not` is spelled `cannot` in some reports.
fn refusal(error: &AwsError) -> Option<SignalAnswer> {
    if error.kind != AwsErrorKind::Validation {
        return None;
    }
    let words = error.message.replace("can not", "cannot");
    if words.contains("state and cannot be signaled") {
        Some(SignalAnswer::NotInProgress)
    } else if !words.contains("does not exist") {
        None
    } else if words.starts_with("Resource") {
        Some(SignalAnswer::NoSuchResource)
    } else if words.starts_with("Stack") {
        Some(SignalAnswer::NoSuchStack)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::aws::stub::Stub;

    fn resource() -> StackResource {
        StackResource { stack: "prod".into(), logical_id: "WorkerGroup".into() }
    }

    fn refused(message: &str) -> String {
        Stub::xml_error("ValidationError", message)
    }

    #[tokio::test]
    async fn a_signal_names_stack_resource_instance_and_status() {
        let stub = Stub::start().await;
        let cloudformation = stub.aws().await.cloudformation;
        for (status, word) in
            [(SignalStatus::Success, "SUCCESS"), (SignalStatus::Failure, "FAILURE")]
        {
            stub.answer(200, "<SignalResourceResponse/>");
            let answer = cloudformation.signal(&resource(), "i-0abc", status).await.unwrap();
            assert_eq!(answer, SignalAnswer::Sent);
            let request = stub.last_request();
            for part in [
                "Action=SignalResource",
                "StackName=prod",
                "LogicalResourceId=WorkerGroup",
                "UniqueId=i-0abc",
                &format!("Status={word}"),
            ] {
                assert!(request.split('&').any(|pair| pair == part), "{part}: {request}");
            }
        }
    }

    #[tokio::test]
    async fn a_stack_that_does_not_wait_is_an_answer() {
        let stub = Stub::start().await;
        let cloudformation = stub.aws().await.cloudformation;
        for (message, expected) in [
            (
                "Stack arn:aws:cloudformation:eu-central-1:1:stack/prod/1 is in CREATE_COMPLETE \
                 state and can not be signaled",
                SignalAnswer::NotInProgress,
            ),
            (
                "Stack prod is in UPDATE_COMPLETE state and cannot be signaled",
                SignalAnswer::NotInProgress,
            ),
            ("Stack prod does not exist", SignalAnswer::NoSuchStack),
            ("Resource WorkerGroup does not exist for stack prod", SignalAnswer::NoSuchResource),
        ] {
            stub.answer(400, &refused(message));
            let answer = cloudformation.signal(&resource(), "i-0abc", SignalStatus::Success).await;
            assert_eq!(answer.unwrap(), expected, "{message}");
        }
    }

    #[tokio::test]
    async fn another_refusal_is_an_error() {
        let stub = Stub::start().await;
        let cloudformation = stub.aws().await.cloudformation;
        for (code, kind) in [
            ("ValidationError", AwsErrorKind::Validation),
            ("AccessDenied", AwsErrorKind::AccessDenied),
            ("Throttling", AwsErrorKind::Throttled),
        ] {
            let words = "1 validation error detected at 'uniqueId'";
            stub.answer(400, &Stub::xml_error(code, words));
            let answer = cloudformation.signal(&resource(), "i-0abc", SignalStatus::Success).await;
            let error = answer.unwrap_err();
            assert_eq!(error.kind, kind);
            assert_eq!(error.resource, "resource WorkerGroup of stack prod");
        }
    }
}
