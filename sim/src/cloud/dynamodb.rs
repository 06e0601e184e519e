//! DynamoDB: dynoxide, behind the gateway.
//!
//! Its server listens on a private loopback port. The connections to it are made at the start: later, the connecting
//! thread could be in another network namespace, where that port does not exist.

mod metering;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use anyhow::Context;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Request, Response, header};
use dynoxide::Database;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub use metering::Units;
pub(super) use metering::{Metered, Used, is_read};

/// Largest number of concurrent calls. The database processes them one by one anyway.
const CONNECTIONS: usize = 16;
/// DynamoDB's own limit for a body.
pub(super) const LARGEST_BODY: usize = 16 * 1024 * 1024;
/// The request headers that the server reads.
const FORWARDED: [&str; 4] = ["content-type", "x-amz-target", "authorization", "x-amz-date"];

enum Link {
    New(std::net::TcpStream),
    Open(SendRequest<Body>),
}

#[derive(Clone)]
pub(super) struct DynamoDb {
    database: Database,
    address: SocketAddr,
    links: Arc<Mutex<Vec<Link>>>,
    permits: Arc<Semaphore>,
}

impl DynamoDb {
    /// Starts the server; `stop` ends it.
    pub fn start(stop: CancellationToken) -> anyhow::Result<Self> {
        let database = Database::memory().context("cannot open an in-memory DynamoDB")?;
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .context("cannot listen for DynamoDB")?;
        let address = listener.local_addr()?;
        let links = (0..CONNECTIONS)
            .map(|_| {
                let stream = std::net::TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
                Ok(Link::New(stream))
            })
            .collect::<std::io::Result<Vec<_>>>()
            .context("cannot connect to DynamoDB")?;
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let server = dynoxide::server::serve_with_shutdown(
            listener,
            database.clone(),
            stop.cancelled_owned(),
        );
        tokio::spawn(async move {
            if let Err(error) = server.await {
                tracing::error!(error, "DynamoDB ended");
            }
        });
        Ok(Self {
            database,
            address,
            links: Arc::new(Mutex::new(links)),
            permits: Arc::new(Semaphore::new(CONNECTIONS)),
        })
    }

    pub fn database(&self) -> Database {
        self.database.clone()
    }

    pub fn create_table(
        &self,
        name: &str,
        partition: &str,
        sort: Option<&str>,
    ) -> anyhow::Result<()> {
        let keys = [Some((partition, "HASH")), sort.map(|sort| (sort, "RANGE"))];
        let keys: Vec<_> = keys.into_iter().flatten().collect();
        let schema: Vec<_> = keys
            .iter()
            .map(|(key, kind)| json!({ "AttributeName": key, "KeyType": kind }))
            .collect();
        let attributes: Vec<_> = keys
            .iter()
            .map(|(key, _)| json!({ "AttributeName": key, "AttributeType": "S" }))
            .collect();
        let request = json!({
            "TableName": name,
            "KeySchema": schema,
            "AttributeDefinitions": attributes,
            "BillingMode": "PAY_PER_REQUEST",
        });
        self.database
            .create_table(serde_json::from_value(request)?)
            .with_context(|| format!("cannot create the table {name}"))?;
        let ttl = json!({
            "TableName": name,
            "TimeToLiveSpecification": { "AttributeName": "expires_at", "Enabled": true },
        });
        self.database
            .update_time_to_live(serde_json::from_value(ttl)?)
            .with_context(|| format!("cannot set the time to live of {name}"))?;
        Ok(())
    }

    /// Forwards a call, and returns the answer unchanged.
    pub async fn forward(
        &self,
        headers: &HeaderMap,
        body: Bytes,
    ) -> anyhow::Result<Response<Bytes>> {
        let mut request = Request::post("/").header(header::HOST, self.address.to_string());
        for name in FORWARDED {
            if let Some(value) = headers.get(name) {
                request = request.header(name, value);
            }
        }
        let request = request.body(Body::from(body))?;
        let this = self.clone();
        // In its own task: a caller that disconnects must not end the connection or cancel the call.
        tokio::spawn(async move { this.exchange(request).await }).await?
    }

    async fn exchange(&self, request: Request<Body>) -> anyhow::Result<Response<Bytes>> {
        let _permit = self.permits.acquire().await?;
        let link = super::lock(&self.links).pop();
        let mut sender = match link {
            Some(Link::Open(sender)) if !sender.is_closed() => sender,
            Some(Link::New(stream)) => open(TcpStream::from_std(stream)?).await?,
            Some(Link::Open(_)) | None => open(TcpStream::connect(self.address).await?).await?,
        };
        sender.ready().await?;
        let (parts, body) = sender.send_request(request).await?.into_parts();
        let body = axum::body::to_bytes(Body::new(body), LARGEST_BODY).await?;
        super::lock(&self.links).push(Link::Open(sender));
        Ok(Response::from_parts(parts, body))
    }
}

async fn open(stream: TcpStream) -> anyhow::Result<SendRequest<Body>> {
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to DynamoDB ended");
        }
    });
    Ok(sender)
}

/// Returns the error code of an answer.
pub(super) fn error_code(body: &[u8]) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let kind = body.get("__type")?.as_str()?;
    Some(kind.rsplit('#').next().unwrap_or(kind).to_owned())
}

/// Returns the tables and partitions that a call names, for policies: `table` and `table/partition`.
pub(super) fn resources(input: &Value) -> Vec<String> {
    let mut found = Vec::new();
    collect(input, None, &mut found);
    found
}

/// Returns the table and the partition of a query.
pub(super) fn queried(input: &Value) -> Option<(&str, &str)> {
    let condition = input.get("KeyConditionExpression")?.as_str()?;
    // The partition's condition is an equation; the sort key's, if it is one, comes second in every call of skep.
    let (_, value) = condition.split_once('=')?;
    let name = value.split_whitespace().next()?;
    let partition = input.get("ExpressionAttributeValues")?.get(name)?.get("S")?.as_str()?;
    Some((input.get("TableName")?.as_str()?, partition))
}

fn collect<'a>(value: &'a Value, table: Option<&'a str>, found: &mut Vec<String>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| collect(value, table, found)),
        Value::Object(members) => {
            let own = members.get("TableName").and_then(Value::as_str);
            if let Some(own) = own {
                found.push(own.to_owned());
            }
            let table = own.or(table);
            for (name, member) in members {
                let keys: Vec<&str> = match name.as_str() {
                    "Key" | "Item" => partition_key(member).into_iter().collect(),
                    // In a query's key condition, every string can be the partition.
                    "ExpressionAttributeValues"
                        if members.contains_key("KeyConditionExpression") =>
                    {
                        let values = member.as_object().into_iter().flatten();
                        values.filter_map(|(_, value)| value.get("S")?.as_str()).collect()
                    }
                    "RequestItems" => {
                        for (table, requests) in member.as_object().into_iter().flatten() {
                            found.push(table.clone());
                            collect(requests, Some(table), found);
                        }
                        continue;
                    }
                    "Keys" => {
                        let keys = member.as_array().into_iter().flatten();
                        keys.filter_map(partition_key).collect()
                    }
                    _ => {
                        collect(member, table, found);
                        continue;
                    }
                };
                let table = table.unwrap_or_default();
                found.extend(keys.iter().map(|key| format!("{table}/{key}")));
            }
        }
        _ => {}
    }
}

fn partition_key(key: &Value) -> Option<&str> {
    key.get("cluster")?.get("S")?.as_str()
}

/// Summarizes a call for the log: names, keys and conditions, and no other values.
pub(super) fn summary(input: &Value) -> String {
    let mut parts = Vec::new();
    describe(input, &mut parts);
    parts.join(" ")
}

fn describe(value: &Value, parts: &mut Vec<String>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| describe(value, parts)),
        Value::Object(members) => {
            for (name, member) in members {
                match (name.as_str(), member) {
                    ("Key" | "Item", key) => {
                        let part = |name: &str| key.get(name)?.get("S")?.as_str();
                        let key = [part("cluster"), part("item")];
                        let key: Vec<_> = key.into_iter().flatten().collect();
                        parts.push(format!("key={}", key.join("/")));
                    }
                    ("Keys", Value::Array(keys)) => parts.push(format!("keys={}", keys.len())),
                    ("TableName", Value::String(text)) => parts.push(format!("table={text}")),
                    (
                        "ConditionExpression" | "KeyConditionExpression" | "UpdateExpression",
                        Value::String(text),
                    ) => parts.push(format!("{name}={text:?}")),
                    ("ExpressionAttributeValues" | "ExpressionAttributeNames", _) => {}
                    (_, member) => describe(member, parts),
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_name_the_partitions() {
        let get =
            json!({ "TableName": "t", "Key": { "cluster": { "S": "a" }, "item": { "S": "x" } } });
        assert_eq!(resources(&get), ["t", "t/a"]);
        let query = json!({
            "TableName": "t", "KeyConditionExpression": "cluster = :c",
            "ExpressionAttributeValues": { ":c": { "S": "a#managers" } },
        });
        let mut found = resources(&query);
        found.sort();
        assert_eq!(found, ["t", "t/a#managers"]);
        let batch = json!({ "RequestItems": { "t": { "Keys": [{ "cluster": { "S": "a" } }] } } });
        assert_eq!(resources(&batch), ["t", "t/a"]);
    }

    #[test]
    fn a_summary_holds_no_values() {
        let put = json!({
            "TableName": "t",
            "Item": { "cluster": { "S": "a" }, "item": { "S": "token" }, "value": { "S": "hush" } },
            "ConditionExpression": "attribute_not_exists(cluster)",
            "ExpressionAttributeValues": { ":v": { "S": "hush" } },
        });
        let summary = summary(&put);
        assert!(summary.contains("key=a/token"), "{summary}");
        assert!(!summary.contains("hush"));
        let key = json!({ "cluster": { "S": "a" }, "item": { "S": "x" } });
        let batch = json!({ "RequestItems": { "t": { "Keys": [key, key] } } });
        assert_eq!(super::summary(&batch), "keys=2");
    }
}
