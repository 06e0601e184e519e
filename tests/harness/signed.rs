//! Calls to the local cloud by a caller of the test's choice, over a plain connection: an operator, or whoever has got hold
//! of an instance's credentials. The cloud checks who signs and what that role may do, not the signature itself.

use anyhow::{Context, ensure};
use serde_json::Value;
use skep_sim::fleet::{Fleet, Instance};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::swarm::sh;

/// A caller.
#[derive(Clone, Debug)]
pub struct Signer {
    access_key_id: String,
    session_token: Option<String>,
}

/// The status and the body of an answer.
pub type Answer = (u16, String);

impl Signer {
    /// Somebody with all permissions.
    #[must_use]
    pub fn operator() -> Self {
        Self { access_key_id: "AKIAOPERATOR".to_owned(), session_token: None }
    }

    /// Whoever can read the metadata of this instance.
    ///
    /// # Errors
    /// When the metadata does not answer.
    pub async fn of(instance: &Instance) -> anyhow::Result<Self> {
        const READ: &str = "set -e; m=http://169.254.169.254/latest; \
            t=$(curl -sf -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' $m/api/token); \
            get() { curl -sf -H \"X-aws-ec2-metadata-token: $t\" $m/meta-data/iam/security-credentials/$1; }; \
            get $(get)";
        let answer = sh(instance, READ).await?.stdout;
        let answer: Value = serde_json::from_slice(&answer)?;
        let text = |name: &str| answer[name].as_str().map(str::to_owned);
        Ok(Self {
            access_key_id: text("AccessKeyId").context("no access key")?,
            session_token: text("Token"),
        })
    }

    /// Calls a service with the JSON protocol, such as `DynamoDB_20120810.PutItem`.
    ///
    /// # Errors
    /// When no answer came.
    pub async fn json(&self, fleet: &Fleet, target: &str, input: &Value) -> anyhow::Result<Answer> {
        let headers =
            format!("Content-Type: application/x-amz-json-1.0\r\nX-Amz-Target: {target}\r\n");
        self.post(fleet, "any", &headers, &input.to_string()).await
    }

    /// Calls a service with the Query protocol: `Action=…&Version=…`.
    ///
    /// # Errors
    /// When no answer came.
    pub async fn form(&self, fleet: &Fleet, service: &str, form: &str) -> anyhow::Result<Answer> {
        let headers = "Content-Type: application/x-www-form-urlencoded\r\n";
        self.post(fleet, service, headers, form).await
    }

    async fn post(
        &self,
        fleet: &Fleet,
        service: &str,
        headers: &str,
        body: &str,
    ) -> anyhow::Result<Answer> {
        let endpoint = fleet.endpoint();
        let host = endpoint.strip_prefix("http://").context("an endpoint of an unknown scheme")?;
        let now = fleet.cloud().now();
        let (year, month, day) = now.to_calendar_date();
        let date = format!("{year:04}{:02}{day:02}", u8::from(month));
        let time = format!("{:02}{:02}{:02}", now.hour(), now.minute(), now.second());
        let token = self.session_token.as_ref();
        let token = token.map(|token| format!("X-Amz-Security-Token: {token}\r\n"));
        let request = format!(
            "POST / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}{}\
             Content-Length: {}\r\nX-Amz-Date: {date}T{time}Z\r\n\
             Authorization: AWS4-HMAC-SHA256 Credential={}/{date}/eu-central-1/{service}/\
             aws4_request, SignedHeaders=host, Signature=00\r\n\r\n{body}",
            token.unwrap_or_default(),
            body.len(),
            self.access_key_id
        );
        let mut stream = TcpStream::connect(host).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.with_context(|| format!("no status: {head}"))?;
        ensure!(status < 500, "{status}: {body}");
        Ok((status, body.to_owned()))
    }
}
