//! Defines the states of an instance in its group, and their meaning for the rest of skep. Pure.
//!
//! The words are those of the API reference (`AutoScalingInstanceDetails`) and of the user guide's pages on instance
//! lifecycle policies and on replacing root volumes. AWS does not use `Quarantined`.

use crate::common::fact::Fact;
use crate::common::known_words::words;

words! {
    /// An instance's state in its group or its warm pool.
    LifecycleState {
        Pending = "Pending",
        PendingWait = "Pending:Wait",
        PendingProceed = "Pending:Proceed",
        InService = "InService",
        EnteringStandby = "EnteringStandby",
        Standby = "Standby",
        Detaching = "Detaching",
        Detached = "Detached",
        Terminating = "Terminating",
        /// The termination hook holds the instance.
        TerminatingWait = "Terminating:Wait",
        TerminatingProceed = "Terminating:Proceed",
        /// The hook ended with ABANDON, and the group's instance lifecycle policy keeps the machine for an operator.
        /// The group has replaced it.
        TerminatingRetained = "Terminating:Retained",
        Terminated = "Terminated",
        /// An instance refresh gives the machine a new root volume: id and address stay, Docker's data on the old
        /// volume is lost.
        ReplacingRootVolume = "ReplacingRootVolume",
        /// The termination hook holds the instance before that.
        ReplacingRootVolumeWait = "ReplacingRootVolume:Wait",
        ReplacingRootVolumeProceed = "ReplacingRootVolume:Proceed",
        /// The machine has the new volume; launch hooks hold it next.
        RootVolumeReplaced = "RootVolumeReplaced",
        WarmedPending = "Warmed:Pending",
        WarmedPendingWait = "Warmed:Pending:Wait",
        WarmedPendingProceed = "Warmed:Pending:Proceed",
        /// The hook ended with ABANDON on the way back into the pool, and the machine is kept for an operator.
        WarmedPendingRetained = "Warmed:Pending:Retained",
        WarmedHibernated = "Warmed:Hibernated",
        WarmedRunning = "Warmed:Running",
        WarmedStopped = "Warmed:Stopped",
        WarmedTerminating = "Warmed:Terminating",
        WarmedTerminatingWait = "Warmed:Terminating:Wait",
        WarmedTerminatingProceed = "Warmed:Terminating:Proceed",
        WarmedTerminatingRetained = "Warmed:Terminating:Retained",
        WarmedTerminated = "Warmed:Terminated",
    }
}

impl LifecycleState {
    /// Whether the termination hook holds an instance of the group until its node has left. Then the machine ends, or
    /// loses its root volume.
    #[must_use]
    pub fn waits_for_departure(&self) -> bool {
        matches!(self, Self::TerminatingWait | Self::ReplacingRootVolumeWait)
    }

    /// Whether a termination hook without an active action will still get one: deregistration from a load balancer
    /// comes before its wait, and the metadata is ahead of both.
    #[must_use]
    pub fn comes_to_wait_for_departure(&self) -> Fact {
        match self {
            Self::Unknown(_) => Fact::CannotTell,
            Self::TerminatingProceed
            | Self::TerminatingRetained
            | Self::Terminated
            | Self::Detaching
            | Self::Detached
            | Self::ReplacingRootVolumeProceed
            | Self::RootVolumeReplaced
            | Self::WarmedPendingProceed
            | Self::WarmedPendingRetained
            | Self::WarmedHibernated
            | Self::WarmedRunning
            | Self::WarmedStopped
            | Self::WarmedTerminatingProceed
            | Self::WarmedTerminatingRetained
            | Self::WarmedTerminated => Fact::No,
            Self::Pending
            | Self::PendingWait
            | Self::PendingProceed
            | Self::InService
            | Self::EnteringStandby
            | Self::Standby
            | Self::Terminating
            | Self::TerminatingWait
            | Self::ReplacingRootVolume
            | Self::ReplacingRootVolumeWait
            | Self::WarmedPending
            | Self::WarmedPendingWait
            | Self::WarmedTerminating
            | Self::WarmedTerminatingWait => Fact::Yes,
        }
    }

    /// Whether the launch hook holds the instance, or will hold it soon.
    #[must_use]
    pub fn is_launching(&self) -> Fact {
        match self {
            Self::Unknown(_) => Fact::CannotTell,
            Self::Pending | Self::PendingWait | Self::PendingProceed | Self::RootVolumeReplaced => {
                Fact::Yes
            }
            _ => Fact::No,
        }
    }

    /// Whether the group ends the instance. A retained instance has been replaced and stays as it is.
    #[must_use]
    pub fn is_terminating(&self) -> bool {
        matches!(
            self,
            Self::Terminating | Self::TerminatingWait | Self::TerminatingProceed | Self::Terminated
        )
    }

    /// Whether a termination hook ended with ABANDON and the machine is kept for an operator.
    #[must_use]
    pub fn is_retained(&self) -> bool {
        matches!(
            self,
            Self::TerminatingRetained
                | Self::WarmedPendingRetained
                | Self::WarmedTerminatingRetained
        )
    }

    /// Whether the instance is in the warm pool.
    #[must_use]
    pub fn is_pooled(&self) -> bool {
        self.as_str().starts_with("Warmed:")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(word: &str) -> LifecycleState {
        LifecycleState::from(word)
    }

    /// The states of the API's model in November 2026, but `Quarantined`, which is not used.
    const STATES: &str = "Detached Detaching EnteringStandby InService Pending Pending:Proceed Pending:Wait \
        ReplacingRootVolume ReplacingRootVolume:Proceed ReplacingRootVolume:Wait RootVolumeReplaced Standby Terminated \
        Terminating Terminating:Proceed Terminating:Retained Terminating:Wait Warmed:Hibernated Warmed:Pending \
        Warmed:Pending:Proceed Warmed:Pending:Retained Warmed:Pending:Wait Warmed:Running Warmed:Stopped \
        Warmed:Terminated Warmed:Terminating Warmed:Terminating:Proceed Warmed:Terminating:Retained \
        Warmed:Terminating:Wait";

    #[test]
    fn every_state_of_the_api_is_known() {
        for word in STATES.split_whitespace() {
            assert!(!matches!(state(word), LifecycleState::Unknown(_)), "{word}");
            assert_eq!(state(word).as_str(), word);
        }
    }

    #[test]
    fn a_state_that_is_not_known_concludes_nothing() {
        for word in ["", "Quarantined", "Terminating:Elsewhere"] {
            let state = state(word);
            assert_eq!(state.comes_to_wait_for_departure(), Fact::CannotTell);
            assert_eq!(state.is_launching(), Fact::CannotTell);
            assert!(!state.waits_for_departure() && !state.is_terminating());
            assert!(!state.is_retained());
        }
        assert!(state("Warmed:Elsewhere").is_pooled());
    }

    #[test]
    fn only_an_instance_that_is_past_its_hooks_is_given_up() {
        for word in
            ["InService", "Terminating", "Terminating:Wait", "Warmed:Terminating", "Standby"]
        {
            assert_eq!(state(word).comes_to_wait_for_departure(), Fact::Yes, "{word}");
        }
        for word in [
            "Terminating:Proceed",
            "Terminating:Retained",
            "Terminated",
            "Detached",
            "RootVolumeReplaced",
            "Warmed:Pending:Retained",
            "Warmed:Terminated",
        ] {
            assert_eq!(state(word).comes_to_wait_for_departure(), Fact::No, "{word}");
        }
    }

    #[test]
    fn a_new_root_volume_is_held_by_the_termination_hook_and_then_by_the_launch_hook() {
        assert!(state("ReplacingRootVolume:Wait").waits_for_departure());
        assert!(!state("ReplacingRootVolume:Proceed").waits_for_departure());
        assert_eq!(state("RootVolumeReplaced").is_launching(), Fact::Yes);
        assert!(!state("RootVolumeReplaced").is_terminating());
    }

    #[test]
    fn what_is_retained_is_not_on_its_way_out() {
        for word in ["Terminating:Retained", "Warmed:Pending:Retained"] {
            assert!(state(word).is_retained() && !state(word).is_terminating(), "{word}");
            assert!(!state(word).waits_for_departure(), "{word}");
        }
    }
}
