//! Checks the record against what must hold throughout a demo.

use bollard::models::NodeState;
use serde::Serialize;

use crate::witness::client::Requests;
use crate::witness::record::{NodeRecord, Record};
use crate::witness::single::Single;

/// Docker's managers wait 10 to 20 s for a silent leader before one of them stands for election.
const LONGEST_ELECTION: f64 = 20.0;

/// Seconds after an event until the lists of all managers have been read again.
const LIST_LAG: f64 = 2.0;

/// The result of one check.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    pub holds: bool,
    /// The observation, as a sentence.
    pub says: String,
}

impl Check {
    fn new(problems: &[String], fine: String) -> Check {
        Check {
            holds: problems.is_empty(),
            says: if problems.is_empty() { fine } else { problems.join("; ") },
        }
    }
}

/// Runs all checks. `is_scripted`: nothing completes hooks, so there is nothing to check about them.
pub fn judge(record: &Record, requests: &Requests, is_scripted: bool) -> Vec<Check> {
    let hooks = (!is_scripted).then(|| hooks(&record.nodes));
    let before = [answers(requests), single(record), one_swarm(record), grace(&record.nodes)];
    let after = [quorum(record), raft(&record.nodes), node_list(record)];
    before.into_iter().chain(hooks).chain(after).collect()
}

fn answers(requests: &Requests) -> Check {
    let Requests { sent, answered, long_answered, failed, errors, .. } = requests;
    let mut problems: Vec<String> =
        errors.iter().map(|(error, times)| format!("lost requests: {times} ({error})")).collect();
    if *failed > 0 && errors.is_empty() || answered + failed != *sent {
        problems.push(format!("of {sent} requests, {answered} were answered and {failed} failed"));
    }
    if *long_answered == 0 {
        problems.push("no long request was answered".to_owned());
    }
    let fine =
        format!("every request was answered: {answered}, {long_answered} long ones among them");
    Check::new(&problems, fine)
}

/// A service of one replica must have run all the time, and have been moved.
fn single(record: &Record) -> Check {
    let Single { looks, longest_gap, nodes, .. } = &record.single;
    let mut problems = vec![];
    if *longest_gap > 0.0 {
        problems.push(format!("the service of one replica did not run for {longest_gap:.1} s"));
    }
    if nodes.len() < 2 {
        problems.push(format!("the service of one replica was seen on {} nodes", nodes.len()));
    }
    let fine = format!(
        "a service of one replica ran all the time: on {} nodes, one after the other, in {looks} looks",
        nodes.len()
    );
    Check::new(&problems, fine)
}

fn one_swarm(record: &Record) -> Check {
    let swarm = &record.swarm;
    let daemons = record.nodes.len();
    let fine = match swarm.ids.first_key_value() {
        Some((id, _)) => format!(
            "one swarm: {id} for {daemons} daemons in {} looks, generation {} of the charter",
            swarm.looks,
            swarm.generations.last().copied().unwrap_or_default()
        ),
        None => String::new(),
    };
    let problem = match swarm.ids.len() {
        0 => Some("there never was a swarm".to_owned()),
        1 => None,
        _ => {
            let seen = swarm.ids.iter().map(|(id, by)| format!("{id} by {by}"));
            Some(format!("there was a second swarm: {}", seen.collect::<Vec<_>>().join(", ")))
        }
    };
    Check::new(&Vec::from_iter(problem), fine)
}

fn grace(nodes: &[NodeRecord]) -> Check {
    let problems: Vec<String> = nodes
        .iter()
        .flat_map(|node| {
            let (name, tasks) = (&node.name, node.tasks);
            let killed = (tasks.without_grace > 0).then(|| {
                format!(
                    "tasks that lost their grace on {name}: {} (exit code 137, or the power went)",
                    tasks.without_grace
                )
            });
            let failed = (tasks.failed > 0).then(|| {
                format!("tasks that ended with another error on {name}: {}", tasks.failed)
            });
            [killed, failed]
        })
        .flatten()
        .collect();
    let ended: usize = nodes.iter().map(|node| node.tasks.with_grace).sum();
    Check::new(
        &problems,
        format!("every task had its grace: {ended} were stopped, all with exit code 0"),
    )
}

fn hooks(nodes: &[NodeRecord]) -> Check {
    let problem = |node: &NodeRecord| {
        let name = &node.name;
        if node.hooks_timed_out > 0 {
            Some(format!("hooks that timed out on {name}: {}", node.hooks_timed_out))
        } else if node.hooks_abandoned > 0 {
            Some(format!("hooks of {name} that got ABANDON: {}", node.hooks_abandoned))
        } else if is_let_go_too_early(node) {
            Some(format!("{name} was let go while it was still in the node list"))
        } else {
            None
        }
    };
    let problems: Vec<String> = nodes.iter().filter_map(problem).collect();
    let completed: u32 = nodes.iter().map(|node| node.hooks_completed).sum();
    let fine = format!(
        "no hook timed out: {completed} were completed, all with CONTINUE, and no node was let go while it was listed"
    );
    Check::new(&problems, fine)
}

/// Whether its hook was completed while it was still in the node list.
fn is_let_go_too_early(node: &NodeRecord) -> bool {
    let Some(completed) = node.completed.filter(|_| node.was_listed) else { return false };
    node.off_list.is_none_or(|off_list| off_list > completed + LIST_LAG)
}

fn quorum(record: &Record) -> Check {
    let gap = record.swarm.without_leader(record.now());
    let problem = (gap > LONGEST_ELECTION).then(|| {
        format!("the quorum was lost: no leader for {gap:.1} s, longer than an election takes")
    });
    let fine = format!("the quorum was kept: never without a leader for more than {gap:.1} s");
    Check::new(&Vec::from_iter(problem), fine)
}

fn raft(nodes: &[NodeRecord]) -> Check {
    let problem = |node: &NodeRecord| {
        is_lost_to_raft(node)
            .then(|| format!("{} was switched off while it was a manager in raft", node.name))
    };
    let problems: Vec<String> = nodes.iter().filter_map(problem).collect();
    let left = nodes.iter().filter(|node| node.was_in_raft && node.powered_off.is_some()).count();
    Check::new(
        &problems,
        format!("no manager was switched off while it was in raft: {left} had left it before"),
    )
}

/// Whether its power was cut while it was still a member of raft.
fn is_lost_to_raft(node: &NodeRecord) -> bool {
    let Some(powered_off) = node.powered_off.filter(|_| node.was_in_raft) else { return false };
    node.out_of_raft.is_none_or(|out| out > powered_off + LIST_LAG)
}

fn node_list(record: &Record) -> Check {
    let list = &record.swarm.list;
    let problems: Vec<String> = list
        .iter()
        .filter_map(|listed| {
            let name = record.name_at(listed.address);
            let owner = record.nodes.iter().find(|node| node.address == listed.address);
            let is_gone = owner.is_none_or(|node| node.powered_off.is_some());
            if listed.state == NodeState::DOWN {
                Some(format!("a Down node was left behind: {name}"))
            } else if is_gone {
                Some(format!("{name} is still in the node list, and its instance is gone"))
            } else {
                None
            }
        })
        .collect();
    Check::new(&problems, format!("no Down node was left behind: {} nodes are listed", list.len()))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use bollard::models::Node;

    use super::*;
    use crate::cloud::ActionResult;
    use crate::fleet::TERMINATION_HOOK;
    use crate::witness::record::Tasks;
    use crate::witness::tale::Tale;

    fn record() -> Record {
        let mut record = Record::new(Tale::silent());
        record.launched("i-1", "demo-workers", "a", Ipv4Addr::LOCALHOST, 0.0);
        record.swarm.named("one", "worker-1");
        record.single.nodes = ["a", "b"].map(str::to_owned).into();
        record
    }

    fn broken(record: &Record) -> String {
        let fine = Requests { sent: 2, answered: 2, long_answered: 1, ..Requests::default() };
        let broken = judge(record, &fine, false).into_iter().filter(|check| !check.holds);
        broken.map(|check| check.says).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_request_without_an_answer_is_lost() {
        let fine = Requests { sent: 5, answered: 5, long_answered: 1, ..Requests::default() };
        assert!(answers(&fine).holds);
        let cut = [("the answer was cut".to_owned(), 1)].into();
        let lost = Requests { answered: 4, failed: 1, errors: cut, ..fine.clone() };
        assert_eq!(answers(&lost).says, "lost requests: 1 (the answer was cut)");
        let open = Requests { answered: 4, ..fine.clone() };
        assert!(!answers(&open).holds, "one has no end");
        assert!(!answers(&Requests { long_answered: 0, ..fine }).holds);
        assert!(!answers(&Requests::default()).holds, "the client did not run");
    }

    #[test]
    fn each_check_can_fail() {
        assert_eq!(broken(&record()), "");
        let mut second = record();
        second.swarm.named("two", "manager-1");
        assert!(broken(&second).starts_with("there was a second swarm"));
        let mut gap = record();
        gap.single.longest_gap = 1.2;
        assert_eq!(broken(&gap), "the service of one replica did not run for 1.2 s");
        gap.single = Single::default();
        assert!(broken(&gap).ends_with("was seen on 0 nodes"), "{}", broken(&gap));
        let mut lost = record();
        lost.nodes[0].tasks = Tasks { without_grace: 1, ..Tasks::default() };
        assert!(broken(&lost).starts_with("tasks that lost their grace on worker-1"));
        let mut failed = record();
        failed.nodes[0].tasks = Tasks { failed: 1, ..Tasks::default() };
        assert!(broken(&failed).starts_with("tasks that ended with another error"));
        let listed = |state: &str| {
            let node = serde_json::json!({
                "Spec": {},
                "Status": { "State": state, "Addr": "127.0.0.1" },
                "ManagerStatus": { "Leader": true, "Reachability": "reachable" },
            });
            vec![serde_json::from_value::<Node>(node).unwrap()]
        };
        let mut down = record();
        down.swarm.listed(&listed("down"), 0.0);
        assert_eq!(broken(&down), "a Down node was left behind: worker-1");
        let mut stale = record();
        stale.swarm.listed(&listed("ready"), 0.0);
        stale.nodes[0].powered_off = Some(0.0);
        assert!(broken(&stale).starts_with("worker-1 is still in the node list"));
        let mut leaderless = record();
        leaderless.swarm.listed(&listed("ready"), -LONGEST_ELECTION - 1.0);
        assert!(broken(&leaderless).starts_with("the quorum was lost: no leader for 21.0 s"));
        let mut vanished = record();
        vanished.nodes[0].powered_off = Some(1.0);
        assert_eq!(broken(&vanished), "", "it never was a manager");
        vanished.nodes[0].listed_in_raft(true, 0.5);
        let says = "worker-1 was switched off while it was a manager in raft";
        assert_eq!(broken(&vanished), says);
        vanished.nodes[0].listed_in_raft(false, 1.0 + LIST_LAG + 1.0);
        assert_eq!(broken(&vanished), says, "the others have struck it out");
        vanished.nodes[0].out_of_raft = Some(1.0);
        assert_eq!(broken(&vanished), "");
        let mut late = record();
        late.nodes[0].hooks_timed_out = 1;
        assert!(broken(&late).starts_with("hooks that timed out on worker-1"));
        let mut abandoned = record();
        abandoned.hook_completed("i-1", TERMINATION_HOOK, ActionResult::Abandon, 0.0);
        assert!(broken(&abandoned).starts_with("hooks of worker-1 that got ABANDON: 1"));
        let mut early = record();
        early.hook_completed("i-1", TERMINATION_HOOK, ActionResult::Continue, 1.0);
        assert_eq!(broken(&early), "", "it never was a member");
        early.nodes[0].was_listed = true;
        let says = "worker-1 was let go while it was still in the node list";
        assert_eq!(broken(&early), says);
        early.nodes[0].off_list = Some(1.0 + LIST_LAG + 1.0);
        assert_eq!(broken(&early), says);
        early.nodes[0].off_list = Some(1.0);
        assert_eq!(broken(&early), "");
    }
}
