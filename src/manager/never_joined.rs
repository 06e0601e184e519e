//! Instances that Auto Scaling waits to terminate, that are no members, and whose skep has ended: it crashed on
//! the way, its configuration has mistakes, or the node has left earlier for another reason (`skep leave`, a
//! spot notice, maintenance, a power-off) and the machine has stayed. Nobody but a manager ends that wait.
//!
//! Guarantees: the termination hook alone is completed, and only of an instance that every successful answer
//! has listed as waiting for it for [`PATIENCE`], or for [`PATIENCE_WITH_ENDED`] where its skep has said that
//! it has ended; of which the ledger has no member and no departure under way, and that can be none of the
//! nodes on the list. A node that no row explains may be any instance, but for those whose departure is over:
//! one that joins again after that has a row before. Where this cannot be told, or the instance's own row
//! cannot be read, the hook is left alone, and `skep status` says so. A launch hook is left to its own
//! deadline. Assumes that the cluster's groups hold nothing but its nodes.
//!
//! One whose skep lives, and is only slow, loses nothing by it: it has no tasks and no vote, and what a join
//! leaves behind that ends after all goes like any entry of a dead node.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::time::Duration;

use tokio::time::Instant;

use super::act::CareError;
use super::rounds;
use super::stand_in::{self, WaitingSince};
use crate::autoscaling::{GroupInstance, HookResult};
use crate::fact::Fact;
use crate::ledger::{Attempt, DepartureRow, MemberRows};
use crate::node::Node;
use crate::swarm::NodeView;

/// Who has the trouble.
const WHO: &str = "termination hooks";
/// Between two questions about all groups, which are one call: Auto Scaling's limit is shared by the account.
const INTERVAL: Duration = Duration::from_secs(30);
/// The other managers, in case the leader's skep is dead.
const BACKUP_INTERVAL: Duration = Duration::from_secs(120);
/// A skep that lives sees the notice within seconds, and its boot ends after the step that is under way:
/// the longest is a join, which is over within 90 s. Then it asks to leave, or completes the hook itself.
const PATIENCE: Duration = Duration::from_secs(120);

/// After its own last word a skep completes nothing any more; an answer may be behind by some seconds.
const PATIENCE_WITH_ENDED: Duration = Duration::from_secs(20);

/// Ends such waits for as long as this node is a manager; never returns.
pub async fn release_who_never_joined(node: &Node, node_id: &str) -> Infallible {
    let what = "looking for instances that never joined";
    rounds::go(node, what, (INTERVAL, INTERVAL), async |since: &mut WaitingSince| {
        let is_leader = look(node, node_id, since).await.inspect_err(|error| {
            // Others look after it, and say it.
            if error.is_not_manager() {
                node.state.trouble(WHO, None);
            }
        })?;
        Ok(if is_leader { INTERVAL } else { BACKUP_INTERVAL })
    })
    .await
}

/// Whether this node is the leader.
async fn look(node: &Node, me: &str, since: &mut WaitingSince) -> Result<bool, CareError> {
    let own = node.instance.id.as_str();
    // The list and the rows last: whoever has joined while Auto Scaling answered is in them.
    let members = node.ledger.fetch_members().await?;
    let own_group = node.settings.autoscaling.group.as_ref().or(node.instance.group.as_ref());
    let groups = members.iter().filter_map(|row| row.group.as_ref()).chain(own_group);
    let groups: BTreeSet<&str> = groups.map(String::as_str).collect();
    let listed = node.autoscaling.fetch_groups(&groups).await?;
    let (members, departures, attempts) = tokio::try_join!(
        node.ledger.survey_members(),
        node.ledger.fetch_departures(),
        node.ledger.fetch_attempts()
    )?;
    let nodes = node.swarm.fetch_nodes().await?;
    let seen = Observed {
        listed: &listed,
        members: &members,
        departures: &departures,
        attempts: &attempts,
        nodes: &nodes,
    };
    let overdue = overdue(&seen, own, since, Instant::now());
    node.state.trouble(WHO, overdue.held());
    for instance in overdue.nobody {
        tracing::warn!(
            instance,
            "Auto Scaling waits to terminate it, it is no member and its skep has ended or says nothing"
        );
        stand_in::release(node, &instance, HookResult::Continue).await?;
    }
    Ok(nodes.iter().any(|view| view.id == me && view.is_leader()))
}

/// What a look has seen.
struct Observed<'a> {
    /// All instances of the cluster's groups, by one answer.
    listed: &'a BTreeMap<String, GroupInstance>,
    members: &'a MemberRows,
    departures: &'a [DepartureRow],
    attempts: &'a [Attempt],
    nodes: &'a [NodeView],
}

/// Those that have waited for long enough.
#[derive(Debug, Default, PartialEq, Eq)]
struct Overdue {
    /// Their wait is to end.
    nobody: Vec<String>,
    /// Their own rows in the ledger cannot be read.
    unreadable: Vec<String>,
    /// They may be the node of this id, which no row explains.
    maybe: Option<(String, Vec<String>)>,
}

impl Overdue {
    /// Why hooks are not completed, and the remedy, in words.
    fn held(&self) -> Option<String> {
        let unreadable = (!self.unreadable.is_empty()).then(|| {
            format!(
                "the termination hook of {} is not completed: its row in the ledger cannot be read, so that it may be a member; mend or delete that row",
                some_of(&self.unreadable)
            )
        });
        let maybe = self.maybe.as_ref().map(|(node, instances)| {
            format!(
                "the termination hook of {} is not completed: node {node} has no row in the ledger and may be on it; take that node out of the swarm, or complete the hook by hand",
                some_of(instances)
            )
        });
        let both: Vec<String> = unreadable.into_iter().chain(maybe).collect();
        (!both.is_empty()).then(|| both.join("; "))
    }
}

/// The first of them by name, the others by their number: a group may have a thousand.
fn some_of(instances: &[String]) -> String {
    const NAMED: usize = 3;
    let (named, others) = instances.split_at(instances.len().min(NAMED));
    let named = named.join(", ");
    if others.is_empty() { named } else { format!("{named} and {} more", others.len()) }
}

/// Takes in an answer, and says whose wait is to end. One that does not list the asking instance
/// either is about another account or region, and proves nothing.
fn overdue(seen: &Observed<'_>, own: &str, since: &mut WaitingSince, now: Instant) -> Overdue {
    let mut overdue = Overdue::default();
    if !seen.listed.contains_key(own) {
        return overdue;
    }
    let waits = |id: &String| {
        let instance = seen.listed.get(id);
        let is_held = instance.is_some_and(|it| it.lifecycle_state.waits_for_departure());
        *id != own && is_held && !is_nobody(seen, id).is_no()
    };
    since.retain(|id, _| waits(id));
    for id in seen.listed.keys().filter(|id| waits(id)) {
        since.entry(id.clone()).or_insert(now);
    }
    let unexplained = seen.nodes.iter().find(|view| !view.is_down() && !is_explained(seen, view));
    let is_due = |(id, since): &(&String, &Instant)| now - **since >= patience(seen, id);
    let mut maybe = vec![];
    for (id, _) in since.iter().filter(is_due) {
        match is_nobody(seen, id) {
            Fact::No => {}
            Fact::CannotTell => overdue.unreadable.push(id.clone()),
            // A node that nobody knows yet may be any of those that have not left.
            Fact::Yes if unexplained.is_some() && !has_left(seen, id) => maybe.push(id.clone()),
            Fact::Yes => overdue.nobody.push(id.clone()),
        }
    }
    overdue.maybe = unexplained.filter(|_| !maybe.is_empty()).map(|view| (view.id.clone(), maybe));
    overdue
}

/// How long the instance's own skep may still have something to say.
fn patience(seen: &Observed<'_>, id: &str) -> Duration {
    let has_ended = seen.departures.iter().any(|row| row.instance_id == id && row.ended);
    if has_ended { PATIENCE_WITH_ENDED } else { PATIENCE }
}

/// No member, nobody who asks to leave, and no node is at the address from which it has tried to join.
fn is_nobody(seen: &Observed<'_>, id: &str) -> Fact {
    let is_at = |view: &NodeView, attempt: &Attempt| {
        view.address.as_ref().and_then(|it| it.parse().ok()) == Some(attempt.address)
    };
    let mut attempts = seen.attempts.iter().filter(|attempt| attempt.instance_id == id);
    let mut departures = seen.departures.iter().filter(|row| row.instance_id == id);
    if seen.members.rows.iter().any(|row| row.instance_id == id)
        || departures.any(|row| !is_over(seen, row))
        || attempts.any(|attempt| seen.nodes.iter().any(|view| is_at(view, attempt)))
    {
        return Fact::No;
    }
    let is_its = |key: &String| key.rsplit('#').next() == Some(id);
    if seen.members.unreadable.iter().any(is_its) { Fact::CannotTell } else { Fact::Yes }
}

/// One that has left earlier, for whatever reason, has ended its skep: nobody else completes its hook. One
/// whose departure has failed is taken care of as a member for as long as the swarm lists it.
fn is_over(seen: &Observed<'_>, row: &DepartureRow) -> bool {
    row.state.is_over() && seen.nodes.iter().all(|view| view.id != row.node_id)
}

fn has_left(seen: &Observed<'_>, id: &str) -> bool {
    seen.departures.iter().any(|row| row.instance_id == id && is_over(seen, row))
}

fn is_explained(seen: &Observed<'_>, view: &NodeView) -> bool {
    seen.members.rows.iter().any(|row| row.node_id == view.id)
        || seen.departures.iter().any(|row| row.node_id == view.id)
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;
    use crate::instance::{Departure, Reason, Role};
    use crate::ledger::{DepartureState, Member};

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;
    const WAITS: &str = "Terminating:Wait";

    fn member(instance: &str) -> Member {
        serde_json::from_value(serde_json::json!({
            "instance_id": instance, "role": "worker", "node_id": format!("node-of-{instance}"),
            "zone": "a", "address": "10.0.0.1", "generation": 1, "state": "ready",
            "updated_at": 0, "expires_at": 0,
        }))
        .unwrap()
    }

    fn view(id: &str, address: &str, state: &str) -> NodeView {
        NodeView {
            state: state.into(),
            address: Some(address.into()),
            ..NodeView::example(id, Role::Worker)
        }
    }

    fn answer(states: &[(&str, &str)]) -> BTreeMap<String, GroupInstance> {
        let listed = states.iter().map(|(id, state)| {
            let lifecycle_state = (*state).into();
            let (group, health) = ("workers".into(), String::new());
            ((*id).to_owned(), GroupInstance { group, lifecycle_state, health })
        });
        listed.collect()
    }

    /// A world in which `i-dead` is nobody, and looks at it.
    struct World {
        listed: BTreeMap<String, GroupInstance>,
        members: MemberRows,
        departures: Vec<DepartureRow>,
        attempts: Vec<Attempt>,
        nodes: Vec<NodeView>,
        since: WaitingSince,
        start: Instant,
    }

    impl World {
        fn new() -> Self {
            Self {
                listed: answer(&[("i-own", "InService"), ("i-dead", WAITS)]),
                members: MemberRows { rows: vec![member("i-own")], ..MemberRows::default() },
                departures: vec![],
                attempts: vec![],
                nodes: vec![view("node-of-i-own", "10.0.0.1", "ready")],
                since: WaitingSince::new(),
                start: Instant::now(),
            }
        }

        fn look(&mut self, seconds: u64) -> Vec<String> {
            self.judge(seconds).nobody
        }

        fn judge(&mut self, seconds: u64) -> Overdue {
            let Self { listed, members, departures, attempts, nodes, since, start } = self;
            let seen = Observed { listed, members, departures, attempts, nodes };
            overdue(&seen, "i-own", since, *start + Duration::from_secs(seconds))
        }
    }

    #[test]
    fn only_who_waits_for_long_in_every_answer_is_released() {
        let mut world = World::new();
        assert!(world.look(0).is_empty() && world.look(119).is_empty());
        assert_eq!(world.look(120), ["i-dead"]);
        world.listed = answer(&[("i-dead", WAITS)]);
        assert!(world.look(150).is_empty(), "another account's answer");
        world.listed = answer(&[("i-own", "InService")]);
        assert!(world.look(180).is_empty(), "it is gone");
        world.listed = answer(&[("i-own", WAITS), ("i-dead", WAITS), ("i-new", "Pending:Wait")]);
        assert!(world.look(210).is_empty(), "it begins anew");
        assert_eq!(world.look(330), ["i-dead"], "not this node's, nor a launch hook");
    }

    /// Whatever it has left for: skep ends with the departure, and Auto Scaling's hook comes later.
    #[test]
    fn an_instance_that_has_left_earlier_for_any_reason_is_released_soon() {
        use DepartureState::{Drained, Failed, Left, Removed};
        for reason in [
            Reason::Operator,
            Reason::Spot,
            Reason::Maintenance,
            Reason::Rebalance,
            Reason::Shutdown,
            Reason::Lifecycle,
        ] {
            let look = |state, ended, waits: &str| {
                let notice = Departure { reason, noticed_at: NOW, deadline: NOW };
                let mut row = DepartureRow::request("i-dead", "it", Role::Worker, &notice, "boot");
                (row.state, row.ended) = (state, ended);
                let mut world = World { departures: vec![row], ..World::new() };
                world.listed = answer(&[("i-own", "InService"), ("i-dead", waits)]);
                world.look(0);
                (world.look(19), world.look(20), world.look(120))
            };
            let (none, released) = (Vec::<String>::new(), vec!["i-dead".to_owned()]);
            for state in [Removed, Failed] {
                let ended = look(state, true, WAITS);
                assert_eq!(ended, (none.clone(), released.clone(), released.clone()), "{reason}");
                let silent = look(state, false, WAITS);
                assert_eq!(silent, (none.clone(), none.clone(), released.clone()), "{reason}");
            }
            let replaced = look(Removed, true, "ReplacingRootVolume:Wait");
            assert_eq!(replaced.1, released, "{reason}");
            for (state, waits) in [
                (Drained, WAITS),
                (Left, WAITS),
                (Removed, "Terminating:Retained"),
                (Removed, "Terminating:Proceed"),
                (Removed, "Terminating:Somehow"),
            ] {
                assert_eq!(look(state, true, waits), (none.clone(), none.clone(), none.clone()));
            }
        }
    }

    #[test]
    fn whoever_may_be_somebody_is_left_to_the_hook() {
        let look = |change: &dyn Fn(&mut World)| {
            let mut world = World::new();
            change(&mut world);
            world.look(0);
            world.look(600)
        };
        assert_eq!(look(&|_| {}), ["i-dead"]);
        assert!(look(&|it| it.members.rows.push(member("i-dead"))).is_empty(), "a member");
        let notice = Departure { reason: Reason::Lifecycle, noticed_at: NOW, deadline: NOW };
        let asked = DepartureRow::request("i-dead", "", Role::Worker, &notice, "boot");
        assert!(look(&|it| it.departures.push(asked.clone())).is_empty(), "its skep has spoken");
        let with_state = |state| {
            let mut row = asked.clone();
            row.state = state;
            row
        };
        for state in [DepartureState::Draining, DepartureState::Drained, DepartureState::Left] {
            let row = with_state(state);
            assert!(look(&|it| it.departures.push(row.clone())).is_empty(), "{state:?}: under way");
        }
        let removed = with_state(DepartureState::Removed);
        assert_eq!(look(&|it| it.departures.push(removed.clone())), ["i-dead"], "it left earlier");
        let mut back = removed.clone();
        back.node_id = "node-of-i-own".into();
        let is_back = |it: &mut World| it.departures.push(back.clone());
        assert!(look(&is_back).is_empty(), "the swarm lists that node again");
        let attempt = Attempt::new("i-dead", Role::Worker, [10, 0, 0, 9].into(), NOW);
        assert_eq!(look(&|it| it.attempts.push(attempt.clone())), ["i-dead"], "it came to nothing");
        let is_listed = |it: &mut World| {
            it.attempts.push(attempt.clone());
            it.nodes.push(view("stray", "10.0.0.9", "down"));
        };
        assert!(look(&is_listed).is_empty(), "there is a node at its address");
        let is_unknown = |it: &mut World| it.nodes.push(view("new", "10.0.0.8", "ready"));
        assert!(look(&is_unknown).is_empty(), "a node that nobody knows yet");
        let is_old = |it: &mut World| it.nodes.push(view("old", "10.0.0.8", "down"));
        assert_eq!(look(&is_old), ["i-dead"], "what an earlier one has left");
    }

    /// Such as one that was joined by hand, or whose row cannot be read: it lasts.
    #[test]
    fn a_node_that_no_row_explains_holds_up_nobody_who_has_left() {
        let mut world = World::new();
        world.listed = answer(&[("i-own", "InService"), ("i-dead", WAITS), ("i-left", WAITS)]);
        world.nodes.push(view("by-hand", "10.0.0.8", "ready"));
        let notice = Departure { reason: Reason::Operator, noticed_at: NOW, deadline: NOW };
        let mut row = DepartureRow::request("i-left", "former", Role::Worker, &notice, "boot");
        (row.state, row.ended) = (DepartureState::Removed, true);
        world.departures = vec![row];
        world.look(0);
        assert_eq!(world.look(20), ["i-left"]);
        let later = world.judge(120);
        assert_eq!(later.nobody, ["i-left"]);
        assert_eq!(later.maybe, Some(("by-hand".to_owned(), vec!["i-dead".to_owned()])));
        let words = later.held().unwrap();
        assert!(words.contains("i-dead") && words.contains("node by-hand"), "{words}");
        world.nodes.pop();
        let explained = world.judge(130);
        assert_eq!((explained.nobody.len(), explained.held()), (2, None));
    }

    #[test]
    fn an_instance_whose_row_cannot_be_read_may_be_a_member() {
        for key in ["member#worker#i-dead", "member#manager#i-dead"] {
            let mut world = World::new();
            world.members.unreadable = [key.to_owned()].into();
            world.nodes.push(view("its-node", "10.0.0.8", "down"));
            world.look(0);
            let due = world.judge(600);
            assert!(due.nobody.is_empty());
            assert_eq!(due.unreadable, ["i-dead"]);
            let words = due.held().unwrap();
            assert!(words.contains("i-dead") && words.contains("cannot be read"), "{words}");
            world.members.unreadable = ["member#worker#i-deadly".to_owned()].into();
            assert_eq!(world.look(610), ["i-dead"], "that is another's");
        }
    }
}
