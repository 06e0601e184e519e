//! Reads what the page draws, and limits how often it is read.

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use serde::Serialize;
use time::OffsetDateTime;
use tokio::time::{Instant, timeout};

use crate::clients::docker::{LiveService, LiveTask, LiveWork};
use crate::common::instance::Instance;
use crate::common::report::FleetView;
use crate::manager;
use crate::node::Node;

/// Shortest time for which an answer serves all requests.
const KEPT: Duration = Duration::from_secs(1);
/// Docker and the ledger are busy with the page for at most 1/`SHARE_OF_TIME` of the time, for any size of the swarm
/// and any number of viewers: an observation that took longer is kept longer.
const SHARE_OF_TIME: u32 = 5;
/// Time limit for the list of tasks: Docker lists thousands within it. A later list is left out.
const TASKS_PATIENCE: Duration = Duration::from_secs(3);

/// How long a request waits for a new observation while an older answer exists: the page must be able to tell a manager
/// whose Docker or ledger is slow, which answers with old data and its age, from one that does not answer at all.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Maximum age of such an older answer. While a page is open, an answer is never older: an observation ends within 8 s,
/// and is kept for four times as long.
const OLDEST: Duration = Duration::from_secs(60);

/// The answer to `GET /ui/fleet.json`.
#[derive(Debug, Serialize)]
struct Picture {
    /// Time when the observation began: with the answer's age, it is the present time of this node's clock.
    #[serde(with = "time::serde::rfc3339")]
    seen_at: OffsetDateTime,
    /// The manager's instance id.
    seen_by: String,
    version: &'static str,
    cluster: String,
    /// Start of the address of an instance's page in the EC2 console, to which its id is appended; `None` in a partition
    /// whose console skep does not know.
    console: Option<String>,
    fleet: FleetView,
    /// Tasks of all nodes; `None` if Docker does not report them.
    tasks: Option<Vec<LiveTask>>,
    /// The services; `None` if Docker does not report them.
    services: Option<Vec<LiveService>>,
}

/// Makes one observation for all concurrent requests.
pub struct Desk {
    node: Box<dyn Fn() -> Option<Node> + Send + Sync>,
    kept: Kept,
}

/// The last answer, and the lock of the observation under way.
#[derive(Clone, Default)]
struct Kept {
    last: Arc<Mutex<Option<Last>>>,
    /// Locked during an observation: other requests wait for the same answer.
    turn: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Clone)]
struct Last {
    began: Instant,
    until: Instant,
    answer: Option<Bytes>,
}

/// The fleet as JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub json: Bytes,
    /// Time since the observation began.
    pub age: Duration,
}

impl Desk {
    pub fn new(node: impl Fn() -> Option<Node> + Send + Sync + 'static) -> Self {
        Self { node: Box::new(node), kept: Kept::default() }
    }

    /// Returns the fleet; `None` if this node is not a manager.
    pub async fn look(&self) -> Option<Seen> {
        let node = (self.node)()?;
        self.kept
            .answer(async move {
                let picture = picture(&node).await?;
                serde_json::to_vec(&picture).ok().map(Bytes::from)
            })
            .await
    }
}

impl Kept {
    /// Returns the last answer if it is fresh enough, or else the answer of `look`; after [`PATIENCE`] also one that is
    /// not fresh. A request that ends early does not end the observation that it has started: the next request would
    /// start another one.
    async fn answer(
        &self,
        look: impl Future<Output = Option<Bytes>> + Send + 'static,
    ) -> Option<Seen> {
        let mut fresh = pin!(self.fresh(look));
        match timeout(PATIENCE, &mut fresh).await {
            Ok(answer) => answer,
            Err(_) => match self.last().and_then(Last::seen) {
                Some(old) if old.age <= OLDEST => Some(old),
                _ => fresh.await,
            },
        }
    }

    async fn fresh(
        &self,
        look: impl Future<Output = Option<Bytes>> + Send + 'static,
    ) -> Option<Seen> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let began = Instant::now();
        if let Some(last) = self.last().filter(|last| began < last.until) {
            return last.seen();
        }
        let kept = self.clone();
        let observation = tokio::spawn(async move {
            let answer = look.await;
            let until = Instant::now() + (began.elapsed() * (SHARE_OF_TIME - 1)).max(KEPT);
            let last = Last { began, until, answer };
            *kept.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(last.clone());
            drop(turn);
            last
        });
        observation.await.ok().and_then(Last::seen)
    }

    fn last(&self) -> Option<Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Last {
    fn seen(self) -> Option<Seen> {
        self.answer.map(|json| Seen { json, age: self.began.elapsed() })
    }
}

/// Returns the start of the address of an instance's page in the EC2 console.
fn console(instance: &Instance) -> Option<String> {
    let domain = match instance.arn.split(':').nth(1)? {
        "aws" => "aws.amazon.com",
        "aws-cn" => "amazonaws.cn",
        "aws-us-gov" => "amazonaws-us-gov.com",
        _ => return None,
    };
    let region = &instance.region;
    Some(format!(
        "https://{region}.console.{domain}/ec2/home?region={region}#InstanceDetails:instanceId="
    ))
}

async fn picture(node: &Node) -> Option<Picture> {
    let seen_at = OffsetDateTime::now_utc();
    let fleet = FleetView::in_time(&node.state, manager::view_fleet(node)).await?;
    // Only on a manager: a worker's Docker would refuse the list and log the refusal.
    let work = timeout(TASKS_PATIENCE, node.swarm.fetch_live_work()).await;
    let work = work.ok().and_then(Result::ok);
    let (services, tasks) = work.map(|LiveWork { services, tasks }| (services, tasks)).unzip();
    Some(Picture {
        seen_at,
        seen_by: node.instance.id.clone(),
        version: env!("CARGO_PKG_VERSION"),
        cluster: node.cluster.clone(),
        console: console(&node.instance),
        fleet,
        tasks,
        services,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Counts the observations, each of which takes `TOOK`.
    #[derive(Default)]
    struct Counted {
        kept: Kept,
        looks: Arc<AtomicU32>,
    }

    const TOOK: Duration = Duration::from_millis(100);

    impl Counted {
        async fn ask(&self) -> Option<Bytes> {
            let looks = Arc::clone(&self.looks);
            let seen = self.kept.answer(async move {
                looks.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(TOOK).await;
                Some(Bytes::from_static(b"{}"))
            });
            seen.await.map(|seen| seen.json)
        }

        fn looks(&self) -> u32 {
            self.looks.load(Ordering::Relaxed)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_who_look_are_one_look() {
        let desk = Counted::default();
        let answers = futures_util::future::join_all((0..50).map(|_| desk.ask())).await;
        assert!(answers.iter().all(|answer| answer.as_deref() == Some(b"{}")));
        assert_eq!(desk.looks(), 1);
        tokio::time::sleep(KEPT / 2).await;
        desk.ask().await;
        assert_eq!(desk.looks(), 1, "fresh enough");
        tokio::time::sleep(KEPT).await;
        desk.ask().await;
        assert_eq!(desk.looks(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_that_end_early_start_no_more_observations() {
        let desk = Counted::default();
        for _ in 0..20 {
            timeout(TOOK / 10, desk.ask()).await.ok();
        }
        assert_eq!(desk.looks(), 1);
        assert_eq!(desk.ask().await.as_deref(), Some(&b"{}"[..]));
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_long_is_asked_the_less() {
        let kept = Kept::default();
        let began = Instant::now();
        let busy = Arc::new(AtomicU32::new(0));
        while began.elapsed() < Duration::from_secs(60) {
            let count = Arc::clone(&busy);
            kept.answer(async move {
                count.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_secs(1)).await;
                None
            })
            .await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let busy = Duration::from_secs(busy.load(Ordering::Relaxed).into());
        assert!(busy <= began.elapsed() / SHARE_OF_TIME + Duration::from_secs(1), "{busy:?}");
    }

    /// So the page can tell a slow Docker from a manager that does not answer.
    #[tokio::test(start_paused = true)]
    async fn a_slow_observation_is_answered_in_time_with_the_last_one_and_its_age() {
        const SLOW: Duration = Duration::from_secs(8);
        let kept = Kept::default();
        let ask = async |took: Duration, json: &'static str| {
            let began = Instant::now();
            let seen = kept.answer(async move {
                tokio::time::sleep(took).await;
                (!json.is_empty()).then(|| Bytes::from_static(json.as_bytes()))
            });
            let seen = seen.await.map(|seen| (seen.json, seen.age.as_secs()));
            (seen, began.elapsed().as_secs())
        };
        let answer = |json: &'static str, age| Some((Bytes::from_static(json.as_bytes()), age));
        assert_eq!(ask(SLOW, "first").await, (answer("first", 8), 8), "there is no older one");
        tokio::time::sleep(SLOW * SHARE_OF_TIME).await;
        let (seen, took) = ask(SLOW, "second").await;
        assert_eq!((seen, took), (answer("first", 49), 1));
        tokio::time::sleep(SLOW).await;
        assert_eq!(ask(SLOW, "third").await, (answer("second", 9), 0), "it went on");
        tokio::time::sleep(SLOW * SHARE_OF_TIME).await;
        assert_eq!(ask(TOOK, "").await.0, None, "no longer a manager");
        tokio::time::sleep(SLOW).await;
        assert_eq!(ask(SLOW, "last").await, (answer("last", 8), 8), "nothing older is shown");
        tokio::time::sleep(OLDEST).await;
        assert_eq!(ask(SLOW, "later").await, (answer("later", 8), 8), "the last one is too old");
    }

    #[test]
    fn the_console_is_that_of_the_partition() {
        let link = |partition: &str| {
            let arn = format!("arn:{partition}:ec2:eu-central-1:1:instance/i-0abc");
            console(&Instance { arn, ..Instance::example() })
        };
        let expected = "https://eu-central-1.console.aws.amazon.com/ec2/home?region=eu-central-1#InstanceDetails:instanceId=";
        assert_eq!(link("aws").as_deref(), Some(expected));
        assert!(link("aws-cn").unwrap().contains(".console.amazonaws.cn/"));
        assert!(link("aws-us-gov").unwrap().contains(".console.amazonaws-us-gov.com/"));
        assert_eq!(link("aws-iso"), None);
    }
}
