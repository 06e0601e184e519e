//! Decides whether this node is still a member of the charter's swarm. Pure: no clock, no I/O, no memory.

use super::cause::{Cause, nobody_listens};
use super::reach::Reach;
use crate::clients::docker::{LocalNode, LocalState};
use crate::clients::ledger::{Charter, CharterPhase, Member, MemberState};
use crate::common::fact::Fact;
use crate::common::instance::{Membership, Role};
use crate::manager::peers::no_leader;

/// Facts for a verdict.
#[derive(Clone, Debug)]
pub struct Observed {
    /// Docker's answer about this host.
    pub local: LocalNode,
    /// Docker advertises another address than this node's.
    pub is_moved: bool,
    /// `None` if the ledger was not read this time.
    pub records: Option<Records>,
}

/// Facts from the ledger.
#[derive(Clone, Debug)]
pub struct Records {
    /// `None` if the ledger has no charter.
    pub charter: Option<Charter>,
    /// This node's member row.
    pub row: Option<Member>,
    /// Another manager of the charter's generation listens, and has a leader if that matters; looked up only if it
    /// matters.
    pub is_manager_there: bool,
    /// Managers that a worker reaches; looked up only if nothing else is in question.
    pub reach: Reach,
    /// Whether a leader answers this manager; asked only if the charter names another swarm.
    pub has_leader: Fact,
}

/// Conclusion from one observation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Docker is active and knows a manager, and no fact that was read is a cause to boot again.
    Fine,
    /// The node is not well, and leaving would not cure it.
    Wait {
        /// Completes "waiting, since".
        why: String,
    },
    /// Out of the charter's swarm, if the next observations find the same.
    Out(Cause),
}

/// Returns the verdict on the instance `me`, which became a member with `membership`.
#[must_use]
pub fn decide(me: &str, membership: &Membership, seen: &Observed) -> Verdict {
    if seen.local.state == LocalState::Inactive {
        return Verdict::Out(Cause::InNoSwarm);
    }
    if let Some(records) = &seen.records
        && let Some(verdict) = compare(me, membership, seen, records)
    {
        return verdict;
    }
    match seen.local.state {
        _ if no_leader(None, &seen.local).is_no() => {
            Verdict::Wait { why: "its swarm has no leader".into() }
        }
        _ if !seen.local.error.is_empty() => {
            Verdict::Wait { why: format!("Docker reports: {}", seen.local.error) }
        }
        _ if seen.is_moved && seen.local.is_manager => {
            Verdict::Wait { why: Cause::Moved.to_string() }
        }
        LocalState::Active if seen.local.has_managers => match &seen.records {
            Some(Records { reach: Reach::Silent { known, why }, .. }) => {
                Verdict::Wait { why: format!("{}; {why}", nobody_listens(known)) }
            }
            _ => Verdict::Fine,
        },
        LocalState::Active => Verdict::Wait { why: "no manager is connected".into() },
        LocalState::Locked => Verdict::Wait { why: "Docker's swarm state is locked".into() },
        LocalState::Pending | LocalState::Error | LocalState::Inactive => {
            Verdict::Wait { why: "Docker has not settled in the swarm".into() }
        }
    }
}

/// Compares Docker's answer with the ledger.
fn compare(
    me: &str,
    membership: &Membership,
    seen: &Observed,
    records: &Records,
) -> Option<Verdict> {
    let local = &seen.local;
    let is_row_ours = |row: &&Member| Some(&row.node_id) == local.node_id.as_ref();
    let row = records.row.as_ref().filter(is_row_ours);
    if row.is_some_and(|row| row.state == MemberState::Removed) && !local.is_manager {
        return Some(Verdict::Out(Cause::Removed));
    }
    let charter = records.charter.as_ref()?;
    let generation = charter.generation;
    if charter.is_recovery() && charter.is_claimed_by(me) {
        return Some(Verdict::Out(Cause::Recovery { generation }));
    }
    if is_later(charter, membership) && charter.swarm_id.as_ref() == Some(&membership.swarm_id) {
        let is_manager = local.is_manager || membership.role == Role::Manager;
        return if is_manager && charter.fences(me, membership.generation) {
            let fenced = Verdict::Out(Cause::Fenced { generation });
            Some(if records.is_manager_there { fenced } else { nobody_answers(generation) })
        } else {
            // A node without a manager is not well; `decide` reports that.
            local.is_sound().then_some(Verdict::Out(Cause::Renewed { generation }))
        };
    }
    let is_elsewhere = is_later(charter, membership);
    let is_refused = local.is_certificate_refused()
        && matches!(local.state, LocalState::Pending | LocalState::Error);
    let is_manager = membership.role == Role::Manager;
    match (is_elsewhere, is_refused, records.is_manager_there) {
        // If this manager left by force, it would be missing in a swarm that may have a quorum.
        (true, _, true) if local.is_manager && records.has_leader != Fact::No => {
            Some(two_swarms(generation, records.has_leader))
        }
        (true, _, true) => Some(Verdict::Out(Cause::Older { generation })),
        (false, true, true) => Some(Verdict::Out(Cause::CertificateRefused)),
        (true, _, false) => Some(nobody_answers(generation)),
        (false, false, true) if seen.is_moved => Some(Verdict::Out(Cause::Moved)),
        // If this manager left by force, it would stay in raft.
        (false, true, false) if is_manager => Some(nobody_can(&Cause::CertificateRefused)),
        (false, false, false) if seen.is_moved && is_manager => Some(nobody_can(&Cause::Moved)),
        (false, false, _) if local.state == LocalState::Active && !is_manager => {
            stranded(local, &records.reach)
        }
        _ => None,
    }
}

/// Returns the verdict on a stranded worker. A manager that left like this, by force, would stay in raft.
fn stranded(local: &LocalNode, reach: &Reach) -> Option<Verdict> {
    let Reach::Replaced { known, listening } = reach else { return None };
    let cause = Cause::Stranded { known: known.clone(), listening: *listening };
    (!local.is_manager).then_some(Verdict::Out(cause))
}

fn two_swarms(generation: u64, has_leader: Fact) -> Verdict {
    let what = "the charter names the swarm of a later generation";
    let why = match has_leader {
        Fact::CannotTell => "skep cannot tell whether this manager's swarm has a leader",
        _ => "this manager's swarm has a leader: leave the swarm that is not needed",
    };
    Verdict::Wait { why: format!("{what} ({generation}), and {why}") }
}

fn nobody_answers(generation: u64) -> Verdict {
    Verdict::Wait { why: format!("no manager of generation {generation} answers") }
}

fn nobody_can(cause: &Cause) -> Verdict {
    let why = "no other manager answers that has a leader, to take this one out of raft";
    Verdict::Wait { why: format!("{cause}, and {why}") }
}

/// Whether the charter is open for a later generation than this node's.
pub(super) fn is_later(charter: &Charter, membership: &Membership) -> bool {
    charter.phase == CharterPhase::Open
        && charter.generation > membership.generation
        && charter.swarm_id.is_some()
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;
    use time::OffsetDateTime;

    use super::*;
    use crate::clients::ledger::fuzz;
    use crate::common::instance::{Instance, Market};

    const STATES: [LocalState; 5] = [
        LocalState::Inactive,
        LocalState::Pending,
        LocalState::Active,
        LocalState::Error,
        LocalState::Locked,
    ];
    const EXPIRED: &str = "x509: certificate has expired or is not yet valid";

    fn member(role: Role) -> Membership {
        Membership { node_id: "node".into(), swarm_id: "swarm".into(), generation: 2, role }
    }

    pub fn local(state: LocalState, role: Role) -> LocalNode {
        LocalNode {
            state,
            node_id: Some("node".into()),
            swarm_id: Some("swarm".into()),
            is_manager: role == Role::Manager,
            has_managers: true,
            managers: vec![],
            error: String::new(),
            address: None,
            live_restore: false,
        }
    }

    pub fn charter(generation: u64, swarm_id: &str, phase: CharterPhase) -> Charter {
        Charter {
            phase,
            generation,
            founder: "i-1".into(),
            lease_expires_at: OffsetDateTime::UNIX_EPOCH,
            swarm_id: Some(swarm_id.into()),
            ca_digest: None,
            founded_at: None,
            former: vec![],
            recovers: None,
            adopts: None,
        }
    }

    fn row(node_id: &str, state: MemberState) -> Member {
        let instance = Instance {
            id: "i-1".into(),
            arn: String::new(),
            instance_type: String::new(),
            zone: String::new(),
            region: String::new(),
            private_address: [10, 0, 0, 1].into(),
            market: Market::OnDemand,
            group: None,
            stack: None,
            tags: std::collections::BTreeMap::new(),
        };
        let membership = Membership { node_id: node_id.into(), ..member(Role::Worker) };
        let epoch = OffsetDateTime::UNIX_EPOCH;
        Member::new(&instance, &membership, Role::Worker, state, epoch)
    }

    fn records(charter: Charter, row: Member, is_manager_there: bool) -> Option<Records> {
        let has_leader = Fact::No;
        Some(Records {
            charter: Some(charter),
            row: Some(row),
            is_manager_there,
            reach: Reach::Open,
            has_leader,
        })
    }

    #[test]
    fn each_way_out_of_the_swarm_is_noticed() {
        let (worker, now) = (member(Role::Worker), charter(2, "swarm", CharterPhase::Open));
        let well = row("node", MemberState::Ready);
        let look = |state, error: &str, records| {
            let local = LocalNode { error: error.into(), ..local(state, Role::Worker) };
            decide("i-1", &worker, &Observed { local, is_moved: false, records })
        };
        let fine = records(now.clone(), well.clone(), true);
        assert_eq!(look(LocalState::Active, "", fine.clone()), Verdict::Fine);
        assert_eq!(look(LocalState::Inactive, "", fine), Verdict::Out(Cause::InNoSwarm));
        let removed = records(now.clone(), row("node", MemberState::Removed), true);
        assert_eq!(look(LocalState::Active, "", removed), Verdict::Out(Cause::Removed));
        let earlier = records(now.clone(), row("earlier", MemberState::Removed), true);
        assert_eq!(look(LocalState::Active, "", earlier), Verdict::Fine, "another node's row");
        let later = records(charter(3, "next", CharterPhase::Open), well.clone(), true);
        let older = Verdict::Out(Cause::Older { generation: 3 });
        assert_eq!(look(LocalState::Active, "no leader", later), older);
        let expired = records(now, well, true);
        let refused = Verdict::Out(Cause::CertificateRefused);
        assert_eq!(look(LocalState::Error, EXPIRED, expired), refused);
    }

    const KNOWN: [u8; 4] = [10, 0, 0, 1];
    const OTHER: [u8; 4] = [10, 0, 0, 7];

    fn replaced() -> Reach {
        Reach::Replaced { known: [KNOWN.into()].into(), listening: OTHER.into() }
    }

    fn silent() -> Reach {
        Reach::Silent {
            known: [KNOWN.into()].into(),
            why: "no other manager that has a leader listens".into(),
        }
    }

    #[test]
    fn a_worker_whose_managers_were_all_replaced_joins_anew_and_waits_where_nobody_can_tell() {
        let look = |state, role, reach| {
            let (now, well) =
                (charter(2, "swarm", CharterPhase::Open), row("node", MemberState::Ready));
            let records = records(now, well, false).map(|it| Records { reach, ..it });
            let seen = Observed { local: local(state, role), is_moved: false, records };
            decide("i-1", &member(Role::Worker), &seen)
        };
        let cause = Cause::Stranded { known: [KNOWN.into()].into(), listening: OTHER.into() };
        let text = cause.to_string();
        assert!(text.contains("listens (10.0.0.1)") && text.contains("at 10.0.0.7"), "{text}");
        let (active, worker) = (LocalState::Active, Role::Worker);
        assert_eq!(look(active, worker, replaced()), Verdict::Out(cause));
        assert_eq!(look(active, worker, Reach::Open), Verdict::Fine);
        assert_eq!(look(active, worker, Reach::NotKnown), Verdict::Fine);
        assert_eq!(look(active, Role::Manager, replaced()), Verdict::Fine, "promoted by hand");
        let why = "no manager that Docker knows here listens (10.0.0.1); no other manager that has a leader listens";
        assert_eq!(look(active, worker, silent()), Verdict::Wait { why: why.into() });
        assert!(matches!(look(LocalState::Pending, worker, replaced()), Verdict::Wait { .. }));
    }

    #[test]
    fn of_the_same_swarm_workers_go_on_and_managers_that_were_do_not() {
        let renewed = charter(3, "swarm", CharterPhase::Open);
        let recovered = Charter { recovers: Some("swarm".into()), ..renewed.clone() };
        let look = |me: &str, role, charter: &Charter| {
            let local = local(LocalState::Active, role);
            let records = records(charter.clone(), row("node", MemberState::Ready), true);
            decide(me, &member(role), &Observed { local, is_moved: false, records })
        };
        let goes_on = Verdict::Out(Cause::Renewed { generation: 3 });
        let fenced = Verdict::Out(Cause::Fenced { generation: 3 });
        assert_eq!(look("i-2", Role::Worker, &recovered), goes_on);
        assert_eq!(look("i-2", Role::Manager, &recovered), fenced);
        assert_eq!(look("i-1", Role::Manager, &recovered), goes_on, "its founder");
        assert_eq!(look("i-2", Role::Manager, &renewed), goes_on, "nothing was re-created");
        let begun = Charter { phase: CharterPhase::Founding, ..recovered };
        assert_eq!(look("i-2", Role::Manager, &begun), Verdict::Fine, "not before it is open");
        let own = Verdict::Out(Cause::Recovery { generation: 3 });
        assert_eq!(look("i-1", Role::Manager, &begun), own);
    }

    #[test]
    fn another_address_takes_a_worker_out_and_a_manager_waits_for_the_others() {
        let look = |role, is_manager_there| {
            let (now, well) =
                (charter(2, "swarm", CharterPhase::Open), row("node", MemberState::Ready));
            let records = records(now, well, is_manager_there);
            let local = local(LocalState::Active, role);
            decide("i-1", &member(role), &Observed { local, is_moved: true, records })
        };
        assert_eq!(look(Role::Worker, true), Verdict::Out(Cause::Moved));
        assert_eq!(look(Role::Worker, false), Verdict::Fine, "there is nowhere to go");
        assert_eq!(look(Role::Manager, true), Verdict::Out(Cause::Moved), "the others take it out");
        let Verdict::Wait { why } = look(Role::Manager, false) else { panic!("it is in raft") };
        assert!(why.contains("no other manager"), "{why}");
    }

    #[test]
    fn without_a_leader_the_reason_is_told_in_words_of_our_own() {
        let mut local = local(LocalState::Active, Role::Manager);
        local.error = "rpc error: code = Unknown desc = The swarm does not have a leader.".into();
        let seen = Observed { local, is_moved: false, records: None };
        let why = "its swarm has no leader".to_owned();
        assert_eq!(decide("i-1", &member(Role::Manager), &seen), Verdict::Wait { why });
    }

    proptest! {
        /// For any other fault, a node is out only with evidence: Docker's own answer, the managers' mark on this node,
        /// or a later swarm that it can join.
        #[test]
        fn a_bad_day_takes_nobody_out(
            state in prop::sample::select(&STATES),
            is_manager in any::<bool>(),
            has_managers in any::<bool>(),
            error in prop::sample::select(&["", "no leader", EXPIRED]),
            phase in prop::sample::select(
                &[CharterPhase::Open, CharterPhase::Founding, CharterPhase::Closed]
            ),
            generation in 1u64..4,
            swarm in prop::sample::select(&["swarm", "next"]),
            row_of in prop::sample::select(&["node", "earlier"]),
            mark in prop::sample::select(
                &[MemberState::Ready, MemberState::Leaving, MemberState::Removed]
            ),
            is_manager_there in any::<bool>(),
            is_ledger_read in any::<bool>(),
            is_moved in any::<bool>(),
            recovers in prop::sample::select(&[None, Some("swarm"), Some("next")]),
            is_founder in any::<bool>(),
            // It may have been promoted or demoted by hand since it joined.
            was_manager in any::<bool>(),
            has_leader in prop::sample::select(&[Fact::Yes, Fact::No, Fact::CannotTell]),
            reach in prop::sample::select(vec![Reach::NotKnown, Reach::Open, silent(), replaced()]),
        ) {
            let role_of = |is_manager| if is_manager { Role::Manager } else { Role::Worker };
            let (role, came_in_as) = (role_of(is_manager), role_of(was_manager));
            let may_be_manager = is_manager || was_manager;
            let local = LocalNode { has_managers, error: error.into(), ..local(state, role) };
            let recovers = recovers.map(str::to_owned);
            let charter = Charter { recovers, ..charter(generation, swarm, phase) };
            let is_recovery = charter.is_recovery();
            let is_re_created = charter.recovers == charter.swarm_id;
            let me = if is_founder { "i-1" } else { "i-2" };
            let records = records(charter, row(row_of, mark), is_manager_there)
                .map(|records| Records { has_leader, reach: reach.clone(), ..records });
            let seen = Observed { local, is_moved, records: records.filter(|_| is_ledger_read) };
            match decide(me, &member(came_in_as), &seen) {
                Verdict::Out(Cause::InNoSwarm) => prop_assert_eq!(state, LocalState::Inactive),
                Verdict::Out(Cause::Removed) => prop_assert!(
                    is_ledger_read && !is_manager && row_of == "node" && mark == MemberState::Removed
                ),
                Verdict::Out(Cause::Older { .. }) => prop_assert!(
                    is_ledger_read && is_manager_there && generation == 3 && swarm == "next"
                        && phase == CharterPhase::Open
                        && (!is_manager || has_leader == Fact::No)
                ),
                Verdict::Out(Cause::Moved) => prop_assert!(
                    is_ledger_read && is_manager_there && is_moved
                ),
                Verdict::Out(Cause::Stranded { .. }) => prop_assert!(
                    is_ledger_read && reach == replaced() && !is_manager && state == LocalState::Active
                ),
                Verdict::Out(Cause::CertificateRefused) => prop_assert!(
                    is_ledger_read && is_manager_there && error == EXPIRED
                ),
                Verdict::Out(Cause::Fenced { .. }) => prop_assert!(
                    is_ledger_read && is_manager_there && may_be_manager && !is_founder
                        && is_re_created && generation == 3 && swarm == "swarm"
                        && phase == CharterPhase::Open
                ),
                Verdict::Out(Cause::Renewed { .. }) => prop_assert!(
                    is_ledger_read && state == LocalState::Active && has_managers
                        && error.is_empty() && generation == 3 && swarm == "swarm"
                        && phase == CharterPhase::Open
                        && !(may_be_manager && !is_founder && is_re_created)
                ),
                Verdict::Out(Cause::Recovery { .. }) => {
                    prop_assert!(is_ledger_read && is_founder && is_recovery);
                }
                Verdict::Fine => prop_assert!(error.is_empty() && has_managers),
                Verdict::Wait { why } => prop_assert!(!why.is_empty()),
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        /// Tests rows of any readable content.
        #[test]
        fn no_row_that_can_be_read_ends_a_look(
            charter in prop::option::of(fuzz::charter()),
            row in prop::option::of(fuzz::member()),
            local in fuzz::local(),
            role in prop::sample::select(&Role::ALL),
            is_moved in any::<bool>(),
        ) {
            let records = Records {
                charter,
                row,
                is_manager_there: true,
                reach: Reach::Open,
                has_leader: Fact::CannotTell,
            };
            let seen = Observed { local, is_moved, records: Some(records) };
            let membership = Membership { node_id: "node-0".into(), generation: 1, ..member(role) };
            if let Verdict::Wait { why } = decide("i-0", &membership, &seen) {
                prop_assert!(!why.is_empty());
            }
        }
    }
}
