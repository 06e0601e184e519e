//! Feeds any bytes to the control socket.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::tests::Running;
use super::*;
use crate::fuzz::{Target, run};

const REQUESTS: [&str; 8] = [
    "GET /status HTTP/1.1\r\nHost: skep\r\n\r\n",
    "GET /node HTTP/1.1\r\nHost: skep\r\nConnection: close\r\n\r\n",
    "POST /leave HTTP/1.1\r\nHost: skep\r\nContent-Length: 43\r\n\r\n{\"deadline_seconds\": 600, \"reason\": \"disk\"}",
    "POST /leave HTTP/1.1\r\nHost: skep\r\nContent-Length: 2\r\n\r\n{}",
    "POST /leave HTTP/1.1\r\nHost: skep\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "POST /rotate-tokens HTTP/1.1\r\nHost: skep\r\nContent-Length: 66\r\n\r\n{\"worker_token\": true, \"manager_token\": true, \"unlock_key\": false}\n",
    "GET /recover HTTP/1.1\r\nHost: skep\r\nConnection: close\r\n\r\n",
    "POST /recover HTTP/1.1\r\nHost: skep\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n",
];
const WORDS: [&str; 14] = [
    "HTTP/1.0",
    "HTTP/2.0",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "Content-Length: ",
    "Transfer-Encoding: chunked\r\n",
    "Connection: upgrade\r\nUpgrade: h2c\r\n",
    "ffffffffffffffff",
    "\r\n\r\n",
    "*",
    "http://x:1/status",
    "/leave",
    "deadline_seconds",
    "reason",
    "unlock_key",
];

#[test]
fn no_request_stops_the_control_socket() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut running = runtime.block_on(async { Running::start(None) });
    let path = socket_path(running.dir.path());
    let corpus = REQUESTS.map(|request| request.as_bytes().to_vec()).into();
    let target = Target { name: "control-requests", corpus, words: &WORDS };
    run(&target, |input| {
        runtime.block_on(async {
            let answer = exchange(&path, input, true).await;
            if let Ok(request) = running.leave.try_recv() {
                assert!(request.reason.is_none_or(|reason| parse_reason(&reason) == Ok(reason)));
            }
            let usual = exchange(&path, REQUESTS[1].as_bytes(), false).await;
            assert!(usual.starts_with(b"HTTP/1.1 200 "), "{}", usual.escape_ascii());
            answer.get(..12).map(<[u8]>::to_vec)
        })
    });
}

/// Sends the bytes. Returns the answer, up to the end of the connection. A request that the client ends may remain
/// without an answer.
async fn exchange(path: &Path, request: &[u8], ends: bool) -> Vec<u8> {
    let mut stream = UnixStream::connect(path).await.unwrap();
    let mut answer = Vec::new();
    // The socket is closed during a request that is refused.
    let _ = stream.write_all(request).await;
    if ends {
        let _ = stream.shutdown().await;
    }
    let _ = stream.read_to_end(&mut answer).await;
    answer
}
