//! What a shipper's HTTP endpoint answers: JSON, or Prometheus' text. Plain HTTP, as they all speak on
//! the loopback interface.

use std::time::Duration;

use reqwest::Url;
use serde_json::Value;

use crate::common::errors;

/// An endpoint on this host answers within milliseconds; one that hangs must not keep the poll.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// The metrics of a busy shipper have some 100 kB; what goes on beyond this is none.
const LARGEST_PAGE: usize = 8 << 20;
/// Of an answer that is not what it should be, so much is shown.
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
        client.map(Self).map_err(|error| errors::chain(&error))
    }

    pub async fn json(&self, url: &Url) -> Result<Value, String> {
        let text = self.text(url).await?;
        serde_json::from_str(&text)
            .map_err(|error| format!("{url} answers no JSON ({error}): {}", beginning(&text)))
    }

    /// The body of an answer with status 200.
    pub async fn text(&self, url: &Url) -> Result<String, String> {
        let failed =
            |error: reqwest::Error| format!("{url}: {}", errors::chain(&error.without_url()));
        let mut answer = self.0.get(url.clone()).send().await.map_err(failed)?;
        let status = answer.status();
        if status != reqwest::StatusCode::OK {
            return Err(format!("{url} answers {status}"));
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(failed)? {
            body.extend_from_slice(&chunk);
            if body.len() > LARGEST_PAGE {
                return Err(format!("{url} answers more than {LARGEST_PAGE} bytes"));
            }
        }
        String::from_utf8(body).map_err(|_| format!("{url} answers what is not UTF-8"))
    }
}

fn beginning(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(SHOWN).collect()
}

/// The number at a JSON pointer.
pub fn number(page: &Value, pointer: &str) -> Option<u64> {
    page.pointer(pointer)?.as_u64()
}

/// As [`number`], with the pointer in the complaint.
pub fn needed(page: &Value, pointer: &str) -> Result<u64, String> {
    number(page, pointer).ok_or_else(|| format!("the answer has no number at {pointer}"))
}
