//! Decides which requests may see details of this node: the whole answer to `GET /`, the metrics, the page. There is no
//! password: every client in the private network may see them.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{Extension, Request};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::config::is_private;

/// Header in which a load balancer or proxy lists the addresses of its clients.
const FORWARDED_FOR: &str = "x-forwarded-for";

/// Why a request may not see details; `None` if it may. Every request of the health port carries one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Objection(pub Option<&'static str>);

impl Objection {
    /// Returns the objection to a request from `peer`; `hosts` are the names that the operator trusts, in lower case.
    pub fn to(peer: SocketAddr, request: &Request, hosts: &[String]) -> Self {
        let authority = request.uri().authority().cloned();
        Self(objection(peer.ip(), authority, request.headers(), hosts))
    }
}

/// Passes a request on, or answers 403 with the reason.
pub async fn admit(
    Extension(objection): Extension<Objection>,
    request: Request,
    next: Next,
) -> Response {
    match objection.0 {
        None => next.run(request).await,
        Some(why) => (StatusCode::FORBIDDEN, format!("{why}\n")).into_response(),
    }
}

fn objection(
    peer: IpAddr,
    authority: Option<Authority>,
    headers: &HeaderMap,
    hosts: &[String],
) -> Option<&'static str> {
    if !is_near(peer) || !speaks_for_private_ones(headers) {
        return Some("This page is for private addresses only.");
    }
    let named = headers.get(header::HOST).and_then(|host| host.to_str().ok()?.parse().ok());
    if !authority.or(named).is_some_and(|authority| is_own(authority.host(), hosts)) {
        return Some(
            "Use an IP address, localhost, a name that ends in .internal or one of health.hosts: any \
             other name could belong to an attacker who points it to this address.",
        );
    }
    None
}

/// Whether an address is private, or this host's own.
fn is_near(address: IpAddr) -> bool {
    let address = address.to_canonical();
    address.is_loopback() || is_private(address)
}

fn speaks_for_private_ones(headers: &HeaderMap) -> bool {
    headers.get_all(FORWARDED_FOR).iter().all(|value| {
        let text = value.to_str().unwrap_or_default();
        text.split(',').all(|address| address.trim().parse().is_ok_and(is_near))
    })
}

/// Whether a host name is safe from DNS rebinding: a page from another site whose name points here can make a browser
/// in the private network send requests here and read the answers. That is impossible with an address, and with a
/// name that nobody can register: `localhost`, and names below `internal`, which EC2 gives its instances and ICANN
/// reserves for such use. `hosts` are the operator's.
fn is_own(host: &str, hosts: &[String]) -> bool {
    let literal = host.trim_start_matches('[').trim_end_matches(']');
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    literal.parse::<IpAddr>().is_ok()
        || name == "localhost"
        || name.ends_with(".internal")
        || hosts.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_admitted(peer: &str, host: &str, forwarded_for: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(forwarded_for) = forwarded_for {
            headers.insert(FORWARDED_FOR, forwarded_for.parse().unwrap());
        }
        objection(peer.parse().unwrap(), None, &headers, &["swarm.example.com".into()]).is_none()
    }

    #[test]
    fn only_private_peers_are_admitted() {
        for peer in [
            "127.0.0.1",
            "::1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "fd00::1",
            "::ffff:10.1.2.3",
        ] {
            assert!(is_admitted(peer, "10.0.0.5:44554", None), "{peer}");
        }
        for peer in [
            "8.8.8.8",
            "172.32.0.1",
            "100.128.0.1",
            "169.254.1.1",
            "2001:db8::1",
            "fe80::1",
            "::ffff:8.8.8.8",
            "0.0.0.0",
        ] {
            assert!(!is_admitted(peer, "10.0.0.5:44554", None), "{peer}");
        }
    }

    #[test]
    fn a_proxy_speaks_for_private_ones_alone() {
        let through = |forwarded_for| is_admitted("10.0.0.9", "10.0.0.5", Some(forwarded_for));
        assert!(through("10.0.0.1"));
        assert!(through("10.0.0.1, fd00::7"));
        for forwarded_for in ["8.8.8.8", "10.0.0.1, 8.8.8.8", "8.8.8.8, 10.0.0.1", "unknown", ""] {
            assert!(!through(forwarded_for), "{forwarded_for}");
        }
    }

    #[test]
    fn no_name_is_answered_that_somebody_else_can_have() {
        let asked = |host| is_admitted("10.0.0.9", host, None);
        for host in [
            "10.0.0.5",
            "10.0.0.5:44554",
            "[fd00::5]:44554",
            "[::1]",
            "localhost:8080",
            "LOCALHOST",
            "ip-10-0-0-5.eu-central-1.compute.internal:44554",
            "manager.internal.",
            "swarm.example.com",
            "SWARM.example.com.:44554",
        ] {
            assert!(asked(host), "{host}");
        }
        for host in [
            "example.com",
            "a.swarm.example.com",
            "10.0.0.5.example.com",
            "internal",
            "localhost.example.com",
            "",
        ] {
            assert!(!asked(host), "{host}");
        }
        let nothing = objection([10, 0, 0, 9].into(), None, &HeaderMap::new(), &[]);
        assert!(nothing.is_some(), "without a Host");
        let proxied = objection(
            [10, 0, 0, 9].into(),
            "evil.example".parse().ok(),
            &{
                let mut headers = HeaderMap::new();
                headers.insert(header::HOST, "10.0.0.5".parse().unwrap());
                headers
            },
            &[],
        );
        assert!(proxied.is_some(), "an absolute address counts before the header");
    }
}
