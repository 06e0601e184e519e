//! Is this node to be replaced? Pure: no clock, no I/O, no memory.

use std::time::Duration;

use crate::clients::aws::autoscaling::{GroupInstance, LifecycleState};
use crate::clients::ledger::MemberState;

/// As AWS writes it.
const UNHEALTHY: &str = "UNHEALTHY";

/// A manager that has lost its leader takes so long to say so: it writes its row once a minute and a
/// half at most, and its Docker may hang for 40 s before.
pub const SURE_AFTER: Duration = Duration::from_secs(150);

/// Everything that a verdict rests on.
#[derive(Clone, Debug)]
pub struct Observed {
    /// For how long every look has found this host broken.
    pub broken_for: Duration,
    /// For how long it must have been.
    pub patience: Duration,
    /// What this node's own row says; `None` where it never served.
    pub row: Option<MemberState>,
    /// For how long every look has found another manager of the charter's swarm that listens and
    /// says that it has a leader; `None` where the last has not.
    pub well_for: Option<Duration>,
    /// Who of this group has asked last.
    pub last: Option<Asked>,
    /// This instance; looked up only where the rest speaks for asking.
    pub own: Option<GroupInstance>,
}

/// A node that has asked to be replaced.
#[derive(Clone, Debug)]
pub struct Asked {
    pub is_self: bool,
    /// Its time is over, and others may ask.
    pub is_over: bool,
    /// As Auto Scaling lists it still; `None` where it is gone, or its time is not over.
    pub listed: Option<GroupInstance>,
}

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Stay { why: &'static str },
    Ask { is_lease_taken: bool },
}

/// Whether Auto Scaling is worth asking: without it, nothing speaks against a replacement.
#[must_use]
pub fn objection(seen: &Observed) -> Option<&'static str> {
    let is_anothers_lease = || seen.last.as_ref().is_some_and(|it| !it.is_self && !it.is_over);
    if seen.broken_for < seen.patience {
        Some("it may recover")
    } else if seen.row.is_none() {
        Some("it has never served, and what becomes of its launch is told otherwise")
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
        return Verdict::Stay { why: "Auto Scaling knows that it is broken" };
    }
    match &seen.last {
        Some(last) if !last.is_self && last.listed.as_ref().is_some_and(is_on_its_way) => {
            Verdict::Stay { why: "another node of the group is still being replaced" }
        }
        // Within a grace period nothing comes of the first time.
        Some(last) if last.is_self && !last.is_over => Verdict::Ask { is_lease_taken: true },
        _ => Verdict::Ask { is_lease_taken: false },
    }
}

/// One that is retained has been replaced already, and stays unhealthy for as long as an operator keeps it.
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
        assert_eq!(after(true, false, None), Some(true), "its own turn goes on");
        assert_eq!(after(true, true, None), Some(false));
    }

    proptest! {
        /// Whatever else was seen: never in haste, never one that has not served, never for the
        /// swarm's trouble, never two of a group at a time, never one that is not in service.
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
