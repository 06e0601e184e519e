//! Health checks: real connections and HTTP requests to the targets.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, header};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::groups::ToCheck;
use super::specs::Probe;
use crate::cloud::Cloud;

/// The `User-Agent` of AWS's health checks.
const AGENT: &str = "ELB-HealthChecker/2.0";

/// The shortest interval: zero would never let other tasks run.
const SHORTEST: Duration = Duration::from_millis(1);

/// Checks one target at its interval until the future is dropped.
pub(super) async fn run(cloud: Cloud, target: ToCheck) {
    let mut turns = interval(target.check.interval.max(SHORTEST));
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        let passed = matches!(timeout(target.check.timeout, probe(&target)).await, Ok(Ok(true)));
        cloud.change(|state, now| {
            state.scaling.balance(|elb| elb.checked(&target, passed, now));
            state.scaling.replace_unhealthy(now);
        });
    }
}

/// Returns whether the target answers as expected.
async fn probe(target: &ToCheck) -> anyhow::Result<bool> {
    let check = &target.check;
    let stream = TcpStream::connect(target.at).await?;
    if check.probe == Probe::Tcp {
        return Ok(true);
    }
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let request = Request::get(&check.path)
        .header(header::HOST, target.host.to_string())
        .header(header::USER_AGENT, AGENT)
        .header(header::CONNECTION, "close")
        .body(Body::empty())?;
    let response = sender.send_request(request).await?;
    Ok(check.matcher.fits(response.status().as_u16()))
}
