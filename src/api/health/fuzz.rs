//! Feeds any bytes to the health port.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::connections::MOST;
use super::tests::descriptors;
use super::*;
use crate::fuzz::{Target, choices, run};

const REQUESTS: [&str; 6] = [
    "GET / HTTP/1.1\r\nHost: 127.0.0.1:44554\r\n\r\n",
    "HEAD / HTTP/1.0\r\n\r\n",
    "GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: application/openmetrics-text; version=1.0.0,text/plain;q=0.5\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: swarm.example.com\r\nX-Forwarded-For: 203.0.113.7\r\nCookie: a=b\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: [::1]\r\nContent-Length: 5\r\n\r\nhello",
    "GET /ui HTTP/1.1\r\nHost: 10.0.0.1\r\nOrigin: http://10.0.0.1\r\nSec-Fetch-Site: same-origin\r\nConnection: close\r\n\r\n",
];
const WORDS: [&str; 16] = [
    "HTTP/1.0",
    "HTTP/2.0",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "Host: ",
    "Host: evil.example\r\n",
    "Content-Length: ",
    "Transfer-Encoding: chunked\r\n",
    "Expect: 100-continue\r\n",
    "Upgrade: h2c\r\n",
    "\r\n\r\n",
    "\r\n ",
    ":",
    "*",
    "http://evil.example/",
    "q=1e400",
    "/metrics",
];
/// Number of executions between two counts of the port's descriptors: the kernel lists thousands of ended connections.
const COUNTED_EVERY: u32 = 200;

#[test]
fn no_request_stops_the_health_port() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let port = runtime.block_on(async {
        let server = Server::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let port = server.local_addr().unwrap();
        let mut settings = config::Settings::default().health;
        settings.hosts = vec!["swarm.example.com".into()];
        tokio::spawn(server.serve(StateHandle::default(), settings, Router::new()));
        port
    });
    let corpus = REQUESTS.map(|request| request.as_bytes().to_vec()).into();
    let target = Target { name: "health-requests", corpus, words: &WORDS };
    let mut executions = 0;
    run(&target, |input| {
        runtime.block_on(async {
            let choices = &mut choices(input);
            let end = if choices.bool() { End::Write } else { End::Both };
            let answer = exchange(choices, port, input, end).await;
            assert!(
                answer.is_empty() || answer.starts_with(b"HTTP/1."),
                "{}",
                answer.escape_ascii()
            );
            let usual = exchange(choices, port, REQUESTS[0].as_bytes(), End::None).await;
            assert!(usual.starts_with(b"HTTP/1.1 503 "), "{}", usual.escape_ascii());
            executions += 1;
            if executions % COUNTED_EVERY == 0 {
                let open = descriptors(port.port());
                assert!(open <= MOST + 2, "{open} descriptors");
            }
            answer.get(..12).map(<[u8]>::to_vec)
        })
    });
}

/// What the client ends after its request.
#[derive(PartialEq)]
enum End {
    None,
    /// Its own direction of the connection. The request may remain without an answer then.
    Write,
    /// The connection, without reading an answer.
    Both,
}

/// Sends the bytes from one of the host's addresses. Returns the answer, up to the end of the connection.
async fn exchange(
    choices: &mut fastrand::Rng,
    port: SocketAddr,
    request: &[u8],
    end: End,
) -> Vec<u8> {
    let socket = TcpSocket::new_v4().unwrap();
    // So many connections would use up the ports of one address.
    socket.bind(SocketAddr::from(([127, 0, choices.u8(..), choices.u8(1..255)], 0))).unwrap();
    let mut stream: TcpStream = socket.connect(port).await.unwrap();
    let mut answer = Vec::new();
    // The connection is closed during a request that is refused.
    let _ = stream.write_all(request).await;
    if end == End::Write {
        let _ = stream.shutdown().await;
    }
    if end != End::Both {
        let _ = stream.read_to_end(&mut answer).await;
    }
    answer
}
