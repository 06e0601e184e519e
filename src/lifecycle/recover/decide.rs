//! Decides whether the quorum may be re-created here, and describes the consequences. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use thiserror::Error;
use time::OffsetDateTime;

use crate::clients::aws::autoscaling::GroupInstance;
use crate::clients::docker::LocalNode;
use crate::clients::ledger::{Charter, CharterPhase, Member};
use crate::common::fact::Fact;
use crate::common::report::{OtherManager, RecoveryPlan};
use crate::common::state::in_utc;
use crate::common::timing::MANAGER_ROW_IS_FRESH;

/// Docker's managers wait for three heartbeats of a worker, one every 5 s. A worker tries to reconnect every 0 to 8 s,
/// to any of the managers that it knows, dead ones included.
const WORKER_DOWN_AFTER: Duration = Duration::from_secs(15);
/// Docker needs up to 40 s; the tokens and the charter are written within a few more.
const TAKES_UP_TO: Duration = Duration::from_secs(45);

/// Facts for the plan.
#[derive(Clone, Debug)]
pub struct Observed {
    /// Instance id.
    pub me: String,
    /// `None` if the ledger has no charter.
    pub charter: Option<Charter>,
    /// `None` if Docker does not answer.
    pub local: Option<LocalNode>,
    /// This node's member row.
    pub row: Option<Member>,
    /// The other managers of the charter's generation, promoted workers among them.
    pub others: Vec<Member>,
    /// Those of them that Auto Scaling lists; `None` without a reliable answer.
    pub listed: Option<BTreeMap<String, GroupInstance>>,
    /// Addresses that accept a connection.
    pub listening: BTreeSet<IpAddr>,
    /// Keys of member rows that cannot be read: each may be any member's.
    pub unreadable: BTreeSet<String>,
    /// Place of the unlock keys in the store, if there are any: the managers are locked (autolock).
    pub unlock_keys: Option<String>,
    /// Whether a leader answers here. *No* is Docker's own answer that there is none.
    pub has_leader: Fact,
    /// This node's departure, if it leaves the swarm.
    pub leaves_by: Option<Leaving>,
    /// Time of the observation by this host's clock.
    pub now: OffsetDateTime,
}

/// This node's own departure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaving {
    /// Time when the machine ends, whatever the node has finished by then.
    pub deadline: OffsetDateTime,
    /// End of the time in which the quorum can be re-created before: draining's share. `None` if that is over, or the
    /// departure has ended.
    pub recovery_until: Option<OffsetDateTime>,
}

impl Leaving {
    fn has_time(&self, now: OffsetDateTime) -> bool {
        self.recovery_until.is_some_and(|until| now + TAKES_UP_TO <= until)
    }
}

/// Reason why nothing may be done; each names the remedy.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The ledger has no charter.
    #[error("the ledger has no charter, so there is no swarm to recover")]
    NoCharter,
    /// The last manager has left the charter's swarm and closed the charter.
    #[error("the charter is closed: the next manager that starts founds a new swarm")]
    Closed,
    /// A manager has claimed the charter to found a swarm.
    #[error("{founder} is founding a swarm: wait until that is done")]
    Founding {
        /// Instance id of that manager.
        founder: String,
    },
    /// Another manager has claimed the charter to re-create the quorum, and its lease is valid.
    #[error(
        "another recovery runs, on {founder}: it continues there when skep is restarted, and another manager can take it over from {until} on"
    )]
    Running {
        /// Instance id of that manager.
        founder: String,
        /// Time when the lease expires.
        until: String,
    },
    /// This node itself holds the claim to re-create the quorum.
    #[error("a recovery runs on this node already: see `skep status`")]
    RunsHere,
    /// The token store has unlock keys for the charter's generation, so the managers are locked (autolock).
    #[error(
        "this swarm's managers lock themselves (autolock), and Docker cannot re-create the quorum of such a swarm (moby/moby#36852): start again a manager that is only stopped; or terminate the managers that are left, and their replacements found a new swarm; if autolock was switched off since, delete {place} and run this command again"
    )]
    Locks {
        /// Name of the parameter or item in the token store that has the keys.
        place: String,
    },
    /// The claim failed: the charter was changed after it was read, and this node does not hold it.
    #[error("another manager has just claimed the charter: run this command again")]
    Outrun,
    /// Docker's `/info` failed or timed out.
    #[error("Docker does not answer on this host: see `systemctl status docker`")]
    NoDocker,
    /// Docker is no manager of the charter's swarm here, or the ledger has no row of this node.
    #[error(
        "this node is not a manager of the charter's swarm: run this command on a manager that has survived"
    )]
    NotManager,
    /// The quorum was re-created on another manager, under a later generation than that of this manager's row.
    #[error(
        "the quorum was re-created without this manager: it is fenced out, and joins again by itself"
    )]
    Fenced,
    /// A leader answers this manager.
    #[error("the swarm has a leader, so its quorum is not lost: see `docker node ls`")]
    QuorumExists,
    /// This node leaves, and draining's share of its time is over, or too short for a recovery.
    #[error(
        "this node is leaving, by {deadline}, and its departure has no time left to re-create the quorum, which takes up to {takes:?}: run this command on another manager that has survived; if there is none, managers that start found a new swarm once this instance is gone"
    )]
    LeavesTooSoon {
        /// Deadline of this node's departure, in UTC.
        deadline: String,
        /// The longest time that a recovery takes.
        takes: Duration,
    },
    /// Docker's answers do not show whether the swarm has a leader.
    #[error(
        "Docker does not report whether the swarm has a leader: run this command again in a minute; if it still does not, see `docker node ls` and `systemctl status docker`"
    )]
    LeaderUnknown,
    /// Member rows cannot be read, and each may be that of a manager that is alive.
    #[error(
        "ledger rows cannot be read ({keys}), and may be those of managers that are alive: repair them, or delete them if nothing needs them, and run this command again"
    )]
    UnreadableRows {
        /// Keys of the rows, separated by commas.
        keys: String,
    },
    /// More than half of the managers may be alive, this one not counted: they may have a quorum.
    #[error(
        "{alive} of the other managers may be alive ({names}), enough for a quorum that this node cannot see: repair the network between them, or run this command on one of them; if one is lost for good, terminate it or stop its skep, which takes effect {fresh:?} later"
    )]
    MayBeElsewhere {
        /// Number of other managers that may be alive.
        alive: usize,
        /// Their instance ids, separated by commas.
        names: String,
        /// Age up to which a manager's row counts as a sign of life.
        fresh: Duration,
    },
}

/// Whether the quorum may be re-created here and now.
///
/// # Errors
/// The reason against it.
pub fn decide(seen: &Observed) -> Result<(), Refusal> {
    let charter = seen.charter.as_ref().ok_or(Refusal::NoCharter)?;
    let founder = charter.founder.clone();
    match charter.phase {
        CharterPhase::Closed => return Err(Refusal::Closed),
        CharterPhase::Founding if !charter.is_recovery() => {
            return Err(Refusal::Founding { founder });
        }
        CharterPhase::Founding if charter.is_claimed_by(&seen.me) => return Err(Refusal::RunsHere),
        CharterPhase::Founding if charter.lease_expires_at > seen.now => {
            let until = charter.lease_expires_at.to_string();
            return Err(Refusal::Running { founder, until });
        }
        CharterPhase::Founding | CharterPhase::Open => {}
    }
    let local = seen.local.as_ref().ok_or(Refusal::NoDocker)?;
    let row = seen.row.as_ref().filter(|row| Some(&row.node_id) == local.node_id.as_ref());
    let is_ours = match &local.swarm_id {
        // A node without a row has only just joined, and could not be distinguished later from one of another history.
        Some(own) => charter.swarm() == Some(own) && row.is_some(),
        None => row.is_some_and(|row| row.generation == charter.generation),
    };
    // The row that cannot be read may be this node's own: the refusal below names it.
    let is_another = local.swarm_id.is_some() && local.swarm_id.as_ref() != charter.swarm();
    let may_be_ours = is_ours || !is_another && row.is_none() && !seen.unreadable.is_empty();
    if !local.is_manager || !may_be_ours {
        return Err(Refusal::NotManager);
    }
    if row.is_some_and(|row| charter.fences(&seen.me, row.generation)) {
        return Err(Refusal::Fenced);
    }
    // The leader may be this node itself: it had done Docker's part when another manager took over, which is gone by
    // now. Without a claim of its own the charter stays shut.
    match seen.has_leader {
        Fact::No => {}
        _ if charter.is_recovery() => {}
        Fact::Yes => return Err(Refusal::QuorumExists),
        Fact::CannotTell => return Err(Refusal::LeaderUnknown),
    }
    if let Some(leaving) = seen.leaves_by.filter(|leaving| !leaving.has_time(seen.now)) {
        let deadline = in_utc(leaving.deadline);
        return Err(Refusal::LeavesTooSoon { deadline, takes: TAKES_UP_TO });
    }
    if !seen.unreadable.is_empty() {
        let keys = seen.unreadable.iter().cloned().collect::<Vec<_>>().join(", ");
        return Err(Refusal::UnreadableRows { keys });
    }
    // Docker would first shut the node down, and then find that it has no key to start it with.
    if let Some(place) = seen.unlock_keys.clone() {
        return Err(Refusal::Locks { place });
    }
    let alive: Vec<&str> = seen
        .others
        .iter()
        .filter(|row| may_be_alive(seen, row))
        .map(|row| row.instance_id.as_str())
        .collect();
    // This node is a member of raft as well.
    let all = seen.others.len() + 1;
    if 2 * alive.len() > all {
        let names = alive.join(", ");
        return Err(Refusal::MayBeElsewhere {
            alive: alive.len(),
            names,
            fresh: MANAGER_ROW_IS_FRESH,
        });
    }
    Ok(())
}

/// Whether a manager may be alive: it accepts connections, or Auto Scaling does not report it as gone and it wrote its
/// row not long ago. About an instance that was in no group Auto Scaling reports nothing.
fn may_be_alive(seen: &Observed, row: &Member) -> bool {
    let is_missing = |listed: &BTreeMap<_, _>| !listed.contains_key(&row.instance_id);
    let is_gone = row.group.is_some() && seen.listed.as_ref().is_some_and(is_missing);
    let is_fresh = seen.now - row.updated_at < MANAGER_ROW_IS_FRESH;
    seen.listening.contains(&row.address) || (!is_gone && is_fresh)
}

/// Returns the plan, for the operator.
#[must_use]
pub fn plan(cluster: &str, seen: &Observed, decision: Result<(), Refusal>) -> RecoveryPlan {
    let generation = seen.charter.as_ref().map_or(0, |charter| charter.generation);
    let managers: Vec<OtherManager> = seen.others.iter().map(|row| other(seen, row)).collect();
    let refusal = decision.err().map(|refusal| refusal.to_string());
    let (steps, costs) = match refusal {
        None => (steps(generation + 1), costs(&managers, seen.leaves_by)),
        Some(_) => (vec![], vec![]),
    };
    RecoveryPlan {
        cluster: cluster.to_owned(),
        instance_id: seen.me.clone(),
        swarm_id: seen.charter.as_ref().and_then(Charter::swarm).cloned(),
        generation,
        managers,
        refusal,
        steps,
        costs,
    }
}

fn other(seen: &Observed, row: &Member) -> OtherManager {
    let lifecycle = |listed: &BTreeMap<String, GroupInstance>| match listed.get(&row.instance_id) {
        Some(instance) => instance.lifecycle_state.to_string(),
        None if row.group.is_none() => "in no group".to_owned(),
        None => "gone".to_owned(),
    };
    OtherManager {
        instance_id: row.instance_id.clone(),
        address: row.address,
        auto_scaling: seen.listed.as_ref().map(lifecycle),
        listens: seen.listening.contains(&row.address),
        seen_seconds_ago: (seen.now - row.updated_at).whole_seconds().max(0).unsigned_abs(),
        may_be_alive: may_be_alive(seen, row),
    }
}

fn steps(generation: u64) -> Vec<String> {
    vec![
        format!(
            "the charter is claimed for generation {generation} of the same swarm; nobody else founds or recovers anything meanwhile"
        ),
        "this node becomes the swarm's only manager, with the services, secrets, configs, networks and join tokens that it knows".into(),
        "the other managers are removed from the node list and fenced: a manager that comes back leaves by force and joins again".into(),
        format!(
            "the charter opens as generation {generation}: replacements join as managers, workers reconnect and stay under it"
        ),
    ]
}

fn costs(managers: &[OtherManager], leaves_by: Option<Leaving>) -> Vec<String> {
    let mut costs = vec![
        "changes that only the other managers had acknowledged are lost; it is not known whether this manager was behind".into(),
        format!(
            "the tasks on this node are started anew; those on a worker go on if it reconnects within about {} s, which most do; otherwise Docker marks the worker down, starts its tasks on other nodes, and ends those on the worker when it reconnects",
            WORKER_DOWN_AFTER.as_secs()
        ),
    ];
    if let Some(Leaving { deadline, .. }) = leaves_by {
        let deadline = in_utc(deadline);
        costs.push(format!(
            "this node is leaving, by {deadline}, and continues to leave: unless another manager has joined by then, the swarm ends with it"
        ));
    }
    let names = |is_it: &dyn Fn(&&OtherManager) -> bool| {
        let names = managers.iter().filter(is_it).map(|it| it.instance_id.as_str());
        names.collect::<Vec<_>>().join(", ")
    };
    // The words for one manager, or for several.
    let words = |names: &str, one: [&'static str; 2], several: [&'static str; 2]| {
        if names.contains(", ") { several } else { one }
    };
    let alive = names(&|it| it.may_be_alive);
    if !alive.is_empty() {
        costs.push(format!(
            "{alive} may be alive: the swarm's state there is discarded, and the tasks there end when the manager comes back"
        ));
    }
    let is_gone =
        |it: &&OtherManager| !it.may_be_alive && it.auto_scaling.as_deref() == Some("gone");
    let fresh = names(&|it| is_gone(it) && it.seen_seconds_ago < MANAGER_ROW_IS_FRESH.as_secs());
    if !fresh.is_empty() {
        let [gone, detached] = words(
            &fresh,
            [
                "is gone by Auto Scaling's answer, but wrote its row",
                "it was detached from its group and is alive",
            ],
            [
                "are gone by Auto Scaling's answer, but wrote their rows",
                "one of them was detached from its group and is alive",
            ],
        );
        costs.push(format!(
            "{fresh} {gone} within {MANAGER_ROW_IS_FRESH:?}: if {detached}, the swarm's state there is discarded, and the tasks there end when the manager comes back"
        ));
    }
    let silent = names(&|it| !it.may_be_alive && !is_gone(it));
    if !silent.is_empty() {
        let [stale, alive] = words(
            &silent,
            [
                "has not written its row lately, but is not gone by Auto Scaling's answer",
                "it is alive",
            ],
            [
                "have not written their rows lately, but are not gone by Auto Scaling's answer",
                "one of them is alive",
            ],
        );
        costs.push(format!(
            "{silent} {stale}: if {alive}, the swarm's state there is discarded, and the tasks there end when the manager comes back"
        ));
    }
    costs
}
