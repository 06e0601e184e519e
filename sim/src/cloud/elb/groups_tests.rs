use super::*;

const NOW: Duration = Duration::from_secs(10);

struct Bench {
    elb: Elb,
    arn: String,
    listener: String,
}

impl Bench {
    /// Creates a listener that forwards to a target group with these targets.
    fn new(ids: &[&str]) -> Self {
        let mut elb = Elb::new("eu-central-1", 1);
        let mut spec = TargetGroupSpec::new("web", 80);
        spec.health_check = HealthCheck::tcp().thresholds(2, 2);
        let arn = elb.create_group(spec).unwrap();
        let balancer = elb.create_balancer("front", "internal", NOW).unwrap();
        let listener = elb.create_listener(&balancer, 8080, &arn, NOW).unwrap();
        for (number, id) in (1..).zip(ids) {
            elb.register(&arn, id, None, Ipv4Addr::new(10, 0, 0, number), NOW).unwrap();
        }
        elb.take_outcomes();
        Self { elb, arn, listener }
    }

    fn check(&mut self, id: &str, passed: bool) {
        let targets = self.elb.to_check();
        let target = targets.iter().find(|it| it.key.id == id).unwrap();
        for _ in 0..2 {
            self.elb.checked(target, passed, NOW);
        }
    }

    /// Returns the targets of many new flows.
    fn placed(&mut self) -> BTreeMap<String, u32> {
        let mut found = BTreeMap::new();
        for _ in 0..300 {
            let Some(placed) = self.elb.place(&self.listener) else { continue };
            *found.entry(placed.key.id).or_default() += 1;
        }
        found
    }

    fn receivers(&mut self) -> Vec<String> {
        self.placed().into_keys().collect()
    }

    /// Returns the targets whose flows were cut since the last call, with the reasons.
    fn cut(&mut self) -> Vec<(String, Cut)> {
        let cut = |outcome| match outcome {
            Outcome::Cut { flows: FlowsOf::Target { key, .. }, reason } => Some((key.id, reason)),
            _ => None,
        };
        self.elb.take_outcomes().into_iter().filter_map(cut).collect()
    }
}

#[test]
fn new_flows_are_spread_over_the_healthy_targets() {
    let mut bench = Bench::new(&["a", "b", "c"]);
    assert_eq!(bench.receivers(), ["a", "b", "c"], "none is healthy: to all");
    bench.check("b", true);
    assert_eq!(bench.receivers(), ["b"]);
    bench.check("c", true);
    let placed = bench.placed();
    assert!(placed["b"] > 100 && placed["c"] > 100 && placed.len() == 2, "{placed:?}");
    bench.elb.deregister(&bench.arn, "b", None, NOW).unwrap();
    assert_eq!(bench.receivers(), ["c"]);
    bench.check("c", false);
    assert_eq!(bench.receivers(), ["a", "c"], "none is healthy: to all that do not drain");
    assert!(Bench::new(&[]).receivers().is_empty());
}

#[test]
fn the_last_healthy_target_keeps_its_flows_until_another_one_is_healthy() {
    let mut bench = Bench::new(&["a", "b"]);
    bench.check("a", true);
    bench.check("b", true);
    bench.check("a", false);
    assert_eq!(bench.cut(), [("a".to_owned(), Cut::Unhealthy)]);
    bench.check("b", false);
    assert_eq!(bench.cut(), []);
    bench.check("a", true);
    assert_eq!(bench.cut(), [("b".to_owned(), Cut::Unhealthy)]);
}

#[test]
fn a_terminated_instance_loses_its_flows_and_its_registration() {
    let mut bench = Bench::new(&["a", "b"]);
    bench.elb.register(&bench.arn, "a", Some(81), Ipv4Addr::new(10, 0, 0, 1), NOW).unwrap();
    let (version, gone) = (bench.elb.version(), ("a".to_owned(), Cut::Gone));
    bench.elb.forget("a");
    assert_eq!(bench.cut(), [gone.clone(), gone]);
    assert!(bench.elb.version() > version);
    assert_eq!(bench.receivers(), ["b"]);
    bench.elb.forget("a");
    assert_eq!(bench.cut(), []);
}

#[test]
fn the_results_of_an_earlier_registration_do_not_count() {
    let mut bench = Bench::new(&["a"]);
    let old = bench.elb.to_check().remove(0);
    bench.elb.deregister(&bench.arn, "a", None, NOW).unwrap();
    bench.elb.register(&bench.arn, "a", None, Ipv4Addr::new(10, 0, 0, 1), NOW).unwrap();
    for _ in 0..9 {
        bench.elb.checked(&old, true, NOW);
    }
    let health = bench.elb.group(&bench.arn).unwrap().health(&old.key);
    assert_eq!(health.reason.as_deref(), Some("Elb.RegistrationInProgress"));
    bench.check("a", true);
    assert_eq!(bench.elb.group(&bench.arn).unwrap().health(&old.key).state, TargetState::Healthy);
}

#[test]
fn checks_begin_and_end_with_the_listener() {
    let mut bench = Bench::new(&["a"]);
    bench.elb.address = Some(Ipv4Addr::new(10, 0, 0, 3));
    let check = bench.elb.to_check().remove(0);
    assert_eq!(
        (check.at.to_string(), check.host.to_string()),
        ("10.0.0.1:80".into(), "10.0.0.3:8080".into())
    );
    let refused = bench.elb.delete_group(&bench.arn).unwrap_err();
    assert_eq!(refused.code, "ResourceInUse");
    bench.elb.delete_listener(&bench.listener, NOW).unwrap();
    assert!(bench.elb.to_check().is_empty());
    assert!(bench.elb.place(&bench.listener).is_none());
    let cut =
        Outcome::Cut { flows: FlowsOf::Listener(bench.listener.clone()), reason: Cut::Unlistened };
    assert!(bench.elb.take_outcomes().contains(&cut));
    bench.elb.delete_group(&bench.arn).unwrap();
    assert_eq!(bench.elb.group(&bench.arn).unwrap_err().code, "TargetGroupNotFound");
}

#[test]
fn creating_twice_is_creating_once_and_other_settings_are_refused() {
    let mut bench = Bench::new(&[]);
    let spec = bench.elb.group(&bench.arn).unwrap().spec.clone();
    assert_eq!(bench.elb.create_group(spec.clone()).unwrap(), bench.arn);
    let other = bench.elb.create_group(TargetGroupSpec { port: 81, ..spec }).unwrap_err();
    assert_eq!(other.code, "DuplicateTargetGroupName");
    let balancer = bench.elb.create_balancer("front", "internal", NOW).unwrap();
    let again = bench.elb.create_listener(&balancer, 8080, &bench.arn, NOW).unwrap();
    assert_eq!(again, bench.listener);
    let second = bench.elb.create_group(TargetGroupSpec::new("other", 80)).unwrap();
    let taken = bench.elb.create_listener(&balancer, 8080, &second, NOW).unwrap_err();
    assert_eq!(taken.code, "DuplicateListener");
    bench.elb.delete_balancer(&balancer, NOW);
    assert!(bench.elb.listeners.is_empty());
}
