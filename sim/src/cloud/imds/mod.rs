//! The instance metadata service, version 2 only.
//!
//! The service identifies an instance by the peer address of the connection; EC2 identifies it by the network
//! interface.

mod knobs;
mod tree;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, Response, StatusCode, header};
use percent_encoding::percent_decode_str;

pub use knobs::ImdsKnobs;
pub use tree::mac_address;

use super::autoscaling::Scaling;
use super::clock;
use super::ec2::Ec2;
use super::faults::Fate;
use super::ids::Ids;
use super::requests::{self, Service};
use super::server::Dropped;
use super::{Cloud, lock};
use knobs::Knobs;

const TOKEN: &str = "x-aws-ec2-metadata-token";
const TOKEN_TTL: &str = "x-aws-ec2-metadata-token-ttl-seconds";
/// The lifetimes that a token can have, in seconds.
const TOKEN_TTLS: std::ops::RangeInclusive<u64> = 1..=21_600;

/// The service's state for one instance.
struct Node {
    /// Tokens, and the elapsed time when they expire.
    tokens: HashMap<String, Duration>,
    knobs: Knobs,
}

pub(super) struct Metadata {
    nodes: HashMap<String, Node>,
    /// Peers that act as an instance although they have another address.
    stand_ins: HashMap<IpAddr, String>,
    ids: Ids,
    seed: u64,
}

impl Metadata {
    pub fn new(seed: u64) -> Self {
        Self { nodes: HashMap::new(), stand_ins: HashMap::new(), ids: Ids::new(seed), seed }
    }

    pub fn forget(&mut self, instance_id: &str) {
        self.nodes.remove(instance_id);
    }

    pub fn stand_in(&mut self, peer: IpAddr, instance_id: &str) {
        self.stand_ins.insert(peer, instance_id.to_owned());
    }

    fn node(&mut self, instance_id: &str) -> &mut Node {
        let seed = self.seed;
        self.nodes
            .entry(instance_id.to_owned())
            .or_insert_with(|| Node { tokens: HashMap::new(), knobs: Knobs::new(seed) })
    }

    fn identify(&self, peer: IpAddr, scaling: &Scaling, ec2: &Ec2) -> Option<String> {
        let IpAddr::V4(address) = peer.to_canonical() else {
            return self.stand_ins.get(&peer).cloned();
        };
        match self.stand_ins.get(&IpAddr::V4(address)) {
            Some(id) => Some(id.clone()),
            None => scaling
                .instance_at(address)
                .or_else(|| ec2.instance_at(address))
                .map(|instance| instance.id.clone()),
        }
    }

    fn issue_token(&mut self, instance_id: &str, ttl: Duration, now: Duration) -> String {
        let token = self.ids.secret(55) + "=";
        let tokens = &mut self.node(instance_id).tokens;
        tokens.retain(|_, expires| *expires > now);
        tokens.insert(token.clone(), now + ttl);
        token
    }

    /// Returns the remaining lifetime of a token.
    fn token_left(&mut self, instance_id: &str, token: &str, now: Duration) -> Option<Duration> {
        let expires = *self.node(instance_id).tokens.get(token)?;
        expires.checked_sub(now).filter(|left| !left.is_zero())
    }
}

struct Reply {
    status: StatusCode,
    body: String,
    token_ttl: Option<u64>,
}

impl Reply {
    fn ok(body: String, token_ttl: u64) -> Self {
        Self { status: StatusCode::OK, body, token_ttl: Some(token_ttl) }
    }

    fn refused(status: StatusCode) -> Self {
        let reason = status.canonical_reason().unwrap_or_default();
        let title = format!("{} - {reason}", status.as_u16());
        Self {
            status,
            body: format!(
                "<?xml version=\"1.0\" encoding=\"iso-8859-1\"?>\n<html \
                 xmlns=\"http://www.w3.org/1999/xhtml\"><head><title>{title}</title></head>\
                 <body><h1>{title}</h1></body></html>\n"
            ),
            token_ttl: None,
        }
    }

    fn into_response(self, date: &str) -> Response<Body> {
        let content_type = if self.status.is_success() { "text/plain" } else { "text/html" };
        let mut response = Response::builder()
            .status(self.status)
            .header(header::CONTENT_TYPE, content_type)
            .header(header::SERVER, "EC2ws")
            .header(header::DATE, date);
        if let Some(ttl) = self.token_ttl {
            response = response.header(TOKEN_TTL, ttl.to_string());
        }
        // All parts above are valid, so building cannot fail.
        response.body(Body::from(self.body)).unwrap_or_default()
    }
}

/// Answers one request to the metadata service.
pub(super) async fn handle(
    cloud: Cloud,
    request: Request<Body>,
    peer: SocketAddr,
) -> Result<Response<Body>, Dropped> {
    let started = Instant::now();
    let at = cloud.now();
    let (parts, _) = request.into_parts();
    let path = percent_decode_str(parts.uri.path()).decode_utf8_lossy().into_owned();
    let action = format!("{} {path}", parts.method);
    let instance_id = {
        let state = lock(&cloud.inner.state);
        state.metadata.identify(peer.ip(), &state.scaling, &state.ec2)
    };
    let outcome = match &instance_id {
        None => Ok(Reply::refused(StatusCode::NOT_FOUND)),
        Some(id) => cloud.metadata(id, &parts.method, &path, &action, &parts.headers).await,
    };
    let status = outcome.as_ref().map_or(0, |reply| reply.status.as_u16());
    cloud.inner.requests.push(requests::Request {
        at,
        service: Service::Imds,
        action,
        principal: None,
        instance_id,
        status,
        code: outcome.is_err().then(|| "Dropped".to_owned()),
        summary: String::new(),
        read_units: 0.0,
        write_units: 0.0,
        rows: 0,
        took_micros: u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
    });
    outcome.map(|reply| reply.into_response(&clock::http_date(cloud.now())))
}

impl Cloud {
    async fn metadata(
        &self,
        id: &str,
        method: &Method,
        path: &str,
        action: &str,
        headers: &HeaderMap,
    ) -> Result<Reply, Dropped> {
        let now = self.inner.clock.elapsed();
        let (own_fate, own_latency) = lock(&self.inner.state).metadata.node(id).knobs.draw();
        let (fate, latency) = self.inner.faults.plan(Service::Imds, action, now);
        let latency = latency + own_latency;
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        for fate in [own_fate, fate] {
            match fate {
                Fate::Dropped | Fate::AnswerLost => return Err(Dropped),
                Fate::Failed => return Ok(Reply::refused(StatusCode::INTERNAL_SERVER_ERROR)),
                Fate::Throttled => return Ok(Reply::refused(StatusCode::SERVICE_UNAVAILABLE)),
                Fate::Served | Fate::InPart(_) => {}
            }
        }
        Ok(self.answer(id, method, path, headers))
    }

    fn answer(&self, id: &str, method: &Method, path: &str, headers: &HeaderMap) -> Reply {
        let now = self.inner.clock.elapsed();
        let mut state = lock(&self.inner.state);
        let state = &mut *state;
        if state.metadata.node(id).knobs.off {
            return Reply::refused(StatusCode::FORBIDDEN);
        }
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        if path == "/latest/api/token" {
            return match (method, headers.contains_key("x-forwarded-for")) {
                (&Method::PUT, true) => Reply::refused(StatusCode::FORBIDDEN),
                (&Method::PUT, false) => {
                    let ttl = text(TOKEN_TTL).and_then(|ttl| ttl.parse::<u64>().ok());
                    match ttl.filter(|ttl| TOKEN_TTLS.contains(ttl)) {
                        Some(ttl) => {
                            let life = Duration::from_secs(ttl);
                            Reply::ok(state.metadata.issue_token(id, life, now), ttl)
                        }
                        None => Reply::refused(StatusCode::BAD_REQUEST),
                    }
                }
                _ => Reply::refused(StatusCode::METHOD_NOT_ALLOWED),
            };
        }
        if method != Method::GET {
            return Reply::refused(StatusCode::METHOD_NOT_ALLOWED);
        }
        let left = text(TOKEN).and_then(|token| state.metadata.token_left(id, token, now));
        let Some(left) = left else {
            return Reply::refused(StatusCode::UNAUTHORIZED);
        };
        let instance = state.scaling.instance(id).or_else(|| state.ec2.instance(id));
        let found = instance.and_then(|instance| {
            let mut tree = tree::Tree::of(instance, &self.inner.options, &self.inner.clock);
            if let Some((name, key)) = state.ec2.public_key(id) {
                tree.public_key(name, key);
            }
            tree.get(path)
        });
        match found {
            Some(body) => Reply::ok(body, left.as_secs()),
            None => Reply::refused(StatusCode::NOT_FOUND),
        }
    }
}
