//! A load balancer with servers behind it, and its clients.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use skep_sim::cloud::{
    Cloud, CloudOptions, GroupSpec, HealthCheck, HealthCheckType, ListenerSpec, LoadBalancerSpec,
    TargetGroupAttributes, TargetGroupSpec, TargetState,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Longer than anything takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// The ports of the servers, for flows and for health checks, and the port of the listener. Every test has its own
/// network, so that all can run at once.
const TRAFFIC: u16 = 18_080;
const HEALTH: u16 = 18_081;
const LISTENER: u16 = 18_082;
/// The number of networks that this process has used.
static NETWORKS: AtomicU8 = AtomicU8::new(0);

/// A server on the address of an instance.
pub struct Server {
    /// Whether health checks are answered with 503.
    is_ill: Arc<AtomicBool>,
    traffic: JoinHandle<()>,
}

impl Server {
    async fn start(number: u8, address: Ipv4Addr) -> Self {
        let is_ill = Arc::new(AtomicBool::new(false));
        let traffic = TcpListener::bind((address, TRAFFIC)).await.unwrap();
        let health = TcpListener::bind((address, HEALTH)).await.unwrap();
        tokio::spawn(answer_checks(health, Arc::clone(&is_ill)));
        Self { is_ill, traffic: tokio::spawn(serve(traffic, number)) }
    }

    pub fn refuse_health(&self, refuses: bool) {
        self.is_ill.store(refuses, Ordering::SeqCst);
    }

    /// Closes the port for flows.
    pub async fn close_traffic(&mut self) {
        self.traffic.abort();
        (&mut self.traffic).await.unwrap_err();
    }
}

/// Sends its number on every connection, and then everything that it receives.
async fn serve(listener: TcpListener, number: u8) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            // The other side may be gone.
            let _ = stream.write_all(&[number]).await;
            let (mut reader, mut writer) = stream.split();
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
        });
    }
}

async fn answer_checks(listener: TcpListener, is_ill: Arc<AtomicBool>) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let status = if is_ill.load(Ordering::SeqCst) { "503 No" } else { "200 OK" };
        tokio::spawn(async move {
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
            let _ = stream.write_all(answer.as_bytes()).await;
        });
    }
}

pub struct Bench {
    pub cloud: Cloud,
    /// In the order of the instances' launches.
    pub servers: Vec<Server>,
    ids: Vec<String>,
    /// The name of the target group.
    pub target_group: String,
    pub listener: SocketAddr,
}

impl Bench {
    /// Starts a load balancer in front of a group of instances.
    pub async fn start(instances: u8, attributes: TargetGroupAttributes) -> Self {
        Self::with(instances, attributes, HealthCheckType::Ec2).await
    }

    pub async fn with(
        instances: u8,
        attributes: TargetGroupAttributes,
        health_check_type: HealthCheckType,
    ) -> Self {
        // By process, too: each test may be a process of its own.
        let [low, high, ..] = std::process::id().to_le_bytes();
        let number = NETWORKS.fetch_add(1, Ordering::SeqCst);
        assert!(number < 16, "a process has 16 networks");
        let subnet = Ipv4Addr::new(127, low, (high << 4) | number, 0);
        let cloud = Cloud::new(CloudOptions {
            region: "eu-central-1".to_owned(),
            zones: vec!["eu-central-1a".to_owned()],
            subnet: (subnet, 24),
            seed: 7,
        })
        .unwrap();
        let address = Ipv4Addr::from_bits(subnet.to_bits() + 3);
        tokio::spawn(cloud.clone().serve_load_balancers(address));
        let mut target_group = TargetGroupSpec::new("web", TRAFFIC);
        target_group.attributes = attributes;
        target_group.health_check = HealthCheck::http("/")
            .on_port(HEALTH)
            .every(Duration::from_millis(50))
            .thresholds(2, 2);
        let listeners = vec![ListenerSpec { port: LISTENER, target_group }];
        let spec = LoadBalancerSpec { name: "front".to_owned(), listeners };
        let arns = cloud.create_load_balancer(spec).unwrap();
        let desired = u32::from(instances);
        let spec = GroupSpec { name: "nodes".to_owned(), max: 9, desired, ..GroupSpec::default() };
        cloud.create_group(GroupSpec { health_check_type, ..spec }).unwrap();
        let views = cloud.instances();
        let mut servers = Vec::new();
        for (number, view) in (0..).zip(&views) {
            servers.push(Server::start(number, view.address).await);
        }
        // Attached when the servers can answer the first checks.
        cloud.attach_target_groups("nodes", &arns).unwrap();
        let ids = views.into_iter().map(|view| view.id).collect();
        let listener = (address, LISTENER).into();
        Self { cloud, servers, ids, target_group: "web".to_owned(), listener }
    }

    pub fn id(&self, number: usize) -> &str {
        &self.ids[number]
    }

    /// Returns the state of an instance in the target group.
    pub fn health(&self, number: usize) -> TargetState {
        let targets = self.cloud.targets();
        let target = targets.iter().find(|target| target.id == self.ids[number]);
        target.map_or(TargetState::Unused, |target| target.health.state)
    }

    pub async fn until(&self, number: usize, state: TargetState) {
        soon(|| self.health(number) == state).await;
    }

    pub async fn all_healthy(&self) {
        for number in 0..self.ids.len() {
            self.until(number, TargetState::Healthy).await;
        }
    }
}

/// A connection to the listener; `None`: it was reset before the client could use it.
pub struct Client(Option<TcpStream>);

impl Client {
    /// Connects as soon as the listener listens.
    pub async fn connect(bench: &Bench) -> Self {
        loop {
            match TcpStream::connect(bench.listener).await {
                Ok(stream) => return Self(Some(stream)),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Self(None),
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => panic!("cannot connect: {error}"),
            }
        }
    }

    fn stream(&mut self) -> &mut TcpStream {
        self.0.as_mut().expect("the connection was reset at once")
    }

    /// Connects until a flow reaches this server.
    pub async fn of(bench: &Bench, number: usize) -> Self {
        loop {
            let mut client = Self::connect(bench).await;
            if client.server().await == number {
                return client;
            }
        }
    }

    /// Returns the number of the server that answers.
    pub async fn server(&mut self) -> usize {
        let number = timeout(PATIENCE, self.stream().read_u8()).await.expect("no server answers");
        number.unwrap().into()
    }

    /// Whether the server sends back what it receives.
    pub async fn echoes(&mut self) -> bool {
        let echo = async {
            self.stream().write_all(b"hello").await?;
            let mut answer = [0; 5];
            self.stream().read_exact(&mut answer).await?;
            std::io::Result::Ok(answer)
        };
        let answer = timeout(PATIENCE, echo).await.expect("neither an echo nor an end");
        answer.is_ok_and(|answer| &answer == b"hello")
    }

    /// Waits for the end of the connection; whether it was reset.
    pub async fn is_cut(&mut self) -> bool {
        let Some(stream) = &mut self.0 else { return true };
        let mut rest = [0; 64];
        loop {
            match timeout(PATIENCE, stream.read(&mut rest)).await.expect("it does not end") {
                Ok(0) => return false,
                Ok(_) => {}
                Err(_) => return true,
            }
        }
    }

    /// Closes the connection, and waits until the server has done so, too.
    pub async fn close(mut self) {
        self.stream().shutdown().await.unwrap();
        assert!(!self.is_cut().await);
    }
}

/// Waits until the cloud's work has got that far.
pub async fn soon(is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, wait).await.expect("not within a minute");
}
