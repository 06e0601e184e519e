//! Opens the AWS side of a run: a network namespace with the bridge and the endpoints, and the cloud that
//! answers there. Both tiers of instances use it.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::netns::{METADATA_ADDRESS, Namespace};
use crate::cloud::{Cloud, CloudOptions, Tls};

/// The port of the AWS gateway and of the metadata service inside the namespace.
const HTTP: u16 = 80;
/// The port of the AWS gateway with TLS.
const HTTPS: u16 = 443;

/// A cloud with its servers; dropping it stops them.
#[derive(Debug)]
pub(crate) struct Aws {
    pub cloud: Cloud,
    /// Address of the AWS services in the root namespace.
    pub endpoint: SocketAddr,
    /// Address of the load balancers inside the namespace.
    pub load_balancer: Ipv4Addr,
    /// The certificate in PEM of the authority that a client of the gateway must trust for TLS.
    pub authority: String,
    servers: Vec<JoinHandle<()>>,
    stop: CancellationToken,
}

impl Aws {
    /// Makes a new namespace the AWS side of a run, and serves a new cloud in it.
    pub(crate) async fn open(namespace: &Namespace, options: CloudOptions) -> anyhow::Result<Aws> {
        let (gateway, load_balancer) = (gateway(options.subnet), load_balancer(options.subnet));
        namespace.become_aws(gateway, options.subnet.1)?;
        namespace.add_address(load_balancer)?;
        let at_gateway = listener(namespace.listen((gateway, HTTP).into())?)?;
        let at_gateway_tls = listener(namespace.listen((gateway, HTTPS).into())?)?;
        let at_metadata = listener(namespace.listen((METADATA_ADDRESS, HTTP).into())?)?;
        let at_host = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let endpoint = at_host.local_addr()?;
        let tls = Tls::new(&[gateway.to_string()])?;
        let cloud = Cloud::new(options)?;
        let servers = vec![
            tokio::spawn(cloud.clone().serve_aws(at_gateway)),
            tokio::spawn(cloud.clone().serve_aws_tls(at_gateway_tls, tls.clone())),
            tokio::spawn(cloud.clone().serve_aws(at_host)),
            tokio::spawn(cloud.clone().serve_imds(at_metadata)),
        ];
        let stop = CancellationToken::new();
        // Connections to targets must come from the namespace, too.
        namespace.run(stop.clone(), cloud.clone().serve_load_balancers(load_balancer))?;
        let authority = tls.authority().to_owned();
        Ok(Aws { cloud, endpoint, load_balancer, authority, servers, stop })
    }

    /// Stops the servers.
    pub(crate) fn close(&self) {
        self.stop.cancel();
        for server in &self.servers {
            server.abort();
        }
    }
}

impl Drop for Aws {
    fn drop(&mut self) {
        self.close();
    }
}

/// The gateway's address: the first of the subnet.
pub(crate) fn gateway(subnet: (Ipv4Addr, u8)) -> Ipv4Addr {
    host(subnet, 1)
}

/// The load balancers' address: one of those that no instance has, other than the gateway's, whose port 80 is taken.
fn load_balancer(subnet: (Ipv4Addr, u8)) -> Ipv4Addr {
    host(subnet, 3)
}

fn host((network, prefix): (Ipv4Addr, u8), number: u32) -> Ipv4Addr {
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
    Ipv4Addr::from_bits((network.to_bits() & mask) + number)
}

pub(crate) fn listener(bound: std::net::TcpListener) -> anyhow::Result<TcpListener> {
    TcpListener::from_std(bound).context("cannot listen")
}
