//! Every setting: its type, how it is read, its default and what it means. The doc comments are
//! also the text of `docs/configuration.md`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;

use super::condition::Condition;
use super::keys::{Accept as _, default_value, first, settings};
use super::parse;
use super::raw::Raw;
use super::show::Show as _;
use super::values::{
    Cidr, Destination, DockerHost, JoinAvailability, LogFilter, LogFormat, Rebalance, Shipper,
    TokenStore, WebhookUrl,
};
use crate::common::instance::Role;
use crate::common::labels::Labels;

settings! {
    /// What is in force. It holds no secret: skep's only credentials are the instance's own.
    Settings {
        /// Name of the swarm in the ledger: letters, digits and `._-`, 100 at most. Where it is
        /// not set, the instance's tags say it.
        cluster: Option<String> = cluster(),
        /// What this node is: `manager` or `worker`. Where it is not set, the instance's tags say
        /// it.
        role: Option<Role> = role(),
        /// Name of the DynamoDB table that holds the ledger.
        table: String = table("skep"),
        /// AWS region of the ledger and the tokens. Where it is not set, it is the instance's own, where
        /// its group and its stack always are.
        region: Option<String> = region() or "AWS_REGION",
        /// Where skep keeps what must survive a reboot.
        state_dir: PathBuf = directory("/var/lib/skep") or "STATE_DIRECTORY",
        /// Where skep keeps its control socket.
        runtime_dir: PathBuf = directory("/run/skep") or "RUNTIME_DIRECTORY",
        /// More labels for this node, as `[labels]` with a line for each, beside those that its
        /// instance tells; a tag `skep:label:<key>` beats the label `<key>` here.
        labels: Labels = labels(),
    }

    /// Where the join tokens are kept.
    tokens: Tokens {
        /// `ssm` for SecureString parameters, `dynamodb` for items of the ledger's table.
        store: TokenStore = token_store("ssm"),
        /// Where the parameters' names begin; a token is
        /// `<path>/<cluster>/<role>-token/<generation>`. Only for `ssm`.
        path: String = parameter_path("/skep"),
        /// KMS key that encrypts the parameters: id, alias or ARN. Where it is not set, it is the
        /// account's `aws/ssm`. Only for `ssm`.
        kms_key: Option<String> = word(),
        /// Time between two rotations of the join tokens, from `1m` to `3650d`. Where it is not set,
        /// only `skep rotate-tokens` and Docker's own commands rotate them.
        rotate_every: Option<Duration> = rotation(),
    }

    /// How to reach Docker on this host.
    docker: Docker {
        /// Docker's socket; only `unix://`, because skep joins the host that it runs on.
        host: DockerHost = docker_host("unix:///var/run/docker.sock") or "DOCKER_HOST",
    }

    /// What Docker is told about the network.
    swarm: Swarm {
        /// Address that the other nodes reach. It must be private: RFC 1918, 100.64.0.0/10 or an
        /// IPv6 unique local one. Where it is not set, it is the metadata's `local-ipv4`.
        advertise_address: Option<IpAddr> = private_address(),
        /// IPv4 ranges for overlay networks, taken when a swarm is founded. Where it is empty,
        /// Docker takes `10.0.0.0/8`.
        address_pool: Vec<Cidr> = address_pool(),
        /// Prefix length of one overlay network, up to 29.
        subnet_size: u8 = subnet_size("24"),
        /// `active`, or `pause`: then this node gets no task before a manager has set its labels.
        join_availability: JoinAvailability = join_availability("active"),
        /// Whether a swarm that is founded here locks its managers (autolock): one that restarts is
        /// opened by skep, with a key from the token store. Of a swarm that stands, Docker decides:
        /// `docker swarm update --autolock`.
        autolock: bool = boolean("false"),
    }

    /// What services pull their images with.
    registry: Registry {
        /// Whether managers keep the pull credentials of services fresh whose image is in Amazon ECR,
        /// in any account and region; `docs/decisions/registry-auth.md` says how, and what it costs.
        ecr: bool = boolean("false"),
    }

    /// From power-on to Ready.
    boot: Boot {
        /// Time to be Ready; then boot has failed, and CloudFormation and Auto Scaling are told.
        deadline: Duration = duration("10m"),
        /// How long a founder may be silent before another manager takes over.
        lease: Duration = duration("30s"),
        /// How long every manager of the open charter must have been gone, by Auto Scaling's word,
        /// on port 2377 and by its row, before a new one founds the next swarm; at least `75s`, and
        /// never before every manager's row is 150 s old. Longer than `deadline`: never.
        lost_after: Duration = patience("2m"),
        /// Whether a node stays out of the swarm when cloud-init says that UserData has failed.
        cloud_init: bool = boolean("true"),
    }

    /// The resource that waits for this instance's signal. Where it is not set, the instance's
    /// tags say it.
    cloudformation: CloudFormation {
        /// Stack name or id.
        stack: Option<String> = word(),
        /// The resource's logical id, such as `WorkerGroup`.
        resource: Option<String> = word(),
        /// Whether to send the signal.
        signal: bool = boolean("true"),
    }

    /// The group that this instance belongs to. Where it is not set, skep asks Auto Scaling.
    autoscaling: AutoScaling {
        /// Name of the group.
        group: Option<String> = text(),
        /// Name of the hook on `autoscaling:EC2_INSTANCE_LAUNCHING`.
        launch_hook: Option<String> = hook(),
        /// Name of the hook on `autoscaling:EC2_INSTANCE_TERMINATING`.
        termination_hook: Option<String> = hook(),
        /// Whether a node that has served and is broken for good asks to be replaced, at most one of
        /// a group in ten minutes; `docs/decisions/own-replacement.md` says when.
        replace_self: bool = boolean("true"),
        /// How long it must have been broken; at least `75s`.
        replace_after: Duration = patience("5m"),
    }

    /// Which notices to look for in the metadata, beside the lifecycle state.
    watch: Watch {
        /// Time between two looks, at least `500ms`.
        interval: Duration = interval("2s"),
        /// Whether a spot interruption makes the node leave.
        spot: bool = boolean("true"),
        /// Whether scheduled maintenance that ends the instance makes the node leave.
        maintenance: bool = boolean("true"),
        /// How long before the date of such maintenance the node begins to leave; what it does not
        /// need of `leave.deadline` the instance stands idle.
        maintenance_lead: Duration = duration("30m"),
        /// What a node does when EC2 recommends to replace its spot instance: `ignore`; `pause`,
        /// and get no new tasks; or `leave`, where the group replaces it (Capacity Rebalancing).
        rebalance: Rebalance = rebalance("ignore"),
    }

    /// How long a departure may take.
    leave: Leave {
        /// What a departure may take whose notice names no end: a lifecycle hook that heartbeats
        /// keep open, or `skep leave`.
        deadline: Duration = duration("30m"),
        /// What a departure may take when the machine is powered off; keep it below the unit's
        /// `TimeoutStopSec=`.
        shutdown_deadline: Duration = duration("80s"),
        /// Share of the deadline that is kept for flushing logs, from 0 to 0.5.
        flush_share: f64 = share("0.2"),
        /// The longest wait for a manager to drain this node before it stops its tasks itself.
        manager_patience: Duration = duration("5m"),
    }

    /// What is flushed between the last task's end and leaving: all at once, within
    /// `leave.flush_share`.
    flush: Flush {
        /// Its executables run one after the other, in the order of their names.
        dir: PathBuf = directory("/etc/skep/flush.d"),
        /// Time for each flusher.
        timeout: Duration = duration("30s"),
        /// Whether the journal is synced to disk.
        journal: bool = boolean("true"),
        /// Shippers that must have sent what the tasks have written: `journal-upload`, `filebeat`, `fluent-bit`, `vector`,
        /// `cloudwatch-agent`.
        shippers: Vec<Shipper> = shippers(),
        /// How long a shipper may take to read what the tasks have written last: what it has taken in
        /// by then must arrive. Filebeat gets `11s` at least; Fluent Bit and Vector get as much more
        /// as their numbers can be old, 6 s and 4 s.
        settle: Duration = duration("3s"),
        /// Filebeat's `http.host` and `http.port`; it needs `http.enabled: true`.
        filebeat_url: Url = http_url("http://127.0.0.1:5066/"),
        /// Fluent Bit's HTTP server; it needs `storage.metrics on`.
        fluent_bit_url: Url = http_url("http://127.0.0.1:2020/"),
        /// Vector's `prometheus_exporter` with `internal_metrics` as its input.
        vector_url: Url = http_url("http://127.0.0.1:9598/metrics"),
        /// Where the CloudWatch agent keeps how far it has sent each file.
        cloudwatch_agent_state: PathBuf = directory("/opt/aws/amazon-cloudwatch-agent/logs/state"),
        /// More to wait for: URLs whose answer is to meet a condition at a JSON pointer, such as
        /// `http://127.0.0.1:8080/stats /queue/size == 0`, or in every such sample of Prometheus'
        /// text, such as `http://127.0.0.1:9100/metrics queue_size{name="main"} < 1`.
        http: Vec<Condition> = conditions(),
    }

    /// Executables that are told what happens to this node; `docs/monitoring.md` says how.
    hooks: Hooks {
        /// Holds an executable per event, or a folder of them: `joined`, `departing`, `drained`,
        /// `left`, `failed`.
        dir: PathBuf = directory("/etc/skep/hooks.d"),
        /// Time for each of them; then it is killed, with all that it has started.
        timeout: Duration = duration("30s"),
        /// How long the node waits at the end, before the machine may go, for what still has to be
        /// told of it: hooks and webhook together.
        last_wait: Duration = duration("5s"),
    }

    /// Where the same events are told by HTTP; `docs/monitoring.md` says how.
    webhook: Webhook {
        /// `https://` or `http://`. It is never shown beyond its host. Where it is not set, nothing
        /// is told.
        url: Option<WebhookUrl> = webhook_url(),
        /// File with the secret that signs every message, for skep's eyes: mode `0400`, owner `skep`.
        secret_file: Option<PathBuf> = directory(),
        /// Time for each attempt.
        timeout: Duration = duration("10s"),
        /// How long to try again.
        give_up_after: Duration = duration("5m"),
    }

    /// The last resort of nodes without a shipper: skep itself sends the tail of what is on the host,
    /// before it leaves. Its role needs `logs:CreateLogStream` and `logs:PutLogEvents`, or
    /// `s3:PutObject`.
    ship: Ship {
        /// `logs:<log group>` for CloudWatch Logs, or `s3://<bucket>/<prefix>`. Where it is not set,
        /// nothing is sent.
        to: Option<Destination> = destination(),
        /// Another endpoint, such as an S3-compatible storage's. Where it is not set, it is the
        /// region's.
        endpoint: Option<Url> = endpoint(),
        /// Log files, by their absolute paths; only regular files.
        files: Vec<PathBuf> = files(),
        /// Whether the journal is sent; the user `skep` must then be in the group `systemd-journal`.
        journal: bool = boolean("false"),
        /// Whether the logs of the tasks that have stopped here are sent.
        tasks: bool = boolean("true"),
        /// How many lines of each at most, up to 100000: the newest, and no more than 8 MiB of each and
        /// 64 MiB of all.
        lines: u32 = lines("10000"),
    }

    /// Makes room on Docker's disk when it gets short, never while the node leaves. What has the label
    /// `skep.keep` stays.
    janitor: Janitor {
        /// Whether it does.
        enabled: bool = boolean("false"),
        /// Time between two looks.
        every: Duration = duration("10m"),
        /// Share of the space that is to be free, from 0 to 1: with less, everything goes that is over
        /// the limits below.
        free_space: f64 = part("0.15"),
        /// The same of the inodes.
        free_inodes: f64 = part("0.1"),
        /// How long an image must not have been seen in use; up to `3650d`.
        images_unused_for: Duration = age("7d"),
        /// How long a container must have been stopped; up to `3650d`.
        containers_stopped_for: Duration = age("1d"),
        /// Whether anonymous volumes of no container go, too; those with a name never do.
        volumes: bool = boolean("false"),
    }

    /// The port that a load balancer asks.
    health: Health {
        /// Address and port.
        listen: SocketAddr = socket_address("0.0.0.0:44554"),
        /// Whether to listen at all.
        enabled: bool = boolean("true"),
        /// Whether `/metrics` is there, too, for Prometheus.
        metrics: bool = boolean("true"),
        /// Whether managers show the fleet at `/ui`, to browsers with a private address;
        /// `docs/operating.md` says how to reach it.
        ui: bool = boolean("false"),
    }

    /// What skep says, on standard error.
    log: Log {
        /// `off`, `error`, `warn`, `info`, `debug` or `trace` for skep, or for one target as in
        /// `skep::lifecycle::boot=debug`; several with commas. Other crates are at `warn`.
        level: LogFilter = log_filter("info"),
        /// `text`, `json`, or `journal`, which keeps fields apart in the journal but shows nothing
        /// on the console.
        format: LogFormat = log_format("text"),
    }
}
