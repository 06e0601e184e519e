//! Tests long random sequences of writes, by actors with stale views and wrong clocks, against DynamoDB's semantics:
//! dynoxide over HTTP, with the SDK.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_config::Region;
use aws_sdk_dynamodb::config::{Credentials, SharedCredentialsProvider};
use dynoxide::Database;
use proptest::prelude::*;
use time::{Duration, OffsetDateTime};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use super::*;
use crate::clients::aws::sdk_defaults;
use crate::common::instance::{Departure, Instance, Membership, Reason, Role};

const ACTORS: usize = 4;
const LEASE: std::time::Duration = std::time::Duration::from_secs(60);

/// One database for all sequences; each sequence has its own cluster.
static TABLE: LazyLock<(Runtime, aws_sdk_dynamodb::Client)> = LazyLock::new(|| {
    let runtime = Runtime::new().unwrap();
    let client = runtime.block_on(async {
        let database = Database::memory().unwrap();
        let table = serde_json::json!({
            "TableName": "skep", "BillingMode": "PAY_PER_REQUEST",
            "KeySchema": [
                { "AttributeName": "cluster", "KeyType": "HASH" },
                { "AttributeName": "item", "KeyType": "RANGE" },
            ],
            "AttributeDefinitions": [
                { "AttributeName": "cluster", "AttributeType": "S" },
                { "AttributeName": "item", "AttributeType": "S" },
            ],
        });
        database.create_table(serde_json::from_value(table).unwrap()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let server =
            dynoxide::server::serve_with_shutdown(listener, database, std::future::pending());
        tokio::spawn(server);
        let credentials = Credentials::new("AKIATEST", "secret", None, None, "test");
        let config = sdk_defaults()
            .endpoint_url(endpoint)
            .region(Region::new("eu-central-1"))
            .credentials_provider(SharedCredentialsProvider::new(credentials));
        aws_sdk_dynamodb::Client::new(&config.load().await)
    });
    (runtime, client)
});

fn new_ledger() -> Ledger {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let cluster = format!("cluster-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    Ledger::new(TABLE.1.clone(), "skep", cluster, &Instance::example().arn)
}

fn at(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + Duration::seconds(1_700_000_000 + seconds)
}

/// An action of an actor, based on its last view of the charter.
#[derive(Clone, Copy, Debug)]
enum Act {
    Look,
    Claim,
    Recover,
    Publish,
    /// A publish request of the actor's earlier claim arrives late.
    PublishLate,
    Release,
    Close,
    Reopen,
    FollowCa,
    /// An operator deletes the charter.
    Delete,
    /// A manager writes the charter again, for the swarm that it last saw open.
    Restore,
}

fn act() -> impl Strategy<Value = (usize, Act)> {
    use Act::*;
    let act = prop::sample::select(&[
        Look,
        Look,
        Look,
        Claim,
        Claim,
        Recover,
        Publish,
        Publish,
        PublishLate,
        Release,
        Close,
        Reopen,
        FollowCa,
        Delete,
        Restore,
        Restore,
    ]);
    (0..ACTORS, act)
}

#[derive(Clone, Default)]
struct Actor {
    view: Option<Charter>,
    claim: Option<Charter>,
    /// The claim before `claim`.
    earlier: Option<Charter>,
}

impl Actor {
    fn take(&mut self, claim: Option<Charter>) -> bool {
        let is_taken = claim.is_some();
        if is_taken {
            self.earlier = self.claim.take();
        }
        self.claim = claim.or(self.claim.take());
        is_taken
    }
}

/// Does an action; returns whether the ledger accepted the write.
async fn write(
    ledger: &Ledger,
    actor: &mut Actor,
    me: &str,
    act: Act,
    step: usize,
    traces: &Traces,
    now: OffsetDateTime,
) -> bool {
    let view = actor.view.clone();
    let swarm_id = format!("swarm-{step}");
    let earlier = actor.earlier.clone();
    match (act, &view, actor.claim.clone()) {
        (Act::Look, ..) => {
            actor.view = ledger.fetch_charter().await.unwrap();
            false
        }
        (Act::Claim, seen, _) => {
            let claim = ledger.claim_charter(seen.as_ref(), traces, me, now, LEASE).await.unwrap();
            actor.take(claim)
        }
        (Act::Recover, Some(seen), _) if seen.phase != CharterPhase::Closed => {
            let Some(swarm_id) = seen.swarm() else { return false };
            actor.take(ledger.claim_recovery(seen, swarm_id, me, now, LEASE).await.unwrap())
        }
        (Act::PublishLate, ..) => {
            let Some(claim) = earlier else { return false };
            let swarm_id = claim.recovers.clone().unwrap_or(swarm_id);
            ledger.publish_charter(&claim, &swarm_id, "ca-0", now).await.unwrap()
        }
        (Act::Publish, _, Some(claim)) => {
            let swarm_id = claim.recovers.clone().unwrap_or(swarm_id);
            ledger.publish_charter(&claim, &swarm_id, "ca-0", now).await.unwrap()
        }
        (Act::Release, _, Some(claim)) => ledger.release_charter(&claim).await.unwrap(),
        (Act::Close, Some(seen), _) => ledger.close_charter(seen).await.unwrap(),
        (Act::Reopen, Some(seen), _) => ledger.reopen_charter(seen).await.unwrap(),
        (Act::FollowCa, Some(seen), _) => {
            ledger.follow_ca(seen, &format!("ca-{step}")).await.unwrap()
        }
        (Act::Delete, ..) => {
            ledger.delete("charter", Condition::default()).await.unwrap();
            false
        }
        // A manager that sees a higher generation in a row does not write the charter.
        (Act::Restore, Some(seen), _)
            if seen.phase == CharterPhase::Open && seen.generation == traces.highest =>
        {
            let living = Living {
                swarm_id: seen.swarm_id.clone().unwrap(),
                generation: seen.generation,
                is_recovered: false,
                ca_digest: "ca-restored".to_owned(),
                created_at: None,
                restored_by: me.to_owned(),
                now,
            };
            ledger.restore_charter(&Charter::restored(Some(seen), &living)).await.unwrap()
        }
        _ => false,
    }
}

/// Checks that an accepted write changed the charter only as its actor is permitted to.
fn check(
    before: Option<&Charter>,
    after: Option<&Charter>,
    view: Option<&Charter>,
    me: &str,
    act: Act,
    now: OffsetDateTime,
) {
    let after = after.expect("the charter exists after a write");
    let same = |one: &Charter, other: &Charter| {
        (one.phase, one.generation, &one.swarm_id)
            == (other.phase, other.generation, &other.swarm_id)
    };
    let was = || before.expect("a charter existed");
    let is_seen = || view.is_some_and(|view| same(view, was()));
    match act {
        Act::Look | Act::Delete => unreachable!("no accepted write"),
        Act::Restore => {
            assert!(before.is_none(), "written over an existing charter");
            let seen = view.expect("the actor had seen a charter");
            assert_eq!(*after, Charter { ca_digest: after.ca_digest.clone(), ..seen.clone() });
        }
        Act::Claim | Act::Recover => {
            assert!(
                before.is_none() && view.is_none() || is_seen(),
                "claimed over a charter that the actor had not seen"
            );
            let is_held =
                |it: &Charter| it.phase == CharterPhase::Founding && it.lease_expires_at > now;
            assert!(!before.is_some_and(is_held), "claimed before the lease expired");
            assert!(after.generation > before.map_or(0, |it| it.generation));
            assert!(after.is_claimed_by(me));
            let swarm = before.and_then(Charter::swarm);
            match act {
                Act::Recover => assert_eq!(after.recovers.as_ref(), swarm),
                _ => assert!(swarm.is_none_or(|id| after.has_given_up(Some(id)))),
            }
        }
        Act::Publish | Act::PublishLate => {
            assert!(was().is_claimed_by(me) && after.generation == was().generation);
            assert_eq!((after.phase, after.swarm_id.is_some()), (CharterPhase::Open, true));
        }
        Act::Release => assert!(was().is_claimed_by(me) && after.is_claimed_by(me)),
        Act::Close | Act::Reopen => {
            let phases = match act {
                Act::Close => (CharterPhase::Open, CharterPhase::Closed),
                _ => (CharterPhase::Closed, CharterPhase::Open),
            };
            assert!((was().phase, after.phase) == phases);
            assert!(same(was(), &Charter { phase: was().phase, ..after.clone() }));
        }
        Act::FollowCa => {
            assert_eq!(*after, Charter { ca_digest: after.ca_digest.clone(), ..was().clone() });
        }
    }
}

/// For any order of writes and any clocks, and even if the charter is sometimes deleted: a generation has one founder
/// and is published for at most one swarm, no generation occurs twice, and a refused write changes nothing. Member
/// rows name what was claimed.
async fn play_charter(acts: &[((usize, Act), i64)], skews: [i64; ACTORS]) {
    let ledger = new_ledger();
    let mut actors = vec![Actor::default(); ACTORS];
    let (mut founders, mut swarms) = (BTreeMap::new(), BTreeMap::new());
    let mut time = 0;
    for (step, ((who, act), pause)) in acts.iter().enumerate() {
        time += pause;
        let (me, now) = (format!("i-{who}"), at(time + skews[*who]));
        let before = ledger.fetch_charter().await.unwrap();
        let view = actors[*who].view.clone();
        let highest = founders.keys().max().copied().unwrap_or(0);
        let traces = Traces { highest, swarms: swarms.values().cloned().collect() };
        let is_written = write(&ledger, &mut actors[*who], &me, *act, step, &traces, now).await;
        let after = ledger.fetch_charter().await.unwrap();
        if is_written {
            check(before.as_ref(), after.as_ref(), view.as_ref(), &me, *act, now);
        } else if !matches!(act, Act::Delete) {
            assert_eq!(before, after, "{act:?} was refused");
        }
        let Some(charter) = after else { continue };
        assert!(before.is_none_or(|before| before.generation <= charter.generation));
        assert!(charter.swarm_id.is_none() || charter.founded_at.is_some());
        let founder = founders.entry(charter.generation).or_insert(charter.founder.clone());
        assert_eq!(*founder, charter.founder);
        if let Some(swarm_id) = charter.swarm_id {
            let swarm = swarms.entry(charter.generation).or_insert(swarm_id.clone());
            assert_eq!(*swarm, swarm_id);
        }
    }
}

/// An action on one instance's departure, based on the actor's last view of the row.
#[derive(Clone, Copy, Debug)]
enum Care {
    Look,
    Request { node: u8, boot: u8 },
    StandIn { node: u8 },
    Advance,
    Note,
    Confirm,
    End { boot: u8, has_failed: bool },
    Forget,
}

fn care() -> impl Strategy<Value = (usize, Care)> {
    let care = prop_oneof![
        4 => Just(Care::Look),
        1 => (0..2u8, 0..2u8).prop_map(|(node, boot)| Care::Request { node, boot }),
        1 => (0..2u8).prop_map(|node| Care::StandIn { node }),
        4 => Just(Care::Advance),
        1 => Just(Care::Note),
        1 => Just(Care::Confirm),
        1 => (0..2u8, any::<bool>()).prop_map(|(boot, has_failed)| Care::End { boot, has_failed }),
        1 => Just(Care::Forget),
    ];
    (0..ACTORS, care)
}

fn request(node: u8, boot: &str) -> DepartureRow {
    let notice = Departure { reason: Reason::Lifecycle, noticed_at: at(0), deadline: at(600) };
    DepartureRow::request("i-0", &format!("node-{node}"), Role::Manager, &notice, boot)
}

/// A departure only moves forward, one step at a time. Another departure replaces it only for another node or start of
/// the machine, or if it was over. No stand-in changes a node's own departure.
async fn play_departure(cares: &[(usize, Care)]) {
    use DepartureState::*;
    let ledger = new_ledger();
    let mut views: Vec<Option<DepartureRow>> = vec![None; ACTORS];
    for (who, care) in cares {
        let before = ledger.fetch_departure(Role::Manager, "i-0").await.unwrap();
        let view = views[*who].clone();
        let mut is_written = None;
        match (care, &view) {
            (Care::Look, _) => views[*who].clone_from(&before),
            (Care::Request { node, boot }, _) => {
                let row = request(*node, &format!("boot-{boot}"));
                ledger.request_departure(&row).await.unwrap();
            }
            (Care::StandIn { node }, _) => {
                let mut row = request(*node, "");
                row.stand_in = true;
                ledger.stand_in_for(&row).await.unwrap();
                is_written = Some(false);
            }
            (Care::Advance, Some(seen)) => {
                let next = match seen.state {
                    Requested => Draining,
                    Draining => Drained,
                    Drained => Left,
                    Left | Removed => Removed,
                    Failed => Failed,
                };
                is_written = Some(ledger.advance_departure(seen, next).await.unwrap());
            }
            (Care::Note, Some(seen)) => ledger.note_wait(seen, Some("a reason")).await.unwrap(),
            (Care::Confirm, Some(seen)) => {
                is_written = Some(ledger.confirm_demotion(seen).await.unwrap());
            }
            (Care::End { boot, has_failed }, _) => {
                let boot = format!("boot-{boot}");
                ledger.end_departure(Role::Manager, "i-0", &boot, 0, *has_failed).await.unwrap();
            }
            (Care::Forget, Some(seen)) => ledger.forget_departure(seen).await.unwrap(),
            _ => {}
        }
        let after = ledger.fetch_departure(Role::Manager, "i-0").await.unwrap();
        if is_written == Some(false) {
            assert_eq!(before, after, "{care:?} was refused");
        }
        let Some(before) = before else { continue };
        let Some(after) = after else {
            assert!(before.state.is_over(), "deleted before it was over");
            continue;
        };
        let is_same = before.node_id == after.node_id && before.boot_id == after.boot_id;
        if is_same && !before.state.is_over() {
            let is_next = after.state as u8 <= before.state as u8 + 1;
            assert!(before.state <= after.state && (is_next || after.state == Failed));
            assert!(after.state != Failed || before.state < Left, "failed after the node had left");
            assert!(before.demoted <= after.demoted && before.ended <= after.ended);
            assert_eq!(before.requested_at, after.requested_at);
        }
    }
}

/// One node holds the lease at a time, if clocks agree.
async fn play_turns(acts: &[(u8, bool, i64)]) {
    let ledger = new_ledger();
    let (mut time, mut holder) = (0, None::<(u8, i64)>);
    for (node, gives_back, pause) in acts {
        time += pause;
        let id = format!("node-{node}");
        let is_theirs = holder.is_some_and(|(of, until)| of != *node && until > time);
        if *gives_back {
            ledger.return_lease(&id).await.unwrap();
            holder = holder.filter(|(of, _)| of != node);
        } else {
            let of = LeaseOf::Demotion;
            let is_taken = ledger.take_lease(of, &id, "i-0", at(time)).await.unwrap();
            assert_eq!(is_taken, !is_theirs);
            holder = if is_taken { Some((*node, time + 60)) } else { holder };
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_generation_has_one_founder_and_one_swarm(
        acts in prop::collection::vec((act(), 0..25i64), 1..120),
        skews in prop::array::uniform4(-120..120i64),
    ) {
        TABLE.0.block_on(play_charter(&acts, skews));
    }

    #[test]
    fn a_departure_goes_forward_only(cares in prop::collection::vec(care(), 1..120)) {
        TABLE.0.block_on(play_departure(&cares));
    }

    #[test]
    fn one_node_has_the_turn(
        acts in prop::collection::vec((0..3u8, prop::bool::weighted(0.3), 0..25i64), 1..120),
    ) {
        TABLE.0.block_on(play_turns(&acts));
    }
}

/// A failed departure is over, and another one can replace it. A departure of a node that has left does not fail, so
/// that managers still remove the node from the node list.
#[test]
fn a_departure_fails_only_before_the_node_is_out() {
    TABLE.0.block_on(async {
        let ledger = new_ledger();
        let seen = async || ledger.fetch_departure(Role::Manager, "i-0").await.unwrap().unwrap();
        let row = request(0, "boot-0");
        ledger.request_departure(&row).await.unwrap();
        ledger.end_departure(Role::Manager, "i-0", "boot-0", 1, true).await.unwrap();
        let failed = seen().await;
        assert_eq!((failed.state, failed.ended, failed.killed), (DepartureState::Failed, true, 1));
        ledger.request_departure(&row).await.unwrap();
        assert_eq!(seen().await.state, DepartureState::Requested, "a new request");
        assert!(ledger.advance_departure(&seen().await, DepartureState::Left).await.unwrap());
        ledger.end_departure(Role::Manager, "i-0", "boot-0", 0, true).await.unwrap();
        let left = seen().await;
        assert_eq!((left.state, left.ended), (DepartureState::Left, true));
    });
}

/// The two are in different rows, and a worker's own in a partition that no other worker can write.
#[test]
fn a_stand_in_and_the_nodes_own_departure_do_not_touch_each_other() {
    TABLE.0.block_on(async {
        for role in Role::ALL {
            let ledger = new_ledger();
            let of_role = |boot: &str| DepartureRow { role, ..request(0, boot) };
            let stand_in =
                DepartureRow { stand_in: true, group: Some("workers".into()), ..of_role("") };
            assert!(ledger.stand_in_for(&stand_in).await.unwrap());
            assert!(!ledger.stand_in_for(&stand_in).await.unwrap(), "once");
            let own = async || ledger.fetch_departure(role, "i-0").await.unwrap();
            assert_eq!(own().await, None);
            ledger.request_departure(&of_role("boot-0")).await.unwrap();
            assert!(ledger.advance_departure(&stand_in, DepartureState::Draining).await.unwrap());
            assert_eq!(own().await.unwrap().state, DepartureState::Requested);
            assert!(
                ledger
                    .advance_departure(&own().await.unwrap(), DepartureState::Left)
                    .await
                    .unwrap()
            );
            let mut by_managers = ledger.survey_departures().await.unwrap().rows;
            by_managers.retain(|row| row.stand_in);
            assert_eq!(by_managers[0].state, DepartureState::Draining);
            ledger.withdraw_stand_in(&by_managers[0]).await.unwrap();
            assert_eq!(own().await.unwrap().state, DepartureState::Left);
            let survey = ledger.survey_departures().await.unwrap().rows;
            assert_eq!(
                survey.len(),
                usize::from(role == Role::Manager),
                "the own row of a manager"
            );
            let id = "i-0".to_owned();
            let of_workers = ledger.fetch_workers_departures([&id]).await.unwrap().rows;
            assert_eq!(of_workers.len(), usize::from(role == Role::Worker));
        }
    });
}

/// Rows of many workers are read by their keys, in as many calls as they need; a key without a row is absent.
#[test]
fn the_rows_of_hundreds_of_workers_are_read_by_their_keys() {
    TABLE.0.block_on(async {
        let ledger = new_ledger();
        let ids: Vec<String> = (0..250).map(|n| format!("i-{n}")).collect();
        for id in ids.iter().take(230) {
            let instance = Instance { id: id.clone(), ..Instance::example() };
            let membership = Membership::example();
            let row = Member::new(&instance, &membership, Role::Worker, MemberState::Ready, at(0));
            assert!(ledger.put_member(&row).await.unwrap());
        }
        let read = ledger.fetch_workers(&ids).await.unwrap();
        assert_eq!((read.rows.len(), read.unanswered.len(), read.unreadable.len()), (230, 0, 0));
        assert!(ledger.survey_managers().await.unwrap().rows.is_empty(), "none is a manager's");
        let promoted = Member { serves_as: Some(Role::Manager), ..read.rows[0].clone() };
        ledger.record_promoted(&promoted).await.unwrap();
        assert_eq!(ledger.survey_managers().await.unwrap().rows, std::slice::from_ref(&promoted));
        assert!(ledger.fetch_managers().await.unwrap().is_empty(), "no node joins through it");
        assert_eq!(ledger.fetch_workers(&ids).await.unwrap(), read, "its own row stays");
        ledger.forget_promoted(&promoted).await.unwrap();
        assert!(ledger.survey_managers().await.unwrap().rows.is_empty());
    });
}

/// The machine is a member again before managers have seen that its departure is complete.
#[test]
fn the_end_of_a_departure_takes_only_the_row_of_the_node_that_left() {
    TABLE.0.block_on(async {
        let ledger = new_ledger();
        let membership = Membership {
            node_id: "node-2".into(),
            swarm_id: "swarm".into(),
            generation: 1,
            role: Role::Worker,
        };
        let instance = Instance::example();
        for (node_id, is_there) in [("node-1", true), ("node-2", false)] {
            let state = MemberState::Ready;
            let row = Member::new(&instance, &membership, Role::Worker, state, at(0));
            assert!(ledger.put_member(&row).await.unwrap());
            let deleted = ledger.delete_member_of(Role::Worker, &instance.id, node_id).await;
            assert_eq!(deleted.unwrap(), !is_there);
            let left = ledger.fetch_member(Role::Worker, &instance.id).await.unwrap();
            assert_eq!(left.is_some(), is_there);
        }
    });
}
