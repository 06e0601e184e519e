//! Serves requests side by side across polls, so that a slow one delays no other.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};

use futures_util::StreamExt as _;
use futures_util::stream::unfold;
use tokio::sync::Notify;
use tokio::time::{Duration, timeout};

/// Requests by their keys, and the outcomes that no poll has taken yet.
pub(super) struct Desk<Key, Request, Outcome> {
    /// The requests that are waiting or being served.
    open: RefCell<BTreeMap<Key, Request>>,
    queue: RefCell<VecDeque<Key>>,
    outcomes: RefCell<Vec<(Request, Outcome)>>,
    handed_in: Notify,
    done: Notify,
}

impl<Key, Request, Outcome> Default for Desk<Key, Request, Outcome> {
    fn default() -> Self {
        Self {
            open: RefCell::default(),
            queue: RefCell::default(),
            outcomes: RefCell::default(),
            handed_in: Notify::new(),
            done: Notify::new(),
        }
    }
}

impl<Key: Ord + Clone, Request: Clone, Outcome> Desk<Key, Request, Outcome> {
    /// Serves what is handed in, `at_once` requests side by side. Runs until it is dropped.
    pub(super) async fn serve(&self, at_once: usize, serve: impl AsyncFn(&Request) -> Outcome) {
        let requests = unfold((), async |()| Some((self.next().await, ())));
        let serve = &serve;
        requests
            .for_each_concurrent(at_once, |(key, request)| async move {
                let outcome = serve(&request).await;
                self.open.borrow_mut().remove(&key);
                self.outcomes.borrow_mut().push((request, outcome));
                self.done.notify_one();
            })
            .await;
    }

    async fn next(&self) -> (Key, Request) {
        loop {
            let next = self.queue.borrow_mut().pop_front();
            let request = next.and_then(|key| {
                let request = self.open.borrow().get(&key)?.clone();
                Some((key, request))
            });
            match request {
                Some(request) => return request,
                None => self.handed_in.notified().await,
            }
        }
    }

    /// Hands in requests, except those that are still open under the same key, and waits for `patience` until the new
    /// ones are served. Returns the outcomes since the last call; only one caller at a time.
    pub(super) async fn hand_in(
        &self,
        requests: impl IntoIterator<Item = (Key, Request)>,
        patience: Duration,
    ) -> Vec<(Request, Outcome)> {
        let mut new = vec![];
        for (key, request) in requests {
            if self.open.borrow().contains_key(&key) {
                continue;
            }
            self.open.borrow_mut().insert(key.clone(), request);
            self.queue.borrow_mut().push_back(key.clone());
            new.push(key);
        }
        self.handed_in.notify_one();
        let all_served = async {
            while new.iter().any(|key| self.open.borrow().contains_key(key)) {
                self.done.notified().await;
            }
        };
        // What is not served by now has its outcome in a later call.
        let _ = timeout(patience, all_served).await;
        self.outcomes.take()
    }

    /// Returns the requests that are waiting or being served.
    pub(super) fn open(&self) -> Vec<Request> {
        self.open.borrow().values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep};

    use super::*;

    /// A request is the number of seconds that it takes.
    async fn hand_in(desk: &Desk<u64, u64, &'static str>, requests: &[u64]) -> Vec<u64> {
        let requests = requests.iter().map(|seconds| (*seconds, *seconds));
        let outcomes = desk.hand_in(requests, Duration::from_secs(2)).await;
        outcomes.into_iter().map(|(request, _)| request).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_request_delays_no_other_and_its_outcome_comes_later() {
        let desk = Desk::default();
        let serve = desk.serve(2, async |seconds: &u64| {
            sleep(Duration::from_secs(*seconds)).await;
            "served"
        });
        let polls = async {
            let began = Instant::now();
            assert_eq!(hand_in(&desk, &[1]).await, [1]);
            assert_eq!(began.elapsed().as_secs(), 1, "as long as the request, and no longer");
            for seconds in [3, 4, 5] {
                let outcomes = hand_in(&desk, &[20, 1]).await;
                assert_eq!(outcomes, [1], "the slow one is not served twice");
                assert_eq!((began.elapsed().as_secs(), desk.open()), (seconds, vec![20]));
            }
            sleep(Duration::from_secs(20)).await;
            assert_eq!(hand_in(&desk, &[]).await, [20], "the outcome is not lost");
            assert!(hand_in(&desk, &[]).await.is_empty(), "and is taken once");
        };
        tokio::select! {
            () = serve => unreachable!(),
            () = polls => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_are_served_at_once() {
        let desk = Desk::default();
        let at_once = RefCell::new((0, 0));
        let serve = desk.serve(2, async |seconds: &u64| {
            at_once.borrow_mut().0 += 1;
            let now = at_once.borrow().0;
            let most = at_once.borrow().1.max(now);
            at_once.borrow_mut().1 = most;
            sleep(Duration::from_secs(*seconds)).await;
            at_once.borrow_mut().0 -= 1;
            "served"
        });
        let polls = async {
            let first = hand_in(&desk, &[11, 12, 13, 14]).await;
            assert!(first.is_empty() && desk.open().len() == 4);
            sleep(Duration::from_secs(40)).await;
            assert_eq!(hand_in(&desk, &[]).await, [11, 12, 13, 14]);
        };
        tokio::select! {
            () = serve => unreachable!(),
            () = polls => {}
        }
        assert_eq!(*at_once.borrow(), (0, 2));
    }
}
