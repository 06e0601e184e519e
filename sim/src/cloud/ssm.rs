//! SSM's parameter store, as far as a node uses it (awsJson1.1).

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::clock::Clock;
use super::errors::ApiError;
use super::requests::Service;

/// The largest number of names for `GetParameters` and `DeleteParameters`.
const NAMES_PER_CALL: usize = 10;
/// The longest value of the standard tier, in bytes.
const STANDARD_VALUE: usize = 4096;

/// No `Debug`: it holds secrets.
struct Parameter {
    value: String,
    kind: Kind,
    version: u64,
    modified: OffsetDateTime,
    description: Option<String>,
    tier: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, serde::Serialize)]
enum Kind {
    String,
    StringList,
    SecureString,
}

#[derive(Default)]
pub(super) struct Parameters {
    parameters: BTreeMap<String, Parameter>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GetParameter {
    name: String,
    #[serde(default)]
    with_decryption: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Names {
    names: Vec<String>,
    #[serde(default)]
    with_decryption: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Name {
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PutParameter {
    name: String,
    value: String,
    #[serde(rename = "Type")]
    kind: Option<Kind>,
    #[serde(default)]
    overwrite: bool,
    description: Option<String>,
    tier: Option<String>,
}

impl Parameters {
    pub fn handle(
        &mut self,
        action: &str,
        input: &Value,
        cloud: &Place,
    ) -> Result<Value, ApiError> {
        match action {
            "GetParameter" => {
                let GetParameter { name, with_decryption } = read(input)?;
                let parameter = self.get(&name, with_decryption, cloud).ok_or_else(not_found)?;
                Ok(json!({ "Parameter": parameter }))
            }
            "GetParameters" => {
                let Names { names, with_decryption } = limited(read(input)?)?;
                let mut found = Vec::new();
                let mut invalid = Vec::new();
                for name in names {
                    match self.get(&name, with_decryption, cloud) {
                        Some(parameter) => found.push(parameter),
                        None => invalid.push(name),
                    }
                }
                Ok(json!({ "Parameters": found, "InvalidParameters": invalid }))
            }
            "PutParameter" => self.put(read(input)?, cloud),
            "DeleteParameter" => {
                let Name { name } = read(input)?;
                self.parameters.remove(&name).ok_or_else(not_found)?;
                Ok(json!({}))
            }
            "DeleteParameters" => {
                let Names { names, .. } = limited(read(input)?)?;
                let (deleted, invalid): (Vec<_>, Vec<_>) =
                    names.into_iter().partition(|name| self.parameters.remove(name).is_some());
                Ok(json!({ "DeletedParameters": deleted, "InvalidParameters": invalid }))
            }
            "DescribeParameters" => Ok(json!({ "Parameters": self.describe(cloud) })),
            _ => Err(ApiError::unknown_action(Service::Ssm, action)),
        }
    }

    /// Returns the value of a parameter, for tests.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(|parameter| parameter.value.as_str())
    }

    /// Deletes a parameter; returns `false` when it does not exist.
    pub fn delete(&mut self, name: &str) -> bool {
        self.parameters.remove(name).is_some()
    }

    pub fn names(&self) -> Vec<String> {
        self.parameters.keys().cloned().collect()
    }

    /// Returns a parameter. `name` can end in `:version`; only the newest version exists.
    fn get(&self, name: &str, decrypt: bool, cloud: &Place) -> Option<Value> {
        let (name, version) = match name.rsplit_once(':') {
            Some((name, version)) => (name, Some(version.parse::<u64>().ok()?)),
            None => (name, None),
        };
        let parameter = self.parameters.get(name)?;
        if version.is_some_and(|version| version != parameter.version) {
            return None;
        }
        let value = if parameter.kind == Kind::SecureString && !decrypt {
            // A caller that does not request decryption gets this text, which is no secret.
            format!("AQICAHhNotDecryptedVersion{}", parameter.version)
        } else {
            parameter.value.clone()
        };
        Some(json!({
            "Name": name,
            "Type": parameter.kind,
            "Value": value,
            "Version": parameter.version,
            "LastModifiedDate": seconds(parameter.modified),
            "ARN": cloud.arn(name),
            "DataType": "text",
        }))
    }

    fn put(&mut self, put: PutParameter, cloud: &Place) -> Result<Value, ApiError> {
        if put.name.contains('/') && !put.name.starts_with('/') {
            return Err(invalid("Parameter name must be a fully qualified name."));
        }
        let tier = put.tier.unwrap_or_else(|| "Standard".to_owned());
        if put.value.len() > STANDARD_VALUE && tier == "Standard" {
            return Err(invalid(
                "Standard tier parameters support a maximum parameter value of 4096 characters. \
                 To create a larger parameter value, upgrade the parameter to use the \
                 advanced-parameter tier.",
            ));
        }
        let old = self.parameters.get(&put.name);
        let kind = match (old, put.kind) {
            (Some(_), _) if !put.overwrite => {
                return Err(ApiError::new(
                    400,
                    "ParameterAlreadyExists",
                    "The parameter already exists. To overwrite this value, set the overwrite \
                     option in the request to true.",
                ));
            }
            (_, Some(kind)) => kind,
            (Some(old), None) => old.kind,
            (None, None) => {
                return Err(invalid("A parameter type is required when you create a parameter."));
            }
        };
        let version = old.map_or(0, |old| old.version) + 1;
        let answer = json!({ "Version": version, "Tier": tier });
        let parameter = Parameter {
            value: put.value,
            kind,
            version,
            modified: cloud.now,
            description: put.description,
            tier,
        };
        self.parameters.insert(put.name, parameter);
        Ok(answer)
    }

    fn describe(&self, cloud: &Place) -> Vec<Value> {
        let describe = |(name, parameter): (&String, &Parameter)| {
            json!({
                "Name": name,
                "ARN": cloud.arn(name),
                "Type": parameter.kind,
                "LastModifiedDate": seconds(parameter.modified),
                "Description": parameter.description,
                "Version": parameter.version,
                "Tier": parameter.tier,
                "DataType": "text",
            })
        };
        self.parameters.iter().map(describe).collect()
    }
}

/// The region and the time of an answer.
pub(super) struct Place<'a> {
    region: &'a str,
    now: OffsetDateTime,
}

impl<'a> Place<'a> {
    pub fn new(region: &'a str, clock: &Clock) -> Self {
        Self { region, now: clock.now() }
    }

    fn arn(&self, name: &str) -> String {
        let slash = if name.starts_with('/') { "" } else { "/" };
        let (region, account) = (self.region, super::ACCOUNT);
        format!("arn:aws:ssm:{region}:{account}:parameter{slash}{name}")
    }
}

/// Returns the names of the parameters in a call, for policies and the log.
pub(super) fn names(input: &Value) -> Vec<String> {
    let one = input.get("Name").into_iter();
    let many = input.get("Names").and_then(Value::as_array).into_iter().flatten();
    one.chain(many).filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Returns a timestamp of this protocol: seconds with a fraction.
fn seconds(date: OffsetDateTime) -> f64 {
    let millis = date.unix_timestamp_nanos() / 1_000_000;
    // Exact: milliseconds since 1970 are far below 2^53.
    millis as f64 / 1000.0
}

fn read<T: DeserializeOwned>(input: &Value) -> Result<T, ApiError> {
    // The error of serde could quote a secret value.
    T::deserialize(input)
        .map_err(|_| invalid("The request's members are missing or of a wrong type."))
}

fn limited(names: Names) -> Result<Names, ApiError> {
    if names.names.is_empty() || names.names.len() > NAMES_PER_CALL {
        return Err(invalid(
            "1 validation error detected: Value at 'names' failed to satisfy constraint: Member \
             must have length between 1 and 10",
        ));
    }
    Ok(names)
}

fn invalid(message: &str) -> ApiError {
    ApiError::new(400, "ValidationException", message)
}

/// Returns SSM's error for a missing parameter, which has no message.
fn not_found() -> ApiError {
    ApiError::new(400, "ParameterNotFound", "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(store: &mut Parameters, action: &str, input: Value) -> Result<Value, ApiError> {
        let place = Place { region: "eu-central-1", now: OffsetDateTime::UNIX_EPOCH };
        store.handle(action, &input, &place)
    }

    fn put(store: &mut Parameters, value: &str, overwrite: bool) -> Result<Value, ApiError> {
        let input = json!({
            "Name": "/skep/a", "Value": value, "Type": "SecureString", "Overwrite": overwrite,
        });
        call(store, "PutParameter", input)
    }

    #[test]
    fn a_parameter_is_not_overwritten_unasked() {
        let mut store = Parameters::default();
        assert_eq!(put(&mut store, "one", false).unwrap()["Version"], 1);
        let refused = put(&mut store, "two", false).unwrap_err();
        assert_eq!(refused.code, "ParameterAlreadyExists");
        assert_eq!(put(&mut store, "two", true).unwrap()["Version"], 2);
    }

    #[test]
    fn a_secret_is_readable_with_decryption_only() {
        let mut store = Parameters::default();
        put(&mut store, "secret", false).unwrap();
        let sealed = call(&mut store, "GetParameter", json!({ "Name": "/skep/a" })).unwrap();
        assert!(!sealed.to_string().contains("secret"));
        let input = json!({ "Name": "/skep/a", "WithDecryption": true });
        let open = call(&mut store, "GetParameter", input).unwrap();
        assert_eq!(open["Parameter"]["Value"], "secret");
    }

    #[test]
    fn what_is_missing_is_named() {
        let mut store = Parameters::default();
        put(&mut store, "secret", false).unwrap();
        let input = json!({ "Names": ["/skep/a", "/skep/b"] });
        let found = call(&mut store, "GetParameters", input).unwrap();
        assert_eq!(found["InvalidParameters"], json!(["/skep/b"]));
        let none = call(&mut store, "GetParameter", json!({ "Name": "/skep/b" }));
        assert_eq!(none.unwrap_err().code, "ParameterNotFound");
        let gone = call(&mut store, "DeleteParameter", json!({ "Name": "/skep/a" }));
        assert!(gone.is_ok());
    }
}
