//! Answers Auto Scaling's Describe operations, page by page.

use std::collections::BTreeMap;

use super::action::global_timeout;
use super::activities::Activity;
use super::group::Group;
use super::instance::Instance;
use super::page::page;
use super::scaling::Scaling;
use super::{processes, retention, traffic_api};
use crate::cloud::clock::{self, Clock};
use crate::cloud::errors::ApiError;
use crate::cloud::wire::Params;
use crate::cloud::xml::Xml;

const LARGEST_PAGE: usize = 100;
/// The largest page of `DescribeAutoScalingInstances`, and its largest number of ids.
const LARGEST_INSTANCE_PAGE: usize = 50;

pub(super) fn groups(
    scaling: &Scaling,
    clock: &Clock,
    params: &Params,
) -> Result<String, ApiError> {
    let names = params.list("AutoScalingGroupNames");
    let filters = params.structures("Filters");
    let filters: Vec<TagFilter> = filters.iter().map(TagFilter::new).collect::<Result<_, _>>()?;
    let wanted: Vec<&Group> = scaling
        .groups()
        .filter(|group| names.is_empty() || names.contains(&group.spec.name))
        .filter(|group| filters.iter().all(|filter| filter.fits(&group.tags())))
        .collect();
    let (wanted, next) = page(wanted, params, LARGEST_PAGE)?;
    let include = params.parsed("IncludeInstances")?.unwrap_or(true);
    let mut xml = Xml::default();
    xml.list("AutoScalingGroups", wanted, |xml, group| {
        one_group(xml, scaling, clock, group, include);
    });
    xml.maybe("NextToken", next.as_deref());
    Ok(xml.finish())
}

/// A filter on the tags of groups. All filters must fit, each with any of its values; values have no wildcards:
/// <https://docs.aws.amazon.com/autoscaling/ec2/userguide/use-tag-filters-aws-cli.html>
struct TagFilter<'a> {
    name: &'a str,
    values: Vec<String>,
}

impl<'a> TagFilter<'a> {
    fn new(filter: &'a Params) -> Result<Self, ApiError> {
        let name = filter.required("Name")?;
        if !matches!(name, "tag-key" | "tag-value") && !name.starts_with("tag:") {
            let message = format!(
                "Filter type {name} is not correct. Allowed Filter types are: \
                 tag-key tag-value tag:<key>"
            );
            return Err(ApiError::validation(message));
        }
        Ok(Self { name, values: filter.list("Values") })
    }

    fn fits(&self, tags: &BTreeMap<String, String>) -> bool {
        let is_wanted = |text: &String| self.values.contains(text);
        match self.name {
            "tag-key" => tags.keys().any(is_wanted),
            "tag-value" => tags.values().any(is_wanted),
            of_key => {
                let key = of_key.strip_prefix("tag:").unwrap_or_default();
                tags.get(key).is_some_and(is_wanted)
            }
        }
    }
}

fn one_group(xml: &mut Xml, scaling: &Scaling, clock: &Clock, group: &Group, include: bool) {
    let spec = &group.spec;
    xml.text("AutoScalingGroupName", &spec.name);
    xml.text("AutoScalingGroupARN", &group.arn(&scaling.region));
    xml.display("MinSize", spec.min);
    xml.display("MaxSize", spec.max);
    xml.display("DesiredCapacity", spec.desired);
    xml.text("DefaultCooldown", "300");
    let zones = if group.zones.is_empty() { &scaling.zones } else { &group.zones };
    xml.open("AvailabilityZones");
    for zone in zones {
        xml.text("member", zone);
    }
    xml.close("AvailabilityZones");
    traffic_api::of_group(xml, group);
    processes::of_group(xml, group);
    let mut members: Vec<&Instance> =
        scaling.instances().filter(|i| include && i.group == spec.name).collect();
    // `DescribeWarmPool` shows the instances of the warm pool.
    members.retain(|i| !i.lifecycle.state().is_warmed());
    members.sort_by_key(|i| i.sequence);
    xml.list("Instances", members, |xml, instance| {
        one_instance(xml, instance, ["Healthy", "Unhealthy"]);
    });
    xml.text("CreatedTime", &clock::iso_millis(clock.date(group.created)));
    xml.list("Tags", &group.tags(), |xml, (key, value)| {
        xml.text("ResourceId", &spec.name);
        xml.text("ResourceType", "auto-scaling-group");
        xml.text("Key", key);
        xml.text("Value", value);
        xml.text("PropagateAtLaunch", "true");
    });
    xml.open("TerminationPolicies");
    xml.text("member", "OldestInstance");
    xml.close("TerminationPolicies");
    xml.text("NewInstancesProtectedFromScaleIn", "false");
    retention::of_group(xml, group);
}

/// Writes the elements that both descriptions of an instance share.
pub(super) fn one_instance(xml: &mut Xml, instance: &Instance, [healthy, unhealthy]: [&str; 2]) {
    xml.text("InstanceId", &instance.id);
    xml.text("InstanceType", &instance.instance_type);
    xml.text("AvailabilityZone", &instance.zone);
    xml.text("LifecycleState", instance.lifecycle.state().as_str());
    xml.display("ProtectedFromScaleIn", instance.protected);
    xml.text("HealthStatus", if instance.healthy { healthy } else { unhealthy });
}

pub(super) fn instances(scaling: &Scaling, params: &Params) -> Result<String, ApiError> {
    let ids = params.list("InstanceIds");
    if ids.len() > LARGEST_INSTANCE_PAGE {
        return Err(ApiError::validation(format!(
            "The number of instance ids that may be passed in is limited to \
             {LARGEST_INSTANCE_PAGE}"
        )));
    }
    let wanted: Vec<&Instance> =
        scaling.instances().filter(|i| ids.is_empty() || ids.contains(&i.id)).collect();
    let (wanted, next) = page(wanted, params, LARGEST_INSTANCE_PAGE)?;
    let mut xml = Xml::default();
    xml.list("AutoScalingInstances", wanted, |xml, instance| {
        xml.text("AutoScalingGroupName", &instance.group);
        // Only this operation writes the health in capitals.
        one_instance(xml, instance, ["HEALTHY", "UNHEALTHY"]);
    });
    xml.maybe("NextToken", next.as_deref());
    Ok(xml.finish())
}

pub(super) fn hooks(scaling: &Scaling, params: &Params) -> Result<String, ApiError> {
    let group = scaling.group(params.required("AutoScalingGroupName")?)?;
    let names = params.list("LifecycleHookNames");
    let wanted = group.hooks.iter().filter(|hook| names.is_empty() || names.contains(&hook.name));
    let mut xml = Xml::default();
    xml.list("LifecycleHooks", wanted, |xml, hook| {
        xml.text("LifecycleHookName", &hook.name);
        xml.text("AutoScalingGroupName", &hook.group);
        xml.text("LifecycleTransition", hook.transition.as_str());
        xml.maybe("NotificationMetadata", hook.notification_metadata.as_deref());
        // Whole seconds, as in AWS's API model; only this cloud has shorter timeouts.
        let timeout = hook.heartbeat_timeout;
        xml.display("HeartbeatTimeout", timeout.as_secs().max(1));
        xml.display("GlobalTimeout", global_timeout(timeout).as_secs().max(1));
        xml.text("DefaultResult", hook.default_result.as_str());
    });
    Ok(xml.finish())
}

pub(super) fn activities(
    scaling: &Scaling,
    clock: &Clock,
    params: &Params,
) -> Result<String, ApiError> {
    let group = params.get("AutoScalingGroupName");
    let ids = params.list("ActivityIds");
    let wanted: Vec<&Activity> = scaling
        .activities
        .iter()
        .rev()
        .filter(|a| group.is_none_or(|group| a.group == group))
        .filter(|a| ids.is_empty() || ids.contains(&a.id))
        .collect();
    let (wanted, next) = page(wanted, params, LARGEST_PAGE)?;
    let mut xml = Xml::default();
    xml.list("Activities", wanted, |xml, a| activity(xml, clock, a));
    xml.maybe("NextToken", next.as_deref());
    Ok(xml.finish())
}

pub(super) fn activity(xml: &mut Xml, clock: &Clock, activity: &Activity) {
    let date = |moment| clock::iso_millis(clock.date(moment));
    let started = date(activity.started);
    xml.text("ActivityId", &activity.id);
    xml.text("AutoScalingGroupName", &activity.group);
    xml.text("Description", &activity.description);
    xml.text("Cause", &format!("At {started} {}", activity.cause));
    xml.text("StartTime", &started);
    xml.maybe("EndTime", activity.ended.map(date).as_deref());
    xml.text("StatusCode", activity.status.as_str());
    xml.display("Progress", activity.status.progress());
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cloud::specs::{CloudOptions, GroupSpec};

    fn scaling() -> Scaling {
        let mut scaling = Scaling::new(&CloudOptions {
            region: "eu-central-1".to_owned(),
            zones: vec!["eu-central-1a".to_owned()],
            subnet: ([10, 0, 0, 0].into(), 24),
            seed: 1,
        })
        .unwrap();
        for (name, role, cluster) in
            [("a-m", "manager", "a"), ("a-w", "worker", "a"), ("b-w", "worker", "b")]
        {
            let tags = [("role", role), ("cluster", cluster)];
            let tags = tags.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
            let stack = Some((cluster.to_owned(), "Group".to_owned()));
            let spec = GroupSpec { name: name.to_owned(), tags, stack, ..GroupSpec::default() };
            scaling.create_group(spec, vec![], vec![], None, Duration::ZERO).unwrap();
        }
        scaling
    }

    /// Returns the names of the groups that a call selects.
    fn selected(query: &str) -> Result<Vec<&'static str>, ApiError> {
        let answer = groups(&scaling(), &Clock::new(), &Params::parse(query.as_bytes()))?;
        let is_named = |name: &str| {
            answer.contains(&format!("<AutoScalingGroupName>{name}</AutoScalingGroupName>"))
        };
        Ok(["a-m", "a-w", "b-w"].into_iter().filter(|name| is_named(name)).collect())
    }

    fn filter(number: u32, name: &str, values: &[&str]) -> String {
        let values = values.iter().enumerate().map(|(index, value)| {
            format!("&Filters.member.{number}.Values.member.{}={value}", index + 1)
        });
        format!("&Filters.member.{number}.Name={name}{}", values.collect::<String>())
    }

    #[test]
    fn groups_are_selected_by_tags_and_names_together() {
        assert_eq!(selected("").unwrap(), ["a-m", "a-w", "b-w"]);
        let of_a = filter(1, "tag:cluster", &["a"]);
        assert_eq!(selected(&of_a).unwrap(), ["a-m", "a-w"]);
        let workers = filter(2, "tag:role", &["worker"]);
        assert_eq!(selected(&format!("{of_a}{workers}")).unwrap(), ["a-w"]);
        let named = "AutoScalingGroupNames.member.1=a-m&AutoScalingGroupNames.member.2=b-w";
        assert_eq!(selected(&format!("{named}{of_a}")).unwrap(), ["a-m"]);
        assert_eq!(selected(&filter(1, "tag:cluster", &["c", "b"])).unwrap(), ["b-w"]);
        assert_eq!(selected(&filter(1, "tag-key", &["role"])).unwrap().len(), 3);
        assert_eq!(selected(&filter(1, "tag-value", &["manager"])).unwrap(), ["a-m"]);
        let of_stack = filter(1, "tag:aws:cloudformation:stack-name", &["b"]);
        assert_eq!(selected(&of_stack).unwrap(), ["b-w"]);
        for none in [("tag:cluster", "*"), ("tag:Cluster", "a"), ("tag-key", "worker")] {
            assert!(selected(&filter(1, none.0, &[none.1])).unwrap().is_empty(), "{none:?}");
        }
    }

    #[test]
    fn an_unknown_filter_is_refused() {
        for name in ["tags:cluster", "auto-scaling-group", "Tag-key", ""] {
            let error = selected(&filter(1, name, &["a"])).unwrap_err();
            assert_eq!(error.code, "ValidationError", "{name}");
        }
    }
}
