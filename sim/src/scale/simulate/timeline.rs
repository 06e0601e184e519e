//! Virtual time: tasks that sleep, and a clock that jumps to the next moment at which one of them wakes up.
//!
//! Tasks wait for nothing but the time, so one thread and an agenda are all that runs them. Tasks that are due at the
//! same moment run in the order in which they went to sleep: a run is the same each time.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// When a task wakes up: the time, the order among those of the same time, and the number of the task.
type Entry = Reverse<(Duration, u64, usize)>;

#[derive(Default)]
struct Inner {
    now: Cell<Duration>,
    entries: Cell<u64>,
    /// The task that is running.
    running: Cell<usize>,
    agenda: RefCell<BinaryHeap<Entry>>,
    /// `None` for a task that has ended, and for the one that is running.
    tasks: RefCell<Vec<Option<Task>>>,
}

/// The clock and its tasks. Cheap to clone; clones share everything.
#[derive(Clone, Default)]
pub(super) struct Timeline(Rc<Inner>);

impl Timeline {
    /// Returns the time since the beginning.
    pub(super) fn now(&self) -> Duration {
        self.0.now.get()
    }

    /// Adds a task, which starts at the present moment.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        let number = {
            let mut tasks = self.0.tasks.borrow_mut();
            tasks.push(Some(Box::pin(task)));
            tasks.len() - 1
        };
        self.enter(self.now(), number);
    }

    /// Sleeps. The time is virtual: this must be awaited by a task of this timeline.
    pub(super) fn sleep(&self, time: Duration) -> Sleep {
        self.sleep_until(self.now() + time)
    }

    pub(super) fn sleep_until(&self, due: Duration) -> Sleep {
        Sleep { timeline: self.clone(), due, is_entered: false }
    }

    /// Runs until `is_over`, or until `limit`. Returns whether it is over.
    pub(super) fn run(&self, limit: Duration, is_over: impl Fn() -> bool) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        while !is_over() {
            let next = self.0.agenda.borrow().peek().map(|Reverse((due, ..))| *due);
            let Some(due) = next.filter(|due| *due <= limit) else {
                self.0.now.set(self.now().max(limit));
                return false;
            };
            let entry = self.0.agenda.borrow_mut().pop();
            let Some(Reverse((_, _, number))) = entry else { return false };
            self.0.now.set(due);
            let task = self.0.tasks.borrow_mut()[number].take();
            let Some(mut task) = task else { continue };
            self.0.running.set(number);
            if task.as_mut().poll(&mut context).is_pending() {
                self.0.tasks.borrow_mut()[number] = Some(task);
            }
        }
        true
    }

    fn enter(&self, due: Duration, task: usize) {
        let nth = self.0.entries.get();
        self.0.entries.set(nth + 1);
        self.0.agenda.borrow_mut().push(Reverse((due, nth, task)));
    }
}

/// A sleep.
pub(super) struct Sleep {
    timeline: Timeline,
    due: Duration,
    is_entered: bool,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if self.timeline.now() >= self.due {
            return Poll::Ready(());
        }
        if !self.is_entered {
            self.is_entered = true;
            self.timeline.enter(self.due, self.timeline.0.running.get());
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_wake_up_in_the_order_of_their_times_and_the_clock_jumps() {
        let (timeline, seen) = (Timeline::default(), Rc::new(RefCell::new(Vec::new())));
        for (name, seconds) in [("late", 3600), ("early", 1), ("early, too", 1)] {
            let (own, seen) = (timeline.clone(), Rc::clone(&seen));
            timeline.spawn(async move {
                own.sleep(Duration::from_secs(seconds)).await;
                seen.borrow_mut().push((name, own.now().as_secs()));
            });
        }
        assert!(!timeline.run(Duration::from_secs(60), || false), "one task sleeps longer");
        assert_eq!(*seen.borrow(), [("early", 1), ("early, too", 1)]);
        assert_eq!(timeline.now().as_secs(), 60);
        assert!(timeline.run(Duration::from_secs(7200), || seen.borrow().len() == 3));
        assert_eq!(timeline.now().as_secs(), 3600);
    }

    #[test]
    fn a_task_can_wait_for_two_things_at_once() {
        let (timeline, seen) = (Timeline::default(), Rc::new(Cell::new(0)));
        let (own, end) = (timeline.clone(), Rc::clone(&seen));
        timeline.spawn(async move {
            let [short, long] = [1, 5].map(|seconds| own.sleep(Duration::from_secs(seconds)));
            futures_util::future::join(short, long).await;
            end.set(own.now().as_secs());
        });
        timeline.run(Duration::from_secs(60), || false);
        assert_eq!(seen.get(), 5);
    }
}
