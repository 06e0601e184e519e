//! Models the life of one instance in a group: a pure state machine that gets the time as an argument.
//!
//! ```text
//! Pending → Pending:Wait → Pending:Proceed → InService ⇄ Standby
//!    ▲                                           │ (or Standby)
//!    └──── Detached ◄── Detaching ◄──────────────┤
//!                │ ABANDON                       │
//!                └──────────────┐                │
//!                               ▼                ▼
//!                  Terminating → Terminating:Wait → Terminating:Proceed → Terminated
//!
//! Warmed:Pending → Warmed:Pending:Wait → Warmed:Pending:Proceed → Warmed:Stopped ──► Pending
//!                │ ABANDON                       (or Warmed:Running)
//!                ▼                                              │
//!  Warmed:Terminating → Warmed:Terminating:Wait → … → Warmed:Terminated
//! ```
//!
//! An instance that returns to the pool changes from InService to Warmed:Pending. There, the termination hooks hold it
//! instead of the launch hooks:
//! <https://docs.aws.amazon.com/autoscaling/ec2/userguide/warm-pool-instance-lifecycle.html>.
//!
//! An instance that leaves its target groups stays in Terminating, or in Warmed:Pending, until it is deregistered; only
//! then do the termination hooks start:
//! <https://docs.aws.amazon.com/autoscaling/ec2/userguide/lifecycle-hooks-overview.html>.
//!
//! An instance refresh that replaces root volumes:
//!
//! ```text
//! InService → ReplacingRootVolume → ReplacingRootVolume:Wait → ReplacingRootVolume:Proceed → RootVolumeReplaced → Pending
//! ```
//!
//! The termination hooks hold the instance in the first wait, the launch hooks in Pending:Wait; it leaves its target
//! groups in ReplacingRootVolume:
//! <https://docs.aws.amazon.com/autoscaling/ec2/userguide/lifecycle-hooks-overview.html>. AWS does not document what
//! ABANDON does in the first wait; here the replacement continues, as a termination does, since a policy that retains
//! instances has no state for it.
//!
//! If the group's policy retains instances, an abandoned termination hook leads from Terminating:Proceed to
//! Terminating:Retained, and accordingly in the pool:
//! <https://docs.aws.amazon.com/autoscaling/ec2/userguide/manage-retained-instances.html>. The metadata do not change
//! then. AWS does not document whether a later termination runs the hooks again; here it does, which is the
//! stricter assumption.
//!
//! An abandoned launch runs the termination hooks too. AWS does not document this; it is the stricter assumption for an
//! agent that must handle both cases.

use std::time::Duration;

use super::action::{Action, ActionName};
use super::states::{ActionResult, LifecycleState, PoolState, Transition};
use crate::cloud::specs::HookSpec;

/// Durations of the states that wait for no hook.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timing {
    /// Time in `Pending` before the launch hooks start.
    pub launching: Duration,
    /// Time in `Terminating` before the termination hooks start: the metadata already shows `Terminated`, but
    /// completing the hook is still refused.
    pub terminating: Duration,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Event<'a> {
    /// Time has passed.
    Tick,
    /// The group terminates the instance.
    Terminate,
    /// The machine is gone; no hook delays this.
    Vanish,
    /// The group takes the instance from the warm pool into service.
    TakeIntoService,
    /// The group returns the instance to the warm pool, which keeps it in this state.
    ReturnToPool(PoolState),
    EnterStandby,
    ExitStandby,
    /// An instance refresh replaces the root volume.
    ReplaceRootVolume,
    /// The machine boots from its new root volume.
    RootVolumeReplaced,
    /// The instance leaves its group and runs on.
    Detach,
    /// A group takes an instance that runs.
    Attach,
    Heartbeat(ActionName<'a>),
    Complete(ActionName<'a>, ActionResult),
}

/// One change that a step made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fact {
    Moved {
        from: LifecycleState,
        to: LifecycleState,
    },
    HookStarted {
        hook: String,
        transition: Transition,
        timeout: Duration,
    },
    Heartbeat {
        hook: String,
    },
    HookCompleted {
        hook: String,
        result: ActionResult,
    },
    HookTimedOut {
        hook: String,
        default_result: ActionResult,
    },
    /// A launch hook was abandoned: the instance is terminated without having been in service.
    LaunchAbandoned,
    /// The machine must stop and keep its disk.
    Stopped,
    /// The stopped machine must start.
    Started,
    /// The machine must be deleted.
    PoweredOff,
    /// The machine must get a new root volume.
    ReplacesRootVolume,
}

/// Reason for refusing a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    NoActiveAction,
    NotInService,
    NotInStandby,
    NotPrepared,
}

/// The environment of the instance.
pub(crate) struct Surroundings<'a> {
    pub hooks: &'a [HookSpec],
    pub timing: Timing,
    /// Whether the group keeps instances whose termination hook was abandoned.
    pub retains: bool,
    /// The time from which the instance is in none of its group's target groups; [`Duration::MAX`] while it is not
    /// even draining.
    pub deregistered: Duration,
    /// Makes the token of a lifecycle action.
    pub token: &'a mut dyn FnMut() -> String,
}

#[derive(Clone, Debug)]
pub(crate) struct Lifecycle {
    state: LifecycleState,
    since: Duration,
    actions: Vec<Action>,
    /// The state in which the warm pool keeps the instance.
    pool: PoolState,
    /// Whether the instance was in service and returns to the pool.
    returns: bool,
    /// The group's policy at the last step, as in [`Surroundings`].
    retains: bool,
    /// Whether the last termination hooks ended with ABANDON.
    abandoned: bool,
    target: Option<&'static str>,
}

impl Lifecycle {
    pub fn new(now: Duration) -> Self {
        Self {
            state: LifecycleState::Pending,
            since: now,
            actions: Vec::new(),
            pool: PoolState::default(),
            returns: false,
            retains: false,
            abandoned: false,
            target: None,
        }
    }

    /// Returns the life of an instance that is launched for the warm pool.
    pub fn warmed(pool: PoolState, now: Duration) -> Self {
        Self { state: LifecycleState::WarmedPending, pool, ..Self::new(now) }
    }

    /// Returns the value of `autoscaling/target-lifecycle-state` in the metadata.
    pub fn target(&self) -> Option<&'static str> {
        self.target
    }

    pub fn state(&self) -> LifecycleState {
        self.state
    }

    pub fn actions(&self) -> &[Action] {
        &self.actions
    }

    /// Returns the time at which the present state began.
    pub fn since(&self) -> Duration {
        self.since
    }

    /// Returns the time of the next change that needs no other event. `deregistered`: as in [`Surroundings`].
    pub fn next_deadline(&self, timing: Timing, deregistered: Duration) -> Option<Duration> {
        use LifecycleState as S;
        match self.state {
            S::WarmedPending if self.returns => {
                Some((self.since + timing.launching).max(deregistered))
            }
            S::Pending | S::WarmedPending => Some(self.since + timing.launching),
            S::Detaching => Some(self.since.max(deregistered)),
            S::Terminating | S::WarmedTerminating | S::ReplacingRootVolume => {
                Some((self.since + timing.terminating).max(deregistered))
            }
            state if state.is_waiting() => self.actions.iter().map(Action::deadline).min(),
            _ => None,
        }
    }

    /// Applies one event and its immediate consequences. `facts` receives all changes, also when the event is refused:
    /// the passing of time may have changed the state before.
    pub fn step(
        &mut self,
        event: Event<'_>,
        now: Duration,
        around: &mut Surroundings<'_>,
        facts: &mut Vec<Fact>,
    ) -> Result<(), Refused> {
        self.retains = around.retains;
        // Due changes come before the event: a completion after the deadline is too late. An instance that a group takes
        // has had no group whose changes could be due.
        if !matches!(event, Event::Attach) {
            self.settle(now, around, facts);
        }
        let answer = self.apply(event, now, facts);
        self.settle(now, around, facts);
        answer
    }

    fn apply(
        &mut self,
        event: Event<'_>,
        now: Duration,
        facts: &mut Vec<Fact>,
    ) -> Result<(), Refused> {
        use LifecycleState as S;
        match event {
            Event::Tick => {}
            Event::Terminate if self.state.is_leaving() && !self.state.is_retained() => {}
            Event::Terminate => {
                self.actions.clear();
                self.go(self.in_pool_or(S::WarmedTerminating, S::Terminating), now, facts);
            }
            Event::Vanish if self.state.is_terminated() => {}
            Event::Vanish => {
                self.actions.clear();
                facts.push(Fact::PoweredOff);
                self.go(self.in_pool_or(S::WarmedTerminated, S::Terminated), now, facts);
            }
            Event::TakeIntoService if self.state.is_prepared() => {
                if self.state == S::WarmedStopped {
                    facts.push(Fact::Started);
                }
                self.go(S::Pending, now, facts);
            }
            Event::TakeIntoService => return Err(Refused::NotPrepared),
            Event::ReturnToPool(pool) if self.state == S::InService => {
                (self.pool, self.returns) = (pool, true);
                self.go(S::WarmedPending, now, facts);
            }
            Event::ReturnToPool(_) => return Err(Refused::NotInService),
            Event::EnterStandby if self.state == S::InService => {
                self.go(S::EnteringStandby, now, facts);
                self.go(S::Standby, now, facts);
            }
            Event::EnterStandby => return Err(Refused::NotInService),
            Event::ExitStandby if self.state == S::Standby => {
                self.go(S::Pending, now, facts);
                self.go(S::InService, now, facts);
            }
            Event::ExitStandby => return Err(Refused::NotInStandby),
            Event::ReplaceRootVolume if self.state == S::InService => {
                self.go(S::ReplacingRootVolume, now, facts);
            }
            Event::ReplaceRootVolume => return Err(Refused::NotInService),
            Event::RootVolumeReplaced if self.state == S::ReplacingRootVolumeProceed => {
                self.go(S::RootVolumeReplaced, now, facts);
                self.go(S::Pending, now, facts);
            }
            // The instance has been terminated meanwhile.
            Event::RootVolumeReplaced => {}
            Event::Detach if matches!(self.state, S::InService | S::Standby) => {
                self.go(S::Detaching, now, facts);
            }
            Event::Detach => return Err(Refused::NotInService),
            Event::Attach => self.go(S::Pending, now, facts),
            Event::Heartbeat(name) => {
                let index = self.find(name).ok_or(Refused::NoActiveAction)?;
                let action = &mut self.actions[index];
                action.heartbeat_deadline = now + action.timeout;
                let hook = action.hook.clone();
                facts.push(Fact::Heartbeat { hook });
            }
            Event::Complete(name, result) => {
                let index = self.find(name).ok_or(Refused::NoActiveAction)?;
                let hook = self.actions[index].hook.clone();
                facts.push(Fact::HookCompleted { hook, result });
                self.finish(index, result, now, facts);
            }
        }
        Ok(())
    }

    fn find(&self, name: ActionName<'_>) -> Option<usize> {
        self.actions.iter().position(|action| {
            action.hook == name.hook && name.token.is_none_or(|token| action.token == token)
        })
    }

    /// Ends one action. After CONTINUE the others stay open; ABANDON ends them all.
    fn finish(&mut self, index: usize, result: ActionResult, now: Duration, facts: &mut Vec<Fact>) {
        self.actions.remove(index);
        if result == ActionResult::Abandon {
            self.actions.clear();
        }
        if !self.actions.is_empty() {
            return;
        }
        use LifecycleState as S;
        match (self.state, result) {
            (S::PendingWait, ActionResult::Continue) => self.go(S::PendingProceed, now, facts),
            (S::WarmedPendingWait, ActionResult::Continue) => {
                self.go(S::WarmedPendingProceed, now, facts);
            }
            (S::ReplacingRootVolumeWait, _) => self.replace_root_volume(now, facts),
            (S::WarmedPendingWait, ActionResult::Abandon) if self.returns && self.retains => {
                self.abandoned = true;
                self.go(S::WarmedPendingProceed, now, facts);
            }
            (S::PendingWait | S::WarmedPendingWait, ActionResult::Abandon) => {
                if !self.returns {
                    facts.push(Fact::LaunchAbandoned);
                }
                self.go(self.in_pool_or(S::WarmedTerminating, S::Terminating), now, facts);
            }
            _ => {
                self.abandoned = result == ActionResult::Abandon;
                let next = self.in_pool_or(S::WarmedTerminatingProceed, S::TerminatingProceed);
                self.go(next, now, facts);
            }
        }
    }

    fn replace_root_volume(&mut self, now: Duration, facts: &mut Vec<Fact>) {
        facts.push(Fact::ReplacesRootVolume);
        self.go(LifecycleState::ReplacingRootVolumeProceed, now, facts);
    }

    fn is_to_be_retained(&self) -> bool {
        self.abandoned && self.retains
    }

    fn in_pool_or(&self, warmed: LifecycleState, other: LifecycleState) -> LifecycleState {
        if self.state.is_warmed() { warmed } else { other }
    }

    fn is_due(&self, now: Duration, around: &Surroundings<'_>) -> bool {
        let deadline = self.next_deadline(around.timing, around.deregistered);
        deadline.is_some_and(|deadline| deadline <= now)
    }

    /// Makes the due changes until none is left.
    fn settle(&mut self, now: Duration, around: &mut Surroundings<'_>, facts: &mut Vec<Fact>) {
        use LifecycleState as S;
        loop {
            match self.state {
                S::Pending if self.is_due(now, around) => {
                    let waits = self.start(Transition::Launching, now, around, facts);
                    self.go(if waits { S::PendingWait } else { S::InService }, now, facts);
                }
                S::WarmedPending if self.is_due(now, around) => {
                    let transition =
                        if self.returns { Transition::Terminating } else { Transition::Launching };
                    let waits = self.start(transition, now, around, facts);
                    let next = if waits { S::WarmedPendingWait } else { S::WarmedPendingProceed };
                    self.go(next, now, facts);
                }
                S::Detaching if self.is_due(now, around) => self.go(S::Detached, now, facts),
                S::Terminating | S::WarmedTerminating if self.is_due(now, around) => {
                    let next = if self.start(Transition::Terminating, now, around, facts) {
                        self.in_pool_or(S::WarmedTerminatingWait, S::TerminatingWait)
                    } else {
                        self.in_pool_or(S::WarmedTerminatingProceed, S::TerminatingProceed)
                    };
                    self.go(next, now, facts);
                }
                S::ReplacingRootVolume if self.is_due(now, around) => {
                    if self.start(Transition::Terminating, now, around, facts) {
                        self.go(S::ReplacingRootVolumeWait, now, facts);
                    } else {
                        self.replace_root_volume(now, facts);
                    }
                }
                state if state.is_waiting() => {
                    let due = self.actions.iter().position(|action| action.deadline() <= now);
                    let Some(index) = due else { return };
                    let default_result = self.actions[index].default_result;
                    let hook = self.actions[index].hook.clone();
                    facts.push(Fact::HookTimedOut { hook, default_result });
                    self.finish(index, default_result, now, facts);
                }
                S::PendingProceed => self.go(S::InService, now, facts),
                S::WarmedPendingProceed if self.is_to_be_retained() => {
                    self.returns = false;
                    self.go(S::WarmedPendingRetained, now, facts);
                }
                S::WarmedPendingProceed => {
                    self.returns = false;
                    if self.pool == PoolState::Stopped {
                        facts.push(Fact::Stopped);
                    }
                    self.go(self.pool.steady(), now, facts);
                }
                S::TerminatingProceed | S::WarmedTerminatingProceed if self.is_to_be_retained() => {
                    let next =
                        self.in_pool_or(S::WarmedTerminatingRetained, S::TerminatingRetained);
                    self.go(next, now, facts);
                }
                S::TerminatingProceed | S::WarmedTerminatingProceed => {
                    facts.push(Fact::PoweredOff);
                    self.go(self.in_pool_or(S::WarmedTerminated, S::Terminated), now, facts);
                }
                _ => return,
            }
        }
    }

    /// Starts the hooks of a transition; returns whether there are any.
    fn start(
        &mut self,
        transition: Transition,
        now: Duration,
        around: &mut Surroundings<'_>,
        facts: &mut Vec<Fact>,
    ) -> bool {
        self.actions.clear();
        self.abandoned = false;
        for hook in around.hooks.iter().filter(|hook| hook.transition == transition) {
            let timeout = hook.heartbeat_timeout;
            self.actions.push(Action::start(hook, (around.token)(), now));
            facts.push(Fact::HookStarted { hook: hook.name.clone(), transition, timeout });
        }
        !self.actions.is_empty()
    }

    fn go(&mut self, to: LifecycleState, now: Duration, facts: &mut Vec<Fact>) {
        let from = std::mem::replace(&mut self.state, to);
        self.since = now;
        self.target = to.target(self.pool).or(self.target);
        facts.push(Fact::Moved { from, to });
    }
}

#[cfg(test)]
#[path = "lifecycle_tests.rs"]
mod tests;
