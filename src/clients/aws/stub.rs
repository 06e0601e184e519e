//! An AWS endpoint for tests: sends the queued answers in their order, and keeps the requests.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::{ConfigLoader, Region};
use aws_sdk_ssm::config::{Credentials, SharedCredentialsProvider};
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Response, StatusCode};

use super::Aws;

pub(crate) struct Stub {
    pub(crate) endpoint: String,
    exchange: Arc<Mutex<Exchange>>,
}

type Computed = Box<dyn Fn(&str) -> Option<(u16, String)> + Send>;

#[derive(Default)]
struct Exchange {
    /// Answers to requests that contain the first string.
    standing: Vec<(String, String)>,
    computed: Option<Computed>,
    answers: VecDeque<(u16, String)>,
    requests: Vec<String>,
    /// `x-amz-date` of the requests that have one.
    signed_at: Vec<String>,
    /// The `Date` of all answers, if not now.
    date: Option<String>,
}

impl Stub {
    pub(crate) async fn start() -> Self {
        let exchange = Arc::new(Mutex::new(Exchange::default()));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let app = Router::new().fallback(answer).with_state(Arc::clone(&exchange));
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { endpoint, exchange }
    }

    /// Queues an answer; a request without a queued answer gets a 501.
    pub(crate) fn answer(&self, status: u16, body: &str) {
        self.exchange.lock().unwrap().answers.push_back((status, body.to_owned()));
    }

    /// Answers every request whose body contains `part`, before the queued answers: for requests in no certain order.
    pub(crate) fn always(&self, part: &str, body: &str) {
        self.exchange.lock().unwrap().standing.push((part.to_owned(), body.to_owned()));
    }

    /// Computes the answer to a request from its body, before the queued answers.
    pub(crate) fn compute(&self, answer: impl Fn(&str) -> Option<(u16, String)> + Send + 'static) {
        self.exchange.lock().unwrap().computed = Some(Box::new(answer));
    }

    /// Returns the bodies of all requests so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.exchange.lock().unwrap().requests.clone()
    }

    /// Returns the times of all signatures so far, like `20261120T100000Z`.
    pub(crate) fn signed_at(&self) -> Vec<String> {
        self.exchange.lock().unwrap().signed_at.clone()
    }

    /// Sets the `Date` of all later answers.
    pub(crate) fn set_date(&self, date: &str) {
        self.exchange.lock().unwrap().date = Some(date.to_owned());
    }

    pub(crate) fn last_request(&self) -> String {
        self.requests().pop().expect("a request came")
    }

    /// Returns a refusal in the query protocol's XML.
    pub(crate) fn xml_error(code: &str, message: &str) -> String {
        format!(
            "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code>\
             <Message>{message}</Message></Error><RequestId>1</RequestId></ErrorResponse>"
        )
    }

    /// Makes clients of this endpoint that never retry by themselves.
    pub(crate) async fn aws(&self) -> Aws {
        let credentials = Credentials::new("AKIATEST", "secret", None, None, "test");
        let provider = SharedCredentialsProvider::new(credentials);
        Aws::new(&self.config().credentials_provider(provider).load().await)
    }

    pub(crate) fn config(&self) -> ConfigLoader {
        super::sdk_defaults()
            .endpoint_url(&self.endpoint)
            .region(Region::new("eu-central-1"))
            .retry_config(RetryConfig::disabled())
    }
}

/// Returns what providers of credentials need to speak HTTP.
pub(crate) fn provider_config() -> ProviderConfig {
    ProviderConfig::default().with_http_client(super::http_client())
}

async fn answer(
    State(exchange): State<Arc<Mutex<Exchange>>>,
    headers: HeaderMap,
    body: String,
) -> Response<Body> {
    let mut exchange = exchange.lock().unwrap();
    let standing = exchange.standing.iter().find(|(part, _)| body.contains(part.as_str()));
    let computed = || exchange.computed.as_ref()?(&body);
    let standing = standing.map(|(_, answer)| (200, answer.clone())).or_else(computed);
    exchange.requests.push(body);
    let signed_at = headers.get("x-amz-date").and_then(|at| at.to_str().ok());
    exchange.signed_at.extend(signed_at.map(str::to_owned));
    let (status, body) =
        standing.or_else(|| exchange.answers.pop_front()).unwrap_or((501, String::new()));
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    if let Some(date) = &exchange.date {
        response.headers_mut().insert("date", date.parse().unwrap());
    }
    // The SDK reads the JSON protocols' errors only if the content type of the answer is JSON.
    if let Some(kind) = headers.get("content-type") {
        response.headers_mut().insert("content-type", kind.clone());
    }
    // A token of the metadata has the requested lifetime.
    const TTL: &str = "x-aws-ec2-metadata-token-ttl-seconds";
    if let Some(ttl) = headers.get(TTL) {
        response.headers_mut().insert(TTL, ttl.clone());
    }
    response
}
