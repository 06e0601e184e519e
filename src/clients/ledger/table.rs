//! The DynamoDB table: reads and writes the rows of one cluster.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::batch_get_item::BatchGetItemError;
use aws_sdk_dynamodb::types::{AttributeValue, KeysAndAttributes};
use serde::Serialize;
use serde::de::{DeserializeOwned, Error as _};
use tokio::time::Instant;

use super::answering::Answering;
use super::record::Record;
use super::{LedgerError, Rows};
use crate::clients::aws::AwsError;
use crate::common::errors::chain;
use crate::common::instance::Role;
use crate::common::printable::printable;

/// The schema number of the rows. A row with another number is unreadable; one without a number counts as number 1.
/// A write does not check the number of the row that it replaces.
pub(super) const SCHEMA: u64 = 2;
const SCHEMA_ATTRIBUTE: &str = "schema";
/// Follows the cluster in the partition key of a worker's own rows: the start of the instance's ARN.
const WORKERS: &str = "#arn:";

/// DynamoDB's error code for a condition that was not met: an answer, not a failure.
const CONDITION_FAILED: &str = "ConditionalCheckFailedException";

/// DynamoDB's limit of keys in one BatchGetItem call.
const KEYS_PER_CALL: usize = 100;
/// Number of times that keys are requested again which DynamoDB has not read, and the first pause before.
const BATCH_RETRIES: u32 = 4;
const BATCH_PAUSE: Duration = Duration::from_millis(50);
/// Largest row that is decoded, in bytes. skep writes less than 5 KiB without labels; 50 labels of the longest kind, with
/// 256 characters of 4 bytes in their values, have 56 KiB.
const LARGEST_ROW: usize = 64 << 10;
/// Time after which a row that was too large is read again.
const OVERSIZED_FOR: Duration = Duration::from_secs(300);
/// Number of characters of a row that an error shows.
const SHOWN: usize = 200;

/// One cluster's rows. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Ledger {
    client: Client,
    table: String,
    cluster: String,
    /// The ARN of an instance without its id, such as `arn:aws:ec2:eu-central-1:123456789012:instance/`. A cluster is in
    /// one account and one region.
    arns: String,
    /// Keys of unreadable rows, so that each is logged once.
    unreadable: Arc<Mutex<BTreeSet<String>>>,
    /// Keys of rows that are too large, and when each was read.
    oversized: Arc<Mutex<HashMap<String, Instant>>>,
    pub(super) answering: Answering,
}

/// The attributes of a row, as DynamoDB stores them.
pub(crate) type Row = HashMap<String, AttributeValue>;

/// A condition and the values that it refers to as `:name`; it refers to attributes as `#name`.
#[derive(Default)]
pub(crate) struct Condition {
    expression: Option<String>,
    names: HashMap<String, String>,
    values: HashMap<String, AttributeValue>,
}

impl Condition {
    pub(super) fn new(expression: &str) -> Self {
        // `phase`, `state` and others are reserved words of DynamoDB, so every name is an alias.
        let names = expression
            .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '#'))
            .filter_map(|word| word.strip_prefix('#'))
            .map(|name| (format!("#{name}"), name.to_owned()))
            .collect();
        Self { expression: Some(expression.to_owned()), names, values: HashMap::new() }
    }

    pub(super) fn text(mut self, name: &str, value: impl Into<String>) -> Self {
        self.values.insert(format!(":{name}"), AttributeValue::S(value.into()));
        self
    }

    pub(super) fn number(mut self, name: &str, value: impl Display) -> Self {
        self.values.insert(format!(":{name}"), AttributeValue::N(value.to_string()));
        self
    }

    pub(super) fn flag(mut self, name: &str, value: bool) -> Self {
        self.values.insert(format!(":{name}"), AttributeValue::Bool(value));
        self
    }
}

impl Ledger {
    /// Returns the ledger of `cluster` in `table`; `own_arn` is the ARN of any instance of the cluster. Sends no request.
    #[must_use]
    pub fn new(
        client: Client,
        table: impl Into<String>,
        cluster: impl Into<String>,
        own_arn: &str,
    ) -> Self {
        let arns = own_arn.rsplit_once('/').map(|(arns, _)| format!("{arns}/"));
        Self {
            client,
            table: table.into(),
            cluster: cluster.into(),
            arns: arns.unwrap_or_default(),
            unreadable: Arc::default(),
            oversized: Arc::default(),
            answering: Answering::default(),
        }
    }

    /// Returns the same table with another partition key.
    #[must_use]
    pub(crate) fn partition(&self, cluster: impl Into<String>) -> Self {
        Self { cluster: cluster.into(), ..self.clone() }
    }

    /// Returns the partition of one instance's own rows. Managers share that of the cluster. Each worker has one of its
    /// own, which IAM binds to the instance that calls (`dynamodb:LeadingKeys` with `ec2:SourceInstanceARN`): the
    /// partition is the only evidence of who wrote a row.
    pub(super) fn own_rows(&self, role: Role, instance_id: &str) -> Self {
        match role {
            Role::Manager => self.clone(),
            Role::Worker => self.partition(self.workers_partition(instance_id)),
        }
    }

    /// Returns the partition key of a worker's own rows.
    pub(super) fn workers_partition(&self, instance_id: &str) -> String {
        format!("{}#{}{instance_id}", self.cluster, self.arns)
    }

    pub(super) fn partition_key(&self) -> &str {
        &self.cluster
    }

    /// Returns the names of table and cluster, for messages.
    #[must_use]
    pub fn describe(&self) -> String {
        format!("cluster {} in table {}", self.cluster, self.table)
    }

    fn key(&self, item: &str) -> Row {
        key_of(self.cluster.clone(), item)
    }

    fn failed<E>(&self, operation: &'static str, error: SdkError<E>) -> LedgerError
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let message = error.message().unwrap_or_default();
        if message.contains("does not match the schema") || message.contains("Missing the key") {
            return LedgerError::WrongKeys { table: self.table.clone() };
        }
        let error = AwsError::new("dynamodb", operation, &format!("table {}", self.table), error);
        self.answering.failed(&error);
        LedgerError::Aws(error)
    }

    /// Reads one row, consistently.
    pub(crate) async fn get<T: DeserializeOwned + Record>(
        &self,
        item: &str,
    ) -> Result<Option<T>, LedgerError> {
        let output = self
            .client
            .get_item()
            .table_name(&self.table)
            .set_key(Some(self.key(item)))
            .consistent_read(true)
            .send()
            .await
            .map_err(|error| self.failed("GetItem", error))?;
        self.answering.answered();
        output.item.map(decode).transpose()
    }

    /// Reads all rows of this partition whose key starts with `prefix`. A row that was edited by hand must not hide the
    /// others: one that cannot be read, or that belongs under another key, is left out and logged once.
    pub(super) async fn query<T: DeserializeOwned + Record>(
        &self,
        prefix: &str,
    ) -> Result<Rows<T>, LedgerError> {
        let mut all = Rows::default();
        self.sort_into(&mut all, self.read_range("begins_with(#item, :from)", prefix, None).await?);
        Ok(all)
    }

    /// Reads all rows of this partition whose key is from `from` to `to`, consistently, whatever they are.
    pub(super) async fn query_range(&self, from: &str, to: &str) -> Result<Vec<Row>, LedgerError> {
        self.read_range("#item BETWEEN :from AND :to", from, Some(to)).await
    }

    async fn read_range(
        &self,
        condition: &str,
        from: &str,
        to: Option<&str>,
    ) -> Result<Vec<Row>, LedgerError> {
        let to = to.map(|to| (":to".to_owned(), AttributeValue::S(to.to_owned())));
        let values = [(":cluster", &*self.cluster), (":from", from)];
        let values =
            values.map(|(name, text)| (name.to_owned(), AttributeValue::S(text.to_owned())));
        let mut pages = self
            .client
            .query()
            .table_name(&self.table)
            .key_condition_expression(format!("#cluster = :cluster AND {condition}"))
            .expression_attribute_names("#cluster", "cluster")
            .expression_attribute_names("#item", "item")
            .set_expression_attribute_values(Some(values.into_iter().chain(to).collect()))
            .consistent_read(true)
            .into_paginator()
            .send();
        let mut rows = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| self.failed("Query", error))?;
            self.answering.answered();
            rows.extend(page.items.unwrap_or_default());
        }
        Ok(rows)
    }

    /// Reads the rows under these keys (partition and sort key), consistently; a key without a row is absent from the
    /// result. A key that DynamoDB leaves unread, because it is throttled or the rows are too large, is in
    /// [`Rows::unanswered`]: whether it has a row is unknown.
    pub(super) async fn get_many<T: DeserializeOwned + Record>(
        &self,
        keys: BTreeSet<(String, String)>,
    ) -> Result<Rows<T>, LedgerError> {
        let mut all = Rows::default();
        let (oversized, keys): (Vec<_>, Vec<_>) =
            keys.into_iter().partition(|(_, item)| self.is_oversized(item));
        all.unreadable.extend(oversized.into_iter().map(|(_, item)| item));
        let keys: Vec<Row> =
            keys.into_iter().map(|(cluster, item)| key_of(cluster, &item)).collect();
        for keys in keys.chunks(KEYS_PER_CALL) {
            let unread = self.get_batch(&mut all, keys.to_vec()).await?;
            all.unanswered.extend(unread.iter().map(item_of_row));
        }
        Ok(all)
    }

    /// Reads at most [`KEYS_PER_CALL`] rows. Returns the keys that DynamoDB has not read.
    async fn get_batch<T: DeserializeOwned + Record>(
        &self,
        all: &mut Rows<T>,
        mut keys: Vec<Row>,
    ) -> Result<Vec<Row>, LedgerError> {
        for retry in 0..=BATCH_RETRIES {
            if retry > 0 {
                tokio::time::sleep(BATCH_PAUSE * 2u32.pow(retry - 1)).await;
            }
            let wanted = KeysAndAttributes::builder().set_keys(Some(keys)).consistent_read(true);
            let wanted = wanted.build().map_err(|error| {
                let error = SdkError::<BatchGetItemError>::construction_failure(error);
                self.failed("BatchGetItem", error)
            })?;
            let call = self.client.batch_get_item().request_items(&self.table, wanted);
            let answer = call.send().await.map_err(|error| self.failed("BatchGetItem", error))?;
            self.answering.answered();
            let rows = answer.responses.and_then(|mut tables| tables.remove(&self.table));
            self.sort_into(all, rows.unwrap_or_default());
            let rest = answer.unprocessed_keys.and_then(|mut tables| tables.remove(&self.table));
            keys = rest.map(|rest| rest.keys).unwrap_or_default();
            if keys.is_empty() {
                break;
            }
        }
        Ok(keys)
    }

    /// Whether this row was too large a moment ago. Each read of such a row costs up to a hundred times as much, and takes
    /// the place of other rows in an answer.
    fn is_oversized(&self, item: &str) -> bool {
        let known = self.oversized.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(item).is_some_and(|read_at| read_at.elapsed() < OVERSIZED_FOR)
    }

    /// Decodes rows of one kind.
    pub(super) fn sort_into<T: DeserializeOwned + Record>(
        &self,
        all: &mut Rows<T>,
        rows: Vec<Row>,
    ) {
        for row in rows {
            let item = item_of_row(&row);
            if size_of(&row) > LARGEST_ROW {
                let mut known = self.oversized.lock().unwrap_or_else(PoisonError::into_inner);
                known.insert(item.clone(), Instant::now());
            }
            match decode(row) {
                Ok(row) => all.rows.push(row),
                Err(error) => {
                    self.complain(&item, &error);
                    all.unreadable.insert(item);
                }
            }
        }
    }

    fn complain(&self, item: &str, error: &LedgerError) {
        let mut known = self.unreadable.lock().unwrap_or_else(PoisonError::into_inner);
        if known.insert(item.to_owned()) {
            tracing::warn!("skipping unreadable ledger row: {}", chain(error));
        }
    }

    /// Writes a whole row; `false` if the condition was not met.
    pub(crate) async fn put<T: Serialize>(
        &self,
        item: &str,
        row: &T,
        condition: Condition,
    ) -> Result<bool, LedgerError> {
        let mut attributes = encode(item, row)?;
        attributes.extend(self.key(item));
        let result = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(attributes))
            .set_condition_expression(condition.expression)
            .set_expression_attribute_names(none_if_empty(condition.names))
            .set_expression_attribute_values(none_if_empty(condition.values))
            .send()
            .await;
        self.held("PutItem", result)
    }

    /// Sets attributes of a row; `false` if the condition was not met.
    pub(super) async fn set(
        &self,
        item: &str,
        update: &str,
        condition: Condition,
    ) -> Result<bool, LedgerError> {
        let mut names = Condition::new(update).names;
        names.extend(condition.names);
        let result = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(self.key(item)))
            .update_expression(update)
            .set_condition_expression(condition.expression)
            .set_expression_attribute_names(none_if_empty(names))
            .set_expression_attribute_values(none_if_empty(condition.values))
            .send()
            .await;
        self.held("UpdateItem", result)
    }

    /// Deletes a row; `false` if the condition was not met.
    pub(super) async fn delete(
        &self,
        item: &str,
        condition: Condition,
    ) -> Result<bool, LedgerError> {
        let result = self
            .client
            .delete_item()
            .table_name(&self.table)
            .set_key(Some(self.key(item)))
            .set_condition_expression(condition.expression)
            .set_expression_attribute_names(none_if_empty(condition.names))
            .set_expression_attribute_values(none_if_empty(condition.values))
            .send()
            .await;
        self.held("DeleteItem", result)
    }

    /// Whether the condition was met. After a write whose answer was lost, the SDK's retry finds the result of its own
    /// first request, so that callers must read again before they rely on a `false`.
    fn held<T, E>(
        &self,
        operation: &'static str,
        result: Result<T, SdkError<E>>,
    ) -> Result<bool, LedgerError>
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let is_held = match result {
            Ok(_) => true,
            Err(error) if error.code() == Some(CONDITION_FAILED) => false,
            Err(error) => return Err(self.failed(operation, error)),
        };
        self.answering.answered();
        Ok(is_held)
    }
}

fn key_of(cluster: String, item: &str) -> Row {
    HashMap::from([
        ("cluster".to_owned(), AttributeValue::S(cluster)),
        ("item".to_owned(), AttributeValue::S(item.to_owned())),
    ])
}

fn none_if_empty<V>(map: HashMap<String, V>) -> Option<HashMap<String, V>> {
    Some(map).filter(|map| !map.is_empty())
}

/// Returns the attributes of a row without those of its key.
pub(crate) fn encode<T: Serialize>(item: &str, row: &T) -> Result<Row, LedgerError> {
    let mut attributes: Row = serde_dynamo::to_item(row)
        .map_err(|source| LedgerError::Malformed { item: item.to_owned(), source })?;
    // An absent value is left out, not stored as NULL: TTL and conditions distinguish the two.
    attributes.retain(|_, value| !matches!(value, AttributeValue::Null(_)));
    attributes.insert(SCHEMA_ATTRIBUTE.to_owned(), AttributeValue::N(SCHEMA.to_string()));
    Ok(attributes)
}

/// Decodes a row, and checks its content: its size, its schema, every value that skep relies on, and that it is stored
/// where such a row belongs.
pub(crate) fn decode<T: DeserializeOwned + Record>(row: Row) -> Result<T, LedgerError> {
    let item = item_of_row(&row);
    let is_workers =
        matches!(row.get("cluster"), Some(AttributeValue::S(key)) if key.contains(WORKERS));
    let refuse = |why: &str| Err(malformed(&item, why));
    check_schema(&row, &item)?;
    let size = size_of(&row);
    if size > LARGEST_ROW {
        return refuse(&format!("it has {size} bytes; a row of skep has at most {LARGEST_ROW}"));
    }
    let content = serde_dynamo::AttributeValue::M(serde_dynamo::Item::from(row).into());
    let content = serde_dynamo::Deserializer::from_attribute_value(content);
    let row: T = match serde_path_to_error::deserialize(content) {
        Ok(row) => row,
        Err(error) => return refuse(&error.to_string()),
    };
    match (row.check(), row.item()) {
        (Err(why), _) => refuse(&why),
        (_, Some(right)) if right != item => {
            refuse(&format!("its content belongs under the key {right}"))
        }
        _ if is_workers && !row.may_be_workers() => {
            refuse("a worker must not write such a row into its partition")
        }
        _ => Ok(row),
    }
}

/// Returns the size of a row in bytes, near enough for a limit.
fn size_of(row: &Row) -> usize {
    row.iter().map(|(name, value)| name.len() + size_of_value(value)).sum()
}

/// Returns the size of a value in bytes, near enough for a limit.
fn size_of_value(value: &AttributeValue) -> usize {
    match value {
        AttributeValue::S(text) | AttributeValue::N(text) => text.len(),
        AttributeValue::B(blob) => blob.as_ref().len(),
        AttributeValue::Ss(texts) | AttributeValue::Ns(texts) => {
            texts.iter().map(String::len).sum()
        }
        AttributeValue::Bs(blobs) => blobs.iter().map(|blob| blob.as_ref().len()).sum(),
        AttributeValue::L(values) => values.iter().map(size_of_value).sum(),
        AttributeValue::M(values) => {
            values.iter().map(|(name, value)| name.len() + size_of_value(value)).sum()
        }
        _ => 1,
    }
}

/// Returns the error. Its text may contain parts of the row, which other nodes and people write.
fn malformed(item: &str, why: &str) -> LedgerError {
    let why = serde_dynamo::Error::custom(printable(why, SHOWN));
    LedgerError::Malformed { item: printable(item, SHOWN), source: why }
}

fn check_schema(row: &Row, item: &str) -> Result<(), LedgerError> {
    let number = match row.get(SCHEMA_ATTRIBUTE) {
        None => Some(1),
        Some(schema) => schema.as_n().ok().and_then(|number| number.parse::<u64>().ok()),
    };
    match number {
        Some(SCHEMA) => Ok(()),
        Some(found) => Err(LedgerError::OtherSchema { item: printable(item, SHOWN), found }),
        None => Err(malformed(item, "its schema is not a number")),
    }
}

pub(super) fn item_of_row(row: &Row) -> String {
    match row.get("item") {
        Some(AttributeValue::S(item)) => item.clone(),
        _ => "?".to_owned(),
    }
}

#[cfg(test)]
impl Ledger {
    /// Returns the ledger of `prod` in this DynamoDB.
    pub(crate) async fn example(stub: &crate::clients::aws::stub::Stub) -> Self {
        let own_arn = crate::common::instance::Instance::example().arn;
        Self::new(stub.aws().await.dynamodb, "skep", "prod", &own_arn)
    }
}

#[cfg(test)]
mod tests;
