use super::*;

const SECOND: Duration = Duration::from_secs(1);

struct Bench {
    target: Target,
    check: HealthCheck,
    attributes: TargetGroupAttributes,
    /// The changes of the last step.
    facts: Vec<Fact>,
}

impl Bench {
    /// Returns a target that is registered at the time 0, in a target group that is in use.
    fn new() -> Self {
        let mut bench = Self {
            target: Target::new(Duration::ZERO),
            check: HealthCheck::tcp().thresholds(3, 2),
            attributes: TargetGroupAttributes::default(),
            facts: Vec::new(),
        };
        bench.step(Event::Use(true), 0);
        bench
    }

    fn step(&mut self, event: Event, now: u32) -> Vec<Fact> {
        self.facts.clear();
        let settings = Settings { check: &self.check, attributes: &self.attributes };
        self.target.step(event, SECOND * now, settings, &mut self.facts);
        self.facts.clone()
    }

    fn checks(&mut self, results: &[bool], now: u32) -> Vec<TargetState> {
        let checked = |passed: &bool| {
            self.step(Event::Checked { passed: *passed }, now);
            self.target.state()
        };
        results.iter().map(checked).collect()
    }

    fn cut(&mut self, fails_open: bool) -> bool {
        let settings = Settings { check: &self.check, attributes: &self.attributes };
        self.target.cut_if_unhealthy(fails_open, settings).is_some()
    }

    fn reason(&self) -> Option<String> {
        self.target.health().reason
    }
}

#[test]
fn consecutive_results_reach_the_thresholds() {
    use TargetState as S;
    let mut bench = Bench::new();
    assert_eq!(bench.reason().as_deref(), Some("Elb.RegistrationInProgress"));
    let states = bench.checks(&[true, true, false, true, true], 1);
    assert_eq!(states, [S::Initial; 5]);
    assert_eq!(bench.reason().as_deref(), Some("Elb.InitialHealthChecking"));
    assert_eq!(bench.checks(&[true], 1), [S::Healthy]);
    assert_eq!(bench.reason(), None);
    let states = bench.checks(&[false, true, false, false], 2);
    assert_eq!(states, [S::Healthy, S::Healthy, S::Healthy, S::Unhealthy]);
    assert_eq!(bench.reason().as_deref(), Some("Target.FailedHealthChecks"));
    let states = bench.checks(&[true, true, true], 3);
    assert_eq!(states, [S::Unhealthy, S::Unhealthy, S::Healthy]);
}

#[test]
fn a_deregistered_target_drains_for_the_whole_delay() {
    let mut bench = Bench::new();
    bench.checks(&[true; 3], 0);
    bench.step(Event::Deregister, 10);
    assert_eq!(bench.target.state(), TargetState::Draining);
    assert_eq!(bench.reason().as_deref(), Some("Target.DeregistrationInProgress"));
    assert!(bench.step(Event::Deregister, 200).is_empty(), "a repetition changes nothing");
    assert!(bench.step(Event::Tick, 309).is_empty());
    let (from, to) = (TargetState::Draining, TargetState::Unused);
    assert_eq!(bench.step(Event::Tick, 310), [Fact::Moved { from, to }, Fact::Removed]);
}

#[test]
fn flows_are_cut_at_the_end_of_the_delay_only_where_the_attribute_is_set() {
    let mut bench = Bench::new();
    bench.attributes.connection_termination = true;
    bench.attributes.deregistration_delay = Duration::ZERO;
    let facts = bench.step(Event::Deregister, 5);
    assert!(facts.contains(&Fact::Cut(Cut::Deregistered)) && facts.contains(&Fact::Removed));
}

#[test]
fn a_target_that_is_registered_again_starts_anew() {
    let mut bench = Bench::new();
    bench.checks(&[true; 3], 0);
    assert!(bench.step(Event::Register, 1).is_empty());
    bench.step(Event::Deregister, 1);
    bench.step(Event::Register, 2);
    assert_eq!(bench.reason().as_deref(), Some("Elb.RegistrationInProgress"));
    assert!(bench.step(Event::Tick, 1000).is_empty());
    assert_eq!(bench.checks(&[true; 3], 1000)[2], TargetState::Healthy);
}

#[test]
fn unhealthy_targets_lose_their_flows_once_by_default() {
    let mut bench = Bench::new();
    bench.checks(&[true, true, true, false], 0);
    assert!(!bench.cut(false));
    bench.checks(&[false], 0);
    assert!(!bench.cut(true), "the target group fails open");
    assert!(bench.cut(false));
    assert!(!bench.cut(false), "only once");
    bench.checks(&[true; 3], 1);
    assert!(!bench.cut(false));
    bench.checks(&[false; 2], 2);
    assert!(bench.cut(false), "again, when it is unhealthy again");
}

#[test]
fn flows_of_unhealthy_targets_stay_or_drain_first_where_attributes_say_so() {
    let mut bench = Bench::new();
    bench.attributes.unhealthy_connection_termination = false;
    bench.checks(&[false; 2], 0);
    assert_eq!(bench.target.state(), TargetState::Unhealthy);
    assert!(!bench.cut(false));

    let mut bench = Bench::new();
    bench.attributes.unhealthy_connection_termination = false;
    bench.attributes.unhealthy_draining_interval = SECOND * 20;
    bench.checks(&[false; 2], 10);
    assert_eq!(bench.target.state(), TargetState::UnhealthyDraining);
    bench.step(Event::Tick, 29);
    assert!(!bench.cut(false));
    bench.step(Event::Tick, 30);
    assert_eq!(bench.target.state(), TargetState::Unhealthy);
    assert!(bench.cut(false));
}

#[test]
fn a_draining_target_that_becomes_unhealthy_loses_its_flows() {
    let mut bench = Bench::new();
    bench.checks(&[true; 3], 0);
    bench.step(Event::Deregister, 1);
    assert!(!bench.cut(true));
    bench.checks(&[false; 2], 2);
    assert_eq!(bench.target.state(), TargetState::Draining);
    assert!(bench.cut(true), "a draining target does not make its target group fail open");
    bench.attributes.unhealthy_connection_termination = false;
    assert!(!bench.cut(true));
}

#[test]
fn a_target_of_an_unused_target_group_is_not_checked_and_does_not_drain() {
    let mut bench = Bench::new();
    bench.step(Event::Use(false), 1);
    assert_eq!(bench.reason().as_deref(), Some("Target.NotInUse"));
    assert_eq!(bench.checks(&[true; 9], 1)[8], TargetState::Unused);
    assert_eq!(bench.step(Event::Deregister, 2), [Fact::Removed]);
}

/// For any sequence of these events: only a target with enough successes is healthy; a draining target is removed once,
/// exactly when the deregistration delay has passed, unless it was registered again; flows are cut only as the
/// attributes say.
#[test]
fn any_sequence_of_events_keeps_the_invariants() {
    for seed in 0..500 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut bench = Bench::new();
        bench.attributes = TargetGroupAttributes {
            deregistration_delay: SECOND * random.u32(0..20),
            connection_termination: random.bool(),
            unhealthy_connection_termination: random.bool(),
            unhealthy_draining_interval: SECOND * random.u32(0..10),
        };
        let attributes = bench.attributes;
        let cuts_unhealthy = attributes.unhealthy_connection_termination
            || !attributes.unhealthy_draining_interval.is_zero();
        let (mut now, mut passed, mut failed) = (0, 0, 0);
        let mut drains_since = None;
        for _ in 0..80 {
            now += random.u32(0..4);
            let event = match random.u32(0..10) {
                0 => Event::Deregister,
                1 => Event::Register,
                2..=5 => Event::Checked { passed: true },
                6..=8 => Event::Checked { passed: false },
                _ => Event::Tick,
            };
            let facts = bench.step(event, now);
            let state = bench.target.state();
            match event {
                Event::Checked { passed: true } => (passed, failed) = (passed + 1, 0),
                Event::Checked { passed: false } => (passed, failed) = (0, failed + 1),
                _ => {}
            }
            let end = drains_since.map(|since| SECOND * since + attributes.deregistration_delay);
            let is_over = end.is_some_and(|end| end <= SECOND * now);
            let is_removed = facts.contains(&Fact::Removed);
            let at_once = state == TargetState::Unused && matches!(event, Event::Deregister);
            assert_eq!(is_removed, is_over || at_once, "seed {seed}");
            let cut = facts.contains(&Fact::Cut(Cut::Deregistered));
            assert_eq!(cut, is_removed && attributes.connection_termination, "seed {seed}");
            if is_removed {
                break;
            }
            match state {
                TargetState::Draining => drains_since = drains_since.or(Some(now)),
                TargetState::Initial if drains_since.take().is_some() => (passed, failed) = (0, 0),
                TargetState::Healthy => assert!(failed < 2, "seed {seed}"),
                state if state.is_unhealthy() => assert!(passed < 3, "seed {seed}"),
                _ => {}
            }
            for fact in &facts {
                if let Fact::Moved { to: TargetState::Healthy, .. } = fact {
                    assert!(passed >= 3, "seed {seed}");
                }
            }
            let was_draining = state == TargetState::Draining;
            if bench.cut(random.bool()) {
                assert!(state == TargetState::Unhealthy || was_draining, "seed {seed}: {state}");
                assert!(cuts_unhealthy, "seed {seed}");
            }
            let settings = Settings { check: &bench.check, attributes: &bench.attributes };
            let deadline = bench.target.next_deadline(settings);
            assert!(deadline.is_none_or(|it| it > SECOND * now), "seed {seed}: it is overdue");
        }
    }
}
