//! Asks the skep of another node for its findings.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use reqwest::StatusCode;
use serde::Deserialize;
use tokio::time::Instant;

use crate::api::findings::{PATH, RUN_PATIENCE};
use crate::common::errors::chain;
use crate::common::printable::printable;
use crate::common::report::FleetMember;
use crate::config::is_private;
use crate::doctor::Finding;

/// A node of the same network accepts a connection within milliseconds; a security group may drop the packets.
const CONNECT_PATIENCE: Duration = Duration::from_secs(3);
/// Every request is answered at once; a node may ask Docker and the ledger who the managers are.
const REQUEST_PATIENCE: Duration = Duration::from_secs(9);
/// Time for the whole exchange with a node: longer than its own limit for the checks.
const NODE_PATIENCE: Duration = Duration::from_secs(RUN_PATIENCE.as_secs() + 10);
const ASK_EVERY: Duration = Duration::from_millis(500);
/// Bytes of an answer: a manager of a large swarm has about 20 KiB.
pub(super) const LARGEST_ANSWER: usize = 512 << 10;
/// Findings of a node, and characters of a text of it.
pub(super) const MOST_FINDINGS: usize = 500;
const LONGEST_TEXT: usize = 2000;

/// The findings of a node, or why they are not known.
pub type Answer = Result<Told, String>;

/// What a node answers.
#[derive(Debug, Deserialize)]
pub struct Told {
    pub findings: Vec<Finding>,
    /// Age of the findings.
    #[serde(default)]
    pub age_seconds: u64,
}

/// Returns the findings of a node, by its skep.
pub async fn ask(member: &FleetMember, port: u16) -> Answer {
    let Some(address) = member.address else {
        return Err("its address is not known".to_owned());
    };
    // A worker writes its address itself: nothing outside of the network is asked.
    if !is_private(address) && !address.is_loopback() {
        return Err(format!("its address {address} is not private"));
    }
    let answer = fetch(address, port).await;
    answer.map_err(|why| match (member.docker_state.as_deref(), member.state.as_deref()) {
        (None | Some("ready"), Some("removed")) => format!("{why}; it was removed from the swarm"),
        (None | Some("ready"), _) => why,
        (Some(state), _) => format!("{why}; Docker reports it as {state}"),
    })
}

/// Asks a node until its checks have ended.
async fn fetch(address: IpAddr, port: u16) -> Answer {
    let socket = SocketAddr::new(address, port);
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_PATIENCE)
        .timeout(REQUEST_PATIENCE)
        .build()
        .map_err(|error| chain(&error))?;
    let end = Instant::now() + NODE_PATIENCE;
    loop {
        let exchange = async {
            let mut answer = client.get(format!("http://{socket}{PATH}")).send().await?;
            let mut body = Vec::new();
            while let Some(piece) = answer.chunk().await? {
                body.extend_from_slice(&piece);
                if body.len() > LARGEST_ANSWER {
                    return Ok(None);
                }
            }
            Ok::<_, reqwest::Error>(Some((answer.status(), body)))
        };
        match exchange.await {
            Err(error) => {
                return Err(format!("no answer from {socket}: {}", chain(&error.without_url())));
            }
            Ok(None) => {
                return Err(format!("its answer is larger than {} KiB", LARGEST_ANSWER >> 10));
            }
            Ok(Some((StatusCode::OK, body))) => return parse(&body),
            Ok(Some((StatusCode::ACCEPTED, _))) if Instant::now() < end => {
                tokio::time::sleep(ASK_EVERY).await;
            }
            Ok(Some((StatusCode::ACCEPTED, _))) => {
                return Err(format!("its checks did not end within {NODE_PATIENCE:?}"));
            }
            Ok(Some((StatusCode::NOT_FOUND, _))) => {
                return Err("its skep is older than this command".to_owned());
            }
            Ok(Some((status, body))) => {
                let why = String::from_utf8_lossy(&body);
                let why = printable(why.trim(), LONGEST_TEXT / 10);
                return Err(format!("it answers {}: {why}", status.as_u16()));
            }
        }
    }
}

/// Reads the findings of another node: few enough, each text short enough and on one line.
pub(super) fn parse(body: &[u8]) -> Answer {
    let mut told: Told = serde_json::from_slice(body).map_err(|error| {
        format!("its answer cannot be read: {}", printable(&error.to_string(), 200))
    })?;
    if told.findings.len() > MOST_FINDINGS {
        return Err(format!("its answer has more than {MOST_FINDINGS} findings"));
    }
    let plain = |text: &str| printable(text, LONGEST_TEXT);
    for finding in &mut told.findings {
        finding.check = plain(&finding.check).into();
        finding.evidence = plain(&finding.evidence);
        finding.remedy = finding.remedy.as_deref().map(plain);
    }
    Ok(told)
}
