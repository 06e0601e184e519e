//! Decides whether this node must be replaced, or which fact that needs. Pure: no clock, no I/O, no memory.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clients::aws::autoscaling::GroupInstance;
use crate::clients::ledger::MemberState;
use crate::common::instance::Role;
use crate::common::timing::MANAGER_ROW_IS_FRESH;
use crate::manager::replacements::{Asked, NOT_LISTED, Needed, Ruling, rule};

/// A fact that is looked up when all facts before it are for asking; `None` until then.
pub type LookedUp<T> = Option<T>;

/// Facts for a verdict.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Instance id of this node.
    pub me: String,
    /// Configured role: a worker may not ask Auto Scaling, and asks the managers.
    pub role: Option<Role>,
    /// Time for which every observation has found this host broken.
    pub broken_for: Duration,
    /// Time for which it must have been broken.
    pub patience: Duration,
    /// Time for which every observation has found another manager of the charter's swarm that listens and reports that
    /// it has a leader; inner `None` if the last one has not.
    pub well_for: LookedUp<Option<Duration>>,
    /// State in this node's member row; inner `None` if it never served.
    pub row: LookedUp<Option<MemberState>>,
    /// The Auto Scaling group of this node, without a look-up if the settings or the metadata name it; inner `None` if
    /// Auto Scaling does not list this instance.
    pub group: LookedUp<Option<String>>,
    /// Node of this group that asked last.
    pub last: LookedUp<Option<Asked>>,
    /// This node, and the node that asked last, in Auto Scaling; without those that are gone.
    pub listed: LookedUp<BTreeMap<String, GroupInstance>>,
}

/// The fact that is needed next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LookUp {
    /// [`Observed::well_for`].
    Swarm,
    /// [`Observed::row`].
    Row,
    /// [`Observed::group`].
    Group,
    /// [`Observed::last`], from the lease of this group.
    Lease { group: String },
    /// [`Observed::listed`]; `other` is the node that asked last.
    Listed { other: Option<String> },
}

/// Decision whether to ask for the replacement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may still recover.
    Wait,
    Stay {
        why: &'static str,
    },
    /// Ask the managers, who then decide by the group.
    AskManagers,
    /// Ask Auto Scaling, under the lease of this group.
    Ask {
        group: String,
        is_lease_taken: bool,
    },
}

/// Returns whether this node asks to be replaced.
///
/// # Errors
/// The fact that must be looked up first. Auto Scaling has a request limit for the whole account, so it is asked only
/// if everything else is for asking.
pub fn decide(seen: &Observed) -> Result<Verdict, LookUp> {
    let stay = |why| Ok(Verdict::Stay { why });
    if seen.broken_for < seen.patience {
        return Ok(Verdict::Wait);
    }
    let well_for = seen.well_for.ok_or(LookUp::Swarm)?;
    let row = seen.row.ok_or(LookUp::Row)?;
    if row.is_none() {
        return stay("it has never served, and its failed launch is reported in another way");
    }
    if row == Some(MemberState::Leaving) {
        return stay("it leaves anyway");
    }
    let Some(well_for) = well_for else {
        return stay(
            "no other manager that has a leader answers, so another node would not do better",
        );
    };
    if well_for < MANAGER_ROW_IS_FRESH {
        return stay("a manager that has lost its leader would not have said so yet");
    }
    if seen.role == Some(Role::Worker) {
        return Ok(Verdict::AskManagers);
    }
    match seen.group.as_ref().ok_or(LookUp::Group)? {
        Some(group) => decide_in(group, seen),
        None => stay(NOT_LISTED),
    }
}

/// Decides by this node's group: the swarm and this host have no objection.
fn decide_in(group: &str, seen: &Observed) -> Result<Verdict, LookUp> {
    let group = group.to_owned();
    match rule(&seen.me, seen.last.as_ref(), seen.listed.as_ref()) {
        Ok(Ruling::Stay(why)) => Ok(Verdict::Stay { why }),
        Ok(Ruling::Ask { is_lease_taken }) => Ok(Verdict::Ask { group, is_lease_taken }),
        Err(Needed::Lease) => Err(LookUp::Lease { group }),
        Err(Needed::Listed { other }) => Err(LookUp::Listed { other }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(300);
    const ME: &str = "i-me";
    const OTHER: &str = "i-other";
    const WELL: (&str, &str) = ("InService", "HEALTHY");

    fn instance((lifecycle_state, health): (&str, &str)) -> GroupInstance {
        let (lifecycle_state, health) = (lifecycle_state.into(), health.into());
        GroupInstance {
            group: "workers".into(),
            lifecycle_state,
            health,
            protected: None,
            settings: None,
        }
    }

    /// Auto Scaling's answer about this node and the one that asked last.
    fn listed(
        own: Option<(&str, &str)>,
        other: Option<(&str, &str)>,
    ) -> LookedUp<BTreeMap<String, GroupInstance>> {
        let entries = [(ME, own), (OTHER, other)].into_iter();
        let entry = |(id, it): (&str, Option<_>)| Some((id.to_owned(), instance(it?)));
        Some(entries.filter_map(entry).collect())
    }

    fn broken() -> Observed {
        Observed {
            me: ME.into(),
            role: Some(Role::Manager),
            broken_for: PATIENCE,
            patience: PATIENCE,
            well_for: Some(Some(MANAGER_ROW_IS_FRESH)),
            row: Some(Some(MemberState::Ready)),
            group: Some(Some("workers".into())),
            last: Some(None),
            listed: listed(Some(WELL), None),
        }
    }

    fn asks(seen: Observed) -> Option<bool> {
        match decide(&seen).expect("every fact is there") {
            Verdict::Ask { is_lease_taken, .. } => Some(is_lease_taken),
            Verdict::Wait | Verdict::Stay { .. } | Verdict::AskManagers => None,
        }
    }

    #[test]
    fn a_node_that_has_served_and_stays_broken_asks_while_the_others_are_well() {
        assert_eq!(asks(broken()), Some(false));
        let with_row = |row| asks(Observed { row: Some(row), ..broken() });
        assert_eq!(with_row(Some(MemberState::Removed)), Some(false));
        assert_eq!(with_row(None), None);
        assert_eq!(with_row(Some(MemberState::Leaving)), None);
        assert_eq!(asks(Observed { well_for: Some(None), ..broken() }), None);
        assert_eq!(asks(Observed { group: Some(None), ..broken() }), None);
        assert_eq!(asks(Observed { listed: listed(None, None), ..broken() }), None);
        let worker = decide(&Observed {
            role: Some(Role::Worker),
            group: None,
            last: None,
            listed: None,
            ..broken()
        });
        assert_eq!(worker, Ok(Verdict::AskManagers), "they look up the rest");
        let asked = listed(Some(("InService", "UNHEALTHY")), None);
        assert_eq!(asks(Observed { listed: asked, ..broken() }), None, "once is enough");
    }

    #[test]
    fn one_of_a_group_at_a_time() {
        let after = |by: &str, is_over, other| {
            let last = Some(Some(Asked { by: by.into(), is_over }));
            asks(Observed { last, listed: listed(Some(WELL), other), ..broken() })
        };
        assert_eq!(after(OTHER, false, None), None);
        assert_eq!(after(OTHER, true, Some(("Terminating:Wait", "UNHEALTHY"))), None);
        assert_eq!(after(OTHER, true, Some(("InService", "UNHEALTHY"))), None);
        assert_eq!(after(OTHER, true, Some(WELL)), Some(false));
        assert_eq!(after(OTHER, true, None), Some(false), "it is gone");
        let retained = ("Terminating:Retained", "UNHEALTHY");
        assert_eq!(after(OTHER, true, Some(retained)), Some(false), "it was replaced");
        assert_eq!(after(ME, false, None), Some(true), "its lease continues");
        assert_eq!(after(ME, true, None), Some(false));
    }

    /// Looks up what `decide` needs, from the facts of `all`. Returns the lookups and the verdict.
    fn run(all: &Observed) -> (Vec<LookUp>, Verdict) {
        let Observed { me, role, broken_for, patience, .. } = all.clone();
        let mut seen = Observed { me, role, broken_for, patience, ..Observed::default() };
        let mut asked = Vec::new();
        loop {
            match decide(&seen) {
                Ok(verdict) => return (asked, verdict),
                Err(look_up) => {
                    assert!(!asked.contains(&look_up), "{look_up:?} was looked up in vain");
                    match look_up {
                        LookUp::Swarm => seen.well_for = all.well_for,
                        LookUp::Row => seen.row = all.row,
                        LookUp::Group => seen.group.clone_from(&all.group),
                        LookUp::Lease { .. } => seen.last.clone_from(&all.last),
                        LookUp::Listed { .. } => seen.listed.clone_from(&all.listed),
                    }
                    asked.push(look_up);
                }
            }
        }
    }

    #[test]
    fn auto_scaling_is_asked_only_when_all_else_is_for_asking() {
        use LookUp::{Group, Row, Swarm};
        let lease = || LookUp::Lease { group: "workers".into() };
        let by = |id: &str| LookUp::Listed { other: (id != ME).then(|| id.to_owned()) };
        let last = |by: &str, is_over| Some(Some(Asked { by: by.into(), is_over }));
        for (all, expected) in [
            (Observed { broken_for: PATIENCE / 2, ..broken() }, vec![]),
            (Observed { row: Some(None), ..broken() }, vec![Swarm, Row]),
            (Observed { well_for: Some(None), ..broken() }, vec![Swarm, Row]),
            (
                Observed { well_for: Some(Some(MANAGER_ROW_IS_FRESH / 2)), ..broken() },
                vec![Swarm, Row],
            ),
            (Observed { group: Some(None), ..broken() }, vec![Swarm, Row, Group]),
            (Observed { last: last(OTHER, false), ..broken() }, vec![Swarm, Row, Group, lease()]),
            (
                Observed { last: last(OTHER, true), ..broken() },
                vec![Swarm, Row, Group, lease(), by(OTHER)],
            ),
            (
                Observed { last: last(ME, false), ..broken() },
                vec![Swarm, Row, Group, lease(), by(ME)],
            ),
            (broken(), vec![Swarm, Row, Group, lease(), by(ME)]),
        ] {
            assert_eq!(run(&all).0, expected, "{all:?}");
        }
        let named = Observed { listed: None, ..broken() };
        assert_eq!(decide(&named), Err(by(ME)), "its metadata name the group");
    }

    proptest! {
        /// For any facts: never in haste, never a node that has not served, never for a fault of the swarm, never two
        /// of a group at a time, never a node that is not in service; and no fact that was not looked up would have
        /// changed the verdict.
        #[test]
        fn nobody_asks_without_evidence(
            broken_for in 0u64..600,
            row in prop::option::of(prop::sample::select(
                &[MemberState::Ready, MemberState::Leaving, MemberState::Removed]
            )),
            well_for in prop::option::of(0u64..300),
            is_in_group in any::<bool>(),
            own in prop::option::of((lifecycle(), health())),
            last in prop::option::of((any::<bool>(), any::<bool>())),
            other in prop::option::of((lifecycle(), health())),
        ) {
            let asked = |(is_self, is_over)| {
                Asked { by: if is_self { ME } else { OTHER }.to_owned(), is_over }
            };
            let seen = Observed {
                broken_for: Duration::from_secs(broken_for),
                row: Some(row),
                well_for: Some(well_for.map(Duration::from_secs)),
                group: Some(is_in_group.then(|| "workers".to_owned())),
                last: Some(last.map(asked)),
                listed: listed(own, other),
                ..broken()
            };
            prop_assert_eq!(Ok(run(&seen).1), decide(&seen));
            if let Some(is_lease_taken) = asks(seen) {
                prop_assert!(broken_for >= PATIENCE.as_secs());
                prop_assert!(well_for.is_some_and(|it| it >= MANAGER_ROW_IS_FRESH.as_secs()));
                prop_assert!(matches!(row, Some(MemberState::Ready | MemberState::Removed)));
                prop_assert!(is_in_group);
                prop_assert_eq!(own, Some(WELL));
                if let Some((is_self, is_over)) = last {
                    prop_assert!(is_self || is_over);
                    prop_assert_eq!(is_lease_taken, is_self && !is_over);
                    let is_going = other.is_some_and(|(lifecycle, health)| {
                        lifecycle != "InService" || health == "UNHEALTHY"
                    });
                    prop_assert!(is_self || !is_going);
                } else {
                    prop_assert!(!is_lease_taken);
                }
            }
        }
    }

    fn lifecycle() -> impl Strategy<Value = &'static str> {
        prop::sample::select(&["InService", "Terminating", "Terminating:Wait"])
    }

    fn health() -> impl Strategy<Value = &'static str> {
        prop::sample::select(&["HEALTHY", "UNHEALTHY"])
    }
}
