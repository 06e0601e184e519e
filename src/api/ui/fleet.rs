//! Reads what the page draws, and limits how often it is read.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use serde::Serialize;
use time::OffsetDateTime;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use crate::clients::docker::LiveTask;
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

/// The answer to `GET /ui/fleet.json`.
#[derive(Debug, Serialize)]
struct Picture {
    #[serde(with = "time::serde::rfc3339")]
    seen_at: OffsetDateTime,
    /// The manager's instance id.
    seen_by: String,
    version: &'static str,
    cluster: String,
    fleet: FleetView,
    /// Tasks of all nodes; `None` if Docker does not report them.
    tasks: Option<Vec<LiveTask>>,
}

/// Makes one observation for all concurrent requests.
pub struct Desk {
    node: Box<dyn Fn() -> Option<Node> + Send + Sync>,
    /// Locked during an observation: other requests wait for the same answer.
    last: Arc<Mutex<Option<Last>>>,
}

struct Last {
    until: Instant,
    answer: Option<Bytes>,
}

impl Desk {
    pub fn new(node: impl Fn() -> Option<Node> + Send + Sync + 'static) -> Self {
        Self { node: Box::new(node), last: Arc::default() }
    }

    /// Returns the fleet as JSON; `None` if this node is not a manager.
    pub async fn look(&self) -> Option<Bytes> {
        let node = (self.node)()?;
        kept(&self.last, async move {
            let picture = picture(&node).await?;
            serde_json::to_vec(&picture).ok().map(Bytes::from)
        })
        .await
    }
}

/// Returns the last answer if it is fresh enough, or else the answer of `look`. A request that ends early does not end
/// the observation that it has started: the next request would start another one.
async fn kept(
    last: &Arc<Mutex<Option<Last>>>,
    look: impl Future<Output = Option<Bytes>> + Send + 'static,
) -> Option<Bytes> {
    let mut last = Arc::clone(last).lock_owned().await;
    let began = Instant::now();
    if let Some(Last { until, answer }) = &*last
        && began < *until
    {
        return answer.clone();
    }
    let observation = tokio::spawn(async move {
        let answer = look.await;
        let until = Instant::now() + (began.elapsed() * (SHARE_OF_TIME - 1)).max(KEPT);
        *last = Some(Last { until, answer: answer.clone() });
        answer
    });
    observation.await.ok().flatten()
}

async fn picture(node: &Node) -> Option<Picture> {
    let fleet = FleetView::in_time(&node.state, manager::view_fleet(node)).await?;
    // Only on a manager: a worker's Docker would refuse the list and log the refusal.
    let tasks = timeout(TASKS_PATIENCE, node.swarm.fetch_live_tasks()).await;
    Some(Picture {
        seen_at: OffsetDateTime::now_utc(),
        seen_by: node.instance.id.clone(),
        version: env!("CARGO_PKG_VERSION"),
        cluster: node.cluster.clone(),
        fleet,
        tasks: tasks.ok().and_then(Result::ok),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Counts the observations, each of which takes `TOOK`.
    #[derive(Default)]
    struct Counted {
        last: Arc<Mutex<Option<Last>>>,
        looks: Arc<AtomicU32>,
    }

    const TOOK: Duration = Duration::from_millis(100);

    impl Counted {
        async fn ask(&self) -> Option<Bytes> {
            let looks = Arc::clone(&self.looks);
            kept(&self.last, async move {
                looks.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(TOOK).await;
                Some(Bytes::from_static(b"{}"))
            })
            .await
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
        let last = Arc::default();
        let began = Instant::now();
        let busy = Arc::new(AtomicU32::new(0));
        while began.elapsed() < Duration::from_secs(60) {
            let count = Arc::clone(&busy);
            kept(&last, async move {
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
}
