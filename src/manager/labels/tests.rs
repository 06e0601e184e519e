//! Tests a node on which an operator and skep set labels in any order, and the intervals of the polls.

use proptest::prelude::*;
use time::OffsetDateTime;

use super::*;
use crate::clients::ledger::MemberState;
use crate::clients::ledger::fuzz;
use crate::common::instance::{Instance, Membership, Role};
use crate::common::labels::{AVAILABILITY, GROUP, INSTANCE, check};
use crate::manager::node_edit::row_of;

/// Few keys, so that skep and the operator collide.
const KEYS: [&str; 3] = ["disk", "tier", "rack"];

fn member(labels: &Labels, joined_paused: bool) -> Member {
    let membership = Membership {
        node_id: "n1".into(),
        swarm_id: "s1".into(),
        generation: 1,
        role: Role::Worker,
    };
    let now = OffsetDateTime::UNIX_EPOCH;
    let mut row =
        Member::new(&Instance::example(), &membership, Role::Worker, MemberState::Ready, now);
    (row.labels, row.joined_paused) = (labels.clone(), joined_paused);
    row
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
}

fn view(id: &str, state: &str, labels: Labels) -> NodeView {
    NodeView { state: state.into(), labels, ..NodeView::example(id, Role::Worker) }
}

/// One event on the node.
#[derive(Clone, Debug)]
enum Event {
    /// The node requests these labels.
    Want(Labels),
    /// A manager polls and writes; or polls, loses the race, and so writes nothing.
    Look,
    /// `docker node update --label-add`, with a key that skep has not set.
    Add(&'static str, String),
    /// `docker node update --label-rm`, with a key of the operator's own.
    Remove(&'static str),
    /// `docker node update --availability`.
    Set(Availability),
}

fn value() -> impl Strategy<Value = String> {
    prop::sample::select(&["", "x", "y"][..]).prop_map(str::to_owned)
}

fn event() -> impl Strategy<Value = Event> {
    let key = || prop::sample::select(&KEYS[..]);
    let wanted = prop::collection::btree_map(key().prop_map(str::to_owned), value(), 0..5);
    const ALL: [Availability; 3] = [Availability::Active, Availability::Pause, Availability::Drain];
    prop_oneof![
        wanted.prop_map(Event::Want),
        Just(Event::Look),
        (key(), value()).prop_map(|(key, value)| Event::Add(key, value)),
        key().prop_map(Event::Remove),
        prop::sample::select(&ALL[..]).prop_map(Event::Set),
    ]
}

proptest! {
    /// The operator's labels stay unchanged for every request and every order of polls; skep's labels are those that
    /// the node requests after one poll; a second poll changes nothing; a node is activated at most once, in its first
    /// poll.
    #[test]
    fn others_labels_stay_and_ones_own_converge(
        events in prop::collection::vec(event(), 0..40),
        joined_paused in any::<bool>(),
    ) {
        let mut wanted = Labels::new();
        let mut seen = Labels::new();
        let mut availability =
            if joined_paused { Availability::Pause } else { Availability::Active };
        let mut theirs = Labels::new();
        let mut looks = 0;
        for event in events {
            match event {
                Event::Want(labels) => wanted = labels,
                Event::Add(key, value) if !owned(&seen).contains(key) => {
                    seen.insert(key.into(), value.clone());
                    theirs.insert(key.into(), value);
                }
                Event::Remove(key) if theirs.contains_key(key) => {
                    seen.remove(key);
                    theirs.remove(key);
                }
                Event::Add(..) | Event::Remove(_) => {}
                Event::Set(to) => availability = to,
                Event::Look => {
                    let row = member(&wanted, joined_paused);
                    let before = availability;
                    if let Some(edited) = decide(&seen, availability, &row) {
                        (seen, availability) = edited;
                    }
                    looks += 1;
                    prop_assert_eq!(decide(&seen, availability, &row), None, "a second poll changes nothing");
                    if before != availability {
                        prop_assert!(looks == 1 && joined_paused);
                        let (from, to) = (Availability::Pause, Availability::Active);
                        prop_assert_eq!((before, availability), (from, to));
                    }
                    let mut expected = theirs.clone();
                    for (key, value) in &wanted {
                        if !theirs.contains_key(key) {
                            expected.insert(key.clone(), value.clone());
                        }
                    }
                    let mut now = seen.clone();
                    now.remove(OWNED);
                    prop_assert_eq!(now, expected);
                }
            }
            for (key, value) in &theirs {
                prop_assert_eq!(seen.get(key), Some(value), "{} is the operator's", key);
            }
        }
    }
}

#[test]
fn the_first_labels_activate_who_came_in_paused() {
    let wanted = labels(&[("disk", "ssd"), ("rack", "a")]);
    let facts = || labels(&[(INSTANCE, "i-1"), (GROUP, "workers")]);
    let mut expected = labels(&[("disk", "ssd"), ("rack", "a"), (OWNED, "disk,rack")]);
    expected.extend(facts());
    let of = |availability, joined_paused| {
        decide(&facts(), availability, &member(&wanted, joined_paused)).unwrap()
    };
    assert_eq!(of(Availability::Pause, true), (expected.clone(), Availability::Active));
    assert_eq!(of(Availability::Pause, false).1, Availability::Pause, "an operator's pause");
    assert_eq!(of(Availability::Drain, true).1, Availability::Drain, "it must leave");
    let again = decide(&expected, Availability::Pause, &member(&wanted, true));
    assert_eq!(again, None, "paused again, by an operator");
}

#[test]
fn a_tag_that_is_gone_takes_its_label_along_and_nothing_else() {
    let seen = labels(&[("disk", "ssd"), ("mine", "x"), (OWNED, "disk")]);
    let (now, _) = decide(&seen, Availability::Active, &member(&Labels::new(), false)).unwrap();
    assert_eq!(now, labels(&[("mine", "x"), (OWNED, "")]));
}

/// An earlier skep listed them among the labels that a node had requested.
#[test]
fn the_facts_of_an_instance_are_never_removed() {
    let seen = labels(&[("skep.zone", "a"), ("disk", "ssd"), (OWNED, "disk,skep.zone")]);
    let (now, _) = decide(&seen, Availability::Active, &member(&Labels::new(), false)).unwrap();
    assert_eq!(now, labels(&[("skep.zone", "a"), (OWNED, "")]));
}

#[test]
fn what_is_not_skeps_to_set_is_named() {
    let seen = labels(&[("disk", "hdd"), ("tier", "web"), (OWNED, "tier")]);
    let wanted = labels(&[("disk", "ssd"), ("tier", "db")]);
    assert_eq!(left_alone(&seen, &wanted), BTreeSet::from(["disk"]));
}

#[test]
fn the_newer_of_two_rows_counts_and_one_that_leaves_has_none() {
    let mut old = member(&labels(&[("disk", "hdd")]), false);
    let new = member(&labels(&[("disk", "ssd")]), false);
    old.updated_at -= Duration::from_secs(60);
    let rows = [new.clone(), old.clone()];
    assert_eq!(row_of("n1", &rows), Some(&new));
    assert_eq!(row_of("n2", &rows), None);
    let mut leaving = new;
    leaving.state = MemberState::Leaving;
    assert_eq!(row_of("n1", &[leaving, old]), None);
}

#[test]
fn the_ledger_is_read_for_new_nodes_at_once_and_else_rarely() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let done = || view("a", "ready", labels(&[(OWNED, "")]));
    let bare = || view("b", "ready", Labels::new());
    let dead = || view("c", "down", Labels::new());
    let due = |memory: &mut Memory, nodes: &[NodeView], rhythm: &Rhythm, seconds| {
        let all = memory.is_everybodys_turn(nodes.len(), rhythm, at(seconds));
        let due = memory.due(nodes, all, rhythm.patience, at(seconds));
        due.into_iter().map(|view| view.id).collect::<Vec<_>>()
    };
    let nobody = [""; 0];
    let mut leader = Memory::default();
    assert_eq!(due(&mut leader, &[done()], &LEADER, 0), ["a"], "never read");
    leader.read_at = Some(at(0));
    assert_eq!(due(&mut leader, &[done(), dead()], &LEADER, 2), nobody);
    assert_eq!(due(&mut leader, &[done(), bare()], &LEADER, 4), ["b"], "the new node alone");
    assert_eq!(due(&mut leader, &[done()], &LEADER, 6), nobody, "it has its labels");
    assert_eq!(due(&mut leader, &[done()], &LEADER, 45), ["a"], "labels may have changed");
    let many: Vec<NodeView> = (0..500).map(|_| done()).collect();
    assert_eq!(due(&mut leader, &many, &LEADER, 99), nobody, "500 rows cost more");
    assert_eq!(due(&mut leader, &many, &LEADER, 100).len(), 500);
    leader.read_at = Some(at(125));
    assert_eq!(due(&mut leader, &[bare()], &LEADER, 126), ["b"]);
    leader.read_at = Some(at(240));
    assert_eq!(due(&mut leader, &[bare()], &LEADER, 246), nobody, "it has no skep");

    let mut backup = Memory { read_at: Some(at(0)), ..Memory::default() };
    assert_eq!(due(&mut backup, &[bare()], &BACKUP, 1), nobody, "the leader's turn");
    assert_eq!(due(&mut backup, &[bare()], &BACKUP, 21), ["b"], "the leader's skep is dead");
    assert_eq!(due(&mut backup, &[done()], &BACKUP, 300), ["a"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// Rows with any readable content.
    #[test]
    fn no_row_that_can_be_read_ends_a_look(members in fuzz::members(), is_paused in any::<bool>()) {
        check_rows(&members.rows, is_paused);
    }
}

/// Checks that Docker can store every label that is set on `node-0`. Returns their number.
pub(in crate::manager) fn check_rows(members: &[Member], is_paused: bool) -> usize {
    let Some(row) = row_of("node-0", members) else { return 0 };
    let availability = if is_paused { Availability::Pause } else { Availability::Active };
    let Some((set, _)) = decide(&Labels::new(), availability, row) else { return 0 };
    let own = [OWNED, AVAILABILITY];
    let mut others = set.iter().filter(|(key, _)| !own.contains(&key.as_str()));
    assert!(others.all(|(key, value)| check(key, value).is_ok()), "{set:?}");
    set.len()
}
