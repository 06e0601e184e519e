//! Reads from EC2 which instances have some addresses: the authority for the question which instance a node of the
//! swarm is.
//!
//! Guarantees: an instance is in the result only if EC2 lists it in the VPC of the asking instance; an answer that is cut,
//! or that does not list the asking instance, is an error and no empty answer. The API is one call of the Query protocol,
//! so it is signed by hand: the SDK's crate for EC2 is larger than skep.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use aws_config::SdkConfig;
use roxmltree::Node;

use super::AwsError;
use super::query::{Api, Query, child, text};
use crate::common::instance::{GROUP_TAG, Market, Tags};

const SERVICE: &str = "ec2";
const API: Api = Api {
    service: SERVICE,
    signed_as: SERVICE,
    endpoint: "AWS_ENDPOINT_URL_EC2",
    version: "2016-11-15",
};
const OPERATION: &str = "DescribeInstances";
/// Number of addresses in one call, and of instances on one page: EC2 describes an instance in up to 10 KB, and the
/// answer must stay below the limit of [`super::Signed`].
const ADDRESSES_PER_CALL: usize = 50;
const PAGE: usize = 50;

/// EC2 as skep uses it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Ec2(Arc<Query>);

/// What EC2 knows of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ec2Instance {
    /// Instance id.
    pub id: String,
    /// The private addresses of all its network interfaces.
    pub addresses: BTreeSet<IpAddr>,
    /// The first private address of its first network interface, which its metadata name.
    pub primary: Option<IpAddr>,
    /// All its tags.
    pub tags: Tags,
    /// Auto Scaling group, from the tag that Auto Scaling sets.
    pub group: Option<String>,
    /// Availability zone.
    pub zone: String,
    /// Instance type, such as `t3.small`.
    pub instance_type: String,
    /// Purchase option.
    pub market: Market,
    vpc: String,
}

impl Ec2 {
    pub(super) fn new(config: &SdkConfig) -> Self {
        Self(Arc::new(Query::new(config, API)))
    }

    /// Returns the instances that have one of these addresses, and the asking instance, which has the address `own`.
    ///
    /// # Errors
    /// When EC2 did not answer in full, refused, or did not list the asking instance.
    pub async fn fetch_by_address(
        &self,
        own: (&str, IpAddr),
        addresses: &BTreeSet<IpAddr>,
    ) -> Result<Vec<Ec2Instance>, AwsError> {
        let (mut found, others): (Vec<Ec2Instance>, Vec<IpAddr>) =
            (Vec::new(), addresses.iter().copied().filter(|address| *address != own.1).collect());
        // Without other addresses the asking instance is still looked for.
        let chunks = others.chunks(ADDRESSES_PER_CALL).chain(others.is_empty().then_some(&[][..]));
        for chunk in chunks {
            let asked: BTreeSet<IpAddr> = chunk.iter().copied().chain([own.1]).collect();
            for of_family in [IpAddr::is_ipv4, IpAddr::is_ipv6] {
                let of_family: Vec<IpAddr> = asked.iter().copied().filter(of_family).collect();
                if !of_family.is_empty() {
                    found.extend(self.fetch(&of_family).await?);
                }
            }
        }
        let Some(vpc) = found.iter().find(|it| it.id == own.0).map(|it| it.vpc.clone()) else {
            return Err(AwsError::malformed(SERVICE, OPERATION, "the own instance"));
        };
        found.retain(|it| it.vpc == vpc);
        found.sort_by(|one, other| one.id.cmp(&other.id));
        found.dedup_by(|one, other| one.id == other.id);
        Ok(found)
    }

    /// `addresses` are of one family.
    async fn fetch(&self, addresses: &[IpAddr]) -> Result<Vec<Ec2Instance>, AwsError> {
        let (mut found, mut token) = (Vec::new(), None);
        loop {
            let (page, next) = self.fetch_page(addresses, token.as_deref()).await?;
            found.extend(page);
            match next {
                Some(next) => token = Some(next),
                None => return Ok(found),
            }
        }
    }

    async fn fetch_page(
        &self,
        addresses: &[IpAddr],
        token: Option<&str>,
    ) -> Result<(Vec<Ec2Instance>, Option<String>), AwsError> {
        let resource = format!("{} addresses", addresses.len());
        self.0.call(OPERATION, &resource, fields(addresses, token), read).await
    }
}

/// Returns the parameters of the request.
fn fields(addresses: &[IpAddr], token: Option<&str>) -> Vec<(String, String)> {
    let filter = match addresses.first() {
        Some(IpAddr::V6(_)) => "network-interface.ipv6-addresses.ipv6-address",
        _ => "network-interface.addresses.private-ip-address",
    };
    let mut fields = vec![
        ("MaxResults".to_owned(), PAGE.to_string()),
        ("Filter.1.Name".to_owned(), filter.to_owned()),
    ];
    for (n, address) in (1..).zip(addresses) {
        fields.push((format!("Filter.1.Value.{n}"), address.to_string()));
    }
    fields.extend(token.map(|token| ("NextToken".to_owned(), token.to_owned())));
    fields
}

/// Returns the instances of a page, and the token of the next page.
fn read(root: Node<'_, '_>) -> Result<(Vec<Ec2Instance>, Option<String>), String> {
    let reservations = child(root, "reservationSet").ok_or("the answer has no reservations")?;
    let instances = items(reservations).filter_map(|it| child(it, "instancesSet")).flat_map(items);
    let instances: Option<Vec<Ec2Instance>> = instances.map(instance).collect();
    let next = text(root, "nextToken").filter(|token| !token.is_empty());
    Ok((instances.ok_or("an instance in the answer is incomplete")?, next))
}

/// Returns one instance; `None` if its description lacks what every instance has.
fn instance(node: Node<'_, '_>) -> Option<Ec2Instance> {
    let interfaces = child(node, "networkInterfaceSet").into_iter().flat_map(items);
    let sets = [("privateIpAddressesSet", "privateIpAddress"), ("ipv6AddressesSet", "ipv6Address")];
    let addresses = interfaces.flat_map(|interface| {
        sets.iter().flat_map(move |(set, name)| {
            let all = child(interface, set).into_iter().flat_map(items);
            all.filter_map(move |it| text(it, name)?.parse().ok())
        })
    });
    let tags = child(node, "tagSet").into_iter().flat_map(items);
    let tags: Tags =
        tags.filter_map(|tag| Some((text(tag, "key")?, text(tag, "value")?))).collect();
    let is_spot = text(node, "instanceLifecycle").as_deref() == Some("spot");
    Some(Ec2Instance {
        id: text(node, "instanceId")?,
        // An instance that is terminated has neither a VPC nor an address.
        vpc: text(node, "vpcId").unwrap_or_default(),
        addresses: addresses.collect(),
        primary: text(node, "privateIpAddress").and_then(|address| address.parse().ok()),
        group: tags.get(GROUP_TAG).cloned(),
        tags,
        zone: child(node, "placement").and_then(|it| text(it, "availabilityZone"))?,
        instance_type: text(node, "instanceType")?,
        market: if is_spot { Market::Spot } else { Market::OnDemand },
    })
}

fn items<'a, 'input>(node: Node<'a, 'input>) -> impl Iterator<Item = Node<'a, 'input>> {
    node.children().filter(|child| child.is_element() && child.tag_name().name() == "item")
}

#[cfg(test)]
impl Ec2Instance {
    /// Returns an instance in no group and without tags.
    pub(crate) fn example(id: &str, address: IpAddr) -> Self {
        Self {
            id: id.to_owned(),
            addresses: [address].into(),
            primary: Some(address),
            tags: Tags::new(),
            group: None,
            zone: "eu-central-1a".to_owned(),
            instance_type: "t3.small".to_owned(),
            market: Market::OnDemand,
            vpc: "vpc-1".to_owned(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::clients::aws::AwsErrorKind;
    use crate::clients::aws::stub::Stub;

    const OWN: (&str, IpAddr) = ("i-0abc", IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)));

    /// Returns an instance as EC2 describes it.
    pub(crate) fn described(id: &str, vpc: &str, addresses: &[&str], more: &str) -> String {
        let address = |it: &&str| format!("<item><privateIpAddress>{it}</privateIpAddress></item>");
        let addresses: String = addresses.iter().map(address).collect();
        format!(
            "<item><reservationId>r-1</reservationId><instancesSet><item><instanceId>{id}</instanceId>
             <instanceType>t3.small</instanceType><vpcId>{vpc}</vpcId>
             <placement><availabilityZone>eu-central-1a</availabilityZone></placement>
             <networkInterfaceSet><item><privateIpAddressesSet>{addresses}</privateIpAddressesSet></item>
             </networkInterfaceSet>{more}</item></instancesSet></item>"
        )
    }

    /// Returns the answer with these instances.
    pub(crate) fn answer(instances: &[String], token: &str) -> String {
        format!(
            r#"<?xml version="1.0" encoding="UTF-8"?>
            <DescribeInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">
            <requestId>1</requestId><reservationSet>{}</reservationSet>{token}
            </DescribeInstancesResponse>"#,
            instances.concat()
        )
    }

    fn addresses(all: &[&str]) -> BTreeSet<IpAddr> {
        all.iter().map(|it| it.parse().unwrap()).collect()
    }

    #[tokio::test]
    async fn instances_of_this_vpc_are_found_with_all_their_addresses() {
        let stub = Stub::start().await;
        let more = "<instanceLifecycle>spot</instanceLifecycle><tagSet><item><key>Name</key>
            <value>mine</value></item><item><key>aws:autoscaling:groupName</key>
            <value>workers</value></item></tagSet>";
        let own = described(OWN.0, "vpc-1", &["10.0.0.1"], "");
        let worker = described("i-1", "vpc-1", &["10.0.0.2", "10.0.9.2"], more);
        let elsewhere = described("i-2", "vpc-2", &["10.0.0.2"], "");
        stub.answer(200, &answer(&[worker], "<nextToken>more &amp; more</nextToken>"));
        stub.answer(200, &answer(&[own, elsewhere], ""));
        let ec2 = stub.aws().await.ec2;
        let found = ec2.fetch_by_address(OWN, &addresses(&["10.0.0.2"])).await.unwrap();
        let ids: Vec<&str> = found.iter().map(|it| it.id.as_str()).collect();
        assert_eq!(ids, ["i-0abc", "i-1"], "an address can be in another VPC, too");
        assert_eq!(found[1].addresses, addresses(&["10.0.0.2", "10.0.9.2"]));
        assert_eq!((found[1].market, found[1].group.as_deref()), (Market::Spot, Some("workers")));
        assert_eq!((found[0].market, &found[0].group), (Market::OnDemand, &None));
        let requests = stub.requests();
        for part in ["Filter.1.Value.1=10.0.0.1", "Filter.1.Value.2=10.0.0.2", "MaxResults=50"] {
            assert!(requests[0].contains(part), "{requests:?}");
        }
        assert!(requests[1].ends_with("NextToken=more+%26+more"), "{requests:?}");
    }

    #[tokio::test]
    async fn an_answer_that_is_cut_or_does_not_list_the_caller_proves_nothing() {
        let stub = Stub::start().await;
        let ec2 = stub.aws().await.ec2;
        let own = described(OWN.0, "vpc-1", &["10.0.0.1"], "");
        let whole = answer(std::slice::from_ref(&own), "");
        let cut = &whole[..whole.len() - 40];
        let incomplete = answer(&[own.replace("instanceType", "x")], "");
        let other = answer(&[described("i-1", "vpc-1", &["10.0.0.2"], "")], "");
        for odd in [cut, &incomplete, &other, &answer(&[], ""), "", "<html/>"] {
            stub.answer(200, odd);
            let error = ec2.fetch_by_address(OWN, &BTreeSet::new()).await.unwrap_err();
            assert_eq!(error.kind, AwsErrorKind::Unreachable, "{odd} {error}");
        }
        stub.answer(200, &whole);
        assert_eq!(ec2.fetch_by_address(OWN, &BTreeSet::new()).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_refusal_is_read_in_ec2s_own_format() {
        let stub = Stub::start().await;
        let ec2 = stub.aws().await.ec2;
        stub.answer(
            403,
            "<Response><Errors><Error><Code>UnauthorizedOperation</Code><Message>not authorized</Message>
             </Error></Errors><RequestID>1</RequestID></Response>",
        );
        let error = ec2.fetch_by_address(OWN, &BTreeSet::new()).await.unwrap_err();
        assert_eq!(error.kind, AwsErrorKind::AccessDenied);
        assert!(error.to_string().contains("grant ec2:DescribeInstances"), "{error}");
    }
}
