//! The DynamoDB table: reads and writes the rows of one cluster.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::types::AttributeValue;
use serde::Serialize;
use serde::de::{DeserializeOwned, Error as _};

use super::answering::Answering;
use super::checked::Checked;
use super::{LedgerError, Rows};
use crate::clients::aws::AwsError;
use crate::common::errors::chain;

/// The schema number of the rows. A row with a higher number is unreadable; one without a number counts as number 1.
/// A write does not check the number of the row that it replaces.
pub(super) const SCHEMA: u64 = 1;
const SCHEMA_ATTRIBUTE: &str = "schema";

/// DynamoDB's error code for a condition that was not met: an answer, not a failure.
const CONDITION_FAILED: &str = "ConditionalCheckFailedException";

/// One cluster's rows. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Ledger {
    client: Client,
    table: String,
    cluster: String,
    /// Errors of unreadable rows, so that each is logged once.
    unreadable: Arc<Mutex<BTreeSet<String>>>,
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
    /// Returns the ledger of `cluster` in `table`. Sends no request.
    #[must_use]
    pub fn new(client: Client, table: impl Into<String>, cluster: impl Into<String>) -> Self {
        Self {
            client,
            table: table.into(),
            cluster: cluster.into(),
            unreadable: Arc::default(),
            answering: Answering::default(),
        }
    }

    /// Returns the same table with another partition key.
    #[must_use]
    pub(crate) fn partition(&self, cluster: impl Into<String>) -> Self {
        Self { cluster: cluster.into(), ..self.clone() }
    }

    /// Returns the partition that workers can write, too. The charter and the managers' rows are not in it, so that
    /// IAM can deny them to a worker's role (`dynamodb:LeadingKeys`).
    pub(super) fn nodes(&self) -> Self {
        self.partition(format!("{}#nodes", self.cluster))
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
        HashMap::from([
            ("cluster".to_owned(), AttributeValue::S(self.cluster.clone())),
            ("item".to_owned(), AttributeValue::S(item.to_owned())),
        ])
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
    pub(crate) async fn get<T: DeserializeOwned + Checked>(
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

    /// Reads all rows whose key starts with `prefix`; `item_of` returns the key under which a row belongs. A row that
    /// was edited by hand must not hide the others: one that cannot be read, or that belongs under another key, is
    /// left out and logged once.
    pub(super) async fn query<T: DeserializeOwned + Checked>(
        &self,
        prefix: &str,
        item_of: impl Fn(&T) -> String,
    ) -> Result<Vec<T>, LedgerError> {
        self.query_all(prefix, item_of).await.map(|all| all.rows)
    }

    /// Does [`Self::query`], and also returns the keys of the rows that were left out.
    pub(super) async fn query_all<T: DeserializeOwned + Checked>(
        &self,
        prefix: &str,
        item_of: impl Fn(&T) -> String,
    ) -> Result<Rows<T>, LedgerError> {
        let mut pages = self
            .client
            .query()
            .table_name(&self.table)
            .key_condition_expression("#cluster = :cluster AND begins_with(#item, :prefix)")
            .expression_attribute_names("#cluster", "cluster")
            .expression_attribute_names("#item", "item")
            .expression_attribute_values(":cluster", AttributeValue::S(self.cluster.clone()))
            .expression_attribute_values(":prefix", AttributeValue::S(prefix.to_owned()))
            .consistent_read(true)
            .into_paginator()
            .send();
        let mut all = Rows::default();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| self.failed("Query", error))?;
            self.answering.answered();
            let (readable, refused) = sort_out(page.items.unwrap_or_default(), &item_of);
            all.rows.extend(readable);
            for (item, error) in refused {
                all.unreadable.insert(item);
                self.complain(&error);
            }
        }
        Ok(all)
    }

    fn complain(&self, error: &LedgerError) {
        let mut known = self.unreadable.lock().unwrap_or_else(PoisonError::into_inner);
        if known.insert(error.to_string()) {
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

pub(crate) fn decode<T: DeserializeOwned + Checked>(row: Row) -> Result<T, LedgerError> {
    let item = item_of_row(&row);
    check_schema(&row, &item)?;
    let row: T = match serde_dynamo::from_item(row) {
        Ok(row) => row,
        Err(source) => return Err(LedgerError::Malformed { item, source }),
    };
    row.check().map_err(|why| malformed(&item, &why))?;
    Ok(row)
}

fn malformed(item: &str, why: &str) -> LedgerError {
    LedgerError::Malformed { item: item.to_owned(), source: serde_dynamo::Error::custom(why) }
}

/// Returns the readable rows, and the keys and errors of the others.
pub(super) fn sort_out<T: DeserializeOwned + Checked>(
    rows: Vec<Row>,
    item_of: impl Fn(&T) -> String,
) -> (Vec<T>, Vec<(String, LedgerError)>) {
    let (mut readable, mut refused) = (Vec::new(), Vec::new());
    for row in rows {
        let item = item_of_row(&row);
        match decode_at_its_key(row, &item_of) {
            Ok(row) => readable.push(row),
            Err(error) => refused.push((item, error)),
        }
    }
    (readable, refused)
}

fn check_schema(row: &Row, item: &str) -> Result<(), LedgerError> {
    let Some(schema) = row.get(SCHEMA_ATTRIBUTE) else { return Ok(()) };
    let number = schema.as_n().ok().and_then(|number| number.parse::<u64>().ok());
    match number {
        Some(found) if found > SCHEMA => {
            Err(LedgerError::NewerSchema { item: item.to_owned(), found })
        }
        Some(_) => Ok(()),
        None => Err(malformed(item, "its schema is not a number")),
    }
}

fn decode_at_its_key<T: DeserializeOwned + Checked>(
    row: Row,
    belongs_at: impl Fn(&T) -> String,
) -> Result<T, LedgerError> {
    let item = item_of_row(&row);
    let row = decode(row)?;
    let belongs_at = belongs_at(&row);
    if belongs_at == item {
        return Ok(row);
    }
    Err(malformed(&item, &format!("its content belongs under the key {belongs_at}")))
}

fn item_of_row(row: &Row) -> String {
    match row.get("item") {
        Some(AttributeValue::S(item)) => item.clone(),
        _ => "?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::aws::stub::Stub;

    fn departure(key: &str, instance: &str, deadline: &str) -> String {
        format!(
            r#"{{"cluster": {{"S": "prod#nodes"}}, "item": {{"S": "departure#{key}"}},
                "instance_id": {{"S": "{instance}"}}, "node_id": {{"S": "n1"}},
                "role": {{"S": "worker"}}, "reason": {{"S": "spot"}}, "state": {{"S": "left"}},
                "requested_at": {{"N": "1"}}, "deadline": {deadline}, "boot_id": {{"S": "b"}},
                "expires_at": {{"N": "3"}}}}"#
        )
    }

    #[tokio::test]
    async fn what_a_newer_skep_wrote_cannot_be_read() {
        let stub = Stub::start().await;
        let ledger = Ledger::new(stub.aws().await.dynamodb, "skep", "prod");
        let of_schema = |schema: &str| {
            let row = departure("i-1", "i-1", r#"{"N": "2"}"#);
            row.replacen('{', &format!(r#"{{"schema": {schema}, "#), 1)
        };
        for (schema, says) in [
            (r#"{"N": "2"}"#, "written by a newer skep (schema 2, this one supports 1)"),
            (r#"{"N": "one"}"#, "cannot be read"),
            (r#"{"S": "1"}"#, "cannot be read"),
        ] {
            stub.answer(200, &format!(r#"{{"Item": {}}}"#, of_schema(schema)));
            let error = ledger.fetch_departure("i-1").await.unwrap_err().to_string();
            assert!(error.contains("departure#i-1") && error.contains(says), "{error}");
            stub.answer(200, &format!(r#"{{"Items": [{}], "Count": 1}}"#, of_schema(schema)));
            let all = ledger.survey_departures().await.unwrap();
            assert!(all.rows.is_empty());
            assert_eq!(all.unreadable.into_iter().collect::<Vec<_>>(), ["departure#i-1"]);
        }
        stub.answer(200, &format!(r#"{{"Item": {}}}"#, of_schema(r#"{"N": "1"}"#)));
        assert!(ledger.fetch_departure("i-1").await.unwrap().is_some());
    }

    #[tokio::test]
    async fn a_row_that_was_edited_by_hand_does_not_hide_the_others() {
        let stub = Stub::start().await;
        let ledger = Ledger::new(stub.aws().await.dynamodb, "skep", "prod");
        let rows = [
            departure("i-1", "i-1", r#"{"N": "2"}"#),
            departure("i-2", "i-2", r#"{"S": "tomorrow"}"#),
            departure("i-3", "i-1", r#"{"N": "2"}"#),
            departure("i-4", "i-4", r#"{"N": "2"}"#),
            // The year 9999: it can be decoded, but skep cannot have written it.
            departure("i-5", "i-5", r#"{"N": "253402300799"}"#),
        ];
        stub.answer(200, &format!(r#"{{"Items": [{}], "Count": 5}}"#, rows.join(",")));
        let all = ledger.survey_departures().await.unwrap();
        let ids: Vec<&str> = all.rows.iter().map(|row| row.instance_id.as_str()).collect();
        assert_eq!(ids, ["i-1", "i-4"]);
        stub.answer(200, &format!(r#"{{"Items": [{}], "Count": 5}}"#, rows.join(",")));
        assert_eq!(ledger.survey_departures().await.unwrap(), all);
        let unreadable: Vec<&str> = all.unreadable.iter().map(String::as_str).collect();
        let odd = ["departure#i-2", "departure#i-3", "departure#i-5"];
        assert_eq!(unreadable, odd, "the unreadable rows are listed");
        let complaints = ledger.unreadable.lock().unwrap().clone();
        let complaints: Vec<String> = complaints.into_iter().collect();
        assert_eq!(complaints.len(), odd.len());
        assert!(odd.iter().zip(&complaints).all(|(key, it)| it.contains(key)), "{complaints:?}");
    }
}
