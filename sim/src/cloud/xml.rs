//! Writes the answers of the Query protocol, in XML.

use quick_xml::escape::escape;

use super::requests::Service;

/// Returns the XML namespace of a Query service's answers.
pub(super) fn namespace(service: Service) -> &'static str {
    match service {
        Service::CloudFormation => "http://cloudformation.amazonaws.com/doc/2010-05-15/",
        Service::ElasticLoadBalancing => {
            "http://elasticloadbalancing.amazonaws.com/doc/2015-12-01/"
        }
        Service::CloudWatch => "http://monitoring.amazonaws.com/doc/2010-08-01/",
        Service::S3 => "http://s3.amazonaws.com/doc/2006-03-01/",
        Service::Ec2 => "http://ec2.amazonaws.com/doc/2016-11-15/",
        _ => "http://autoscaling.amazonaws.com/doc/2011-01-01/",
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

    /// Writes a list with a `member` element per item.
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

/// Returns the whole answer to `action`; `result` is the content of its result element, where it has one.
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

/// Returns the whole answer of EC2, which has neither a result element nor a metadata one.
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
    fn text_is_escaped() {
        let mut xml = Xml::default();
        xml.list("Names", ["a<b&c"], |xml, name| xml.text("Name", name));
        assert_eq!(xml.finish(), "<Names><member><Name>a&lt;b&amp;c</Name></member></Names>");
    }
}
