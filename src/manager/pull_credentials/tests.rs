//! Tests a service that an operator updates, pauses and rolls back while its credentials age, and a manager that polls
//! now and then. The world has the credentials that the service really carries; `decide` does not see them.

use bollard::models::TaskState;
use proptest::prelude::*;
use time::{Duration, OffsetDateTime};

use super::Memory;
use super::decide::{
    Because, Change, PAUSE_AFTER_ROLLBACK, PAUSE_IN_NEED, PULL_TAKES, ROLLBACK_GRACE, Seen,
    Verdict, decide, decide_by_tasks, is_half_over, is_new, refused_since,
};
use crate::clients::docker::{Resources, ServiceTask};
use crate::clients::ledger::RegistryAuth;
use crate::clients::ledger::fuzz;

const HOST: &str = "123456789012.dkr.ecr.eu-central-1.amazonaws.com";
const LIFE: Duration = Duration::hours(12);
const START: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

fn task(state: TaskState, desired: TaskState) -> ServiceTask {
    ServiceTask {
        slot: "1".into(),
        created_at: START,
        state: Some(state),
        desired,
        error: None,
        node_id: None,
        reserved: Resources::default(),
    }
}

fn running() -> ServiceTask {
    task(TaskState::RUNNING, TaskState::RUNNING)
}

fn given(since: OffsetDateTime) -> RegistryAuth {
    let registry = HOST.to_owned();
    RegistryAuth { service_id: "s".into(), registry, since, expires_at: since + LIFE }
}

fn seen(change: Change, given: Option<RegistryAuth>) -> Seen {
    Seen {
        registry: HOST.into(),
        is_job: false,
        unfinished_update: None,
        change,
        updated_at: START,
        given,
    }
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Minutes(i64),
    /// A deployment that keeps the credentials, or brings others of this age in minutes.
    Deploy {
        brings: Option<i64>,
    },
    /// Back to the former spec, with its credentials.
    RollBack,
    Pause,
    Resume,
    Pull,
    Pulled,
    Look,
}

struct World {
    now: OffsetDateTime,
    seen: Seen,
    /// Expiry of the credentials that the service carries, and of those in its previous spec.
    carries: OffsetDateTime,
    carried: OffsetDateTime,
    tasks: Vec<ServiceTask>,
}

impl World {
    fn new() -> Self {
        let seen = seen(Change::None, None);
        Self { now: START, seen, carries: START, carried: START, tasks: vec![running()] }
    }

    fn change(&mut self, change: Change, carries: OffsetDateTime) {
        self.carried = std::mem::replace(&mut self.carries, carries);
        self.seen.change = change;
        self.seen.updated_at = self.now;
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Minutes(minutes) => self.now += Duration::minutes(minutes),
            Event::Deploy { brings } => {
                let brought = |age| self.now + LIFE - Duration::minutes(age);
                self.change(Change::Changed, brings.map_or(self.carries, brought));
            }
            Event::RollBack => self.change(Change::RolledBack, self.carried),
            Event::Pause => self.seen.unfinished_update = Some("paused".into()),
            Event::Resume => self.seen.unfinished_update = None,
            Event::Pull => {
                self.tasks[0].state = Some(TaskState::PREPARING);
                self.tasks[0].created_at = self.now;
            }
            Event::Pulled => self.tasks[0].state = Some(TaskState::RUNNING),
            Event::Look => self.look(),
        }
    }

    fn look(&mut self) {
        let mut verdict = decide(&self.seen, self.now);
        if verdict == Verdict::Due {
            verdict = decide_by_tasks(&self.seen, &self.tasks, self.now);
        }
        if verdict != Verdict::Due {
            return;
        }
        let is_paused = self.seen.unfinished_update.is_some();
        assert!(!is_paused || self.seen.change == Change::None, "the paused update would continue");
        let is_pulling = self.tasks[0].state == Some(TaskState::PREPARING);
        let is_late = self.now - self.tasks[0].created_at >= PULL_TAKES;
        assert!(!is_pulling || is_late, "the pull would start again");
        let age = self.now - self.seen.updated_at;
        assert!(
            self.seen.change != Change::Changed || age >= ROLLBACK_GRACE,
            "a roll-back would not undo the change"
        );
        let may_roll_back = self.seen.change == Change::RolledBack;
        assert!(!may_roll_back || age >= PAUSE_AFTER_ROLLBACK, "it would be rolled back again");
        let half = self.now + LIFE / 2;
        assert!(self.seen.change != Change::None || self.carries <= half, "too early");
        self.change(Change::None, self.now + LIFE);
        self.seen.given = Some(given(self.now));
    }
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        6 => (1..200_i64).prop_map(Event::Minutes),
        6 => Just(Event::Look),
        1 => prop::option::of(0..720_i64).prop_map(|brings| Event::Deploy { brings }),
        1 => Just(Event::RollBack),
        1 => Just(Event::Pause),
        2 => Just(Event::Resume),
        1 => Just(Event::Pull),
        2 => Just(Event::Pulled),
    ];
    prop::collection::vec(event, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// After all events: an hour after the last change, once nothing is in the way, the credentials are good, and stay
    /// good.
    #[test]
    fn credentials_are_good_again_and_stay_so(events in events()) {
        let mut world = World::new();
        for event in events {
            world.happen(event);
        }
        world.happen(Event::Resume);
        world.happen(Event::Pulled);
        world.now += ROLLBACK_GRACE;
        for _ in 0..30 {
            world.look();
            prop_assert!(world.carries > world.now, "they have expired");
            world.now += Duration::hours(1);
        }
    }
}

#[test]
fn a_service_without_credentials_gets_them_at_once() {
    let new = seen(Change::None, None);
    assert_eq!(decide(&new, START), Verdict::Due);
    let rejected = task(TaskState::REJECTED, TaskState::READY);
    for tasks in [vec![], vec![running()], vec![rejected]] {
        assert_eq!(decide_by_tasks(&new, &tasks, START), Verdict::Due, "{tasks:?}");
    }
}

#[test]
fn credentials_of_another_registry_are_none() {
    let other = "123456789012.dkr.ecr.us-east-1.amazonaws.com".to_owned();
    let moved = RegistryAuth { registry: other, ..given(START) };
    assert_eq!(decide(&seen(Change::None, Some(moved)), START), Verdict::Due);
    assert_eq!(decide(&seen(Change::None, Some(given(START))), START), Verdict::Fresh);
}

#[test]
fn jobs_and_updates_that_are_not_over_are_left_alone() {
    let job = Seen { is_job: true, ..seen(Change::None, None) };
    assert_eq!(decide(&job, START), Verdict::LeaveAlone(Because::Job));
    let state = Some("rollback_paused".to_owned());
    let paused = Seen { unfinished_update: state, ..seen(Change::Changed, None) };
    let because = Because::UnfinishedUpdate("rollback_paused".into());
    assert!(because.in_words().contains("rollback_paused") && because.needs_somebody());
    assert_eq!(decide(&paused, START), Verdict::LeaveAlone(because));

    let state = |state: &str| Some(state.to_owned());
    let updating = Seen { unfinished_update: state("updating"), ..seen(Change::None, None) };
    let because = Because::UnfinishedUpdate("updating".into());
    assert!(!because.needs_somebody());
    assert_eq!(decide(&updating, START), Verdict::LeaveAlone(because));
    // The update changed nothing visible, so it was one of credentials alone.
    let own = Seen { unfinished_update: state("paused"), ..seen(Change::None, None) };
    assert_eq!(decide(&own, START), Verdict::Due);
}

#[test]
fn tasks_that_are_being_prepared_are_left_alone_and_those_that_run_are_not_touched() {
    use TaskState::*;
    let verdict = |state, desired| {
        decide_by_tasks(&seen(Change::None, None), &[running(), task(state, desired)], START)
    };
    for state in [ASSIGNED, ACCEPTED, PREPARING] {
        for desired in [READY, RUNNING] {
            assert_eq!(verdict(state, desired), Verdict::LeaveAlone(Because::Pulling));
        }
        assert_eq!(verdict(state, SHUTDOWN), Verdict::Due, "it is being shut down");
        let tasks = [running(), task(state, RUNNING)];
        let later = decide_by_tasks(&seen(Change::None, None), &tasks, START + PULL_TAKES);
        assert_eq!(later, Verdict::Due, "its node can say so for ever");
    }
    for state in [NEW, PENDING, READY, STARTING, RUNNING] {
        assert_eq!(verdict(state, RUNNING), Verdict::Due, "{state:?}");
    }
}

#[test]
fn what_has_run_to_its_end_does_not_run_again() {
    use TaskState::*;
    let service = seen(Change::None, None);
    let verdict = |tasks: &[ServiceTask]| decide_by_tasks(&service, tasks, START);
    for state in [COMPLETE, FAILED] {
        let ended = task(state, SHUTDOWN);
        assert_eq!(verdict(std::slice::from_ref(&ended)), Verdict::LeaveAlone(Because::Ended));
        let later = ServiceTask { created_at: START + Duration::SECOND, ..running() };
        assert_eq!(verdict(&[ended.clone(), later.clone()]), Verdict::Due, "it was replaced");
        let elsewhere = ServiceTask { slot: "2".into(), ..later };
        assert_eq!(verdict(&[ended, elsewhere]), Verdict::LeaveAlone(Because::Ended));
        assert_eq!(verdict(&[task(state, RUNNING)]), Verdict::Due, "it is about to be replaced");
    }
    // A rejected task has not run at all.
    assert_eq!(verdict(&[task(REJECTED, SHUTDOWN)]), Verdict::Due);
}

#[test]
fn the_way_back_stays_open_for_an_hour_unless_credentials_are_what_is_missing() {
    let soon = START + ROLLBACK_GRACE - Duration::SECOND;
    let later = START + ROLLBACK_GRACE;
    let created_at = START + Duration::SECOND;
    let rejected = ServiceTask { created_at, ..task(TaskState::REJECTED, TaskState::SHUTDOWN) };
    let wait = Verdict::LeaveAlone(Because::Rollback);

    let deployed = seen(Change::Changed, Some(given(START)));
    assert_eq!(decide(&deployed, soon), Verdict::Due);
    for tasks in [vec![running()], vec![rejected.clone()]] {
        assert_eq!(decide_by_tasks(&deployed, &tasks, soon), wait, "{tasks:?}");
        assert_eq!(decide_by_tasks(&deployed, &tasks, later), Verdict::Due);
    }
    let without = seen(Change::Changed, None);
    assert_eq!(decide_by_tasks(&without, &[running()], soon), wait);
    assert_eq!(decide_by_tasks(&without, &[rejected], soon), Verdict::Due);
    let before = task(TaskState::REJECTED, TaskState::SHUTDOWN);
    assert_eq!(decide_by_tasks(&without, &[before], soon), wait, "rejected before the change");

    let rolled_back = seen(Change::RolledBack, Some(given(START)));
    assert_eq!(decide(&rolled_back, soon), Verdict::Due);
    assert_eq!(decide_by_tasks(&rolled_back, &[running()], soon), Verdict::Due);
}

#[test]
fn a_service_that_rolls_back_its_updates_is_not_updated_without_a_pause() {
    let rejected_at = |at| ServiceTask {
        created_at: at + Duration::SECOND,
        ..task(TaskState::REJECTED, TaskState::SHUTDOWN)
    };
    for (tasks, pause) in [(running(), PAUSE_AFTER_ROLLBACK), (rejected_at(START), PAUSE_IN_NEED)] {
        let rolled_back = seen(Change::RolledBack, Some(given(START)));
        let verdict = |at| decide_by_tasks(&rolled_back, std::slice::from_ref(&tasks), at);
        let wait = Verdict::LeaveAlone(Because::RolledBack);
        assert_eq!(verdict(START + pause - Duration::SECOND), wait, "{tasks:?}");
        assert_eq!(verdict(START + pause), Verdict::Due, "{tasks:?}");
    }
    let paused = Some("paused".to_owned());
    let paused = Seen { unfinished_update: paused, ..seen(Change::None, Some(given(START))) };
    let verdict = |at| decide_by_tasks(&paused, &[running()], at);
    assert!(matches!(verdict(START), Verdict::LeaveAlone(Because::UnfinishedUpdate(_))));
    assert_eq!(verdict(START + PAUSE_IN_NEED), Verdict::Due);
}

#[test]
fn what_could_not_be_written_down_is_not_given_again() {
    let mut memory = Memory::default();
    let old = given(START - LIFE);
    assert_eq!(memory.given("s", &[]), None);
    assert_eq!(memory.given("s", std::slice::from_ref(&old)), Some(old.clone()));
    memory.unwritten.insert("s".into(), given(START));
    for rows in [vec![], vec![old]] {
        let known = memory.given("s", &rows);
        assert_eq!(decide(&seen(Change::None, known), START), Verdict::Fresh);
    }
    assert_eq!(memory.given("another", &[]), None);
}

#[test]
fn credentials_are_given_away_early_and_renewed_at_half_their_life() {
    let ends = START + LIFE;
    assert!(is_new(START, ends, START) && !is_new(START, ends, START + Duration::hours(3)));
    let half = START + Duration::hours(6);
    assert!(is_half_over(START, ends, half));
    assert!(!is_half_over(START, ends, half - Duration::SECOND));
}

#[test]
fn the_last_that_was_rejected_tells_why() {
    let at = |seconds| ServiceTask {
        created_at: START + Duration::seconds(seconds),
        error: Some(format!("number {seconds}")),
        ..task(TaskState::REJECTED, TaskState::SHUTDOWN)
    };
    let tasks = [at(0), at(2), at(1), running()];
    let last = refused_since(&tasks, START).and_then(|task| task.error.as_deref());
    assert_eq!(last, Some("number 2"));
    assert!(refused_since(&tasks[..1], START).is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// A row with any readable content.
    #[test]
    fn no_row_that_can_be_read_ends_a_look(given in fuzz::registry_auth()) {
        check_row(&given);
    }
}

/// Checks that the credentials in a row count as fresh until half of their life is over. Returns whether they do.
pub(in crate::manager) fn check_row(given: &RegistryAuth) -> bool {
    let row = Some(given.clone());
    let service = Seen { registry: given.registry.clone(), ..seen(Change::None, row) };
    let is_good = !is_half_over(given.since, given.expires_at, fuzz::NOW);
    assert_eq!(decide(&service, fuzz::NOW) == Verdict::Fresh, is_good);
    let _ = is_new(given.since, given.expires_at, fuzz::NOW);
    is_good
}
