//! Connections to a run's load balancers and instances, from inside its network.

use std::net::SocketAddr;

use anyhow::Context;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::Fleet;

impl Fleet {
    /// The address of a load balancer's listener, reachable from inside this run's network only.
    pub fn listener(&self, port: u16) -> SocketAddr {
        (self.aws.load_balancer, port).into()
    }

    /// Opens a TCP connection from inside this run's network, as a client in the VPC would.
    ///
    /// # Errors
    ///
    /// When the connection is refused, or not accepted within 10 s.
    pub async fn connect(&self, address: SocketAddr) -> anyhow::Result<TcpStream> {
        self.site().aws.dial(address).await
    }

    /// Runs a future inside this run's network, on a thread of its own: all sockets that it opens are there. The future
    /// ends early when this call is dropped.
    ///
    /// # Errors
    ///
    /// When the network cannot be entered, or the future panics.
    pub async fn run_inside<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let stop = CancellationToken::new();
        let _guard = stop.clone().drop_guard();
        let ended = self.site().aws.run(stop, future)?.await;
        ended.context("the future panicked")?.context("the future was stopped")
    }
}
