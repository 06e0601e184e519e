//! Reads all rows of the ledger from outside, and spoils rows.

use anyhow::Context;
use serde_json::{Value, json};

use super::plan::{Role, Row};
use crate::cloud::Cloud;
use crate::fleet::ClusterSpec;

/// End of the key of a nonsense row that a round has added; no node writes such a row.
const NONSENSE: &str = "#nonsense";

/// One cluster's rows, in DynamoDB's own JSON.
pub struct Rows<'a> {
    pub cloud: &'a Cloud,
    pub cluster: &'a ClusterSpec,
}

/// Reads a string attribute: `{"S": "x"}` → `x`.
pub fn text<'a>(row: &'a Value, name: &str) -> &'a str {
    row[name]["S"].as_str().unwrap_or_default()
}

impl Rows<'_> {
    /// All rows of the table.
    ///
    /// # Errors
    /// When there is no table.
    pub fn all(&self) -> anyhow::Result<Vec<Value>> {
        self.cloud.rows(&self.cluster.table)
    }

    /// Returns the first row of a kind, by its key.
    fn first(&self, row: Row) -> anyhow::Result<Value> {
        let begins = match row {
            Row::Charter => "charter",
            Row::Member => "member#",
            Row::Departure => "departure#",
            Row::Turn => "lease#",
        };
        let found = self.all()?.into_iter().find(|row| text(row, "item").starts_with(begins));
        found.with_context(|| format!("there is no {begins} row"))
    }

    /// Deletes the first row of a kind; returns its key.
    ///
    /// # Errors
    /// When there is no such row.
    pub fn delete(&self, row: Row) -> anyhow::Result<String> {
        let row = self.first(row)?;
        self.cloud.delete_row(&self.cluster.table, &row)?;
        Ok(text(&row, "item").to_owned())
    }

    /// The stored tokens of a role, in SSM or the ledger: key and token, the newest last.
    ///
    /// # Errors
    /// When there is no table.
    pub fn tokens(&self, role: Role) -> anyhow::Result<Vec<(String, String)>> {
        let (parameter, item) = (format!("/{role}-token/"), format!("token#{role}#"));
        let names = self.cloud.parameter_names().into_iter().filter(|it| it.contains(&parameter));
        let mut tokens: Vec<_> =
            names.filter_map(|name| Some((name.clone(), self.cloud.parameter(&name)?))).collect();
        for row in self.all()?.iter().filter(|row| text(row, "item").starts_with(&item)) {
            tokens.push((text(row, "item").to_owned(), text(row, "token").to_owned()));
        }
        let generation = |key: &str| key.rsplit(['/', '#']).next()?.parse::<u64>().ok();
        tokens.sort_by_key(|(key, _)| generation(key));
        Ok(tokens)
    }

    /// Deletes the newest token of a role; returns its key.
    ///
    /// # Errors
    /// When there is no token.
    pub fn delete_token(&self, role: Role) -> anyhow::Result<String> {
        let (key, _) = self.tokens(role)?.pop().with_context(|| format!("no {role}'s token"))?;
        if key.starts_with('/') {
            self.cloud.delete_parameter(&key);
        } else {
            let rows = self.all()?;
            let row = rows.iter().find(|row| text(row, "item") == key);
            self.cloud.delete_row(&self.cluster.table, row.context("it is gone")?)?;
        }
        Ok(key)
    }

    /// Spoils a row. If its node writes the row again, every attribute but the key becomes nonsense. Other rows would
    /// never be repaired, so a nonsense row is added beside them.
    ///
    /// # Errors
    /// When there is no row of the kind.
    pub fn spoil(&self, row: Row) -> anyhow::Result<String> {
        let is_written_again = row == Row::Member;
        let mut row = self.first(row)?;
        let fields = row.as_object_mut().context("a row that is no object")?;
        for (name, value) in fields.iter_mut() {
            match name.as_str() {
                "cluster" => {}
                "item" if is_written_again => {}
                "item" => {
                    let key = value["S"].as_str().unwrap_or_default().to_owned();
                    *value = json!({ "S": key + NONSENSE });
                }
                _ => *value = json!({ "L": [{ "BOOL": true }, { "N": "9e99" }] }),
            }
        }
        let item = text(&row, "item").to_owned();
        self.cloud.put_row(&self.cluster.table, &row)?;
        Ok(item)
    }

    /// Deletes the added nonsense rows, as an operator does after the report of an unreadable row.
    ///
    /// # Errors
    /// When there is no table.
    pub fn delete_nonsense(&self) -> anyhow::Result<()> {
        for row in self.all()?.iter().filter(|row| text(row, "item").ends_with(NONSENSE)) {
            self.cloud.delete_row(&self.cluster.table, row)?;
        }
        Ok(())
    }
}
