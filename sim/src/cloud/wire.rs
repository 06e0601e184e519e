//! The parameters of the Query protocol.

use std::collections::BTreeMap;
use std::str::FromStr;

use super::errors::ApiError;

/// The parameters of one call, lists flattened as `Name.member.1`.
#[derive(Clone, Debug, Default)]
pub(super) struct Params(BTreeMap<String, String>);

impl Params {
    pub(super) fn parse(form: &[u8]) -> Self {
        Self(form_urlencoded::parse(form).into_owned().collect())
    }

    /// Returns all parameters, in the order of their names.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub(super) fn required(&self, name: &str) -> Result<&str, ApiError> {
        self.get(name).ok_or_else(|| {
            let mut member = name.to_owned();
            if let Some(first) = member.get_mut(..1) {
                first.make_ascii_lowercase();
            }
            ApiError::missing(&member)
        })
    }

    pub(super) fn parsed<T: FromStr>(&self, name: &str) -> Result<Option<T>, ApiError> {
        self.get(name)
            .map(|text| {
                text.parse().map_err(|_| {
                    ApiError::new(400, "MalformedInput", format!("'{text}' is no valid {name}"))
                })
            })
            .transpose()
    }

    /// Returns a list of strings, in the order of its indices.
    pub(super) fn list(&self, name: &str) -> Vec<String> {
        self.numbered(&format!("{name}.member"))
    }

    /// Returns a list of structures, each with its own parameters.
    pub(super) fn structures(&self, name: &str) -> Vec<Params> {
        self.numbered_structures(&format!("{name}.member"))
    }

    /// Returns a list of structures in EC2's spelling: `Name.1.Member`.
    pub(super) fn numbered_structures(&self, name: &str) -> Vec<Params> {
        (1..)
            .map_while(|index| {
                let prefix = format!("{name}.{index}.");
                let members: BTreeMap<_, _> = self
                    .0
                    .iter()
                    .filter_map(|(key, value)| {
                        Some((key.strip_prefix(&prefix)?.to_owned(), value.clone()))
                    })
                    .collect();
                (!members.is_empty()).then_some(Params(members))
            })
            .collect()
    }

    /// Returns a list of strings in EC2's spelling: `Name.1`.
    pub(super) fn numbered(&self, name: &str) -> Vec<String> {
        (1..).map_while(|index| self.0.get(&format!("{name}.{index}")).cloned()).collect()
    }

    /// Returns `Name=value …` of the parameters that identify the subject of a call.
    pub(super) fn summary(&self) -> String {
        const TELLING: [&str; 20] = [
            "AutoScalingGroupName",
            "AutoScalingGroupNames.member.1",
            "InstanceId",
            "InstanceIds.member.1",
            "InstanceId.1",
            "ImageId",
            "LifecycleHookName",
            "LifecycleActionResult",
            "DesiredCapacity",
            "ShouldDecrementDesiredCapacity",
            "HealthStatus",
            "StackName",
            "LogicalResourceId",
            "UniqueId",
            "Status",
            "TargetGroupArn",
            "LoadBalancerArn",
            "ListenerArn",
            "Name",
            "Targets.member.1.Id",
        ];
        TELLING
            .iter()
            .filter_map(|name| self.get(name).map(|value| format!("{name}={value}")))
            .collect::<Vec<_>>()
            .join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_structures_are_read_in_order() {
        let params = Params::parse(
            b"Action=X&InstanceIds.member.2=b&InstanceIds.member.1=a&Tags.member.1.Key=k&\
              Tags.member.1.Value=v%20w&Flag=true",
        );
        assert_eq!(params.list("InstanceIds"), ["a", "b"]);
        let tags = params.structures("Tags");
        assert_eq!(tags.len(), 1);
        assert_eq!(tags[0].get("Value"), Some("v w"));
        assert_eq!(params.parsed::<bool>("Flag"), Ok(Some(true)));
        assert!(params.parsed::<u32>("Flag").is_err());
        let missing = params.required("LifecycleHookName").unwrap_err();
        assert!(missing.message.contains("'lifecycleHookName'"));
    }
}
