//! Calls services with the Query protocol: parameters in a form, answers in XML.

use aws_config::SdkConfig;
use reqwest::Url;
use roxmltree::{Document, Node};

use super::{AwsError, Signed};
use crate::telemetry::metrics::metrics;

/// A service's API.
#[derive(Clone, Copy, Debug)]
pub struct Api {
    /// Its name in IAM actions.
    pub service: &'static str,
    /// Its name in signatures and host names.
    pub signed_as: &'static str,
    /// The variable of the SDKs for the endpoint of this service.
    pub endpoint: &'static str,
    /// The version of the API.
    pub version: &'static str,
}

/// One service in one region.
#[derive(Debug)]
pub struct Query {
    api: Api,
    service: Result<Signed, String>,
}

impl Query {
    pub fn new(config: &SdkConfig, api: Api) -> Self {
        let endpoint = std::env::var(api.endpoint).ok();
        Self { api, service: Signed::new(config, api.signed_as, endpoint.as_deref()) }
    }

    /// Makes one call, and counts it. `read` reads the answer.
    ///
    /// # Errors
    /// When the service did not answer in full, or refused.
    pub async fn call<T>(
        &self,
        operation: &'static str,
        resource: &str,
        fields: Vec<(String, String)>,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<T, AwsError> {
        let Api { service: name, version, .. } = self.api;
        let failed = |why: String| AwsError::unanswered(name, operation, resource, why);
        let service = self.service.as_ref().map_err(|why| failed(why.clone()))?;
        let headers = [("content-type", "application/x-www-form-urlencoded; charset=utf-8")];
        let first = [("Action", operation), ("Version", version)];
        let first = first.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let body = form(first.into_iter().chain(fields)).into_bytes();
        let answer = service.call("POST", "/", &headers, body).await.map_err(failed);
        let result = answer.and_then(|answer| match answer.status {
            200 => read(&answer.body).map_err(failed),
            status => {
                let (code, message) = refusal(&answer.body);
                Err(AwsError::refused(name, operation, resource, status, &code, &message))
            }
        });
        let outcome = result.as_ref().map_or_else(|error| error.kind.as_str(), |_| "ok");
        metrics().aws_call(name, operation, outcome);
        result
    }
}

fn form(fields: impl Iterator<Item = (String, String)>) -> String {
    // Any base does: only the query is used.
    let url = Url::parse_with_params("http://localhost", fields);
    url.ok().and_then(|url| url.query().map(str::to_owned)).unwrap_or_default()
}

/// Returns the code and the message of a refusal; without them, the start of the answer.
fn refusal(body: &str) -> (String, String) {
    let parsed = Document::parse(body).ok().and_then(|document| {
        let error = document.descendants().find(|node| node.tag_name().name() == "Error")?;
        Some((text(error, "Code")?, text(error, "Message").unwrap_or_default()))
    });
    parsed.unwrap_or_else(|| (String::new(), body.to_owned()))
}

/// Returns the first child with this name.
/// The elements have the namespace of the API's version; their local names suffice.
pub fn child<'a, 'input>(node: Node<'a, 'input>, name: &str) -> Option<Node<'a, 'input>> {
    node.children().find(|child| child.is_element() && child.tag_name().name() == name)
}

/// Returns the text of a child.
pub fn text(node: Node<'_, '_>, name: &str) -> Option<String> {
    Some(child(node, name)?.text().unwrap_or_default().trim().to_owned())
}
