//! A load balancer and its listeners, as the cloud keeps them.

use std::time::Duration;

#[derive(Clone, Debug)]
pub(crate) struct LoadBalancer {
    pub arn: String,
    pub name: String,
    /// The part of the ARN that makes it unique.
    pub id: String,
    pub created: Duration,
    /// `internal` or `internet-facing`: it makes no difference here.
    pub scheme: String,
}

#[derive(Clone, Debug)]
pub(crate) struct Listener {
    pub arn: String,
    pub balancer: String,
    pub port: u16,
    /// The ARN.
    pub target_group: String,
}
