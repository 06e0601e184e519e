//! IAM, as far as the policies of instance roles need it: a role has only the permissions in its documents.
//!
//! Guarantees: deny by default; an explicit deny wins; a policy with an element that this module cannot judge as IAM
//! would (another operator, another condition key, a principal) is refused when it is set, and no element is ever
//! ignored. Assumes: a role without policies here is not restricted.

mod asked;
mod pattern;

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;

pub(super) use asked::{Asked, group_of};
use pattern::Pattern;

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
    actions: Vec<Pattern>,
    resources: Vec<Pattern>,
    conditions: Vec<Condition>,
    /// Indices of the actions and resources that have allowed a call.
    used: BTreeSet<(usize, usize)>,
}

/// One operator on one key.
#[derive(Clone, Debug)]
struct Condition {
    key: Key,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Key {
    /// The only key with several values: the partitions that a call to DynamoDB names.
    /// <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/specifying-conditions.html>
    LeadingKeys,
    RequestedRegion,
    /// One of `VALUES`.
    Value(&'static str),
    /// The namespace of the metrics that a call publishes.
    Namespace,
    /// The value of this tag, in lower case as all keys are, of the Auto Scaling group that a call is about.
    /// <https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonec2autoscaling.html>
    ResourceTag(String),
    /// Present when the credentials are those of an instance, in calls to every service.
    /// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-keys.html#condition-keys-ec2-source-instance-arn>
    SourceInstance,
}

/// The keys of S3 and KMS with one value, in lower case.
/// <https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazons3.html>,
/// <https://docs.aws.amazon.com/kms/latest/developerguide/conditions-kms.html>
const VALUES: [&str; 5] = [
    "s3:prefix",
    "s3:resourceaccount",
    "s3:x-amz-server-side-encryption",
    "s3:x-amz-server-side-encryption-aws-kms-key-id",
    "kms:viaservice",
];

#[derive(Clone, Debug)]
enum Test {
    /// `Null`: whether the request must lack the key.
    /// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_condition_operators.html#Conditions_Null>
    IsMissing(bool),
    /// Each value of the key fits one of these.
    Fits(Vec<Pattern>),
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
                        let (sid, action, resource) =
                            (&statement.sid, &action.text, &resource.text);
                        unused.push(format!("{sid}: {action} on {resource}"));
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
            for (key, values) in keys {
                conditions.push(Condition::new(&operator, &key, &values.into_vec())?);
            }
        }
        let actions = all(&raw.action.into_vec(), Pattern::action)?;
        let resources = all(&raw.resource.into_vec(), Pattern::resource)?;
        let (sid, denies) = (raw.sid.unwrap_or_default(), raw.effect == Effect::Deny);
        Ok(Self { sid, denies, actions, resources, conditions, used: BTreeSet::new() })
    }

    /// Returns the indices of the action and the resource that match the call, if this statement applies to it.
    fn is_about(&self, asked: &Asked, action: &str, resource: &str) -> Option<(usize, usize)> {
        let (action, source) = (action.to_ascii_lowercase(), asked.source_instance.as_deref());
        let found = (
            self.actions.iter().position(|pattern| pattern.fits(&action, source))?,
            self.resources.iter().position(|pattern| pattern.fits(resource, source))?,
        );
        self.conditions.iter().all(|condition| condition.holds(asked)).then_some(found)
    }
}

impl Condition {
    fn new(operator: &str, key: &str, values: &[String]) -> Result<Self, PolicyError> {
        let refused = || PolicyError(format!("the condition {operator} on {key}: {values:?}"));
        let lower = key.to_ascii_lowercase();
        let key = match (lower.as_str(), lower.strip_prefix("aws:resourcetag/")) {
            ("dynamodb:leadingkeys", _) => Key::LeadingKeys,
            ("aws:requestedregion", _) => Key::RequestedRegion,
            ("cloudwatch:namespace", _) => Key::Namespace,
            ("ec2:sourceinstancearn", _) => Key::SourceInstance,
            (_, Some(tag)) => Key::ResourceTag(tag.to_owned()),
            (name, None) => {
                let known = VALUES.into_iter().find(|value| *value == name);
                Key::Value(known.ok_or_else(refused)?)
            }
        };
        let has_one_value = key != Key::LeadingKeys;
        // A key with several values needs a set operator, and a key with one value must not have one.
        let pattern: fn(&str) -> _ = match operator {
            "Null" => {
                let value = values.first().filter(|_| values.len() == 1);
                let is_missing = value.and_then(|value| value.parse().ok()).ok_or_else(refused)?;
                return Ok(Self { key, test: Test::IsMissing(is_missing) });
            }
            "StringEquals" if has_one_value => Pattern::literal,
            "StringLike" if has_one_value => Pattern::wild,
            "ForAllValues:StringEquals" if !has_one_value => Pattern::literal,
            "ForAllValues:StringLike" if !has_one_value => Pattern::wild,
            "ArnEquals" | "ArnLike" if key == Key::SourceInstance => Pattern::arn,
            _ => return Err(refused()),
        };
        Ok(Self { key, test: Test::Fits(all(values, pattern)?) })
    }

    fn holds(&self, asked: &Asked) -> bool {
        let actual = match &self.key {
            Key::LeadingKeys => asked.leading_keys.as_slice(),
            Key::Namespace => asked.namespace.as_slice(),
            Key::Value(name) => asked.values.get(name).map_or(&[][..], std::slice::from_ref),
            Key::RequestedRegion => std::slice::from_ref(&asked.region),
            Key::ResourceTag(tag) => {
                let mut tags = asked.resource_tags.iter();
                let found = tags.find(|(key, _)| key.eq_ignore_ascii_case(tag));
                found.map_or(&[][..], |(_, value)| std::slice::from_ref(value))
            }
            Key::SourceInstance => asked.source_instance.as_slice(),
        };
        match &self.test {
            Test::IsMissing(is_wanted) => actual.is_empty() == *is_wanted,
            // `ForAllValues` holds without values, so an Allow needs a `Null` condition beside it:
            // <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition_examples-multi-valued-context-keys.html>
            Test::Fits(_) if actual.is_empty() => self.key == Key::LeadingKeys,
            Test::Fits(patterns) => actual.iter().all(|value| {
                let source = asked.source_instance.as_deref();
                patterns.iter().any(|pattern| pattern.fits(value, source))
            }),
        }
    }
}

fn all(
    texts: &[String],
    pattern: fn(&str) -> Result<Pattern, PolicyError>,
) -> Result<Vec<Pattern>, PolicyError> {
    texts.iter().map(|text| pattern(text)).collect()
}

#[cfg(test)]
mod tests;
