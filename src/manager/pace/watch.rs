//! Looks at the services, on demand. The list of all tasks can have many megabytes: it is requested only while somebody
//! waits for it, not too often, and beside the other work.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::services::Look;
use crate::common::errors::chain;
use crate::manager::error::ManagerError;
use crate::manager::observe::Fleet;

/// Shortest pause between two looks.
const PAUSE: Duration = Duration::from_secs(2);
/// The pause is longer by this factor than the last look has taken: listing tasks keeps the managers busy.
const PAUSE_FACTOR: u32 = 4;
/// Age from which on the last look says nothing about the present.
const OLDEST: Duration = Duration::from_secs(15);

/// The last look, or why there is none.
#[derive(Default)]
pub struct Watch {
    wanted: Notify,
    answered: Notify,
    last: RefCell<Option<Answer>>,
}

struct Answer {
    asked_at: Instant,
    look: Result<Rc<Look>, String>,
}

impl Watch {
    /// Looks whenever [`Self::want`] has asked for it.
    pub(in crate::manager) async fn serve(&self, fleet: &Fleet<'_>) -> Infallible {
        loop {
            self.wanted.notified().await;
            let asked_at = Instant::now();
            let look = look(fleet).await.map(Rc::new).map_err(|error| chain(&error));
            self.last.replace(Some(Answer { asked_at, look }));
            self.answered.notify_one();
            tokio::time::sleep(PAUSE.max(asked_at.elapsed() * PAUSE_FACTOR)).await;
        }
    }

    /// Asks for another look. Returns the present one; where there is none, waits for it for `patience`.
    pub(super) async fn want(&self, patience: Duration) -> Option<Result<Rc<Look>, String>> {
        self.wanted.notify_one();
        if self.present().is_none() {
            let _ = timeout(patience, async {
                while self.present().is_none() {
                    self.answered.notified().await;
                }
            })
            .await;
        }
        self.present()
    }

    fn present(&self) -> Option<Result<Rc<Look>, String>> {
        let last = self.last.borrow();
        let answer = last.as_ref().filter(|answer| answer.asked_at.elapsed() < OLDEST)?;
        Some(answer.look.clone())
    }
}

async fn look(fleet: &Fleet<'_>) -> Result<Look, ManagerError> {
    let at = OffsetDateTime::now_utc();
    let work = fleet.work(Instant::now()).await?;
    // After the tasks: see `Look::new`.
    let nodes = fleet.nodes(Instant::now()).await?;
    Ok(Look::new(&work.services, &work.tasks, &nodes, at))
}
