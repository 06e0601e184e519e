//! IAM, as far as the policies of instance roles need it: what a role may do is what its documents
//! allow and nothing else.
//!
//! Guarantees: deny by default; an explicit deny wins; what this cannot judge as IAM would (another
//! operator, another condition key, a principal) is refused when the policy is set, and never
//! passed over. Assumption: a role that has no policies here is not restricted.

mod asked;

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;

pub(super) use asked::Asked;

/// What a role may do: all statements of its documents.
#[derive(Clone, Debug)]
pub(super) struct Policies(Vec<Statement>);

/// What a policy document cannot have here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a policy document that cannot be enforced: {0}")]
pub struct PolicyError(String);

/// Why a call is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// Such as `ssm:GetParameter`.
    pub action: String,
    /// The ARN, or `*`.
    pub resource: String,
    /// A statement denies it; otherwise none allows it.
    pub is_explicit: bool,
}

#[derive(Clone, Debug)]
struct Statement {
    sid: String,
    denies: bool,
    actions: Vec<String>,
    resources: Vec<String>,
    conditions: Vec<Condition>,
    /// The actions and resources that have allowed a call, by their index.
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
    /// The key has one value, and it is there.
    StringEquals,
    StringLike,
    /// All values of the key, be it none.
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
    /// Reads documents as IAM has them.
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

    /// What further documents say, too.
    pub fn add(&mut self, more: Self) {
        self.0.extend(more.0);
    }

    /// Whether everything that a call asks for is allowed on each of its resources. What allows it
    /// is remembered.
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

    /// What is allowed and was never asked for: the statement, the action and the resource.
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

    /// The action and the resource, by their index, that make this statement one about the call.
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
        // A key with several values needs an operator for sets, and one with one value must not have it.
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
            // As in IAM, this holds where there is no such key in the request.
            Key::LeadingKeys => asked.leading_keys.iter().all(|key| fits(key)),
            Key::RequestedRegion => fits(&asked.region),
        }
    }
}

/// Whether `text` is what `pattern` says: `*` stands for any characters, `?` for one.
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
