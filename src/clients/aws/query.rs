//! Calls services with the Query protocol: parameters in a form, answers in XML.
//!
//! Guarantee: a call that fails for a moment is repeated as often as the SDK repeats its own, within the same time.

use aws_config::SdkConfig;
use reqwest::Url;
use roxmltree::{Document, Node};

use super::signed::Attempts;
use super::{AwsError, Signed};
use crate::telemetry::metrics::metrics;

/// Parameters of a call.
pub type Fields = Vec<(String, String)>;

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
    attempts: Attempts,
}

impl Query {
    pub fn new(config: &SdkConfig, api: Api) -> Self {
        let endpoint = std::env::var(api.endpoint).ok();
        let service = Signed::new(config, api.signed_as, endpoint.as_deref());
        Self { api, service, attempts: Attempts::of(config) }
    }

    #[cfg(test)]
    pub fn region(&self) -> Option<String> {
        self.service.as_ref().ok()?.region()
    }

    /// Makes one call. `read` reads the answer.
    ///
    /// # Errors
    /// When the service did not answer in full, or refused.
    pub async fn call<T>(
        &self,
        operation: &'static str,
        resource: &str,
        fields: Fields,
        read: impl Fn(Node<'_, '_>) -> Result<T, String>,
    ) -> Result<T, AwsError> {
        let first = [("Action", operation), ("Version", self.api.version)];
        let first = first.map(|(name, value)| field(name, value));
        let body = form(first.into_iter().chain(fields)).into_bytes();
        let attempt = || self.attempt(operation, resource, body.clone(), &read);
        self.attempts.make(operation, attempt).await
    }

    /// Makes one attempt, and counts it.
    async fn attempt<T>(
        &self,
        operation: &'static str,
        resource: &str,
        body: Vec<u8>,
        read: impl Fn(Node<'_, '_>) -> Result<T, String>,
    ) -> Result<T, AwsError> {
        let name = self.api.service;
        let failed = |why: String| AwsError::unanswered(name, operation, resource, why);
        let service = self.service.as_ref().map_err(|why| failed(why.clone()))?;
        let headers = [("content-type", "application/x-www-form-urlencoded; charset=utf-8")];
        let answer = service.call("POST", "/", &headers, body).await.map_err(failed);
        let result = answer.and_then(|answer| match answer.status {
            200 => read_xml(&answer.body, &read).map_err(failed),
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

/// Returns one parameter.
pub fn field(name: impl Into<String>, value: impl Into<String>) -> (String, String) {
    (name.into(), value.into())
}

/// Returns the parameters of a list: `<name>.member.1` and so on.
pub fn members<'a>(
    name: &'a str,
    values: impl IntoIterator<Item = impl Into<String>> + 'a,
) -> impl Iterator<Item = (String, String)> + 'a {
    (1..).zip(values).map(move |(n, value)| field(format!("{name}.member.{n}"), value))
}

fn read_xml<T>(body: &str, read: impl Fn(Node<'_, '_>) -> Result<T, String>) -> Result<T, String> {
    let document =
        Document::parse(body).map_err(|error| format!("the answer is no XML: {error}"))?;
    read(document.root_element())
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

/// Returns the elements of a child that is a list; `None` where the child is missing, which is no empty list.
pub fn list<'a, 'input>(
    node: Node<'a, 'input>,
    name: &str,
) -> Option<impl Iterator<Item = Node<'a, 'input>>> {
    Some(child(node, name)?.children().filter(Node::is_element))
}
