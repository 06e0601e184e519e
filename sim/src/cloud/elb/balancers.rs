//! Load balancers and their listeners. A listener of the protocol TCP forwards to one target group.

use std::time::Duration;

use super::balancer::{Listener, LoadBalancer};
use super::groups::{Elb, FlowsOf, Outcome};
use super::target::Cut;
use crate::cloud::errors::ApiError;

impl Elb {
    pub fn balancer(&self, arn: &str) -> Result<&LoadBalancer, ApiError> {
        self.balancers.get(arn).ok_or_else(unknown_balancer)
    }

    /// Creates a load balancer, and returns its ARN. Repeating it with the same settings changes nothing.
    pub fn create_balancer(
        &mut self,
        name: &str,
        scheme: &str,
        now: Duration,
    ) -> Result<String, ApiError> {
        if let Some(old) = self.balancers.values().find(|balancer| balancer.name == name) {
            if old.scheme == scheme {
                return Ok(old.arn.clone());
            }
            let message = "A load balancer with the same name exists, but with different settings";
            return Err(ApiError::new(400, "DuplicateLoadBalancerName", message));
        }
        let id = self.ids.hex(16);
        let arn = self.arn(&format!("loadbalancer/net/{name}/{id}"));
        let balancer = LoadBalancer {
            arn: arn.clone(),
            name: name.to_owned(),
            id,
            created: now,
            scheme: scheme.to_owned(),
        };
        self.balancers.insert(arn.clone(), balancer);
        Ok(arn)
    }

    /// Deletes a load balancer with its listeners. An unknown one counts as deleted.
    pub fn delete_balancer(&mut self, arn: &str, now: Duration) {
        let listeners = self.listeners.values().filter(|listener| listener.balancer == arn);
        let listeners: Vec<String> = listeners.map(|listener| listener.arn.clone()).collect();
        for listener in listeners {
            // Not refused: it exists.
            let _ = self.delete_listener(&listener, now);
        }
        self.balancers.remove(arn);
    }

    /// Creates a listener, and returns its ARN. Repeating it with the same settings changes nothing.
    pub fn create_listener(
        &mut self,
        balancer: &str,
        port: u16,
        target_group: &str,
        now: Duration,
    ) -> Result<String, ApiError> {
        let LoadBalancer { name, id, .. } = self.balancer(balancer)?.clone();
        self.group(target_group)?;
        // On AWS, each load balancer has addresses of its own; here, all have the same one.
        if let Some(old) = self.listeners.values().find(|listener| listener.port == port) {
            if old.balancer == balancer && old.target_group == target_group {
                return Ok(old.arn.clone());
            }
            let message = "A listener already exists on this port for this load balancer";
            return Err(ApiError::new(400, "DuplicateListener", message));
        }
        let mut users = self.listeners.values().filter(|it| it.target_group == target_group);
        if users.any(|listener| listener.balancer != balancer) {
            let message = format!(
                "The following target groups cannot be associated with more than one load \
                 balancer: {target_group}"
            );
            return Err(ApiError::new(400, "TargetGroupAssociationLimit", message));
        }
        let own = self.ids.hex(16);
        let arn = self.arn(&format!("listener/net/{name}/{id}/{own}"));
        let listener = Listener {
            arn: arn.clone(),
            balancer: balancer.to_owned(),
            port,
            target_group: target_group.to_owned(),
        };
        self.listeners.insert(arn.clone(), listener);
        self.refresh_use(target_group, now);
        Ok(arn)
    }

    /// Deletes a listener, and ends its flows.
    pub fn delete_listener(&mut self, arn: &str, now: Duration) -> Result<(), ApiError> {
        let listener = self.listeners.remove(arn).ok_or_else(unknown_listener)?;
        let flows = FlowsOf::Listener(listener.arn);
        self.push(Outcome::Cut { flows, reason: Cut::Unlistened });
        self.refresh_use(&listener.target_group, now);
        Ok(())
    }

    /// Returns the load balancers that forward to a target group.
    pub fn balancers_of(&self, target_group: &str) -> Vec<String> {
        let users = self.listeners.values().filter(|it| it.target_group == target_group);
        let mut arns: Vec<String> = users.map(|listener| listener.balancer.clone()).collect();
        arns.dedup();
        arns
    }
}

pub(super) fn unknown_balancer() -> ApiError {
    ApiError::new(400, "LoadBalancerNotFound", "One or more load balancers not found")
}

pub(super) fn unknown_listener() -> ApiError {
    ApiError::new(400, "ListenerNotFound", "One or more listeners not found")
}
