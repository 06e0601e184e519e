//! The life of one instance in a group: a pure state machine, with time passed in.
//!
//! ```text
//! Pending → Pending:Wait → Pending:Proceed → InService ⇄ Standby
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
//! An instance that the pool takes back goes from InService to Warmed:Pending, and there the termination
//! hooks hold it instead of the launch hooks:
//! <https://docs.aws.amazon.com/autoscaling/ec2/userguide/warm-pool-instance-lifecycle.html>.
//!
//! An abandoned launch goes through the termination hooks too. AWS's documentation does not say
//! so; it is the stricter reading for an agent that must cope with both.

use std::time::Duration;

use super::states::{ActionResult, LifecycleState, PoolState, Transition};
use crate::cloud::specs::HookSpec;

/// No lifecycle action may last longer than 48 hours or 100 heartbeats, whichever is less.
const LONGEST_ACTION: Duration = Duration::from_secs(48 * 3600);
const HEARTBEATS_PER_ACTION: u32 = 100;

/// How long an instance stays in the states in which nothing is to be done by anybody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timing {
    /// `Pending` before the launch hooks start.
    pub launching: Duration,
    /// `Terminating` before the termination hooks start: the metadata already says `Terminated`,
    /// while completing the hook is still refused.
    pub terminating: Duration,
}

/// A hook at work on one instance.
#[derive(Clone, Debug)]
pub(crate) struct Action {
    pub hook: String,
    pub token: String,
    timeout: Duration,
    default_result: ActionResult,
    heartbeat_deadline: Duration,
    global_deadline: Duration,
}

impl Action {
    fn deadline(&self) -> Duration {
        self.heartbeat_deadline.min(self.global_deadline)
    }
}

/// What a caller names an action by: the hook and, where given, its token.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ActionName<'a> {
    pub hook: &'a str,
    pub token: Option<&'a str>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Event<'a> {
    /// Time has passed.
    Tick,
    /// The group lets the instance go.
    Terminate,
    /// The machine is gone, whatever the hooks say.
    Vanish,
    /// The group takes it out of the warm pool.
    TakeIntoService,
    /// The group gives it back to the warm pool, which keeps it so.
    ReturnToPool(PoolState),
    EnterStandby,
    ExitStandby,
    Heartbeat(ActionName<'a>),
    Complete(ActionName<'a>, ActionResult),
}

/// What a step changed.
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
    /// A launch hook was abandoned: the instance goes without having served.
    LaunchAbandoned,
    /// The machine is to be stopped, with its disk kept.
    Stopped,
    /// The machine that was stopped is to start.
    Started,
    /// The machine is to be thrown away.
    PoweredOff,
}

/// Why a step was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    NoActiveAction,
    NotInService,
    NotInStandby,
    NotPrepared,
}

/// What surrounds the instance.
pub(crate) struct Surroundings<'a> {
    pub hooks: &'a [HookSpec],
    pub timing: Timing,
    /// Makes the token of a lifecycle action.
    pub token: &'a mut dyn FnMut() -> String,
}

#[derive(Clone, Debug)]
pub(crate) struct Lifecycle {
    state: LifecycleState,
    since: Duration,
    actions: Vec<Action>,
    /// How the pool keeps it that it was launched for.
    pool: PoolState,
    /// It comes back to the pool, and has served.
    returns: bool,
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
            target: None,
        }
    }

    /// The life of an instance that is launched for the warm pool.
    pub fn warmed(pool: PoolState, now: Duration) -> Self {
        Self { state: LifecycleState::WarmedPending, pool, ..Self::new(now) }
    }

    /// What `autoscaling/target-lifecycle-state` in the metadata says.
    pub fn target(&self) -> Option<&'static str> {
        self.target
    }

    pub fn state(&self) -> LifecycleState {
        self.state
    }

    pub fn actions(&self) -> &[Action] {
        &self.actions
    }

    /// When time alone will change something.
    pub fn next_deadline(&self, timing: Timing) -> Option<Duration> {
        use LifecycleState as S;
        match self.state {
            S::Pending | S::WarmedPending => Some(self.since + timing.launching),
            S::Terminating | S::WarmedTerminating => Some(self.since + timing.terminating),
            state if state.is_waiting() => self.actions.iter().map(Action::deadline).min(),
            _ => None,
        }
    }

    /// One event, and everything that follows from it at once. `facts` gets what happened, also
    /// when the event itself is refused: time may have moved the instance before.
    pub fn step(
        &mut self,
        event: Event<'_>,
        now: Duration,
        around: &mut Surroundings<'_>,
        facts: &mut Vec<Fact>,
    ) -> Result<(), Refused> {
        // What was due before the event comes first: a completion after the deadline is too late.
        self.settle(now, around, facts);
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
            Event::Terminate if self.state.is_leaving() => {}
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

    /// Ends one action. CONTINUE leaves the others to finish; ABANDON ends them all.
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
            (S::PendingWait | S::WarmedPendingWait, ActionResult::Abandon) => {
                if !self.returns {
                    facts.push(Fact::LaunchAbandoned);
                }
                self.go(self.in_pool_or(S::WarmedTerminating, S::Terminating), now, facts);
            }
            _ => {
                let next = self.in_pool_or(S::WarmedTerminatingProceed, S::TerminatingProceed);
                self.go(next, now, facts);
            }
        }
    }

    fn in_pool_or(&self, warmed: LifecycleState, other: LifecycleState) -> LifecycleState {
        if self.state.is_warmed() { warmed } else { other }
    }

    /// Does what is due until nothing is.
    fn settle(&mut self, now: Duration, around: &mut Surroundings<'_>, facts: &mut Vec<Fact>) {
        use LifecycleState as S;
        loop {
            match self.state {
                S::Pending if now >= self.since + around.timing.launching => {
                    let waits = self.start(Transition::Launching, now, around, facts);
                    self.go(if waits { S::PendingWait } else { S::InService }, now, facts);
                }
                S::WarmedPending if now >= self.since + around.timing.launching => {
                    let transition =
                        if self.returns { Transition::Terminating } else { Transition::Launching };
                    let waits = self.start(transition, now, around, facts);
                    let next = if waits { S::WarmedPendingWait } else { S::WarmedPendingProceed };
                    self.go(next, now, facts);
                }
                S::Terminating | S::WarmedTerminating
                    if now >= self.since + around.timing.terminating =>
                {
                    let next = if self.start(Transition::Terminating, now, around, facts) {
                        self.in_pool_or(S::WarmedTerminatingWait, S::TerminatingWait)
                    } else {
                        self.in_pool_or(S::WarmedTerminatingProceed, S::TerminatingProceed)
                    };
                    self.go(next, now, facts);
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
                S::WarmedPendingProceed => {
                    self.returns = false;
                    if self.pool == PoolState::Stopped {
                        facts.push(Fact::Stopped);
                    }
                    self.go(self.pool.steady(), now, facts);
                }
                S::TerminatingProceed | S::WarmedTerminatingProceed => {
                    facts.push(Fact::PoweredOff);
                    self.go(self.in_pool_or(S::WarmedTerminated, S::Terminated), now, facts);
                }
                _ => return,
            }
        }
    }

    /// Starts the hooks of a transition; whether there are any.
    fn start(
        &mut self,
        transition: Transition,
        now: Duration,
        around: &mut Surroundings<'_>,
        facts: &mut Vec<Fact>,
    ) -> bool {
        self.actions.clear();
        for hook in around.hooks.iter().filter(|hook| hook.transition == transition) {
            let timeout = hook.heartbeat_timeout;
            self.actions.push(Action {
                hook: hook.name.clone(),
                token: (around.token)(),
                timeout,
                default_result: hook.default_result,
                heartbeat_deadline: now + timeout,
                global_deadline: now + global_timeout(timeout),
            });
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

/// The longest that heartbeats can keep an action alive.
pub(crate) fn global_timeout(heartbeat_timeout: Duration) -> Duration {
    heartbeat_timeout.saturating_mul(HEARTBEATS_PER_ACTION).min(LONGEST_ACTION)
}

#[cfg(test)]
#[path = "lifecycle_tests.rs"]
mod tests;
