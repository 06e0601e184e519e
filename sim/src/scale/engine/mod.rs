//! The Docker engines of a thousand instances in one process: each on a unix socket of its own, and all in one model of
//! swarmkit.
//!
//! It speaks the wire protocol of the Engine API as far as skep uses it: versions, `/info`, `/swarm`, `/nodes`, and empty
//! lists of tasks, services, containers and networks. It runs no container.
//!
//! Guarantees: refusals have Docker's status and text; every change takes the time that swarmkit takes ([`pace`]).
//! Simplified: a join that is given up before the leader has served it leaves nothing behind, and a leader's death costs no
//! election time.

mod api;
mod changes;
mod identity;
mod model;
pub(super) mod pace;
mod refusal;
#[cfg(test)]
mod tests;
mod views;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use axum::body::Body;
use axum::http::{Request, Response};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::UnixListener;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use model::{Host, Place, World};
use pace::Queue;

/// Opens port 2377 of a manager; skep probes it before it joins.
pub(super) type OpenPort =
    Box<dyn Fn(Ipv4Addr) -> anyhow::Result<std::net::TcpListener> + Send + Sync>;

/// All engines. Cheap to clone; clones share everything.
#[derive(Clone)]
pub(super) struct Engines {
    shared: Arc<Shared>,
}

struct Shared {
    world: Mutex<World>,
    /// The work of the swarm's leader.
    leader: Queue,
    /// Managers join one after the other.
    manager_joins: tokio::sync::Mutex<()>,
    open_port: OpenPort,
    /// Ends what an engine, or a manager's port, does.
    running: Mutex<BTreeMap<Ipv4Addr, CancellationToken>>,
    ports: Mutex<BTreeMap<Ipv4Addr, CancellationToken>>,
    /// The runtime on which the engines work.
    runtime: Handle,
}

/// A node of a swarm, as its managers list it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) swarm: String,
    pub(super) address: Ipv4Addr,
    pub(super) is_ready: bool,
    pub(super) is_manager: bool,
    pub(super) is_leader: bool,
    /// Whether skep has labelled it with its instance.
    pub(super) is_labelled: bool,
}

impl Engines {
    pub(super) fn new(seed: u64, runtime: Handle, open_port: OpenPort) -> Self {
        let shared = Shared {
            world: Mutex::new(World::new(seed)),
            leader: Queue::default(),
            manager_joins: tokio::sync::Mutex::default(),
            open_port,
            running: Mutex::default(),
            ports: Mutex::default(),
            runtime,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Starts the engine of an instance.
    ///
    /// # Errors
    /// When the socket cannot be opened.
    pub(super) fn start(
        &self,
        address: Ipv4Addr,
        socket: &Path,
        root: &Path,
    ) -> anyhow::Result<()> {
        // skep tells Docker's root without a swarm from another file system by this directory.
        std::fs::create_dir_all(root.join("swarm"))?;
        let _runtime = self.shared.runtime.enter();
        let listener = UnixListener::bind(socket)
            .with_context(|| format!("cannot listen at {}", socket.display()))?;
        let host = Host { address, root: root.to_owned(), place: Place::Out };
        self.world().hosts.insert(address, host);
        let stop = CancellationToken::new();
        lock(&self.shared.running).insert(address, stop.clone());
        let this = self.clone();
        self.shared.runtime.spawn(stop.run_until_cancelled_owned(this.serve(address, listener)));
        Ok(())
    }

    /// Cuts the power of an instance: its engine is gone, and the managers miss its heartbeats.
    pub(super) fn power_off(&self, address: Ipv4Addr) {
        if let Some(stop) = lock(&self.shared.running).remove(&address) {
            stop.cancel();
        }
        self.close_port(address);
        let left = {
            let mut world = self.world();
            let left = world.leave(address);
            world.hosts.remove(&address);
            left
        };
        if let Some(left) = left {
            self.miss_heartbeats(left);
        }
    }

    /// Returns the nodes of all swarms.
    pub(super) fn nodes(&self) -> Vec<Listed> {
        let world = self.world();
        let all = world.swarms.values();
        let all = all.flat_map(|swarm| swarm.nodes.values().map(move |node| (&swarm.id, node)));
        all.map(|(swarm, node)| Listed {
            swarm: swarm.clone(),
            address: node.address,
            is_ready: node.state == model::State::Ready,
            is_manager: node.raft.is_some(),
            is_leader: node.raft.is_some_and(|raft| raft.is_leader),
            is_labelled: !node.spec["Labels"]["skep.instance"].is_null(),
        })
        .collect()
    }

    async fn serve(self, address: Ipv4Addr, listener: UnixListener) {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "an engine cannot accept a connection");
                    tokio::time::sleep(pace::STATUS_BATCH).await;
                    continue;
                }
            };
            let this = self.clone();
            tokio::spawn(async move {
                let service = service_fn(|request: Request<hyper::body::Incoming>| {
                    let this = this.clone();
                    async move {
                        let answer = this.answer(address, request.map(Body::new)).await;
                        Ok::<Response<Body>, std::convert::Infallible>(answer)
                    }
                });
                let connection =
                    http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                // A client may close its connection at any time.
                let _ = connection.await;
            });
        }
    }

    /// Opens port 2377 of a manager, until it is none any more. Connections are closed at once: only a probe makes them.
    fn open_port(&self, address: Ipv4Addr) -> anyhow::Result<()> {
        let listener = (self.shared.open_port)(address)?;
        listener.set_nonblocking(true)?;
        let _runtime = self.shared.runtime.enter();
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let stop = CancellationToken::new();
        lock(&self.shared.ports).insert(address, stop.clone());
        self.shared.runtime.spawn(stop.run_until_cancelled_owned(async move {
            loop {
                if listener.accept().await.is_err() {
                    tokio::time::sleep(pace::STATUS_BATCH).await;
                }
            }
        }));
        Ok(())
    }

    fn close_port(&self, address: Ipv4Addr) {
        if let Some(stop) = lock(&self.shared.ports).remove(&address) {
            stop.cancel();
        }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        lock(&self.shared.world)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
