//! The calls and answers of CloudWatch, in both of its protocols.

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Response};
use serde_json::json;

use super::data::Data;
use crate::cloud::clock::Clock;
use crate::cloud::errors::{self, ApiError};
use crate::cloud::requests::Service;
use crate::cloud::wire::Params;
use crate::cloud::xml::{self, Xml};
use crate::cloud::{State, ids};

const JSON: &str = "application/x-amz-json-1.0";
/// <https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_PutMetricData.html>
const LARGEST_BODY: usize = 1024 * 1024;

/// The beginning of a compressed body; the `aws` command line compresses those from 10,240 bytes on.
const GZIP: [u8; 2] = [0x1f, 0x8b];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Query,
    Json,
}

/// The input of one call.
#[derive(Clone, Debug)]
pub(in crate::cloud) struct Input {
    protocol: Protocol,
    /// The error that the call gets without being executed.
    data: Result<Data, ApiError>,
}

impl Input {
    pub fn query(form: &Params) -> Self {
        Self { protocol: Protocol::Query, data: Ok(Data::of_form(form)) }
    }

    pub fn json(body: &[u8]) -> Self {
        if body.starts_with(&GZIP) {
            let message = "this cloud reads no compressed requests: send fewer values in a call";
            let data = Err(ApiError::new(400, "SerializationException", message));
            return Self { protocol: Protocol::Json, data };
        }
        let data = serde_json::from_slice(body).map(Data::of_json);
        let data = data.map_err(|error| {
            ApiError::new(400, "SerializationException", format!("the body is no JSON: {error}"))
        });
        Self { protocol: Protocol::Json, data }
    }

    /// Returns the namespace that the call names.
    pub fn namespace(&self) -> Option<&str> {
        self.data.as_ref().ok()?.text_of("Namespace")
    }

    /// Returns the namespace and the names of the first metrics, for the log.
    pub fn summary(&self) -> String {
        let data = self.data.as_ref().ok();
        let names = data.map(|data| data.list_of("MetricData")).unwrap_or_default();
        let names = names.iter().take(5).filter_map(|datum| datum.text_of("MetricName"));
        self.namespace().into_iter().chain(names).collect::<Vec<_>>().join(" ")
    }
}

/// Answers one call; returns its result, `None` where the operation has none.
pub(in crate::cloud) fn handle(
    state: &mut State,
    clock: &Clock,
    action: &str,
    input: &Input,
    length: usize,
) -> Result<Option<Data>, ApiError> {
    let data = input.data.as_ref().map_err(Clone::clone)?;
    match action {
        "PutMetricData" if length > LARGEST_BODY => {
            let message = format!("The request is larger than {LARGEST_BODY} bytes");
            Err(ApiError::new(413, "RequestEntityTooLarge", message))
        }
        "PutMetricData" => state.cloudwatch.put(data, clock.now()).map(|()| None),
        "GetMetricData" => state.cloudwatch.get(data).map(Some),
        "ListMetrics" => state.cloudwatch.list(data).map(Some),
        "DescribeAlarms" => Ok(Some(super::alarms::describe(&state.scaling, clock, data))),
        _ => Err(ApiError::unknown_action(Service::CloudWatch, action)),
    }
}

/// Returns an answer in the protocol of the call.
pub(in crate::cloud) fn answer(
    input: &Input,
    action: &str,
    result: Option<&Data>,
) -> Response<Body> {
    let request_id = ids::request_id();
    if input.protocol == Protocol::Json {
        let body = result.map_or_else(|| "{}".to_owned(), |result| result.to_json().to_string());
        return errors::answer(200, JSON, &request_id, body);
    }
    let content = result.map(|result| {
        let mut xml = Xml::default();
        result.write_members(&mut xml);
        xml.finish()
    });
    let body = xml::response(Service::CloudWatch, action, &request_id, content.as_deref());
    errors::answer(200, "text/xml", &request_id, body)
}

/// Returns an error in the protocol of the call.
pub(in crate::cloud) fn refuse(input: &Input, error: &ApiError) -> Response<Body> {
    if input.protocol == Protocol::Query {
        return error.response(Service::CloudWatch);
    }
    let body = json!({
        "__type": format!("com.amazonaws.cloudwatch#{}", error.code),
        "message": error.message,
    });
    let mut response = errors::answer(error.status, JSON, &ids::request_id(), body.to_string());
    // Clients that come from the Query protocol know the error by this code.
    let side = if error.status < 500 { "Sender" } else { "Receiver" };
    if let Ok(code) = HeaderValue::from_str(&format!("{};{side}", error.code)) {
        response.headers_mut().insert(HeaderName::from_static("x-amzn-query-error"), code);
    }
    response
}
