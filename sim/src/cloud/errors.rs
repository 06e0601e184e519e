//! An error of a service, and its form in each protocol.

use axum::body::Body;
use axum::http::{Response, StatusCode, header};
use serde_json::json;

use super::ids;
use super::requests::Service;
use super::xml::{self, Xml};

/// An error as a service would return it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct ApiError {
    pub status: u16,
    pub code: String,
    pub message: String,
}

impl ApiError {
    pub(super) fn new(status: u16, code: &str, message: impl Into<String>) -> Self {
        Self { status, code: code.to_owned(), message: message.into() }
    }

    /// Returns the error of Query services for nearly every invalid request.
    pub(super) fn validation(message: impl Into<String>) -> Self {
        Self::new(400, "ValidationError", message)
    }

    /// Returns the error for a missing member, in the wording of AWS's own validator.
    pub(super) fn missing(member: &str) -> Self {
        Self::validation(format!(
            "1 validation error detected: Value null at '{member}' failed to satisfy constraint: \
             Member must not be null"
        ))
    }

    pub(super) fn internal(service: Service) -> Self {
        match service {
            Service::DynamoDb | Service::Ssm => {
                Self::new(500, "InternalServerError", "Internal server error")
            }
            Service::Ecr => Self::new(500, "ServerException", "Internal server error"),
            Service::S3 => Self::new(
                500,
                "InternalError",
                "We encountered an internal error. Please try again.",
            ),
            Service::Ec2 => Self::new(500, "InternalError", "An internal error has occurred"),
            Service::AutoScaling
            | Service::CloudFormation
            | Service::ElasticLoadBalancing
            | Service::CloudWatch
            | Service::Imds => Self::new(500, "InternalFailure", "An internal error has occurred."),
        }
    }

    pub(super) fn throttled(service: Service) -> Self {
        match service {
            Service::DynamoDb => Self::new(
                400,
                "ProvisionedThroughputExceededException",
                "The level of configured provisioned throughput for the table was exceeded. \
                 Consider increasing your provisioning level with the UpdateTable API.",
            ),
            Service::Ssm | Service::Ecr => Self::new(400, "ThrottlingException", "Rate exceeded"),
            Service::AutoScaling
            | Service::CloudFormation
            | Service::ElasticLoadBalancing
            | Service::CloudWatch => Self::new(400, "Throttling", "Rate exceeded"),
            Service::S3 => Self::new(503, "SlowDown", "Please reduce your request rate."),
            Service::Ec2 => Self::new(503, "RequestLimitExceeded", "Request limit exceeded."),
            Service::Imds => Self::new(503, "Throttling", "Too many requests"),
        }
    }

    pub(super) fn unknown_action(service: Service, action: &str) -> Self {
        match service {
            Service::DynamoDb | Service::Ssm | Service::Ecr => {
                Self::new(400, "UnknownOperationException", "")
            }
            Service::Ec2 => Self::new(
                400,
                "InvalidAction",
                format!("The action {action} is not valid for this web service."),
            ),
            _ => Self::new(400, "InvalidAction", format!("Could not find operation {action}")),
        }
    }

    /// Returns the answer in the protocol of `service`.
    pub(super) fn response(&self, service: Service) -> Response<Body> {
        match service {
            Service::DynamoDb => self.json("application/x-amz-json-1.0", self.dynamodb_namespace()),
            Service::Ssm | Service::Ecr => self.json("application/x-amz-json-1.1", ""),
            Service::Ec2 => self.ec2(),
            Service::S3 => self.s3(),
            Service::AutoScaling
            | Service::CloudFormation
            | Service::ElasticLoadBalancing
            | Service::CloudWatch
            | Service::Imds => self.xml(service),
        }
    }

    /// Returns the prefix of the error code: errors from the layers before DynamoDB itself have the framework's name.
    fn dynamodb_namespace(&self) -> &'static str {
        const BEFORE_THE_SERVICE: [&str; 8] = [
            "AccessDeniedException",
            "IncompleteSignatureException",
            "InternalServerError",
            "InvalidSignatureException",
            "MissingAuthenticationTokenException",
            "SerializationException",
            "UnknownOperationException",
            "UnrecognizedClientException",
        ];
        if BEFORE_THE_SERVICE.contains(&self.code.as_str()) {
            "com.amazon.coral.service#"
        } else {
            "com.amazonaws.dynamodb.v20120810#"
        }
    }

    fn json(&self, content_type: &str, namespace: &str) -> Response<Body> {
        let mut body = json!({ "__type": format!("{namespace}{}", self.code) });
        // Several SSM errors have no message; here, too.
        if !self.message.is_empty() {
            body["message"] = json!(self.message);
        }
        answer(self.status, content_type, &ids::request_id(), body.to_string())
    }

    /// EC2 has its own envelope, and another code for invalid requests.
    fn ec2(&self) -> Response<Body> {
        let request_id = ids::request_id();
        let mut xml = Xml::default();
        for element in ["Response", "Errors", "Error"] {
            xml.open(element);
        }
        let code = if self.code == "ValidationError" { "MissingParameter" } else { &self.code };
        xml.text("Code", code);
        xml.text("Message", &self.message);
        xml.close("Error");
        xml.close("Errors");
        xml.text("RequestID", &request_id);
        xml.close("Response");
        answer(self.status, "text/xml", &request_id, xml.finish())
    }

    /// S3's errors have no envelope and no namespace.
    fn s3(&self) -> Response<Body> {
        let mut xml = Xml::default();
        xml.open("Error");
        xml.text("Code", &self.code);
        xml.text("Message", &self.message);
        xml.close("Error");
        answer(self.status, "application/xml", &ids::request_id(), xml.finish())
    }

    fn xml(&self, service: Service) -> Response<Body> {
        let request_id = ids::request_id();
        let sender = if self.status < 500 { "Sender" } else { "Receiver" };
        let mut xml = Xml::default();
        xml.open_with("ErrorResponse", xml::namespace(service));
        xml.open("Error");
        xml.text("Type", sender);
        xml.text("Code", &self.code);
        xml.text("Message", &self.message);
        xml.close("Error");
        xml.text("RequestId", &request_id);
        xml.close("ErrorResponse");
        answer(self.status, "text/xml", &request_id, xml.finish())
    }
}

/// Returns an answer with the headers that every service sends.
pub(super) fn answer(
    status: u16,
    content_type: &str,
    request_id: &str,
    body: String,
) -> Response<Body> {
    Response::builder()
        .status(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR))
        .header(header::CONTENT_TYPE, content_type)
        .header("x-amzn-requestid", request_id)
        .body(Body::from(body))
        // All parts above are valid, so building cannot fail.
        .unwrap_or_default()
}
