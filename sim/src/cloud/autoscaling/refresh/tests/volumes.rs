//! Root volumes.

use std::collections::BTreeMap;

use super::*;

fn volumes() -> RefreshSpec {
    let own = GroupSpec::default().instance_type;
    RefreshSpec { warmup: Some(SECOND * 10), ..RefreshSpec::root_volumes(&own, NEW_IMAGE) }
}

/// Returns the instances whose root volumes must be replaced, with the images.
fn orders(bench: &mut Bench) -> Vec<(String, String)> {
    let outcomes = bench.scaling.take_outcomes();
    let order = |outcome: Outcome| match outcome {
        Outcome::ReplaceRootVolume { instance, image } => Some((instance, image)),
        _ => None,
    };
    outcomes.into_iter().filter_map(order).collect()
}

#[test]
fn root_volumes_are_replaced_one_at_a_time_through_both_hooks() {
    let mut bench = Bench::new(2);
    bench.hook("ready", Transition::Launching);
    bench.hook("drain", Transition::Terminating);
    let old = bench.ids();
    let address = |bench: &Bench, id: &str| bench.scaling.instance(id).unwrap().address;
    let before = address(&bench, &old[0]);
    bench.start(volumes());
    for id in &old {
        let target = |bench: &Bench| bench.scaling.instance(id).unwrap().lifecycle.target();
        assert_eq!(bench.only(S::ReplacingRootVolumeWait), *id);
        assert_eq!(target(&bench), Some("InService"), "the metadata do not show it");
        assert!(orders(&mut bench).is_empty());
        bench.complete(id, "drain", ActionResult::Continue);
        assert_eq!(bench.only(S::ReplacingRootVolumeProceed), *id);
        assert_eq!(orders(&mut bench), [(id.clone(), NEW_IMAGE.to_owned())]);
        bench.scaling.root_volume_is_replaced(id, Ok(()), bench.now);
        assert_eq!(bench.only(S::PendingWait), *id);
        bench.complete(id, "ready", ActionResult::Continue);
        assert_eq!(bench.in_state(S::InService).len(), 2, "it warms up");
        bench.pass(SECOND * 10);
    }
    assert_eq!((bench.status(), bench.ids()), (RefreshStatus::Successful, old.clone()));
    assert_eq!(address(&bench, &old[0]), before);
    assert_eq!(bench.scaling.group(GROUP).unwrap().spec.image_id, NEW_IMAGE);
}

#[test]
fn an_abandoned_departure_does_not_stop_a_new_root_volume_but_an_abandoned_launch_does() {
    let mut bench = Bench::new(1);
    bench.hook("ready", Transition::Launching);
    bench.hook("drain", Transition::Terminating);
    bench.scaling.set_retention(GROUP, true).unwrap();
    let id = bench.ids()[0].clone();
    bench.start(volumes());
    bench.complete(&id, "drain", ActionResult::Abandon);
    assert_eq!(bench.only(S::ReplacingRootVolumeProceed), *id);
    bench.scaling.root_volume_is_replaced(&id, Ok(()), bench.now);
    bench.complete(&id, "ready", ActionResult::Abandon);
    assert_eq!(bench.only(S::TerminatingWait), *id);
    let new = bench.in_state(S::PendingWait);
    assert_eq!(new.len(), 1, "another instance takes its place");
    bench.complete(&id, "drain", ActionResult::Continue);
    bench.complete(&new[0], "ready", ActionResult::Continue);
    bench.pass(SECOND * 10);
    assert_eq!((bench.status(), bench.ids()), (RefreshStatus::Successful, new));
}

#[test]
fn a_root_volume_that_cannot_be_replaced_costs_the_instance() {
    let mut bench = Bench::new(1);
    let id = bench.ids()[0].clone();
    bench.start(volumes());
    bench.scaling.root_volume_is_replaced(&id, Err("no image".to_owned()), bench.now);
    assert!(bench.ids().len() == 1 && bench.ids()[0] != id);
    bench.pass(SECOND * 10);
    assert_eq!(bench.status(), RefreshStatus::Successful);
}

#[test]
fn a_cancelled_refresh_of_root_volumes_finishes_the_one_that_it_has_begun() {
    let mut bench = Bench::new(2);
    let old = bench.ids();
    bench.start(volumes());
    bench.scaling.cancel_refresh(GROUP, true, bench.now).unwrap();
    bench.pass(HOUR);
    assert_eq!(bench.status(), RefreshStatus::Cancelling, "the machine has not reported");
    bench.scaling.root_volume_is_replaced(&old[0], Ok(()), bench.now);
    bench.pass(SECOND * 10);
    assert_eq!((bench.status(), orders(&mut bench).len()), (RefreshStatus::Cancelled, 1));
    assert_eq!(bench.in_state(S::InService), old);
}

#[test]
fn what_root_volumes_need_is_checked() {
    let mut bench = Bench::new(1);
    let refused = |bench: &mut Bench, spec: RefreshSpec| {
        bench.scaling.start_refresh(GROUP, spec, START).unwrap_err().message
    };
    let without = RefreshSpec { images: BTreeMap::new(), ..volumes() };
    assert!(refused(&mut bench, without).contains("mixed instances policy"));
    let other = RefreshSpec::root_volumes("m5.large", NEW_IMAGE);
    assert!(refused(&mut bench, other).contains("instance type"));
    let pool = crate::cloud::specs::WarmPoolSpec::default();
    bench.start(volumes());
    assert!(bench.scaling.put_warm_pool(GROUP, pool, START).is_err());
    bench.scaling.cancel_refresh(GROUP, false, START).unwrap();
    bench.scaling.put_warm_pool(GROUP, pool, START).unwrap();
    assert!(refused(&mut bench, volumes()).contains("warm pool"));
}
