//! The load balancers at work: accepts connections, and forwards them to targets.
//!
//! Assumes: the caller's network namespace reaches the targets. Unlike a network load balancer, this proxy accepts a
//! connection before the target has, and its own address is the source of the target's connections.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::checks;
use super::flows::{End, Flow};
use super::groups::ToCheck;
use super::specs::HealthCheck;
use super::target_group::TargetKey;
use crate::cloud::Cloud;

/// Time after which a connection to a target has failed.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a failed bind or accept.
const PAUSE: Duration = Duration::from_millis(100);

/// The checks of one registration of a target.
type CheckKey = (String, TargetKey, u64);

/// The running tasks.
#[derive(Default)]
struct Tasks {
    listening: JoinSet<()>,
    /// By ARN.
    listeners: BTreeMap<String, CancellationToken>,
    checks: BTreeMap<CheckKey, (HealthCheck, AbortOnDropHandle<()>)>,
}

impl Cloud {
    /// Serves all listeners on `address`, and checks the targets, until the future is dropped, which ends all flows.
    /// Runs in the network namespace of the load balancers.
    pub async fn serve_load_balancers(self, address: Ipv4Addr) {
        self.change(|state, _| state.scaling.balance(|elb| elb.address = Some(address)));
        let mut layout = self.inner.layout.subscribe();
        let mut tasks = Tasks::default();
        loop {
            layout.mark_unchanged();
            let (listeners, checks) = self.change(|state, _| {
                let elb = state.scaling.elb();
                let ports = elb.listeners.values().map(|it| (it.arn.clone(), it.port));
                (ports.collect(), elb.to_check())
            });
            tasks.listen(&self, address, listeners);
            tasks.check(&self, checks);
            tokio::select! {
                changed = layout.changed() => if changed.is_err() { return },
                Some(_) = tasks.listening.join_next() => {}
            }
        }
    }
}

impl Tasks {
    /// Starts and ends listeners.
    fn listen(&mut self, cloud: &Cloud, address: Ipv4Addr, wanted: BTreeMap<String, u16>) {
        self.listeners.retain(|arn, stop| {
            let stays = wanted.contains_key(arn);
            if !stays {
                stop.cancel();
            }
            stays
        });
        for (arn, port) in wanted {
            if self.listeners.contains_key(&arn) {
                continue;
            }
            let stop = CancellationToken::new();
            self.listeners.insert(arn.clone(), stop.clone());
            let at = SocketAddrV4::new(address, port);
            self.listening.spawn(listen(cloud.clone(), arn, at, stop));
        }
    }

    /// Starts and ends health checks. Changed settings start them anew.
    fn check(&mut self, cloud: &Cloud, wanted: Vec<ToCheck>) {
        let key = |it: &ToCheck| (it.group.clone(), it.key.clone(), it.registration);
        let keys: BTreeSet<CheckKey> = wanted.iter().map(key).collect();
        self.checks.retain(|key, _| keys.contains(key));
        for it in wanted {
            let key = key(&it);
            if self.checks.get(&key).is_some_and(|(check, _)| *check == it.check) {
                continue;
            }
            let check = it.check.clone();
            let task = tokio::spawn(checks::run(cloud.clone(), it));
            self.checks.insert(key, (check, AbortOnDropHandle::new(task)));
        }
    }
}

/// Accepts connections until `stop`; then waits for the flows to end.
async fn listen(cloud: Cloud, arn: String, address: SocketAddrV4, stop: CancellationToken) {
    let mut flows = JoinSet::new();
    stop.run_until_cancelled(accept_all(&cloud, &arn, address, &mut flows)).await;
    flows.join_all().await;
}

async fn accept_all(
    cloud: &Cloud,
    listener: &str,
    address: SocketAddrV4,
    flows: &mut JoinSet<()>,
) -> Infallible {
    let socket = bind(address).await;
    loop {
        tokio::select! {
            accepted = socket.accept() => match accepted {
                Ok((client, _)) => accept(cloud, listener, client, flows),
                Err(error) => {
                    tracing::warn!(%error, %address, "cannot accept a connection");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            Some(_) = flows.join_next() => {}
        }
    }
}

/// The port can be in use by a listener that is being deleted.
async fn bind(address: SocketAddrV4) -> TcpListener {
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) => {
                tracing::warn!(%error, %address, "cannot listen");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn accept(cloud: &Cloud, listener: &str, client: TcpStream, flows: &mut JoinSet<()>) {
    let flow = cloud.change(|state, _| {
        let placed = state.scaling.balance(|elb| elb.place(listener))?;
        Some(cloud.inner.flows.begin(listener, placed))
    });
    match flow {
        Some(flow) => drop(flows.spawn(carry(client, flow))),
        None => {
            cloud.inner.flows.unplaced();
            reset(&client);
        }
    }
}

/// Carries one flow to its end.
async fn carry(mut client: TcpStream, mut flow: Flow) {
    let target = SocketAddrV4::new(flow.placed.address, flow.placed.key.port);
    let connecting = timeout(CONNECT_TIMEOUT, TcpStream::connect(target));
    let connected = tokio::select! {
        connected = connecting => connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
        Ok(reason) = &mut flow.cut => {
            reset(&client);
            return flow.end(End::Cut(reason));
        }
    };
    let mut server = match connected {
        Ok(server) => server,
        Err(error) => {
            tracing::debug!(%error, %target, "cannot reach a target");
            reset(&client);
            return flow.end(End::Failed);
        }
    };
    flow.open();
    for stream in [&client, &server] {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
    }
    let end = tokio::select! {
        copied = tokio::io::copy_bidirectional(&mut client, &mut server) => {
            if copied.is_ok() { End::Closed } else { End::Reset }
        }
        Ok(reason) = &mut flow.cut => End::Cut(reason),
    };
    if end != End::Closed {
        reset(&client);
        reset(&server);
    }
    // Counted before the sockets close, so that a client that sees the end of its flow finds it in the counts.
    flow.end(end);
}

/// Makes the close of a connection a reset, as a load balancer ends flows.
fn reset(stream: &TcpStream) {
    if let Err(error) = stream.set_zero_linger() {
        tracing::debug!(%error, "cannot reset a connection");
    }
}
