//! A metadata service for tests: items, tokens, and wrong answers on demand.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{Method, Response, StatusCode};
use tokio::time::Instant;

use super::{Imds, TOKEN_HEADER, TTL_HEADER};

/// Short, so that the test of the timeout is short; long enough for a machine that is busy with a build.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(500);

/// A deadline that no test reaches.
pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

#[derive(Default)]
pub(crate) struct Answers {
    pub(crate) items: BTreeMap<String, String>,
    /// Status codes for the next GETs of any path; 0 means no answer at all.
    pub(crate) next_gets: VecDeque<u16>,
    /// Status codes for the next PUTs.
    pub(crate) next_puts: VecDeque<u16>,
    /// The lifetime of tokens, in seconds, as the answer reports it.
    pub(crate) ttl: u64,
    pub(crate) date: Option<String>,
    /// Delay of every PUT.
    pub(crate) put_delay: Duration,
    /// Delay of every GET.
    pub(crate) get_delay: Duration,
    /// The highest number of concurrent GETs.
    pub(crate) most_at_once: u64,
    under_way: u64,
    /// Addresses of all connections.
    pub(crate) peers: BTreeSet<SocketAddr>,
    /// Number of PUTs, of granted tokens, and of GETs.
    pub(crate) puts: u64,
    pub(crate) tokens: u64,
    pub(crate) gets: u64,
    /// Number of GETs of each path.
    pub(crate) asked: BTreeMap<String, u64>,
    /// Tokens up to this number are refused.
    pub(crate) revoked: u64,
}

pub(crate) struct Stub {
    endpoint: String,
    answers: Arc<Mutex<Answers>>,
}

impl Stub {
    pub(crate) async fn start() -> Self {
        let answers = Arc::new(Mutex::new(Answers { ttl: 21_600, ..Answers::default() }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let app = Router::new().fallback(answer).with_state(Arc::clone(&answers));
        let app = app.into_make_service_with_connect_info::<SocketAddr>();
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { endpoint, answers }
    }

    pub(crate) fn imds(&self) -> Imds {
        Imds::build("endpoint", &self.endpoint, REQUEST_TIMEOUT).unwrap()
    }

    pub(crate) fn answers(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().unwrap()
    }

    pub(crate) fn set(&self, path: &str, value: &str) {
        self.answers().items.insert(path.to_owned(), value.to_owned());
    }

    /// Sets the items that every instance has.
    pub(crate) fn fill(&self) {
        for (path, value) in [
            ("instance-id", "i-0abc"),
            ("instance-type", "t3.micro"),
            ("placement/availability-zone", "eu-central-1a"),
            ("placement/region", "eu-central-1"),
            ("local-ipv4", "10.0.1.7"),
            ("instance-life-cycle", "on-demand"),
            ("services/partition", "aws"),
            ("dynamic/instance-identity/document", r#"{ "accountId": "123456789012" }"#),
        ] {
            self.set(path, value);
        }
    }

    pub(crate) fn remove(&self, path: &str) {
        self.answers().items.remove(path);
    }

    /// Returns the number of granted tokens.
    pub(crate) fn tokens(&self) -> u64 {
        self.answers().tokens
    }
}

async fn answer(
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    State(answers): State<Arc<Mutex<Answers>>>,
    request: Request,
) -> Response<Body> {
    let is_put = request.method() == Method::PUT;
    let (forced, delay) = {
        let mut answers = answers.lock().unwrap();
        answers.peers.insert(peer);
        if is_put {
            answers.puts += 1;
            (answers.next_puts.pop_front(), answers.put_delay)
        } else {
            answers.gets += 1;
            *answers.asked.entry(request.uri().path().to_owned()).or_default() += 1;
            answers.under_way += 1;
            answers.most_at_once = answers.most_at_once.max(answers.under_way);
            (answers.next_gets.pop_front(), answers.get_delay)
        }
    };
    tokio::time::sleep(delay).await;
    if !is_put {
        answers.lock().unwrap().under_way -= 1;
    }
    match forced {
        Some(0) => std::future::pending().await,
        Some(status) => return respond(status, "forced"),
        None => {}
    }
    let mut answers = answers.lock().unwrap();
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let path = request.uri().path();
    let mut response = if is_put && path == "/latest/api/token" {
        let asked = header(TTL_HEADER).and_then(|ttl| ttl.parse::<u64>().ok());
        if !asked.is_some_and(|ttl| (1..=21_600).contains(&ttl)) {
            return respond(400, "bad time to live");
        }
        answers.tokens += 1;
        let mut response = respond(200, &format!("token-{}", answers.tokens));
        response.headers_mut().insert(TTL_HEADER, answers.ttl.into());
        response
    } else {
        let serial = header(TOKEN_HEADER).and_then(|token| token.strip_prefix("token-"));
        let valid = serial.and_then(|serial| serial.parse::<u64>().ok());
        if valid.is_none_or(|serial| serial <= answers.revoked) {
            return respond(401, "unauthorized");
        }
        let item = path.strip_prefix("/latest/meta-data/").or(path.strip_prefix("/latest/"));
        match item.and_then(|item| answers.items.get(item)) {
            Some(value) => respond(200, value),
            None => respond(404, "not found"),
        }
    };
    if let Some(date) = &answers.date {
        response.headers_mut().insert("date", date.parse().unwrap());
    }
    response
}

fn respond(status: u16, body: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(body.to_owned()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}
