//! Reads the identity of this instance: the facts of the metadata that do not change while it runs.

use std::collections::BTreeMap;
use std::net::IpAddr;

use futures_util::future::try_join_all;
use serde::Deserialize;
use tokio::time::Instant;

use super::{Imds, ImdsError, Item, META_DATA};
use crate::common::instance::{
    GROUP_TAG, Instance, LOGICAL_ID_TAG, Market, STACK_TAG, StackResource,
};

const OPERATION: &str = "reading the identity of this instance";
/// Lists the tags' keys, one per line, if the launch template sets `InstanceMetadataTags`.
const TAGS: &str = "tags/instance";
/// JSON with the instance's account; beside the metadata, not below them.
const DOCUMENT: &str = "../dynamic/instance-identity/document";

impl Imds {
    /// Reads every fact about this instance concurrently: two round trips after the one for the token, and a few more
    /// if there are many tags.
    ///
    /// # Errors
    /// See [`ImdsError`]; temporary errors are retried until `deadline`.
    pub async fn fetch_instance(&self, deadline: Instant) -> Result<Instance, ImdsError> {
        // Tags first: their values can only be read after their list.
        let (tags, id, partition, account, instance_type, zone, region, private_address, market) =
            tokio::try_join!(
                self.fetch_tags("", deadline),
                self.required("instance-id", deadline),
                self.required("services/partition", deadline),
                self.fetch_account(deadline),
                self.required("instance-type", deadline),
                self.required("placement/availability-zone", deadline),
                self.required("placement/region", deadline),
                self.fetch_private_address(deadline),
                self.fetch_market(deadline),
            )?;
        let untagged = Instance {
            arn: format!("arn:{partition}:ec2:{region}:{account}:instance/{id}"),
            id,
            instance_type,
            zone,
            region,
            private_address,
            market,
            group: None,
            stack: None,
            tags: BTreeMap::new(),
        };
        Ok(tagged(untagged, tags.unwrap_or_default()))
    }

    /// Reads the tags again and returns the instance with them: tags may appear later than the other facts.
    ///
    /// # Errors
    /// See [`ImdsError`].
    pub async fn fetch_tags_of(
        &self,
        instance: &Instance,
        deadline: Instant,
    ) -> Result<Instance, ImdsError> {
        let tags = self.fetch_tags("", deadline).await?;
        Ok(tagged(instance.clone(), tags.unwrap_or_default()))
    }

    /// Reads the instance tags whose keys start with `prefix`; `None` if there is no tag at all, or if the launch
    /// template keeps tags out of the metadata.
    ///
    /// # Errors
    /// See [`ImdsError`].
    pub async fn fetch_tags(
        &self,
        prefix: &str,
        deadline: Instant,
    ) -> Result<Option<BTreeMap<String, String>>, ImdsError> {
        let Some(keys) = self.read(OPERATION, TAGS, deadline).await? else { return Ok(None) };
        let keys = keys.lines().filter(|key| !key.is_empty() && key.starts_with(prefix));
        let tags = keys.map(async |key| {
            let value = self.fetch_tag(key, deadline).await?;
            // A tag that was removed after the list was read is left out.
            Ok::<_, ImdsError>(value.map(|value| (key.to_owned(), value)))
        });
        Ok(Some(try_join_all(tags).await?.into_iter().flatten().collect()))
    }

    /// Reads one instance tag; `None` if there is no such tag, or if the launch template keeps tags out of the
    /// metadata.
    ///
    /// # Errors
    /// See [`ImdsError`].
    pub async fn fetch_tag(
        &self,
        key: &str,
        deadline: Instant,
    ) -> Result<Option<String>, ImdsError> {
        self.read("reading an instance tag", &format!("{TAGS}/{key}"), deadline).await
    }

    /// Reads the Auto Scaling group from the instance's tag: an instance can be detached from one group and attached to
    /// another. `None` as for [`Imds::fetch_tag`].
    ///
    /// # Errors
    /// See [`ImdsError`].
    pub async fn fetch_group(&self, deadline: Instant) -> Result<Option<String>, ImdsError> {
        let group = self.fetch_tag(GROUP_TAG, deadline).await?;
        Ok(group.filter(|group| !group.is_empty()))
    }

    /// Reads `local-ipv4`, or `ipv6` on an instance in an IPv6-only subnet.
    async fn fetch_private_address(&self, deadline: Instant) -> Result<IpAddr, ImdsError> {
        let (path, text) = match self.read(OPERATION, "local-ipv4", deadline).await? {
            Some(address) => ("local-ipv4", address),
            None => ("ipv6", self.required("ipv6", deadline).await?),
        };
        let text = text.trim();
        text.parse()
            .map_err(|_| self.item(path).malformed(format!("{text:?} is not an IP address")))
    }

    /// Reads the id of the AWS account, 12 digits.
    async fn fetch_account(&self, deadline: Instant) -> Result<String, ImdsError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Document {
            account_id: String,
        }
        let text = self.required(DOCUMENT, deadline).await?;
        let document = serde_json::from_str(&text);
        let Document { account_id } =
            document.map_err(|error| self.item(DOCUMENT).malformed(error.to_string()))?;
        Ok(account_id)
    }

    /// Reads the market: `spot`, or one of several kinds (`on-demand`, `scheduled`, `capacity-block`) that EC2 does not
    /// reclaim.
    async fn fetch_market(&self, deadline: Instant) -> Result<Market, ImdsError> {
        let market = self.read(OPERATION, "instance-life-cycle", deadline).await?;
        let is_spot = market.is_some_and(|market| market.trim() == "spot");
        Ok(if is_spot { Market::Spot } else { Market::OnDemand })
    }

    async fn required(&self, path: &str, deadline: Instant) -> Result<String, ImdsError> {
        let item = self.item(path);
        let text = self.read(OPERATION, path, deadline).await?.ok_or_else(|| {
            let (path, uri) = (path.to_owned(), item.uri.to_string());
            ImdsError::Missing { operation: OPERATION, path, uri }
        })?;
        match text.trim() {
            "" => Err(item.malformed("it is empty")),
            text => Ok(text.to_owned()),
        }
    }

    fn item<'a>(&self, path: &'a str) -> Item<'a> {
        Item { operation: OPERATION, path, uri: self.uri(&format!("{META_DATA}{path}")) }
    }
}

/// Returns the instance with its tags, and with the group and the stack resource from them.
fn tagged(instance: Instance, tags: BTreeMap<String, String>) -> Instance {
    let tag = |key: &str| tags.get(key).filter(|value| !value.is_empty()).cloned();
    let stack = tag(STACK_TAG)
        .zip(tag(LOGICAL_ID_TAG))
        .map(|(stack, logical_id)| StackResource { stack, logical_id });
    Instance { group: tag(GROUP_TAG), stack, tags, ..instance }
}

#[cfg(test)]
mod tests {
    use super::super::stub::{Stub, soon};
    use super::*;

    #[tokio::test]
    async fn reads_every_fact_with_one_token() {
        let stub = Stub::start().await;
        stub.fill();
        stub.set("instance-life-cycle", "spot");
        stub.set(
            "tags/instance",
            "Name\naws:autoscaling:groupName\naws:cloudformation:stack-name\n\
             aws:cloudformation:logical-id\nskep:role\ngone",
        );
        stub.set("tags/instance/Name", "worker one");
        stub.set("tags/instance/aws:autoscaling:groupName", "workers");
        stub.set("tags/instance/aws:cloudformation:stack-name", "prod");
        stub.set("tags/instance/aws:cloudformation:logical-id", "WorkerGroup");
        stub.set("tags/instance/skep:role", "worker");
        let instance = stub.imds().fetch_instance(soon()).await.unwrap();
        let tags = [
            ("Name", "worker one"),
            (GROUP_TAG, "workers"),
            (LOGICAL_ID_TAG, "WorkerGroup"),
            (STACK_TAG, "prod"),
            ("skep:role", "worker"),
        ];
        let expected = Instance {
            id: "i-0abc".into(),
            arn: "arn:aws:ec2:eu-central-1:123456789012:instance/i-0abc".into(),
            instance_type: "t3.micro".into(),
            zone: "eu-central-1a".into(),
            region: "eu-central-1".into(),
            private_address: "10.0.1.7".parse().unwrap(),
            market: Market::Spot,
            group: Some("workers".into()),
            stack: Some(StackResource { stack: "prod".into(), logical_id: "WorkerGroup".into() }),
            tags: tags.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        };
        assert_eq!(instance, expected);
        assert_eq!(stub.tokens(), 1);
    }

    #[tokio::test]
    async fn an_instance_without_tags_has_no_group_and_no_stack() {
        let stub = Stub::start().await;
        stub.fill();
        let instance = stub.imds().fetch_instance(soon()).await.unwrap();
        assert_eq!((&instance.group, &instance.stack), (&None, &None));
        assert!(instance.tags.is_empty());
        assert_eq!(instance.market, Market::OnDemand);
        stub.set("tags/instance", "aws:autoscaling:groupName");
        stub.set("tags/instance/aws:autoscaling:groupName", "workers");
        let late = stub.imds().fetch_tags_of(&instance, soon()).await.unwrap();
        assert_eq!(late.group.as_deref(), Some("workers"), "the tags appeared later");
        assert_eq!((late.id, late.tags.len()), (instance.id, 1));
    }

    #[tokio::test]
    async fn what_the_service_answers_before_it_knows_the_instance_may_settle() {
        let stub = Stub::start().await;
        let fails = async || stub.imds().fetch_instance(soon()).await.unwrap_err();
        assert!(fails().await.may_settle(), "404 for an item that every instance has");
        stub.fill();
        stub.set("instance-id", "");
        assert!(fails().await.may_settle(), "empty");
        stub.answers().next_puts = [404; 20].into();
        assert!(fails().await.may_settle(), "no tokens yet");
        stub.answers().next_puts = [401; 20].into();
        assert!(fails().await.may_settle(), "no tokens yet");
        stub.answers().next_puts = [].into();
        stub.answers().revoked = u64::MAX;
        assert!(fails().await.may_settle(), "401 for a fresh token");
        stub.answers().next_puts = [403; 20].into();
        assert!(!fails().await.may_settle(), "switched off");
    }

    #[tokio::test]
    async fn tags_below_a_prefix_are_told_apart_from_no_tags_at_all() {
        let stub = Stub::start().await;
        assert_eq!(stub.imds().fetch_tags("skep:", soon()).await.unwrap(), None);
        stub.set("tags/instance", "Name\nskep:role");
        stub.set("tags/instance/Name", "worker one");
        stub.set("tags/instance/skep:role", "worker");
        let role = [("skep:role".to_owned(), "worker".to_owned())].into();
        assert_eq!(stub.imds().fetch_tags("skep:", soon()).await.unwrap(), Some(role));
        let none = stub.imds().fetch_tags("skep:label:", soon()).await.unwrap();
        assert_eq!(none, Some(BTreeMap::new()), "no such tag, but there are others");
    }

    #[tokio::test]
    async fn an_ipv6_only_instance_has_its_ipv6_address() {
        let stub = Stub::start().await;
        stub.fill();
        stub.remove("local-ipv4");
        stub.set("ipv6", "2600:1f14::7");
        let instance = stub.imds().fetch_instance(soon()).await.unwrap();
        assert_eq!(instance.private_address, "2600:1f14::7".parse::<IpAddr>().unwrap());
    }

    #[tokio::test]
    async fn a_missing_fact_and_a_malformed_one_are_named() {
        let stub = Stub::start().await;
        stub.fill();
        stub.set("local-ipv4", "ten");
        let error = stub.imds().fetch_instance(soon()).await.unwrap_err();
        assert!(matches!(&error, ImdsError::Malformed { path, .. } if path == "local-ipv4"));
        assert!(error.to_string().contains("meta-data/local-ipv4"), "{error}");
        stub.set("local-ipv4", "10.0.1.7");
        stub.remove("placement/region");
        let error = stub.imds().fetch_instance(soon()).await.unwrap_err();
        assert!(matches!(&error, ImdsError::Missing { path, .. } if path == "placement/region"));
        stub.set("placement/region", "");
        let error = stub.imds().fetch_instance(soon()).await.unwrap_err();
        assert!(matches!(&error, ImdsError::Malformed { path, .. } if path == "placement/region"));
        stub.fill();
        stub.set("dynamic/instance-identity/document", "{}");
        let error = stub.imds().fetch_instance(soon()).await.unwrap_err();
        assert!(error.to_string().contains("dynamic/instance-identity/document"), "{error}");
    }
}
