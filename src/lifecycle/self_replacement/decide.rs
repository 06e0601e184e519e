//! Decides whether this node must be replaced. Pure: no clock, no I/O, no memory.

use std::time::Duration;

use crate::clients::aws::autoscaling::{GroupInstance, LifecycleState};
use crate::clients::ledger::MemberState;

/// Health status, as AWS writes it.
const UNHEALTHY: &str = "UNHEALTHY";

/// Time after which a manager that has lost its leader has recorded that: it writes its row at least every minute and a
/// half, and its Docker may hang for 40 s before.
pub const SURE_AFTER: Duration = Duration::from_secs(150);

/// Facts for a verdict.
#[derive(Clone, Debug)]
pub struct Observed {
    /// Time for which every observation has found this host broken.
    pub broken_for: Duration,
    /// Time for which it must have been broken.
    pub patience: Duration,
    /// State in this node's member row; `None` if it never served.
    pub row: Option<MemberState>,
    /// Time for which every observation has found another manager of the charter's swarm that listens and reports that
    /// it has a leader; `None` if the last one has not.
    pub well_for: Option<Duration>,
    /// Node of this group that asked last.
    pub last: Option<Asked>,
    /// This instance in Auto Scaling; looked up only if the other facts are for asking.
    pub own: Option<GroupInstance>,
}

/// A node that has asked to be replaced.
#[derive(Clone, Debug)]
pub struct Asked {
    pub is_self: bool,
    /// Its lease has expired, and others may ask.
    pub is_over: bool,
    /// Its entry in Auto Scaling; `None` if it is gone, or its lease has not expired.
    pub listed: Option<GroupInstance>,
}

/// Decision whether to ask for the replacement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Stay { why: &'static str },
    Ask { is_lease_taken: bool },
}

/// Returns the reason against a replacement; `None` if it is worth asking Auto Scaling.
#[must_use]
pub fn objection(seen: &Observed) -> Option<&'static str> {
    let is_anothers_lease = || seen.last.as_ref().is_some_and(|it| !it.is_self && !it.is_over);
    if seen.broken_for < seen.patience {
        Some("it may recover")
    } else if seen.row.is_none() {
        Some("it has never served, and its failed launch is reported in another way")
    } else if seen.row == Some(MemberState::Leaving) {
        Some("it leaves anyway")
    } else if seen.well_for.is_none() {
        Some("no other manager that has a leader answers, so another node would not do better")
    } else if seen.well_for < Some(SURE_AFTER) {
        Some("a manager that has lost its leader would not have said so yet")
    } else if is_anothers_lease() {
        Some("another node of the group has asked within ten minutes")
    } else {
        None
    }
}

/// Whether this node asks to be replaced.
#[must_use]
pub fn decide(seen: &Observed) -> Verdict {
    if let Some(why) = objection(seen) {
        return Verdict::Stay { why };
    }
    let Some(own) = &seen.own else {
        return Verdict::Stay { why: "Auto Scaling does not list this instance" };
    };
    if own.lifecycle_state != LifecycleState::InService {
        return Verdict::Stay { why: "Auto Scaling does not have this instance in service" };
    }
    if own.health == UNHEALTHY {
        return Verdict::Stay { why: "Auto Scaling already lists it as unhealthy" };
    }
    match &seen.last {
        Some(last) if !last.is_self && last.listed.as_ref().is_some_and(is_on_its_way) => {
            Verdict::Stay { why: "another node of the group is still being replaced" }
        }
        // Within a grace period, the first request has no effect.
        Some(last) if last.is_self && !last.is_over => Verdict::Ask { is_lease_taken: true },
        _ => Verdict::Ask { is_lease_taken: false },
    }
}

/// Whether the node's replacement is under way. A retained node has been replaced already, and stays unhealthy for as
/// long as an operator keeps it.
fn is_on_its_way(other: &GroupInstance) -> bool {
    let state = &other.lifecycle_state;
    !state.is_retained() && (other.health == UNHEALTHY || state.is_terminating())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(300);

    fn instance(lifecycle_state: &str, health: &str) -> GroupInstance {
        let (lifecycle_state, health) = (lifecycle_state.into(), health.into());
        GroupInstance { group: "workers".into(), lifecycle_state, health }
    }

    fn broken() -> Observed {
        Observed {
            broken_for: PATIENCE,
            patience: PATIENCE,
            row: Some(MemberState::Ready),
            well_for: Some(SURE_AFTER),
            last: None,
            own: Some(instance("InService", "HEALTHY")),
        }
    }

    fn asks(seen: Observed) -> Option<bool> {
        match decide(&seen) {
            Verdict::Ask { is_lease_taken } => Some(is_lease_taken),
            Verdict::Stay { .. } => None,
        }
    }

    #[test]
    fn a_node_that_has_served_and_stays_broken_asks_while_the_others_are_well() {
        assert_eq!(asks(broken()), Some(false));
        assert_eq!(asks(Observed { row: Some(MemberState::Removed), ..broken() }), Some(false));
        assert_eq!(asks(Observed { row: None, ..broken() }), None);
        assert_eq!(asks(Observed { row: Some(MemberState::Leaving), ..broken() }), None);
        assert_eq!(asks(Observed { well_for: None, ..broken() }), None);
        assert_eq!(asks(Observed { own: None, ..broken() }), None);
        let asked = instance("InService", "UNHEALTHY");
        assert_eq!(asks(Observed { own: Some(asked), ..broken() }), None, "once is enough");
    }

    #[test]
    fn one_of_a_group_at_a_time() {
        let after = |is_self, is_over, listed| {
            asks(Observed { last: Some(Asked { is_self, is_over, listed }), ..broken() })
        };
        assert_eq!(after(false, false, None), None);
        assert_eq!(after(false, true, Some(instance("Terminating:Wait", "UNHEALTHY"))), None);
        assert_eq!(after(false, true, Some(instance("InService", "UNHEALTHY"))), None);
        assert_eq!(after(false, true, Some(instance("InService", "HEALTHY"))), Some(false));
        assert_eq!(after(false, true, None), Some(false), "it is gone");
        let retained = instance("Terminating:Retained", "UNHEALTHY");
        assert_eq!(after(false, true, Some(retained)), Some(false), "it was replaced");
        assert_eq!(after(true, false, None), Some(true), "its lease continues");
        assert_eq!(after(true, true, None), Some(false));
    }

    proptest! {
        /// For any facts: never in haste, never a node that has not served, never for a fault of the swarm, never two
        /// of a group at a time, never a node that is not in service.
        #[test]
        fn nobody_asks_without_evidence(
            broken_for in 0u64..600,
            row in prop::option::of(prop::sample::select(
                &[MemberState::Ready, MemberState::Leaving, MemberState::Removed]
            )),
            well_for in prop::option::of(0u64..300),
            own in prop::option::of((lifecycle(), health())),
            last in prop::option::of(
                (any::<bool>(), any::<bool>(), prop::option::of((lifecycle(), health())))
            ),
        ) {
            let listed = |it: &(&str, &str)| instance(it.0, it.1);
            let seen = Observed {
                broken_for: Duration::from_secs(broken_for),
                row,
                well_for: well_for.map(Duration::from_secs),
                own: own.as_ref().map(listed),
                last: last.as_ref().map(|(is_self, is_over, other)| Asked {
                    is_self: *is_self,
                    is_over: *is_over,
                    listed: other.as_ref().map(listed),
                }),
                ..broken()
            };
            if let Some(is_lease_taken) = asks(seen) {
                prop_assert!(broken_for >= PATIENCE.as_secs());
                prop_assert!(well_for.is_some_and(|it| it >= SURE_AFTER.as_secs()));
                prop_assert!(matches!(row, Some(MemberState::Ready | MemberState::Removed)));
                prop_assert_eq!(own, Some(("InService", "HEALTHY")));
                if let Some((is_self, is_over, other)) = last {
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
