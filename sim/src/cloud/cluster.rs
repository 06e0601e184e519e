//! Creates a cluster's AWS resources as a template does: two groups with their hooks, the table, the stack, and a load
//! balancer where one is wanted.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;

use super::{
    ActionResult, Cloud, GroupSpec, HealthCheck, HealthCheckType, HookSpec, ListenerSpec,
    LoadBalancerSpec, Market, Process, StackResourceSpec, StackSpec, TargetGroupAttributes,
    TargetGroupSpec, Transition,
};

/// The port on which skep answers health checks.
const HEALTH_PORT: u16 = 44554;
/// Difference between a group's maximum and its first size.
const HEADROOM: u32 = 20;

/// A cluster to create: the groups `<name>-managers` and `<name>-workers`, the hooks [`LAUNCH_HOOK`] and
/// [`TERMINATION_HOOK`] on each, a table, and a CloudFormation stack `<name>` whose resources
/// `Managers` and `Workers` wait for a signal of every first instance.
#[derive(Clone, Debug)]
pub struct ClusterSpec {
    pub name: String,
    pub managers: u32,
    pub workers: u32,
    pub table: String,
    /// Heartbeat timeout of both hooks.
    pub hook_timeout: Duration,
    /// Time for which CloudFormation waits for the signals.
    pub stack_timeout: Duration,
    /// Markets of the two groups.
    pub managers_market: Market,
    pub workers_market: Market,
    /// Tags of every instance beyond `skep:cluster` and `skep:role`.
    pub tags: BTreeMap<String, String>,
    /// The image to boot; instances of the fast tier have none.
    pub image_id: Option<String>,
    /// UserData with the placeholders `${cluster}` and `${role}`.
    pub user_data: Option<String>,
    /// Whether the groups have lifecycle hooks, and the stack waits for signals.
    pub hooks: bool,
    /// Whether the groups retain instances whose termination hook was abandoned.
    pub retain_abandoned: bool,
    /// The load balancer, named like the cluster.
    pub load_balancer: Option<ClusterBalancer>,
    /// Whether Auto Scaling balances the zones of the groups. AWS does so unless that process is suspended; it is here,
    /// because a test that terminates chosen instances would see others come and go.
    pub balance_zones: bool,
}

/// The load balancer in front of a cluster's workers. Each listener has a target group `<cluster>-<listener's port>`.
#[derive(Clone, Debug)]
pub struct ClusterBalancer {
    /// The port of each listener, and the targets' port that it forwards to.
    pub ports: Vec<(u16, u16)>,
    pub health_check: HealthCheck,
    pub attributes: TargetGroupAttributes,
    /// Whether the managers are targets, too.
    pub managers: bool,
    /// The health checks that make the groups replace an instance, and the time in service for which they do not.
    pub health_check_type: HealthCheckType,
    pub health_check_grace: Duration,
}

impl ClusterBalancer {
    /// Returns a load balancer as the CloudFormation template has it: skep's health port decides.
    pub fn new(ports: &[(u16, u16)]) -> ClusterBalancer {
        ClusterBalancer {
            ports: ports.to_vec(),
            health_check: HealthCheck::http("/")
                .on_port(HEALTH_PORT)
                .every(Duration::from_secs(5))
                .thresholds(2, 2),
            attributes: TargetGroupAttributes {
                deregistration_delay: Duration::from_secs(30),
                unhealthy_connection_termination: false,
                unhealthy_draining_interval: Duration::from_secs(30),
                ..TargetGroupAttributes::default()
            },
            managers: false,
            health_check_type: HealthCheckType::Ec2,
            health_check_grace: Duration::from_secs(120),
        }
    }

    fn spec(&self, cluster: &str) -> LoadBalancerSpec {
        let listener = |(port, target): &(u16, u16)| ListenerSpec {
            port: *port,
            target_group: TargetGroupSpec {
                name: format!("{cluster}-{port}"),
                port: *target,
                health_check: self.health_check.clone(),
                attributes: self.attributes,
            },
        };
        LoadBalancerSpec {
            name: cluster.to_owned(),
            listeners: self.ports.iter().map(listener).collect(),
        }
    }
}

/// The roles, in the order in which CloudFormation creates their groups.
pub(super) const ROLES: [&str; 2] = ["manager", "worker"];
/// Name of the hook on launches.
pub const LAUNCH_HOOK: &str = "skep-launch";
/// Name of the hook on terminations.
pub const TERMINATION_HOOK: &str = "skep-terminate";

impl ClusterSpec {
    pub fn new(name: &str, managers: u32, workers: u32) -> ClusterSpec {
        ClusterSpec {
            name: name.to_owned(),
            managers,
            workers,
            table: "skep".to_owned(),
            hook_timeout: Duration::from_secs(300),
            stack_timeout: Duration::from_secs(900),
            managers_market: Market::OnDemand,
            workers_market: Market::OnDemand,
            tags: BTreeMap::new(),
            image_id: None,
            user_data: None,
            hooks: true,
            retain_abandoned: false,
            load_balancer: None,
            balance_zones: false,
        }
    }

    /// Name of the managers' group.
    pub fn managers_group(&self) -> String {
        format!("{}-managers", self.name)
    }

    /// Name of the workers' group.
    pub fn workers_group(&self) -> String {
        format!("{}-workers", self.name)
    }

    fn group(&self, role: &str, desired: u32) -> GroupSpec {
        let mut tags = self.tags.clone();
        tags.insert("skep:cluster".to_owned(), self.name.clone());
        tags.insert("skep:role".to_owned(), role.to_owned());
        let (name, logical_id, market) = match role {
            "manager" => (self.managers_group(), "Managers", self.managers_market),
            _ => (self.workers_group(), "Workers", self.workers_market),
        };
        let defaults = GroupSpec::default();
        GroupSpec {
            name,
            max: desired + HEADROOM,
            desired,
            tags,
            stack: Some((self.name.clone(), logical_id.to_owned())),
            market,
            role_name: Some(format!("skep-{role}")),
            retain_abandoned: self.retain_abandoned,
            image_id: self.image_id.clone().unwrap_or(defaults.image_id),
            user_data: self
                .user_data
                .as_ref()
                .map(|text| text.replace("${cluster}", &self.name).replace("${role}", role)),
            ..defaults
        }
    }

    fn hooks(&self, group: &str) -> Vec<HookSpec> {
        [
            (LAUNCH_HOOK, Transition::Launching, ActionResult::Abandon),
            (TERMINATION_HOOK, Transition::Terminating, ActionResult::Continue),
        ]
        .map(|(name, transition, default)| {
            HookSpec::new(group, name, transition).timeout(self.hook_timeout, default)
        })
        .to_vec()
    }

    /// Returns the group of a role, its hooks, and the resource that waits for its first instances.
    pub(super) fn parts(&self, role: &str) -> (GroupSpec, Vec<HookSpec>, StackResourceSpec) {
        let (logical_id, desired) = match role {
            "manager" => ("Managers", self.managers),
            _ => ("Workers", self.workers),
        };
        let group = self.group(role, desired);
        let hooks = if self.hooks { self.hooks(&group.name) } else { vec![] };
        let resource = StackResourceSpec {
            logical_id: logical_id.to_owned(),
            group: Some(group.name.clone()),
            signals: if self.hooks { desired } else { 0 },
            timeout: self.stack_timeout,
        };
        (group, hooks, resource)
    }
}

impl ClusterSpec {
    /// Creates everything that the cluster needs. Its instances launch at once; this function does not wait for them.
    pub fn create(&self, cloud: &Cloud) -> anyhow::Result<()> {
        cloud.create_table(&self.table).context("cannot create the table")?;
        let parts = ROLES.map(|role| self.parts(role));
        let resources = parts.iter().map(|(.., resource)| resource.clone()).collect();
        cloud.create_stack(StackSpec { name: self.name.clone(), resources })?;
        let balancer = self.load_balancer.as_ref();
        let balancer = balancer.map(|it| {
            let arns = cloud.create_load_balancer(it.spec(&self.name))?;
            anyhow::Ok((it, arns))
        });
        let balancer = balancer.transpose().context("cannot create the load balancer")?;
        for (role, (mut group, hooks, _)) in ROLES.into_iter().zip(parts) {
            if let Some((balancer, arns)) = &balancer
                && (role == "worker" || balancer.managers)
            {
                group.target_group_arns.clone_from(arns);
                group.health_check_type = balancer.health_check_type;
                group.health_check_grace = balancer.health_check_grace;
            }
            let name = group.name.clone();
            cloud.create_group_with_hooks(group, hooks)?;
            if !self.balance_zones {
                cloud.suspend(&name, &[Process::AzRebalance])?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::cloud::CloudOptions;

    #[tokio::test]
    async fn a_load_balancer_is_in_front_of_the_workers_as_in_the_template() {
        let cloud = Cloud::new(CloudOptions {
            region: "eu-central-1".to_owned(),
            zones: vec!["eu-central-1a".to_owned()],
            subnet: (Ipv4Addr::new(10, 78, 0, 0), 24),
            seed: 1,
        })
        .unwrap();
        let balancer = ClusterBalancer::new(&[(80, 8080), (81, 81)]);
        ClusterSpec { load_balancer: Some(balancer), ..ClusterSpec::new("bees", 1, 1) }
            .create(&cloud)
            .unwrap();
        cloud.change(|state, _| {
            let groups = |name: &str| state.scaling.group(name).unwrap().sources.len();
            assert_eq!((groups("bees-managers"), groups("bees-workers")), (0, 2));
            let elb = state.scaling.elb();
            let spec = &elb.group(elb.arn_of("bees-80").unwrap()).unwrap().spec;
            assert_eq!((spec.port, spec.health_check.port), (8080, Some(44554)));
            assert_eq!(spec.attributes.deregistration_delay, Duration::from_secs(30));
        });
        assert!(cloud.targets().is_empty(), "the launch hooks still wait");
    }
}
