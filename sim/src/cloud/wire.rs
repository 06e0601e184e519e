//! The Query protocol: form parameters in, XML out.

use std::collections::BTreeMap;
use std::str::FromStr;

use quick_xml::escape::escape;

use super::errors::ApiError;
use super::requests::Service;

/// The XML namespace of a Query service's answers.
pub(super) fn namespace(service: Service) -> &'static str {
    match service {
        Service::CloudFormation => "http://cloudformation.amazonaws.com/doc/2010-05-15/",
        Service::Ec2 => "http://ec2.amazonaws.com/doc/2016-11-15/",
        _ => "http://autoscaling.amazonaws.com/doc/2011-01-01/",
    }
}

/// The parameters of one call, lists flattened as `Name.member.1`.
#[derive(Clone, Debug, Default)]
pub(super) struct Params(BTreeMap<String, String>);

impl Params {
    pub(super) fn parse(form: &[u8]) -> Self {
        Self(form_urlencoded::parse(form).into_owned().collect())
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

    /// A list of strings, in the order of its indices.
    pub(super) fn list(&self, name: &str) -> Vec<String> {
        self.numbered(&format!("{name}.member"))
    }

    /// A list of structures, each with its own parameters.
    pub(super) fn structures(&self, name: &str) -> Vec<Params> {
        self.numbered_structures(&format!("{name}.member"))
    }

    /// The same as EC2 spells it: `Name.1.Member`.
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

    /// A list of strings as EC2 spells it: `Name.1`.
    pub(super) fn numbered(&self, name: &str) -> Vec<String> {
        (1..).map_while(|index| self.0.get(&format!("{name}.{index}")).cloned()).collect()
    }

    /// `Name=value …` of the parameters that tell what a call was about.
    pub(super) fn summary(&self) -> String {
        const TELLING: [&str; 15] = [
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
        ];
        TELLING
            .iter()
            .filter_map(|name| self.get(name).map(|value| format!("{name}={value}")))
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// A writer of XML elements.
#[derive(Debug, Default)]
pub(super) struct Xml(String);

impl Xml {
    pub(super) fn open(&mut self, name: &str) {
        self.0.push('<');
        self.0.push_str(name);
        self.0.push('>');
    }

    pub(super) fn open_with(&mut self, name: &str, namespace: &str) {
        self.open(&format!("{name} xmlns=\"{namespace}\""));
    }

    pub(super) fn close(&mut self, name: &str) {
        self.0.push_str("</");
        self.0.push_str(name);
        self.0.push('>');
    }

    pub(super) fn text(&mut self, name: &str, value: &str) {
        self.open(name);
        self.0.push_str(&escape(value));
        self.close(name);
    }

    pub(super) fn maybe(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(name, value);
        }
    }

    pub(super) fn display(&mut self, name: &str, value: impl ToString) {
        self.text(name, &value.to_string());
    }

    /// A list with a `member` element per item.
    pub(super) fn list<T>(
        &mut self,
        name: &str,
        items: impl IntoIterator<Item = T>,
        mut member: impl FnMut(&mut Self, T),
    ) {
        self.open(name);
        for item in items {
            self.open("member");
            member(self, item);
            self.close("member");
        }
        self.close(name);
    }

    pub(super) fn finish(self) -> String {
        self.0
    }

    pub(super) fn raw(&mut self, xml: &str) {
        self.0.push_str(xml);
    }
}

/// The whole answer to `action`; `result` is the content of its result element, where it has one.
pub(super) fn response(
    service: Service,
    action: &str,
    request_id: &str,
    result: Option<&str>,
) -> String {
    let mut xml = Xml::default();
    let response = format!("{action}Response");
    xml.open_with(&response, namespace(service));
    if let Some(result) = result {
        let wrapper = format!("{action}Result");
        xml.open(&wrapper);
        xml.raw(result);
        xml.close(&wrapper);
    }
    xml.open("ResponseMetadata");
    xml.text("RequestId", request_id);
    xml.close("ResponseMetadata");
    xml.close(&response);
    xml.finish()
}

/// The whole answer of EC2, which has neither a result element nor a metadata one.
pub(super) fn ec2_response(action: &str, request_id: &str, content: &str) -> String {
    let mut xml = Xml::default();
    let response = format!("{action}Response");
    xml.open_with(&response, namespace(Service::Ec2));
    xml.text("requestId", request_id);
    xml.raw(content);
    xml.close(&response);
    xml.finish()
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

    #[test]
    fn text_is_escaped() {
        let mut xml = Xml::default();
        xml.list("Names", ["a<b&c"], |xml, name| xml.text("Name", name));
        assert_eq!(xml.finish(), "<Names><member><Name>a&lt;b&amp;c</Name></member></Names>");
    }
}
