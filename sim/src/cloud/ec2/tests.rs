use quick_xml::de::from_str;
use serde::Deserialize;

use super::describe::VPC;
use super::*;
use crate::cloud::specs::{CloudOptions, GroupSpec, Market};

/// The parts of an answer that a strict reader takes, by the names in EC2's API.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    reservation_set: Items<Reservation>,
    next_token: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Items<T> {
    #[serde(default = "Vec::new")]
    item: Vec<T>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reservation {
    instances_set: Items<Described>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Described {
    instance_id: String,
    instance_state: State,
    instance_type: String,
    placement: Placement,
    instance_lifecycle: Option<String>,
    vpc_id: Option<String>,
    private_ip_address: Option<Ipv4Addr>,
    network_interface_set: Items<Interface>,
    tag_set: Items<Tag>,
}

#[derive(Debug, Deserialize)]
struct State {
    name: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Placement {
    availability_zone: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Interface {
    private_ip_addresses_set: Items<Address>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Address {
    private_ip_address: Ipv4Addr,
}

#[derive(Debug, Deserialize)]
struct Tag {
    key: String,
    value: String,
}

/// Starts a cloud with a group of six, and a group of one on the spot market.
fn cloud() -> Cloud {
    let cloud = Cloud::new(CloudOptions {
        region: "eu-central-1".to_owned(),
        zones: vec!["eu-central-1a".to_owned()],
        subnet: (Ipv4Addr::new(10, 78, 0, 0), 24),
        seed: 7,
    })
    .unwrap();
    for (name, market, desired) in [("nodes", Market::OnDemand, 6), ("spot", Market::Spot, 1)] {
        let (name, tags) =
            (name.to_owned(), BTreeMap::from([("role".to_owned(), name.to_owned())]));
        let spec = GroupSpec { name, market, tags, desired, max: desired, ..GroupSpec::default() };
        cloud.create_group(spec).unwrap();
    }
    cloud
}

fn describe(cloud: &Cloud, query: &str) -> Result<(Vec<Described>, Option<String>), String> {
    let form = Params::parse(query.as_bytes());
    let answer = handle(cloud, "DescribeInstances", &form).map_err(|error| error.code)?;
    let answer: Answer = from_str(&format!("<a>{}</a>", answer.finish())).unwrap();
    let instances = answer.reservation_set.item.into_iter().flat_map(|it| it.instances_set.item);
    Ok((instances.collect(), answer.next_token))
}

fn ids(cloud: &Cloud, query: &str) -> Vec<String> {
    let (instances, _) = describe(cloud, query).unwrap();
    instances.into_iter().map(|it| it.instance_id).collect()
}

#[tokio::test]
async fn an_instance_is_shown_with_its_address_and_its_tags() {
    let cloud = cloud();
    let (spot, _) = describe(&cloud, "Filter.1.Name=tag:role&Filter.1.Value.1=spot").unwrap();
    let [spot] = &spot[..] else { panic!("{spot:?}") };
    let view = cloud.instance(&spot.instance_id).unwrap();
    assert_eq!(spot.private_ip_address, Some(view.address));
    let addresses = &spot.network_interface_set.item[0].private_ip_addresses_set.item;
    assert_eq!(addresses[0].private_ip_address, view.address);
    assert_eq!(spot.instance_lifecycle.as_deref(), Some("spot"));
    assert_eq!((spot.instance_state.name.as_str(), spot.vpc_id.as_deref()), ("running", Some(VPC)));
    assert_eq!(spot.placement.availability_zone, "eu-central-1a");
    assert_eq!(spot.instance_type, "t3.medium");
    let tags = spot.tag_set.item.iter().map(|tag| (tag.key.as_str(), tag.value.as_str()));
    assert!(tags.clone().any(|tag| tag == ("aws:autoscaling:groupName", "spot")), "{tags:?}");
    let (nodes, _) = describe(&cloud, "Filter.1.Name=tag:role&Filter.1.Value.1=nodes").unwrap();
    assert_eq!(nodes.len(), 6);
    assert!(nodes.iter().all(|node| node.instance_lifecycle.is_none()));
}

#[tokio::test]
async fn an_instance_is_found_by_its_address_for_as_long_as_it_has_one() {
    let cloud = cloud();
    let view = cloud.instances().remove(0);
    let by = |name: &str, value: &str| {
        ids(
            &cloud,
            &format!("Filter.1.Name={name}&Filter.1.Value.1=0.0.0.0&Filter.1.Value.2={value}"),
        )
    };
    let address = view.address.to_string();
    let names = ["private-ip-address", "network-interface.addresses.private-ip-address"];
    for name in names {
        assert_eq!(by(name, &address), [&*view.id], "{name}");
    }
    assert!(by("network-interface.ipv6-addresses.ipv6-address", "*").is_empty());
    assert_eq!(by("vpc-id", VPC).len(), 7);
    assert!(by("tag:none", "*").is_empty(), "no instance has this tag");
    let both = format!(
        "Filter.1.Name=private-ip-address&Filter.1.Value.1={address}&Filter.2.Name=tag:role&\
         Filter.2.Value.1=spot"
    );
    assert!(ids(&cloud, &both).is_empty(), "all filters must fit");

    cloud.terminate(&view.id, true).unwrap();
    assert!(cloud.instance(&view.id).is_none());
    for name in names {
        assert!(by(name, &address).is_empty(), "{name}");
    }
    assert_eq!(by("vpc-id", VPC).len(), 6);
    let (gone, _) = describe(&cloud, &format!("InstanceId.1={}", view.id)).unwrap();
    assert_eq!(gone[0].instance_state.name, "terminated");
    assert_eq!((gone[0].private_ip_address, gone[0].vpc_id.as_ref()), (None, None));
    assert!(gone[0].network_interface_set.item.is_empty());
    assert_eq!(by("instance-state-name", "terminated"), [view.id]);
}

#[tokio::test]
async fn an_instance_is_no_longer_shown_an_hour_after_its_end() {
    let cloud = cloud();
    let id = cloud.instances()[0].id.clone();
    cloud.terminate(&id, true).unwrap();
    let shown = |later: u64| {
        cloud.change(|state, now| {
            let now = now + std::time::Duration::from_secs(later);
            state.scaling.terminated(now).any(|instance| instance.id == id)
        })
    };
    assert!(shown(3590) && !shown(3600));
}

#[tokio::test]
async fn pages_show_every_instance_once() {
    let cloud = cloud();
    let (first, token) = describe(&cloud, "MaxResults=5").unwrap();
    let token = token.unwrap();
    // An instance of the first page ends: the second page still begins after it.
    cloud.terminate(&first[0].instance_id, true).unwrap();
    let running = "Filter.1.Name=instance-state-name&Filter.1.Value.1=running";
    let (second, end) =
        describe(&cloud, &format!("MaxResults=5&NextToken={token}&{running}")).unwrap();
    assert_eq!((first.len(), second.len(), end), (5, 2, None));
    let mut all: Vec<_> = first.iter().chain(&second).map(|it| &it.instance_id).collect();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 7);
}

#[tokio::test]
async fn what_ec2_refuses_is_refused() {
    let cloud = cloud();
    let id = cloud.instances()[0].id.clone();
    let many: Vec<_> = (1..=201).map(|n| format!("Filter.1.Value.{n}=10.0.0.{n}")).collect();
    let many = format!("Filter.1.Name=private-ip-address&{}", many.join("&"));
    for (query, code) in [
        ("MaxResults=4", "InvalidParameterValue"),
        ("MaxResults=1001", "InvalidParameterValue"),
        (&format!("MaxResults=5&InstanceId.1={id}"), "InvalidParameterCombination"),
        ("NextToken=3", "InvalidNextToken"),
        ("Filter.1.Name=private-ip&Filter.1.Value.1=*", "InvalidParameterValue"),
        (&many, "FilterLimitExceeded"),
        (&format!("InstanceId.1={id}&InstanceId.2=i-0"), "InvalidInstanceID.NotFound"),
    ] {
        assert_eq!(describe(&cloud, query).unwrap_err(), code, "{query}");
    }
}
