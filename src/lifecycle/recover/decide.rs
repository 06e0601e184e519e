//! May the quorum be re-created here, and what does that mean? Pure.

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

/// A manager whose skep lives has refreshed its row twice in this time, and once more is on its way.
const ROW_IS_FRESH: Duration = Duration::from_secs(150);
/// Docker's managers wait for three heartbeats of a worker, one in 5 s. A worker tries to reconnect every 0 to 8 s, and
/// takes any of the managers that it knows, dead ones included.
const WORKER_DOWN_AFTER: Duration = Duration::from_secs(15);
/// Docker needs up to 40 s; the tokens and the charter are written within a few more.
const TAKES_UP_TO: Duration = Duration::from_secs(45);

/// Everything that the plan rests on.
#[derive(Clone, Debug)]
pub struct Observed {
    /// Instance id.
    pub me: String,
    pub charter: Option<Charter>,
    /// `None` where Docker does not answer.
    pub local: Option<LocalNode>,
    /// This node's own row.
    pub row: Option<Member>,
    /// The other managers of the charter's generation, promoted workers among them.
    pub others: Vec<Member>,
    /// Those of them that Auto Scaling lists; `None` where it gave no answer that can be believed.
    pub listed: Option<BTreeMap<String, GroupInstance>>,
    /// Whose port answers.
    pub listening: BTreeSet<IpAddr>,
    /// Keys of members' rows that cannot be read: whose they are, nobody can tell.
    pub unreadable: BTreeSet<String>,
    /// Where the store has unlock keys: the managers lock themselves.
    pub unlock_keys: Option<String>,
    /// Does a leader answer here? *No* is Docker's own word that there is none.
    pub has_leader: Fact,
    /// By when this node leaves the swarm, where it does.
    pub leaves_by: Option<Leaving>,
    pub now: OffsetDateTime,
}

/// This node's own departure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaving {
    pub deadline: OffsetDateTime,
    /// Until when the quorum can be re-created before: draining's share. `None` when that is over, or the departure
    /// has ended.
    pub recovery_until: Option<OffsetDateTime>,
}

impl Leaving {
    fn has_time(&self, now: OffsetDateTime) -> bool {
        self.recovery_until.is_some_and(|until| now + TAKES_UP_TO <= until)
    }
}

/// Why nothing may be done; each names the remedy.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    #[error("the ledger has no charter, so there is no swarm to recover")]
    NoCharter,
    #[error("the charter is closed: the next manager that starts founds a new swarm")]
    Closed,
    #[error("{founder} is founding a swarm: wait until it stands")]
    Founding { founder: String },
    #[error(
        "another recovery runs, on {founder}: it goes on there when its skep is restarted, and may be taken over from {until}"
    )]
    Running { founder: String, until: String },
    #[error("a recovery runs on this node already: see `skep status`")]
    RunsHere,
    #[error(
        "this swarm's managers lock themselves (autolock), and Docker cannot re-create the quorum of such a swarm (moby/moby#36852): start again a manager that is only stopped; or terminate those that are left, and their replacements found a new swarm. If autolock was switched off since, delete {place} and run this again"
    )]
    Locks { place: String },
    #[error("another manager has claimed the charter this moment: run it again")]
    Outrun,
    #[error("Docker does not answer on this host: see `systemctl status docker`")]
    NoDocker,
    #[error(
        "this node is no manager of the charter's swarm: run it on a manager that has survived"
    )]
    NotManager,
    #[error(
        "the quorum was re-created without this manager: it is fenced out, and joins anew by itself"
    )]
    Fenced,
    #[error("the swarm has a leader, so its quorum is not lost: see `docker node ls`")]
    QuorumExists,
    #[error(
        "this node is leaving, by {deadline}, and its departure has no time left to re-create the quorum, which takes up to {takes:?}: run it on another manager that has survived. Where there is none, managers that start found a new swarm once this instance is gone"
    )]
    LeavesTooSoon { deadline: String, takes: Duration },
    #[error(
        "Docker does not say whether the swarm has a leader: run this again in a minute; if that does not change, see `docker node ls` and `systemctl status docker`"
    )]
    LeaderUnknown,
    #[error(
        "ledger rows cannot be read ({keys}), and whether these are managers that live cannot be told: repair them, or delete them if nothing needs them, and run this again"
    )]
    UnreadableRows { keys: String },
    #[error(
        "{alive} of the other managers may be alive ({names}), enough for a quorum that cannot be seen from here: mend the network between them, or run it on one of them; those that are lost for good must be terminated or their skep stopped, which counts {fresh:?} later"
    )]
    MayBeElsewhere { alive: usize, names: String, fresh: Duration },
}

/// Whether the quorum may be re-created here and now.
///
/// # Errors
/// Why not.
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
        // One without a row has only come in, and cannot be told from one of another history later.
        Some(own) => charter.swarm() == Some(own) && row.is_some(),
        None => row.is_some_and(|row| row.generation == charter.generation),
    };
    // The own row may be the one that cannot be read: that is refused below, and says why.
    let is_another = local.swarm_id.is_some() && local.swarm_id.as_ref() != charter.swarm();
    let may_be_ours = is_ours || !is_another && row.is_none() && !seen.unreadable.is_empty();
    if !local.is_manager || !may_be_ours {
        return Err(Refusal::NotManager);
    }
    if row.is_some_and(|row| charter.fences(&seen.me, row.generation)) {
        return Err(Refusal::Fenced);
    }
    // The leader may be this node itself, which had done Docker's part when somebody took over who is
    // gone by now: without a claim of its own the charter stays shut.
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
    // Docker would shut the node down first and then find that it has no key to start it with.
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
        return Err(Refusal::MayBeElsewhere { alive: alive.len(), names, fresh: ROW_IS_FRESH });
    }
    Ok(())
}

/// Not gone by Auto Scaling's word, and it was heard of not long ago; or it answers. Of one that was in no
/// group Auto Scaling says nothing.
fn may_be_alive(seen: &Observed, row: &Member) -> bool {
    let is_missing = |listed: &BTreeMap<_, _>| !listed.contains_key(&row.instance_id);
    let is_gone = row.group.is_some() && seen.listed.as_ref().is_some_and(is_missing);
    let is_fresh = seen.now - row.updated_at < ROW_IS_FRESH;
    seen.listening.contains(&row.address) || (!is_gone && is_fresh)
}

/// The same for a human.
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
        "the other managers are taken off the node list and fenced: one that comes back leaves by force and joins anew".into(),
        format!(
            "the charter opens as generation {generation}: replacements join as managers, workers reconnect and stay under it"
        ),
    ]
}

fn costs(managers: &[OtherManager], leaves_by: Option<Leaving>) -> Vec<String> {
    let mut costs = vec![
        "what only the other managers had acknowledged is lost; whether this one was behind cannot be known".into(),
        format!(
            "the tasks on this node are started anew; those on a worker go on if it reconnects within about {} s, which most do; otherwise Docker marks the worker down, starts its tasks on other nodes, and ends those on the worker when it reconnects",
            WORKER_DOWN_AFTER.as_secs()
        ),
    ];
    if let Some(Leaving { deadline, .. }) = leaves_by {
        let deadline = in_utc(deadline);
        costs.push(format!(
            "this node is leaving, by {deadline}, and goes on with that: unless another manager has joined by then, the swarm ends with it"
        ));
    }
    let names = |is_it: &dyn Fn(&&OtherManager) -> bool| {
        let names = managers.iter().filter(is_it).map(|it| it.instance_id.as_str());
        names.collect::<Vec<_>>().join(", ")
    };
    let alive = names(&|it| it.may_be_alive);
    if !alive.is_empty() {
        costs.push(format!(
            "{alive} may be alive: what it holds of the swarm is given up, and its tasks end when it comes back"
        ));
    }
    let is_gone =
        |it: &&OtherManager| !it.may_be_alive && it.auto_scaling.as_deref() == Some("gone");
    let fresh = names(&|it| is_gone(it) && it.seen_seconds_ago < ROW_IS_FRESH.as_secs());
    if !fresh.is_empty() {
        costs.push(format!(
            "{fresh} is gone by Auto Scaling's word, but wrote its row within {ROW_IS_FRESH:?}: should it have been detached from its group and be alive, the same"
        ));
    }
    let silent = names(&|it| !it.may_be_alive && !is_gone(it));
    if !silent.is_empty() {
        costs.push(format!(
            "{silent} has not been heard of, but is not gone by Auto Scaling's word: the same, should it be alive"
        ));
    }
    costs
}
