//! Functions with which tests change and read the load balancers without the wire protocol.

use super::flows::FlowCounts;
use super::groups::Elb;
use super::requests;
use super::specs::{LoadBalancerSpec, TargetGroupAttributes, TargetGroupSpec};
use super::target_group::TargetView;
use crate::cloud::Cloud;
use crate::cloud::errors::ApiError;

/// Functions that change and read load balancers. They take the name or the ARN of a target group.
impl Cloud {
    /// Creates a target group, and returns its ARN.
    pub fn create_target_group(&self, spec: TargetGroupSpec) -> Result<String, ApiError> {
        self.change(|state, _| state.scaling.balance(|elb| elb.create_group(spec)))
    }

    /// Creates a load balancer with its listeners and their target groups; returns the ARNs of the target groups, in
    /// the order of the listeners.
    pub fn create_load_balancer(&self, spec: LoadBalancerSpec) -> Result<Vec<String>, ApiError> {
        self.change(|state, now| {
            state.scaling.balance(|elb| {
                let balancer = elb.create_balancer(&spec.name, "internal", now)?;
                let mut arns = Vec::new();
                for listener in spec.listeners {
                    let arn = elb.create_group(listener.target_group)?;
                    elb.create_listener(&balancer, listener.port, &arn, now)?;
                    arns.push(arn);
                }
                Ok(arns)
            })
        })
    }

    /// Deletes a load balancer with its listeners, which ends their flows. The target groups stay.
    pub fn delete_load_balancer(&self, name: &str) -> Result<(), ApiError> {
        self.change(|state, now| {
            state.scaling.balance(|elb| {
                let balancer = elb.balancers.values().find(|it| it.name == name);
                let arn = balancer.ok_or_else(super::balancers::unknown_balancer)?.arn.clone();
                elb.delete_balancer(&arn, now);
                Ok(())
            })
        })
    }

    /// Changes the attributes of a target group. They apply to draining targets, too.
    pub fn set_target_group_attributes(
        &self,
        target_group: &str,
        attributes: TargetGroupAttributes,
    ) -> Result<(), ApiError> {
        self.change(|state, now| {
            state.scaling.balance(|elb| {
                let arn = arn_of(elb, target_group);
                elb.set_attributes(&arn, attributes, now)
            })
        })
    }

    /// Registers an instance, or an address, at the port of the target group.
    pub fn register_target(&self, target_group: &str, id: &str) -> Result<(), ApiError> {
        self.change(|state, now| {
            let address = requests::address(state, id)?;
            state.scaling.balance(|elb| {
                let arn = arn_of(elb, target_group);
                elb.register(&arn, id, None, address, now)
            })
        })
    }

    /// Starts the deregistration of a target at the port of the target group.
    pub fn deregister_target(&self, target_group: &str, id: &str) -> Result<(), ApiError> {
        self.change(|state, now| {
            state.scaling.balance(|elb| {
                let arn = arn_of(elb, target_group);
                elb.deregister(&arn, id, None, now)
            })
        })
    }

    /// Attaches target groups, by their ARNs, to an Auto Scaling group.
    pub fn attach_target_groups(&self, group: &str, arns: &[String]) -> Result<(), ApiError> {
        self.change(|state, now| state.scaling.attach_target_groups(group, arns, now))
    }

    /// Returns the registered targets of all target groups.
    pub fn targets(&self) -> Vec<TargetView> {
        self.change(|state, _| {
            let groups = state.scaling.elb().groups.values();
            let views = groups.flat_map(|group| {
                group.members.iter().map(|(key, member)| TargetView {
                    target_group: group.spec.name.clone(),
                    id: key.id.clone(),
                    port: key.port,
                    health: member.target.health(),
                })
            });
            views.collect()
        })
    }

    /// Returns the counts of all flows.
    pub fn flows(&self) -> FlowCounts {
        self.inner.flows.counts(None)
    }

    /// Returns the counts of the flows to one target.
    pub fn flows_of(&self, id: &str) -> FlowCounts {
        self.inner.flows.counts(Some(id))
    }
}

/// Returns the ARN of a target group that is named by either; unknown ones stay as they are.
fn arn_of(elb: &Elb, target_group: &str) -> String {
    elb.arn_of(target_group).unwrap_or(target_group).to_owned()
}
