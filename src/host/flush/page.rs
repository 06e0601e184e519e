//! Reads a shipper's HTTP endpoint: JSON, or Prometheus' text. Plain HTTP, because all shippers use it on the loopback
//! interface.

use std::time::Duration;

use reqwest::Url;
use serde_json::Value;

use crate::common::errors::chain;

/// An endpoint on this host answers within milliseconds; one that hangs must not block the poll.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// The metrics of a busy shipper have some 100 kB; a longer answer is something else.
const LARGEST_PAGE: usize = 8 << 20;
/// Characters shown of an unexpected answer.
const SHOWN: usize = 80;

#[derive(Clone, Debug)]
pub struct Client(reqwest::Client);

impl Client {
    pub fn new() -> Result<Self, String> {
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(REQUEST_TIMEOUT)
            .build();
        client.map(Self).map_err(|error| chain(&error))
    }

    pub async fn json(&self, url: &Url) -> Result<Value, String> {
        let text = self.text(url).await?;
        serde_json::from_str(&text)
            .map_err(|error| format!("{url} did not return JSON ({error}): {}", beginning(&text)))
    }

    /// Returns the body of an answer with status 200.
    pub async fn text(&self, url: &Url) -> Result<String, String> {
        let failed = |error: reqwest::Error| format!("{url}: {}", chain(&error.without_url()));
        let mut answer = self.0.get(url.clone()).send().await.map_err(failed)?;
        let status = answer.status();
        if status != reqwest::StatusCode::OK {
            return Err(format!("{url} returned {status}"));
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(failed)? {
            body.extend_from_slice(&chunk);
            if body.len() > LARGEST_PAGE {
                return Err(format!("{url} returned more than {LARGEST_PAGE} bytes"));
            }
        }
        String::from_utf8(body).map_err(|_| format!("{url} returned text that is not UTF-8"))
    }
}

fn beginning(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(SHOWN).collect()
}

/// Returns the number at a JSON pointer.
pub fn number(page: &Value, pointer: &str) -> Option<u64> {
    page.pointer(pointer)?.as_u64()
}

/// Like [`number`], with the pointer in the error.
pub fn needed(page: &Value, pointer: &str) -> Result<u64, String> {
    number(page, pointer).ok_or_else(|| format!("the answer has no number at {pointer}"))
}
