//! Sends metrics to CloudWatch. The API is one call of the Query protocol, so it is signed by hand, as for EC2.

use std::sync::Arc;

use aws_config::SdkConfig;

use super::query::{Api, Query};
use super::{AwsError, AwsErrorKind};

const API: Api = Api {
    service: "cloudwatch",
    signed_as: "monitoring",
    endpoint: "AWS_ENDPOINT_URL_CLOUDWATCH",
    version: "2010-08-01",
};
const OPERATION: &str = "PutMetricData";
/// AWS accepts 1,000 data in one call and 1 MB; a call of so many stays far below.
const DATA_PER_CALL: usize = 150;
/// The namespace of all of skep's metrics: the roles of the template may write to no other.
pub const NAMESPACE: &str = "skep";

/// CloudWatch as skep uses it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct CloudWatch(Arc<Query>);

/// One value of a metric, of this moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Datum {
    /// Name of the metric.
    pub name: &'static str,
    /// `Count` or `Percent`.
    pub unit: &'static str,
    /// A finite number.
    pub value: f64,
    /// The name of the Auto Scaling group that it is about.
    pub group: String,
}

impl CloudWatch {
    pub(super) fn new(config: &SdkConfig) -> Self {
        Self(Arc::new(Query::new(config, API)))
    }

    /// Sends values with the dimension `AutoScalingGroupName`.
    ///
    /// # Errors
    /// When CloudWatch did not answer, or refused. Earlier ones of many values may have arrived.
    pub async fn put(&self, data: &[Datum]) -> Result<(), AwsError> {
        for chunk in data.chunks(DATA_PER_CALL) {
            self.call(chunk).await?;
        }
        Ok(())
    }

    /// Tries to send values with an incomplete call, which changes nothing. AWS does not document whether it looks at the
    /// permission first: an invalid call proves only that it was not denied.
    ///
    /// # Errors
    /// When CloudWatch did not answer, or denied the call.
    pub async fn try_put(&self) -> Result<(), AwsError> {
        match self.call(&[]).await {
            Err(error) if error.kind == AwsErrorKind::Validation => Ok(()),
            tried => tried,
        }
    }

    async fn call(&self, data: &[Datum]) -> Result<(), AwsError> {
        let resource = format!("the namespace {NAMESPACE}");
        self.0.call(OPERATION, &resource, fields(data), |_| Ok(())).await
    }
}

fn fields(data: &[Datum]) -> Vec<(String, String)> {
    let mut fields = vec![("Namespace".to_owned(), NAMESPACE.to_owned())];
    for (n, datum) in (1..).zip(data) {
        let mut add = |name: &str, value: &str| {
            fields.push((format!("MetricData.member.{n}.{name}"), value.to_owned()));
        };
        add("MetricName", datum.name);
        add("Unit", datum.unit);
        add("Value", &datum.value.to_string());
        add("Dimensions.member.1.Name", "AutoScalingGroupName");
        add("Dimensions.member.1.Value", &datum.group);
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::aws::stub::Stub;

    const PUT: &str =
        "<PutMetricDataResponse xmlns=\"http://monitoring.amazonaws.com/doc/2010-08-01/\">
        <ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></PutMetricDataResponse>";

    fn datum(group: &str) -> Datum {
        Datum { name: "NodesNeeded", unit: "Percent", value: 112.5, group: group.to_owned() }
    }

    #[tokio::test]
    async fn values_are_sent_with_their_dimensions_in_calls_of_a_limited_size() {
        let stub = Stub::start().await;
        let cloudwatch = stub.aws().await.cloudwatch;
        stub.answer(200, PUT);
        cloudwatch.put(&[datum("prod-workers"), datum("prod-gpu")]).await.unwrap();
        let sent = stub.last_request();
        for part in [
            "Action=PutMetricData&Version=2010-08-01&Namespace=skep&",
            "MetricData.member.1.MetricName=NodesNeeded&",
            "MetricData.member.1.Unit=Percent&MetricData.member.1.Value=112.5&",
            "MetricData.member.1.Dimensions.member.1.Name=AutoScalingGroupName&",
            "MetricData.member.1.Dimensions.member.1.Value=prod-workers&",
            "MetricData.member.2.Dimensions.member.1.Value=prod-gpu",
        ] {
            assert!(sent.contains(part), "{part}: {sent}");
        }
        stub.answer(200, PUT);
        stub.answer(200, PUT);
        cloudwatch.put(&vec![datum("prod-workers"); DATA_PER_CALL + 1]).await.unwrap();
        assert_eq!(stub.requests().len(), 3);
        cloudwatch.put(&[]).await.unwrap();
        assert_eq!(stub.requests().len(), 3, "nothing to send");
    }

    #[tokio::test]
    async fn a_denied_call_is_told_from_one_that_only_makes_no_sense() {
        let stub = Stub::start().await;
        let cloudwatch = stub.aws().await.cloudwatch;
        stub.answer(400, &Stub::xml_error("MissingParameter", "MetricData is required"));
        cloudwatch.try_put().await.unwrap();
        for _ in 0..2 {
            stub.answer(403, &Stub::xml_error("AccessDenied", "not authorized"));
        }
        let error = cloudwatch.try_put().await.unwrap_err();
        assert_eq!(error.kind, AwsErrorKind::AccessDenied);
        let error = cloudwatch.put(&[datum("prod-workers")]).await.unwrap_err();
        assert!(error.to_string().contains("grant cloudwatch:PutMetricData"), "{error}");
    }
}
