//! Declares every setting: its type, parser, default and meaning. The doc comments are also the text of
//! `docs/configuration.md`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::Ipv4Net;
use reqwest::Url;

use super::condition::Condition;
use super::keys::{Accept as _, default_value, first, settings};
use super::parse;
use super::raw::Raw;
use super::show::Show as _;
use super::values::{
    BackupPlace, Destination, DockerHost, JoinAvailability, LogFilter, LogFormat, Rebalance,
    Shipper, TokenStore,
};
use crate::common::instance::Role;
use crate::common::labels::Labels;

settings! {
    /// The settings in force. They contain no secret: skep's only credentials are the instance's own.
    Settings {
        /// Name of the swarm in the ledger: at most 100 letters, digits and `._-`. If it is not set, skep
        /// reads it from the instance's tags.
        cluster: Option<String> = cluster(),
        /// Role of this node: `manager` or `worker`. If it is not set, skep reads it from the instance's
        /// tags.
        role: Option<Role> = role(),
        /// Name of the DynamoDB table that holds the ledger.
        table: String = table("skep"),
        /// AWS region of the ledger and the tokens. If it is not set, it is the instance's region, in which
        /// its group and its stack always are.
        region: Option<String> = region() or "AWS_REGION",
        /// Directory of the files that must survive a reboot.
        state_dir: PathBuf = directory("/var/lib/skep") or "STATE_DIRECTORY",
        /// Directory of the control socket.
        runtime_dir: PathBuf = directory("/run/skep") or "RUNTIME_DIRECTORY",
        /// More labels for this node beside those that skep sets itself, as a section `[labels]` with a
        /// line for each; a tag `skep:label:<key>` wins over the label `<key>` here.
        labels: Labels = labels(),
    }

    /// The store of the join tokens.
    tokens: Tokens {
        /// `ssm` for SecureString parameters, `dynamodb` for items of the ledger's table.
        store: TokenStore = token_store("ssm"),
        /// Beginning of the parameters' names; a token is stored at
        /// `<path>/<cluster>/<role>-token/<generation>`. Only for `ssm`.
        path: String = parameter_path("/skep"),
        /// KMS key that encrypts the parameters: id, alias or ARN. If it is not set, it is the account's
        /// `aws/ssm`. Only for `ssm`.
        kms_key: Option<String> = word(),
        /// Time between two rotations of the join tokens, from `1m` to `3650d`. If it is not set, only
        /// `skep rotate-tokens` and Docker's own commands rotate them.
        rotate_every: Option<Duration> = rotation(),
    }

    /// The connection to Docker on this host.
    docker: Docker {
        /// Docker's socket; only `unix://`, because skep joins the host that it runs on.
        host: DockerHost = docker_host("unix:///var/run/docker.sock") or "DOCKER_HOST",
    }

    /// Network and autolock of the swarm.
    swarm: Swarm {
        /// Address at which the other nodes reach this node. It must be private: RFC 1918, 100.64.0.0/10
        /// or an IPv6 unique local one. If it is not set, it is the metadata's `local-ipv4`.
        advertise_address: Option<IpAddr> = private_address(),
        /// IPv4 ranges for overlay networks, used when a swarm is founded. If it is empty, Docker uses
        /// `10.0.0.0/8`.
        address_pool: Vec<Ipv4Net> = address_pool(),
        /// Prefix length of one overlay network, up to 29.
        subnet_size: u8 = subnet_size("24"),
        /// `active`, or `pause`: then this node gets no task before a manager has set its labels.
        join_availability: JoinAvailability = join_availability("active"),
        /// Whether a swarm that is founded here locks its managers (autolock): skep unlocks a manager that
        /// restarts, with a key from the token store. For an existing swarm, use
        /// `docker swarm update --autolock`.
        autolock: bool = boolean("false"),
    }

    /// The credentials with which services pull their images.
    registry: Registry {
        /// Whether managers keep the pull credentials fresh of services whose image is in Amazon ECR, in any
        /// account and region; for the method and its costs, see `docs/decisions/registry-auth.md`.
        ecr: bool = boolean("false"),
    }

    /// From power-on to Ready.
    boot: Boot {
        /// Time to become Ready; after that, boot has failed, and skep reports this to CloudFormation and
        /// Auto Scaling.
        deadline: Duration = duration("10m"),
        /// Time for a founder to publish the swarm, before another manager takes over.
        lease: Duration = duration("30s"),
        /// Time for which every manager of the open charter must be gone, by Auto Scaling's answer, on port
        /// 2377 and by its row, before a new manager founds the next swarm; at least `75s`, and never before
        /// every manager's row is 150 s old. If it is longer than `deadline`, no manager founds one.
        lost_after: Duration = patience("2m"),
        /// Whether a node stays out of the swarm if cloud-init reports that UserData has failed.
        cloud_init: bool = boolean("true"),
    }

    /// The resource that waits for this instance's signal. If it is not set, skep reads it from the
    /// instance's tags.
    cloudformation: CloudFormation {
        /// Stack name or id.
        stack: Option<String> = word(),
        /// The resource's logical id, such as `WorkerGroup`.
        resource: Option<String> = word(),
        /// Whether to send the signal.
        signal: bool = boolean("true"),
    }

    /// The group that this instance belongs to. If it is not set, skep asks Auto Scaling.
    autoscaling: AutoScaling {
        /// Name of the group.
        group: Option<String> = text(),
        /// Name of the hook on `autoscaling:EC2_INSTANCE_LAUNCHING`.
        launch_hook: Option<String> = hook(),
        /// Name of the hook on `autoscaling:EC2_INSTANCE_TERMINATING`.
        termination_hook: Option<String> = hook(),
        /// Whether a node that has been Ready and cannot recover is replaced: a manager asks Auto Scaling, a worker
        /// asks the managers; at most one node of a group in 10 minutes; for the conditions, see `docs/decisions/own-replacement.md`.
        replace_self: bool = boolean("true"),
        /// Time for which the node must have been broken; at least `75s`.
        replace_after: Duration = patience("5m"),
    }

    /// The notices that skep polls in the metadata, beside the lifecycle state.
    notices: Notices {
        /// Time between two polls, at least `500ms`. Maintenance and rebalance recommendations are polled every 10 s
        /// while none is in force.
        interval: Duration = interval("2s"),
        /// Whether a spot interruption makes the node leave.
        spot: bool = boolean("true"),
        /// Whether scheduled maintenance that ends the instance makes the node leave.
        maintenance: bool = boolean("true"),
        /// Time before the date of such maintenance at which the node begins to leave; the instance is idle
        /// from the end of its departure.
        maintenance_lead: Duration = duration("30m"),
        /// Reaction to EC2's recommendation to replace the spot instance: `ignore`; `pause`, to get no new
        /// tasks; or `leave`, if the group replaces the instance (Capacity Rebalancing).
        rebalance: Rebalance = rebalance("ignore"),
    }

    /// The time of a departure.
    leave: Leave {
        /// Time for a departure if the notice has no deadline: for a lifecycle hook that heartbeats keep open,
        /// or for `skep leave`.
        deadline: Duration = duration("30m"),
        /// Time for a departure when the machine is powered off; keep it below the unit's
        /// `TimeoutStopSec=`.
        shutdown_deadline: Duration = duration("80s"),
        /// Share of the deadline that is reserved for flushing logs, from 0 to 0.5.
        flush_share: f64 = share("0.2"),
        /// The longest wait for a manager to drain this node, before the node stops its tasks itself.
        manager_patience: Duration = duration("5m"),
        /// Time for which a node goes on serving after its health port has changed to 503, so that load
        /// balancers stop sending to it before it is drained; longer than their health checks need. Without
        /// a load balancer there is no wait, and with a termination hook Auto Scaling has deregistered the
        /// node. `0s` for none.
        linger: Duration = wait("20s"),
        /// The same after a spot notice, if it is different.
        linger_spot: Option<Duration> = wait(),
        /// The same before scheduled maintenance.
        linger_maintenance: Option<Duration> = wait(),
        /// The same after a recommendation to replace the spot instance, with `notices.rebalance = "leave"`.
        linger_rebalance: Option<Duration> = wait(),
        /// The same when the machine is powered off.
        linger_shutdown: Option<Duration> = wait(),
        /// The same for `skep leave`.
        linger_operator: Option<Duration> = wait(),
        /// The deregistration delay of the group's target groups, where no hook shows when it is over: for
        /// an instance that enters Standby, and for a termination without a hook.
        deregistration_delay: Duration = wait("5m"),
    }

    /// The pace of departures, for managers: workers are drained one after the other, so that other nodes run the tasks
    /// of one before the next one's are stopped; see `docs/lifecycle.md`.
    pace: Pace {
        /// Whether a worker waits for others that leave before it.
        enabled: bool = boolean("true"),
        /// The longest wait, as a share of the departure's time, from 0 to 0.5; never more than half of the
        /// time for draining.
        share: f64 = share("0.3"),
        /// The same for a spot interruption and for a machine that is powered off.
        urgent_share: f64 = share("0.1"),
        /// The longest wait, whatever the departure's time.
        longest: Duration = duration("10m"),
        /// Whether a new node reports SUCCESS and CONTINUE only once no service is worse off than before the
        /// departures under way, or after a third of the launch hook's timeout, and of `boot.deadline`. Set it
        /// on managers and on the new nodes.
        delay_success: bool = boolean("false"),
    }

    /// Tasks for nodes that join, for managers: only of services with the label `skep.balance=true`; see
    /// `docs/life-of-a-node.md`.
    balance: Balance {
        /// Time for which neither a node has joined nor such a service was updated before tasks are moved to
        /// new nodes.
        settle: Duration = interval("2m"),
    }

    /// Protection from scale-in, for managers: of nodes that run a job, or a task of a service with the label
    /// `skep.protect=true`; see `docs/deploy.md`.
    protection: Protection {
        /// Whether such nodes are protected.
        enabled: bool = boolean("false"),
        /// Whether every node with a task is protected, except tasks of global services, so that only idle nodes are
        /// scaled in.
        all_tasks: bool = boolean("false"),
        /// Time for which a node must have had no such task before its protection ends.
        linger: Duration = duration("1m"),
    }

    /// The capacity of the groups in tasks, which the leader measures; see `docs/monitoring.md`.
    capacity: Capacity {
        /// Whether the leader also sends it to CloudWatch, for managers: as metrics of the namespace `skep`, by which
        /// scaling policies can decide; see `docs/deploy.md`.
        cloudwatch: bool = boolean("false"),
    }

    /// The flushers that run between the end of the last task and leaving: all at the same time, within
    /// `leave.flush_share`.
    flush: Flush {
        /// Directory of executables that run one after the other, in the order of their names.
        dir: PathBuf = directory("/etc/skep/flush.d"),
        /// Time for each flusher.
        timeout: Duration = duration("30s"),
        /// Whether the journal is synced to disk.
        journal: bool = boolean("true"),
        /// Shippers that must have sent the tasks' output: `journal-upload`, `filebeat`, `fluent-bit`, `vector`,
        /// `cloudwatch-agent`.
        shippers: Vec<Shipper> = shippers(),
        /// Time for a shipper to read the last output of the tasks; all that it has read by then must arrive.
        /// Filebeat gets at least `11s`; Fluent Bit and Vector get 6 s and 4 s more, because their counters
        /// can be that old.
        settle: Duration = duration("3s"),
        /// Filebeat's `http.host` and `http.port`; it needs `http.enabled: true`.
        filebeat_url: Url = http_url("http://127.0.0.1:5066/"),
        /// Fluent Bit's HTTP server; it needs `storage.metrics on`.
        fluent_bit_url: Url = http_url("http://127.0.0.1:2020/"),
        /// Vector's `prometheus_exporter` with `internal_metrics` as its input.
        vector_url: Url = http_url("http://127.0.0.1:9598/metrics"),
        /// Directory in which the CloudWatch agent stores its position in each file.
        cloudwatch_agent_state: PathBuf = directory("/opt/aws/amazon-cloudwatch-agent/logs/state"),
        /// More conditions to wait for: URLs whose answer must meet a condition at a JSON pointer, such as
        /// `http://127.0.0.1:8080/stats /queue/size == 0`, or in every matching sample of Prometheus'
        /// text, such as `http://127.0.0.1:9100/metrics queue_size{name="main"} < 1`.
        http: Vec<Condition> = conditions(),
    }

    /// Hook scripts, which receive the events of this node; see `docs/monitoring.md`.
    hook_scripts: HookScripts {
        /// Directory with an executable for each event, or a folder of them: `joined`, `departing`,
        /// `drained`, `left`, `failed`.
        dir: PathBuf = directory("/etc/skep/hooks.d"),
        /// Time for each hook script; after that, it is killed with all processes that it has started.
        timeout: Duration = duration("30s"),
        /// Longest wait at the end, before the machine ends, for hook scripts and webhook deliveries
        /// together.
        last_wait: Duration = duration("5s"),
    }

    /// The webhook, which receives the same events by HTTP; see `docs/monitoring.md`.
    webhook: Webhook {
        /// File with the address: `https://…`, or `http://…` of a loopback address. Only skep and root may
        /// read it: mode `0400`, owner `skep`. skep never shows more than the host of the address. If it
        /// is not set, nothing is sent.
        url_file: Option<PathBuf> = directory(),
        /// File with the secret that signs every message; the same mode and owner.
        secret_file: Option<PathBuf> = directory(),
        /// Time for each attempt.
        timeout: Duration = duration("10s"),
        /// Time after which skep stops retrying the delivery of an event.
        give_up_after: Duration = duration("5m"),
    }

    /// The last resort of nodes without a shipper: skep itself sends the last lines of the logs on the host,
    /// before it leaves. Its role needs `logs:CreateLogStream` and `logs:PutLogEvents`, or
    /// `s3:PutObject`.
    ship: Ship {
        /// `logs:<log group>` for CloudWatch Logs, or `s3://<bucket>/<prefix>`. If it is not set, nothing
        /// is sent.
        to: Option<Destination> = destination(),
        /// Another endpoint, such as that of an S3-compatible storage. If it is not set, it is the
        /// region's.
        endpoint: Option<Url> = endpoint(),
        /// Log files, by their absolute paths; only regular files.
        files: Vec<PathBuf> = files(),
        /// Whether the journal is sent; the user `skep` must then be in the group `systemd-journal`.
        journal: bool = boolean("false"),
        /// Whether the logs of the stopped tasks of this host are sent.
        tasks: bool = boolean("true"),
        /// Maximum number of lines of each source, up to 100000: the newest, at most 8 MiB of each and 64 MiB
        /// of all.
        lines: u32 = lines("10000"),
    }

    /// Backups of what Docker's API tells of the swarm: services, networks, configs, labels, and the names of
    /// secrets. The leader stores them on change and daily; see `docs/backup.md`.
    backup: Backup {
        /// `s3://<bucket>/<prefix>`. If it is not set, nothing is stored.
        to: Option<BackupPlace> = backup_place(),
        /// KMS key that encrypts the backups: id, alias or ARN. Backups hold environment variables, so `to`
        /// needs it.
        kms_key: Option<String> = word(),
        /// Region of the bucket. If it is not set, it is the instance's.
        region: Option<String> = region(),
        /// Another endpoint, such as that of an S3-compatible storage. If it is not set, it is the
        /// region's.
        endpoint: Option<Url> = endpoint(),
        /// Age from which on backups are deleted, up to `3650d`; never the newest three, nor the newest one of
        /// each other swarm.
        keep: Duration = age("30d"),
        /// Whether the leader restores the newest backup of another swarm, once, after managers have founded a
        /// swarm.
        restore: bool = boolean("false"),
    }

    /// Frees space on Docker's disk when it is short, never while the node leaves. Objects with the label
    /// `skep.keep` stay.
    janitor: Janitor {
        /// Whether skep frees space.
        enabled: bool = boolean("false"),
        /// Time between two checks.
        every: Duration = duration("10m"),
        /// Share of the space that must be free, from 0 to 1; with less, skep removes everything beyond the
        /// limits below.
        free_space: f64 = part("0.15"),
        /// The same for inodes.
        free_inodes: f64 = part("0.1"),
        /// Time in which no check must have found the image in use; up to `3650d`.
        images_unused_for: Duration = age("7d"),
        /// Time for which a container must have been stopped; up to `3650d`.
        containers_stopped_for: Duration = age("1d"),
        /// Whether anonymous volumes without a container are removed, too; named ones never are.
        volumes: bool = boolean("false"),
    }

    /// The port for health checks of load balancers.
    health: Health {
        /// Address and port.
        listen: SocketAddr = socket_address("0.0.0.0:44554"),
        /// Whether skep listens at all.
        enabled: bool = boolean("true"),
        /// Whether skep serves `/metrics` for Prometheus, too, to private addresses.
        metrics: bool = boolean("true"),
        /// Names of hosts under which clients may see more than the status: the details of `/`, `/metrics`
        /// and `/ui`. IP addresses, `localhost` and names that end in `.internal` need no entry.
        hosts: Vec<String> = host_names(),
        /// Whether managers serve a page of the fleet at `/ui`, for browsers with a private address; see
        /// `docs/operating.md`.
        ui: bool = boolean("false"),
    }

    /// skep's log on standard error.
    log: Log {
        /// `off`, `error`, `warn`, `info`, `debug` or `trace` for skep, or for one target as in
        /// `skep::lifecycle::boot=debug`; several with commas. Other crates log at `warn` and above.
        level: LogFilter = log_filter("info"),
        /// `text`, `json`, or `journal`, which stores fields separately in the journal but shows nothing
        /// on the console.
        format: LogFormat = log_format("text"),
    }
}
