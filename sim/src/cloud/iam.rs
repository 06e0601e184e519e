//! IAM, as far as the policies of instance roles need it: a role has only the permissions in its documents.
//!
//! Guarantees: deny by default; an explicit deny wins; a policy with an element that this module cannot judge as IAM
//! would (another operator, another condition key, a principal) is refused when it is set, and no element is ever
//! ignored. Assumes: a role without policies here is not restricted.

mod asked;

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;

pub(super) use asked::Asked;

/// The permissions of a role: all statements of its documents.
#[derive(Clone, Debug)]
pub(super) struct Policies(Vec<Statement>);

/// An element of a policy document that this cloud does not support.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a policy document that cannot be enforced: {0}")]
pub struct PolicyError(String);

/// The reason for refusing a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// Such as `ssm:GetParameter`.
    pub action: String,
    /// The ARN, or `*`.
    pub resource: String,
    /// `true`: a statement denies the call; `false`: no statement allows it.
    pub is_explicit: bool,
}

#[derive(Clone, Debug)]
struct Statement {
    sid: String,
    denies: bool,
    actions: Vec<String>,
    resources: Vec<String>,
    conditions: Vec<Condition>,
    /// Indices of the actions and resources that have allowed a call.
    used: BTreeSet<(usize, usize)>,
}

/// One operator on one key.
#[derive(Clone, Debug)]
struct Condition {
    operator: Operator,
    key: Key,
    values: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    /// The key is present and has one value.
    StringEquals,
    StringLike,
    /// All values of the key match; true without values.
    AllEqual,
    AllLike,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    LeadingKeys,
    RequestedRegion,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(rename = "Version")]
    version: String,
    #[serde(rename = "Id")]
    _id: Option<String>,
    #[serde(rename = "Statement")]
    statement: OneOrMany<RawStatement>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct RawStatement {
    sid: Option<String>,
    effect: Effect,
    action: OneOrMany<String>,
    resource: OneOrMany<String>,
    #[serde(default)]
    condition: BTreeMap<String, BTreeMap<String, OneOrMany<String>>>,
}

#[derive(Deserialize, PartialEq, Eq)]
enum Effect {
    Allow,
    Deny,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    fn into_vec(self) -> Vec<T> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

impl Policies {
    /// Reads documents in IAM's format.
    pub fn parse(documents: &[Value]) -> Result<Self, PolicyError> {
        let mut statements = vec![];
        for document in documents {
            let document =
                Document::deserialize(document).map_err(|error| PolicyError(error.to_string()))?;
            if document.version != "2012-10-17" {
                return Err(PolicyError(format!("version {}", document.version)));
            }
            for raw in document.statement.into_vec() {
                statements.push(Statement::new(raw)?);
            }
        }
        Ok(Self(statements))
    }

    /// Adds the statements of further documents.
    pub fn add(&mut self, more: Self) {
        self.0.extend(more.0);
    }

    /// Checks that every action of a call is allowed on each of its resources, and records the permissions that it
    /// used.
    pub fn judge(&mut self, asked: &Asked) -> Result<(), Refusal> {
        for action in &asked.actions {
            for resource in &asked.resources {
                let (mut denied, mut grant) = (false, None);
                for (index, statement) in self.0.iter().enumerate() {
                    let Some(patterns) = statement.is_about(asked, action, resource) else {
                        continue;
                    };
                    denied |= statement.denies;
                    grant = grant.or(Some((index, patterns)).filter(|_| !statement.denies));
                }
                let Some((index, patterns)) = grant.filter(|_| !denied) else {
                    let (action, resource) = (action.clone(), resource.clone());
                    return Err(Refusal { action, resource, is_explicit: denied });
                };
                self.0[index].used.insert(patterns);
            }
        }
        Ok(())
    }

    /// Returns the permissions that no call has used: statement, action and resource.
    pub fn unused(&self) -> Vec<String> {
        let mut unused = vec![];
        for statement in self.0.iter().filter(|statement| !statement.denies) {
            for (a, action) in statement.actions.iter().enumerate() {
                for (r, resource) in statement.resources.iter().enumerate() {
                    if !statement.used.contains(&(a, r)) {
                        unused.push(format!("{}: {action} on {resource}", statement.sid));
                    }
                }
            }
        }
        unused
    }
}

impl Statement {
    fn new(raw: RawStatement) -> Result<Self, PolicyError> {
        let mut conditions = vec![];
        for (operator, keys) in raw.condition {
            let operator = Operator::parse(&operator)?;
            for (key, values) in keys {
                conditions.push(Condition::new(operator, &key, values.into_vec())?);
            }
        }
        let (actions, resources) = (raw.action.into_vec(), raw.resource.into_vec());
        if let Some(variable) = resources.iter().find(|resource| resource.contains("${")) {
            return Err(PolicyError(format!("the policy variable in {variable}")));
        }
        let (sid, denies) = (raw.sid.unwrap_or_default(), raw.effect == Effect::Deny);
        Ok(Self { sid, denies, actions, resources, conditions, used: BTreeSet::new() })
    }

    /// Returns the indices of the action and the resource that match the call, if this statement applies to it.
    fn is_about(&self, asked: &Asked, action: &str, resource: &str) -> Option<(usize, usize)> {
        // Actions are compared without regard to case; ARNs are not.
        let action = action.to_ascii_lowercase();
        let is_action = |pattern: &String| is_like(&pattern.to_ascii_lowercase(), &action);
        let found = (
            self.actions.iter().position(is_action)?,
            self.resources.iter().position(|pattern| is_like(pattern, resource))?,
        );
        self.conditions.iter().all(|condition| condition.holds(asked)).then_some(found)
    }
}

impl Operator {
    fn parse(name: &str) -> Result<Self, PolicyError> {
        match name {
            "StringEquals" => Ok(Self::StringEquals),
            "StringLike" => Ok(Self::StringLike),
            "ForAllValues:StringEquals" => Ok(Self::AllEqual),
            "ForAllValues:StringLike" => Ok(Self::AllLike),
            _ => Err(PolicyError(format!("the condition operator {name}"))),
        }
    }
}

impl Condition {
    fn new(operator: Operator, key: &str, values: Vec<String>) -> Result<Self, PolicyError> {
        let is_for_all = matches!(operator, Operator::AllEqual | Operator::AllLike);
        // A key with several values needs a set operator, and a key with one value must not have one.
        let key = match (key, is_for_all) {
            ("dynamodb:LeadingKeys", true) => Key::LeadingKeys,
            ("aws:RequestedRegion", false) => Key::RequestedRegion,
            _ => return Err(PolicyError(format!("the condition key {key} with {operator:?}"))),
        };
        Ok(Self { operator, key, values })
    }

    fn holds(&self, asked: &Asked) -> bool {
        let fits = |actual: &str| {
            self.values.iter().any(|value| match self.operator {
                Operator::StringEquals | Operator::AllEqual => value == actual,
                Operator::StringLike | Operator::AllLike => is_like(value, actual),
            })
        };
        match self.key {
            // As in IAM, the condition holds when the request has no such key.
            Key::LeadingKeys => asked.leading_keys.iter().all(|key| fits(key)),
            Key::RequestedRegion => fits(&asked.region),
        }
    }
}

/// Whether `text` matches `pattern`: `*` matches any characters, `?` matches one.
fn is_like(pattern: &str, text: &str) -> bool {
    let mut rest = pattern.chars();
    match rest.next() {
        None => text.is_empty(),
        Some('*') => {
            let rest = rest.as_str();
            let starts = text.char_indices().map(|(index, _)| index).chain([text.len()]);
            starts.into_iter().any(|start| is_like(rest, &text[start..]))
        }
        Some(first) => {
            let mut left = text.chars();
            left.next().is_some_and(|found| first == '?' || first == found)
                && is_like(rest.as_str(), left.as_str())
        }
    }
}

#[cfg(test)]
mod tests;
