//! Accepts the connections of the health port.
//!
//! Guarantees:
//! - no more than [`MOST`] connections are open, and no more than [`MOST_OF_A_PEER`] of one address. For one more, the
//!   oldest of that address is closed, or the oldest of the address with the most. So every address always gets an
//!   answer, whatever others open, and skep keeps its descriptors for Docker and AWS;
//! - a connection serves one request, and is closed after [`TIME`], also if its peer neither writes nor reads;
//! - an error of `accept`, such as no free descriptor, pauses the port and never ends it.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::common::state::StateHandle;

/// Few of the 4096 descriptors of `skep.service`, and of the 1024 that a process has by default.
pub const MOST: usize = 128;
/// A browser opens 6 connections; load balancers and Prometheus open one or two.
pub const MOST_OF_A_PEER: usize = 16;
/// Time for the head of a request: it fits into one packet, which is repeated after 1 s and 3 s if it is lost.
pub const HEAD_TIME: Duration = Duration::from_secs(5);
/// Time for a whole connection: the slowest answer is that of the page, which waits 8 s for Docker and the ledger, and
/// whose browser gives up after 10 s.
pub const TIME: Duration = Duration::from_secs(10);
/// Maximum size of a request's head, in bytes: browsers send the cookies of all ports of a host. No body is ever read.
pub const LARGEST_HEAD: usize = 16 * 1024;
/// Connections that the kernel keeps until they are accepted, which takes microseconds each. If they are more, it drops
/// new ones, and a peer repeats them after 1 s: the burst of a flood must not do that to a load balancer.
pub const BACKLOG: u32 = 1024;
/// Pause after an error of `accept`.
const PAUSE: Duration = Duration::from_millis(200);
/// Time between two log lines about peers with too many connections.
const WARN_INTERVAL: Duration = Duration::from_secs(600);
/// Name of the trouble.
const PORT: &str = "health port";

/// Accepts connections for ever and answers each. Requests carry the address of their peer as [`ConnectInfo`].
pub async fn serve<S, A>(accept: impl Fn() -> A, app: &Router, state: &StateHandle) -> Infallible
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    A: Future<Output = io::Result<(S, SocketAddr)>>,
{
    let mut connections = Connections::default();
    loop {
        match accept().await {
            Ok((stream, peer)) => {
                state.trouble(PORT, None);
                let answer = answer(stream, peer, app.clone());
                connections.add(peer.ip().to_canonical(), answer).await;
            }
            // The peer has closed it already.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                let what = format!("the health port cannot accept connections: {error}");
                state.trouble(PORT, Some(what));
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Answers one request.
async fn answer(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: SocketAddr,
    app: Router,
) {
    let app = TowerToHyperService::new(app);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        app.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(LARGEST_HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    if let Ok(Err(error)) = timeout(TIME, connection).await {
        tracing::debug!("a connection to the health port has failed: {error}");
    }
}

/// The open connections, oldest first.
#[derive(Default)]
struct Connections {
    open: Vec<(IpAddr, AbortOnDropHandle<()>)>,
    warned: Option<Instant>,
}

impl Connections {
    /// Runs one more connection, and closes another one if there are too many.
    async fn add(&mut self, peer: IpAddr, answer: impl Future<Output = ()> + Send + 'static) {
        self.open.retain(|(_, task)| !task.is_finished());
        if let Some(whose) = self.who_has_too_many(peer) {
            self.close_oldest_of(whose).await;
        }
        self.open.push((peer, AbortOnDropHandle::new(tokio::spawn(answer))));
    }

    fn who_has_too_many(&self, newcomer: IpAddr) -> Option<IpAddr> {
        let mut counts = HashMap::<_, usize>::new();
        for (peer, _) in &self.open {
            *counts.entry(peer).or_default() += 1;
        }
        if counts.get(&newcomer).is_some_and(|count| *count >= MOST_OF_A_PEER) {
            return Some(newcomer);
        }
        // `max_by_key` returns the last of several: reversed, it is the one with the oldest connection.
        let peers = self.open.iter().rev().map(|(peer, _)| peer);
        let greediest = peers.max_by_key(|peer| counts.get(peer));
        greediest.filter(|_| self.open.len() >= MOST).copied()
    }

    async fn close_oldest_of(&mut self, peer: IpAddr) {
        let Some(oldest) = self.open.iter().position(|(it, _)| *it == peer) else { return };
        let (_, task) = self.open.remove(oldest);
        task.abort();
        // Its descriptor is free before the next connection is accepted. The result is that of the abort.
        let _ = task.await;
        if self.warned.is_none_or(|at| at.elapsed() >= WARN_INTERVAL) {
            self.warned = Some(Instant::now());
            tracing::warn!(
                "{peer} has too many connections to the health port; the oldest ones are closed. Find out what \
                 opens them"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::net::Ipv4Addr;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    const PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9)), 1);

    /// One answer that takes no time, one that is larger than all buffers, and one that never comes.
    fn app() -> Router {
        Router::new()
            .route("/", get(async || "here"))
            .route("/large", get(async || "x".repeat(1_000_000)))
            .route("/never", get(std::future::pending::<()>))
    }

    fn connect() -> (DuplexStream, tokio::task::JoinHandle<()>) {
        let (client, server) = duplex(1024);
        (client, tokio::spawn(answer(server, PEER, app())))
    }

    /// Sends a request and returns the answer, without the end of the connection.
    async fn ask(client: &mut DuplexStream, request: &[u8]) -> String {
        let mut answer = vec![0; 512];
        client.write_all(request).await.ok();
        let length = client.read(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer[..length]).into_owned()
    }

    async fn ends_after(began: Instant, task: tokio::task::JoinHandle<()>, limit: Duration) {
        task.await.unwrap();
        let took = began.elapsed();
        assert!(took.abs_diff(limit) < Duration::from_millis(50), "{took:?} instead of {limit:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_sends_nothing_or_a_byte_a_second_is_closed_after_the_time_for_a_head() {
        let began = Instant::now();
        let (silent, task) = connect();
        ends_after(began, task, HEAD_TIME).await;
        drop(silent);
        let began = Instant::now();
        let (mut slow, task) = connect();
        let write = async {
            for byte in b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" {
                if slow.write_all(&[*byte]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        tokio::join!(write, ends_after(began, task, HEAD_TIME));
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_does_not_read_and_an_answer_that_does_not_come_are_closed_in_time() {
        for path in ["large", "never"] {
            let began = Instant::now();
            let (mut client, task) = connect();
            let request = format!("GET /{path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            client.write_all(request.as_bytes()).await.unwrap();
            ends_after(began, task, TIME).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_has_one_request_with_a_head_of_limited_size_and_its_body_is_not_read() {
        let began = Instant::now();
        let (mut client, task) = connect();
        let answer = ask(&mut client, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("here"), "{answer}");
        assert!(answer.contains("connection: close"), "{answer}");
        ends_after(began, task, Duration::ZERO).await;

        let (mut client, task) = connect();
        let body = b"GET / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\nx";
        let answer = ask(&mut client, body).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        ends_after(began, task, Duration::ZERO).await;

        let (mut client, task) = connect();
        let (mut reading, mut writing) = tokio::io::split(&mut client);
        let endless = async {
            let line = [&b"x: "[..], &[b'y'; 1000], b"\r\n"].concat();
            writing.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
            let mut sent = 0;
            while writing.write_all(&line).await.is_ok() {
                sent += line.len();
            }
            assert!(sent <= LARGEST_HEAD + 2 * 1024, "{sent} bytes");
        };
        let mut refusal = vec![0; 512];
        let (_, length) = tokio::join!(endless, reading.read(&mut refusal));
        let refusal = String::from_utf8_lossy(&refusal[..length.unwrap()]).into_owned();
        assert!(refusal.starts_with("HTTP/1.1 431 "), "{refusal}");
        ends_after(began, task, Duration::ZERO).await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_of_accept_pauses_the_port_and_does_not_end_it() {
        let (state, app) = (StateHandle::default(), app());
        let (mut client, server) = duplex(1024);
        let server = RefCell::new(Some(server));
        let calls = RefCell::new(0);
        let accept = async || {
            *calls.borrow_mut() += 1;
            let emfile = io::Error::from_raw_os_error(nix::errno::Errno::EMFILE as i32);
            let aborted = io::ErrorKind::ConnectionAborted.into();
            let number = *calls.borrow();
            match number {
                1..=3 => Err(emfile),
                4 => Err(aborted),
                _ => match server.take() {
                    Some(server) => Ok((server, PEER)),
                    None => std::future::pending().await,
                },
            }
        };
        let began = Instant::now();
        tokio::select! {
            never = serve(accept, &app, &state) => match never {},
            () = async {
                tokio::time::sleep(PAUSE).await;
                let trouble = state.now().trouble.unwrap();
                assert!(trouble.contains("Too many open files"), "{trouble}");
                let answer = ask(&mut client, b"GET / HTTP/1.0\r\n\r\n").await;
                assert!(answer.ends_with("here"), "{answer}");
            } => {}
        }
        assert_eq!(began.elapsed().as_millis() / PAUSE.as_millis(), 3);
        assert_eq!(state.now().trouble, None);
    }

    #[tokio::test]
    async fn one_more_connection_closes_the_oldest_of_whoever_has_the_most() {
        let peer = |n: usize| IpAddr::from(Ipv4Addr::from_bits(0x0a00_0000 + n as u32));
        let mut connections = Connections::default();
        let open = |of: &Connections, peer: IpAddr| {
            of.open.iter().filter(|(it, task)| *it == peer && !task.is_finished()).count()
        };
        for _ in 0..3 * MOST_OF_A_PEER {
            connections.add(peer(0), std::future::pending()).await;
        }
        assert_eq!(open(&connections, peer(0)), MOST_OF_A_PEER);
        for n in 1..=MOST {
            connections.add(peer(n), std::future::pending()).await;
            assert!(connections.open.len() <= MOST);
        }
        // The peer with the most has given up all but one; then the oldest connection of all was next.
        assert_eq!(open(&connections, peer(MOST)), 1);
        assert_eq!(open(&connections, peer(0)), 0);
        assert_eq!(connections.open.len(), MOST);
        connections.add(peer(0), std::future::ready(())).await;
        assert_eq!(open(&connections, peer(1)), 0, "the oldest");
        tokio::task::yield_now().await;
        connections.add(peer(1), std::future::pending()).await;
        assert_eq!(open(&connections, peer(2)), 1, "the finished one has made room");
    }
}
