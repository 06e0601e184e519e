use super::*;

const SECOND: Duration = Duration::from_secs(1);

struct Bench {
    lifecycle: Lifecycle,
    hooks: Vec<HookSpec>,
    timing: Timing,
    retains: bool,
    deregistered: Duration,
    tokens: u32,
    /// The changes of the last step, refused or not.
    facts: Vec<Fact>,
}

impl Bench {
    fn new(hooks: Vec<HookSpec>) -> Self {
        Self {
            lifecycle: Lifecycle::new(Duration::ZERO),
            hooks,
            timing: Timing::default(),
            retains: false,
            deregistered: Duration::ZERO,
            tokens: 0,
            facts: Vec::new(),
        }
    }

    fn step(&mut self, event: Event<'_>, now: u32) -> Result<Vec<Fact>, Refused> {
        let tokens = &mut self.tokens;
        let mut token = || {
            *tokens += 1;
            format!("token-{tokens}")
        };
        let mut around = Surroundings {
            hooks: &self.hooks,
            timing: self.timing,
            retains: self.retains,
            deregistered: self.deregistered,
            token: &mut token,
        };
        self.facts.clear();
        self.lifecycle.step(event, SECOND * now, &mut around, &mut self.facts)?;
        Ok(self.facts.clone())
    }

    fn path(facts: &[Fact]) -> Vec<&'static str> {
        facts
            .iter()
            .filter_map(|fact| match fact {
                Fact::Moved { to, .. } => Some(to.as_str()),
                _ => None,
            })
            .collect()
    }
}

fn hook(name: &str, transition: Transition, default_result: ActionResult) -> HookSpec {
    HookSpec::new("g", name, transition).timeout(SECOND * 10, default_result)
}

fn named(hook: &str) -> ActionName<'_> {
    ActionName { hook, token: None }
}

#[test]
fn without_hooks_a_life_has_no_waits() {
    let mut bench = Bench::new(vec![]);
    let facts = bench.step(Event::Tick, 0).unwrap();
    assert_eq!(Bench::path(&facts), ["InService"]);
    let facts = bench.step(Event::Terminate, 1).unwrap();
    assert_eq!(Bench::path(&facts), ["Terminating", "Terminating:Proceed", "Terminated"]);
    assert!(facts.contains(&Fact::PoweredOff));
}

#[test]
fn every_hook_of_a_transition_must_continue() {
    let mut bench = Bench::new(vec![
        hook("one", Transition::Launching, ActionResult::Abandon),
        hook("two", Transition::Launching, ActionResult::Abandon),
    ]);
    bench.step(Event::Tick, 0).unwrap();
    assert_eq!(bench.lifecycle.state(), LifecycleState::PendingWait);
    bench.step(Event::Complete(named("one"), ActionResult::Continue), 1).unwrap();
    assert_eq!(bench.lifecycle.state(), LifecycleState::PendingWait);
    let again = bench.step(Event::Complete(named("one"), ActionResult::Continue), 2);
    assert_eq!(again, Err(Refused::NoActiveAction));
    let facts = bench.step(Event::Complete(named("two"), ActionResult::Continue), 2).unwrap();
    assert_eq!(Bench::path(&facts), ["Pending:Proceed", "InService"]);
}

#[test]
fn an_abandoned_launch_terminates_and_ends_the_other_hooks() {
    let mut bench = Bench::new(vec![
        hook("one", Transition::Launching, ActionResult::Continue),
        hook("two", Transition::Launching, ActionResult::Continue),
    ]);
    bench.step(Event::Tick, 0).unwrap();
    let facts = bench.step(Event::Complete(named("one"), ActionResult::Abandon), 1).unwrap();
    assert_eq!(Bench::path(&facts), ["Terminating", "Terminating:Proceed", "Terminated"]);
}

#[test]
fn heartbeats_prolong_up_to_the_global_timeout() {
    let mut bench =
        Bench::new(vec![hook("drain", Transition::Terminating, ActionResult::Continue)]);
    bench.step(Event::Tick, 0).unwrap();
    bench.step(Event::Terminate, 0).unwrap();
    for now in (9..990).step_by(9) {
        bench.step(Event::Heartbeat(named("drain")), now).unwrap();
        assert_eq!(bench.lifecycle.state(), LifecycleState::TerminatingWait);
    }
    for now in [990, 999] {
        bench.step(Event::Heartbeat(named("drain")), now).unwrap();
        let deadline = bench.lifecycle.next_deadline(bench.timing, Duration::ZERO);
        assert_eq!(deadline, Some(SECOND * 1000), "100 heartbeats of 10 s and no more");
    }
    let facts = bench.step(Event::Tick, 1000).unwrap();
    assert_eq!(Bench::path(&facts), ["Terminating:Proceed", "Terminated"]);
}

#[test]
fn a_completion_after_the_deadline_finds_the_default_result_applied() {
    let mut bench = Bench::new(vec![hook("ready", Transition::Launching, ActionResult::Abandon)]);
    bench.step(Event::Tick, 0).unwrap();
    let late = bench.step(Event::Complete(named("ready"), ActionResult::Continue), 10);
    assert_eq!(late, Err(Refused::NoActiveAction));
    assert_eq!(
        bench.facts[0],
        Fact::HookTimedOut { hook: "ready".to_owned(), default_result: ActionResult::Abandon }
    );
    assert_eq!(bench.lifecycle.state(), LifecycleState::Terminated);
}

#[test]
fn a_late_hook_shows_its_target_before_it_is_active() {
    let mut bench =
        Bench::new(vec![hook("drain", Transition::Terminating, ActionResult::Continue)]);
    bench.timing.terminating = SECOND * 5;
    bench.step(Event::Tick, 0).unwrap();
    bench.step(Event::Terminate, 1).unwrap();
    assert_eq!(bench.lifecycle.target(), Some("Terminated"));
    let early = bench.step(Event::Complete(named("drain"), ActionResult::Continue), 2);
    assert_eq!(early, Err(Refused::NoActiveAction));
    bench.step(Event::Tick, 6).unwrap();
    bench.step(Event::Complete(named("drain"), ActionResult::Continue), 6).unwrap();
    assert_eq!(bench.lifecycle.state(), LifecycleState::Terminated);
}

#[test]
fn termination_hooks_start_after_the_later_of_both_waits() {
    for (terminating, deregistered, start) in [(5, 30, 30), (30, 5, 31), (0, 1, 1)] {
        let mut bench =
            Bench::new(vec![hook("drain", Transition::Terminating, ActionResult::Continue)]);
        bench.timing.terminating = SECOND * terminating;
        bench.step(Event::Tick, 0).unwrap();
        bench.deregistered = Duration::MAX;
        bench.step(Event::Terminate, 1).unwrap();
        assert_eq!(bench.lifecycle.state(), LifecycleState::Terminating);
        if start > 1 {
            assert_eq!(bench.lifecycle.target(), Some("Terminated"));
            let early = bench.step(Event::Heartbeat(named("drain")), start - 1);
            assert_eq!(early, Err(Refused::NoActiveAction));
        }
        bench.deregistered = SECOND * deregistered;
        let deadline = bench.lifecycle.next_deadline(bench.timing, bench.deregistered);
        assert_eq!(deadline, Some(SECOND * start));
        bench.step(Event::Tick, start).unwrap();
        bench.step(Event::Heartbeat(named("drain")), start).unwrap();
        assert_eq!(bench.lifecycle.state(), LifecycleState::TerminatingWait);
    }
}

#[test]
fn a_return_to_the_pool_waits_for_the_deregistration_and_a_launch_for_the_pool_does_not() {
    let hooks = || vec![hook("drain", Transition::Terminating, ActionResult::Continue)];
    let mut bench = Bench::new(hooks());
    bench.step(Event::Tick, 0).unwrap();
    bench.deregistered = SECOND * 9;
    bench.step(Event::ReturnToPool(PoolState::Running), 1).unwrap();
    assert_eq!(bench.lifecycle.state(), LifecycleState::WarmedPending);
    bench.step(Event::Tick, 9).unwrap();
    assert_eq!(bench.lifecycle.state(), LifecycleState::WarmedPendingWait);

    let mut bench = Bench::new(hooks());
    bench.lifecycle = Lifecycle::warmed(PoolState::Running, Duration::ZERO);
    bench.deregistered = Duration::MAX;
    bench.step(Event::Tick, 0).unwrap();
    assert_eq!(bench.lifecycle.state(), LifecycleState::WarmedRunning);
}

#[test]
fn a_token_names_one_action_and_another_token_none() {
    let mut bench = Bench::new(vec![hook("ready", Transition::Launching, ActionResult::Abandon)]);
    bench.step(Event::Tick, 0).unwrap();
    let token = bench.lifecycle.actions()[0].token.clone();
    let other = ActionName { hook: "ready", token: Some("another") };
    assert_eq!(
        bench.step(Event::Complete(other, ActionResult::Continue), 1),
        Err(Refused::NoActiveAction)
    );
    let this = ActionName { hook: "ready", token: Some(&token) };
    bench.step(Event::Complete(this, ActionResult::Continue), 1).unwrap();
    assert_eq!(bench.lifecycle.state(), LifecycleState::InService);
}

#[test]
fn a_machine_that_vanishes_waits_for_no_hook() {
    let mut bench =
        Bench::new(vec![hook("drain", Transition::Terminating, ActionResult::Continue)]);
    bench.step(Event::Tick, 0).unwrap();
    let facts = bench.step(Event::Vanish, 1).unwrap();
    assert_eq!(Bench::path(&facts), ["Terminated"]);
}

#[test]
fn standby_and_back() {
    let mut bench = Bench::new(vec![]);
    bench.step(Event::Tick, 0).unwrap();
    bench.step(Event::EnterStandby, 1).unwrap();
    assert_eq!(bench.lifecycle.target(), Some("Standby"));
    assert!(!bench.lifecycle.state().counts());
    assert_eq!(bench.step(Event::EnterStandby, 1), Err(Refused::NotInService));
    bench.step(Event::ExitStandby, 2).unwrap();
    assert_eq!(bench.lifecycle.state(), LifecycleState::InService);
    assert_eq!(bench.step(Event::ExitStandby, 2), Err(Refused::NotInStandby));
}

/// For any sequence of these events: a leaving instance stays leaving and is powered off exactly once; actions are open
/// only in waiting states; only running machines are stopped, and only stopped ones are started; an instance that has
/// left the pool does not return to it; a departure always ends when only time passes.
#[test]
fn any_sequence_of_events_keeps_the_invariants() {
    for seed in 0..500 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut bench = Bench::new(vec![
            hook("ready", Transition::Launching, ActionResult::Abandon),
            hook("drain", Transition::Terminating, ActionResult::Continue),
            hook("log", Transition::Terminating, ActionResult::Continue),
        ]);
        let pool = [None, Some(PoolState::Stopped), Some(PoolState::Running)][seed as usize % 3];
        if let Some(pool) = pool {
            bench.lifecycle = Lifecycle::warmed(pool, Duration::ZERO);
        }
        let (mut now, mut power_offs, mut left) = (0, 0, false);
        let (mut is_on, mut has_served) = (true, pool.is_none());
        for _ in 0..60 {
            now += random.u32(0..6);
            let name = named(["ready", "drain", "log"][random.usize(0..3)]);
            let event = match random.u32(0..14) {
                0 => Event::Terminate,
                12 | 13 => Event::TakeIntoService,
                1 if random.u32(0..10) == 0 => Event::Vanish,
                2 => Event::EnterStandby,
                3 => Event::ExitStandby,
                4..=6 => Event::Heartbeat(name),
                7 | 8 => Event::Complete(name, ActionResult::Continue),
                9 => Event::Complete(name, ActionResult::Abandon),
                _ => Event::Tick,
            };
            // Refusals are part of the sequence.
            let _ = bench.step(event, now);
            power_offs += bench.facts.iter().filter(|f| **f == Fact::PoweredOff).count();
            let state = bench.lifecycle.state();
            assert!(!left || state.is_leaving(), "seed {seed}: came back");
            left |= state.is_leaving();
            for fact in &bench.facts {
                let turns_on = match fact {
                    Fact::Started => true,
                    Fact::Stopped => false,
                    _ => continue,
                };
                assert_ne!(is_on, turns_on, "seed {seed}");
                is_on = turns_on;
            }
            assert!(is_on || state.is_warmed(), "seed {seed}: {state} with its machine stopped");
            assert!(!has_served || !state.is_warmed(), "seed {seed}: back in the pool");
            has_served |= !state.is_warmed();
            let waits = !bench.lifecycle.actions().is_empty();
            assert_eq!(state.is_waiting(), waits, "seed {seed}");
        }
        if left {
            let facts = bench.step(Event::Tick, now + 2000).unwrap();
            power_offs += facts.iter().filter(|f| **f == Fact::PoweredOff).count();
            assert!(bench.lifecycle.state().is_terminated(), "seed {seed}");
            assert_eq!(power_offs, 1, "seed {seed}");
        }
    }
}

#[test]
fn an_instance_of_no_group_that_one_takes_runs_its_launch_hooks_once() {
    let mut bench = Bench::new(vec![hook("ready", Transition::Launching, ActionResult::Continue)]);
    let facts = bench.step(Event::Attach, 5).unwrap();
    let started = facts.iter().filter(|it| matches!(it, Fact::HookStarted { .. })).count();
    assert_eq!(started, 1, "{facts:?}");
    assert_eq!(bench.lifecycle.state().as_str(), "Pending:Wait");
}
