//! Looking at a shipper again and again, until it has caught up.

use std::time::Duration;

use tokio::time::Instant;

use super::progress::{Progress, Reading};
use crate::flushed::Flushed;

/// Between two looks: a departure waits seconds for its shippers, and a look costs them next to
/// nothing.
pub const INTERVAL: Duration = Duration::from_millis(250);
/// A shipper that cannot be read for so long is not there, or not what it should be: waiting for it
/// would only eat the time of leaving. Long enough for one that is being restarted.
const SILENCE: Duration = Duration::from_secs(5);

/// What one look at a shipper says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// All that it knows of has arrived.
    pub caught_up: bool,
    /// Everything it counts: another value means that it has moved meanwhile.
    pub mark: Vec<u64>,
    pub reading: Reading,
}

/// Looks until the shipper has been caught up, and stood still, for `settle`.
///
/// # Errors
/// The last problem, once nothing else has come for [`SILENCE`].
pub async fn until_caught_up(
    progress: &Progress,
    settle: Duration,
    mut look: impl AsyncFnMut() -> Result<Look, String>,
) -> Result<Flushed, String> {
    let mut heard = Instant::now();
    let mut still: Option<(Vec<u64>, Instant)> = None;
    loop {
        let asked = Instant::now();
        match look().await {
            Ok(Look { caught_up, mark, reading }) => {
                heard = Instant::now();
                progress.say(reading);
                still = match still.take() {
                    _ if !caught_up => None,
                    Some((before, since)) if before == mark => Some((before, since)),
                    _ => Some((mark, asked)),
                };
                if still.as_ref().is_some_and(|(_, since)| asked - *since >= settle) {
                    return Ok(Flushed::Done);
                }
            }
            Err(problem) if heard.elapsed() >= SILENCE => return Err(problem),
            Err(problem) => {
                progress.complain(&problem);
                still = None;
            }
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::StateHandle;

    fn look(unsent: u64, seen: u64) -> Result<Look, String> {
        let reading = Reading { unsent: Some(unsent), ..Reading::default() };
        Ok(Look { caught_up: unsent == 0, mark: vec![seen], reading })
    }

    /// Plays looks, the last one for ever; what came of it, after how many.
    async fn played(
        settle: u64,
        looks: &[Result<Look, String>],
    ) -> (Result<Flushed, String>, usize) {
        let mut asked = 0;
        let progress = Progress::begin(&StateHandle::default(), "x");
        let outcome = until_caught_up(&progress, Duration::from_millis(settle), async || {
            asked += 1;
            looks[(asked - 1).min(looks.len() - 1)].clone()
        });
        (outcome.await, asked)
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_settling_time_the_first_good_look_is_enough() {
        assert_eq!(played(0, &[look(2, 1), look(0, 3)]).await, (Ok(Flushed::Done), 2));
    }

    #[tokio::test(start_paused = true)]
    async fn what_moves_or_fails_meanwhile_begins_the_settling_anew() {
        let calm = [look(0, 1)];
        assert_eq!(played(750, &calm).await, (Ok(Flushed::Done), 4));
        let moves = [look(0, 1), look(0, 1), look(0, 2)];
        assert_eq!(played(750, &moves).await, (Ok(Flushed::Done), 6));
        let hiccup = [look(0, 1), look(0, 1), Err("gone".into()), look(0, 1)];
        assert_eq!(played(750, &hiccup).await, (Ok(Flushed::Done), 7));
        let late = [look(0, 1), look(1, 2), look(0, 2)];
        assert_eq!(played(750, &late).await, (Ok(Flushed::Done), 6));
    }

    #[tokio::test(start_paused = true)]
    async fn what_never_answers_is_given_up() {
        let begun = Instant::now();
        let (outcome, _) = played(0, &[Err("connection refused".into())]).await;
        assert_eq!(outcome, Err("connection refused".into()));
        assert!((SILENCE..SILENCE + INTERVAL * 2).contains(&begun.elapsed()));
    }
}
