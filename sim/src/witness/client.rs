//! A client that sends requests through the load balancer, one connection each, and counts what becomes of them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::fleet::workload::{LONG_PATH, LONG_REQUEST};

/// Time between two requests.
const EVERY: Duration = Duration::from_millis(5);
/// Of this many requests, one is long.
const LONG_ONE_IN: u64 = 20;
/// Timeout of a request: one that is lost is never answered. On a busy machine the kernel drops the first packets of a
/// connection, and the client's sends them again after 1, 3, 7, 15 and 31 s.
const LIMIT: Duration = Duration::from_secs(60);
/// Number of different errors that are kept.
const MOST_ERRORS: usize = 20;

/// What has become of the requests so far.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Requests {
    pub sent: u64,
    pub answered: u64,
    /// Those of `answered` that were long.
    pub long_answered: u64,
    pub failed: u64,
    /// The first failures, and how often each was seen.
    pub errors: BTreeMap<String, u64>,
    /// Number of failures in each second since the first request.
    pub failed_at: BTreeMap<u64, u64>,
    /// Longest time without an answer, in seconds.
    pub longest_gap: f64,
    /// Time of the first request.
    #[serde(skip)]
    pub began: Option<Instant>,
    /// Time of the last answer.
    #[serde(skip)]
    pub last_answer: Option<Instant>,
}

/// The counts of a client that may be running.
#[derive(Clone, Debug, Default)]
pub struct Counts(Arc<Mutex<Requests>>);

impl Counts {
    /// Returns the counts up to now.
    pub fn now(&self) -> Requests {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn update(&self, change: impl FnOnce(&mut Requests)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn record(&self, is_long: bool, result: anyhow::Result<()>) {
        let now = Instant::now();
        self.update(|counts| match result {
            Ok(()) => {
                counts.answered += 1;
                counts.long_answered += u64::from(is_long);
                let gap = counts.last_answer.map_or(0.0, |last| (now - last).as_secs_f64());
                counts.longest_gap = counts.longest_gap.max(gap);
                counts.last_answer = Some(now);
            }
            Err(error) => {
                counts.failed += 1;
                let second = counts.began.map_or(0, |began| (now - began).as_secs());
                *counts.failed_at.entry(second).or_default() += 1;
                let error = format!("{error:#}");
                if counts.errors.len() < MOST_ERRORS || counts.errors.contains_key(&error) {
                    *counts.errors.entry(error).or_default() += 1;
                }
            }
        });
    }
}

/// Sends requests to `address` until `stop`, and waits for the answers of those that are under way. Must run inside the
/// fleet's network.
pub async fn run(address: SocketAddr, counts: Counts, stop: impl Future<Output = ()>) {
    let mut pace = interval(EVERY);
    // A client that was held up by a busy machine does not send the missed requests at once.
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut under_way = tokio::task::JoinSet::new();
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            _ = pace.tick() => {}
            Some(_) = under_way.join_next(), if !under_way.is_empty() => continue,
        }
        let mut number = 0;
        counts.update(|counts| {
            counts.began.get_or_insert_with(Instant::now);
            number = counts.sent;
            counts.sent += 1;
        });
        let (counts, is_long) = (counts.clone(), number % LONG_ONE_IN == 0);
        under_way.spawn(async move {
            let answer = timeout(LIMIT, request(address, is_long)).await;
            let answer = answer.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer in time")));
            counts.record(is_long, answer);
        });
    }
    while under_way.join_next().await.is_some() {}
}

/// Sends one request, and checks that the answer is whole.
async fn request(address: SocketAddr, is_long: bool) -> anyhow::Result<()> {
    let (path, body) = if is_long { (LONG_PATH, "long") } else { ("/", "hello") };
    let begin = Instant::now();
    let mut stream = TcpStream::connect(address).await.context("connecting")?;
    let head = format!("GET {path} HTTP/1.0\r\nHost: web\r\n\r\n");
    stream.write_all(head.as_bytes()).await.context("sending")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.context("reading the answer")?;
    ensure!(!answer.is_empty(), "the connection ended without an answer");
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.lines().next().unwrap_or_default();
    ensure!(status.contains(" 200 "), "answered {status}");
    ensure!(answer.trim_end().ends_with(body), "the answer was cut");
    // Otherwise the service is not the one that the demo means.
    ensure!(!is_long || begin.elapsed() >= LONG_REQUEST / 2, "a long request was short");
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn it_counts_answers_and_every_kind_of_failure() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            for n in 0_u32.. {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let mut request = [0; 500];
                    let read = stream.read(&mut request).await.unwrap();
                    let is_long = String::from_utf8_lossy(&request[..read]).contains(LONG_PATH);
                    let answer = match n {
                        1 => "",
                        2 => "HTTP/1.0 200 OK\r\n\r\nhel",
                        3 => "HTTP/1.0 503 Busy\r\n\r\nhello",
                        _ if is_long => {
                            tokio::time::sleep(LONG_REQUEST).await;
                            "HTTP/1.0 200 OK\r\n\r\nlong\n"
                        }
                        _ => "HTTP/1.0 200 OK\r\n\r\nhello\n",
                    };
                    stream.write_all(answer.as_bytes()).await.unwrap();
                });
            }
        });
        let counts = Counts::default();
        let seen = counts.clone();
        let stop = async move {
            while seen.now().answered < 30 {
                tokio::time::sleep(EVERY).await;
            }
        };
        run(address, counts.clone(), stop).await;
        let counts = counts.now();
        assert_eq!(counts.sent, counts.answered + counts.failed);
        assert_eq!((counts.failed, counts.errors.len()), (3, 3), "{:?}", counts.errors);
        assert!(counts.long_answered >= 1, "{counts:?}");
    }
}
