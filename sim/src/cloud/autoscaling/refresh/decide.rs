//! Decides the next step of an instance refresh. Pure.

use std::time::Duration;

use super::Refresh;
use super::spec::{OfProtected, OfStandby, RefreshStatus};

/// The longest refresh:
/// <https://docs.aws.amazon.com/autoscaling/ec2/userguide/instance-refresh-overview.html>
pub(super) const LONGEST: Duration = Duration::from_secs(14 * 24 * 3600);
/// The reason of a cancellation, as in AWS's examples.
pub(super) const CANCELLED: &str = "Cancelled due to user request.";

/// How far an instance of the group is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// On its way into service, or on its way to a new root volume and back.
    Coming,
    /// In service, and not ready before this time.
    Warming(Duration),
    /// In service and ready.
    Ready,
    Standby,
    /// The refresh has terminated it, and its hooks or target groups still hold it.
    Leaving,
}

#[derive(Clone, Debug)]
pub(super) struct Member {
    pub id: String,
    pub stage: Stage,
    /// It needs no replacement: it is new, has a new root volume, or already matches.
    pub is_updated: bool,
    /// Protected from scale-in.
    pub protected: bool,
}

/// A group at one moment, in the order in which members are replaced.
#[derive(Clone, Debug, Default)]
pub(super) struct Look {
    pub desired: usize,
    /// Whether a process is suspended without which nothing is replaced.
    pub is_suspended: bool,
    pub members: Vec<Member>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    pub percentage: u32,
    pub remaining: usize,
}

/// Where a refresh is. [`super::drive`] keeps it.
#[derive(Clone, Debug, Default)]
pub(super) struct Pace {
    /// Instances beyond the desired capacity that the group may have.
    pub surge: usize,
    /// Index of the next checkpoint.
    pub checkpoint: usize,
    /// The end of the pause at a checkpoint.
    pub paused_until: Option<Duration>,
    pub baking_until: Option<Duration>,
    /// Since when it only waits for instances that are protected or on standby.
    pub blocked_since: Option<Duration>,
    /// Since when new instances have been lost before they were ready.
    pub failing_since: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Terminate it; the group launches another at once.
    Replace(String),
    /// Terminate it: another one is ready.
    Retire(String),
    /// Terminate it: it is on standby and does not count.
    Remove(String),
    /// Replace its root volume.
    Renew(String),
    /// Launch one beyond the desired capacity.
    Surge,
    /// Let the group scale in what is beyond its desired capacity.
    GiveUpSurge,
    /// Pause at a checkpoint; the next one has this index.
    Pause {
        next: usize,
        until: Duration,
    },
    Resume,
    Bake(Duration),
    /// Nothing to do. `blocked`: only an operator can change that.
    Wait {
        reason: Option<String>,
        blocked: bool,
    },
    End(RefreshStatus, Option<String>),
}

pub(super) fn decide(refresh: &Refresh, look: &Look, now: Duration) -> (Progress, Step) {
    let view = View::of(refresh, look);
    let progress = view.progress();
    (progress, view.step(progress, now))
}

struct View<'a> {
    refresh: &'a Refresh,
    look: &'a Look,
    /// Instances that are neither on standby nor leave.
    running: usize,
    ready: usize,
    /// The number of instances that must become new: the desired capacity without those that are ignored.
    total: usize,
    /// The instances that must still be replaced, ready or not.
    old: Vec<&'a Member>,
}

impl<'a> View<'a> {
    fn of(refresh: &'a Refresh, look: &'a Look) -> Self {
        let counts = |it: &&Member| !matches!(it.stage, Stage::Standby | Stage::Leaving);
        let is_ignored =
            |it: &Member| it.protected && refresh.spec.protected == OfProtected::Ignore;
        let counted: Vec<&Member> = look.members.iter().filter(counts).collect();
        let outdated = counted.iter().filter(|it| !it.is_updated);
        let (ignored, old): (Vec<&Member>, Vec<&Member>) =
            outdated.copied().partition(|it| is_ignored(it));
        Self {
            refresh,
            look,
            running: counted.len(),
            ready: counted.iter().filter(|it| it.stage == Stage::Ready).count(),
            total: look.desired.saturating_sub(ignored.len()),
            old,
        }
    }

    fn progress(&self) -> Progress {
        let is_done = |it: &&Member| it.is_updated && it.stage == Stage::Ready;
        let done = self.look.members.iter().filter(is_done).count().min(self.total);
        let percentage = (done * 100).checked_div(self.total).unwrap_or(100);
        Progress {
            percentage: u32::try_from(percentage).unwrap_or(100),
            remaining: self.total - done,
        }
    }

    fn step(&self, progress: Progress, now: Duration) -> Step {
        let (spec, pace) = (&self.refresh.spec, &self.refresh.pace);
        if let Some(reason) = self.failure(now) {
            return Step::End(RefreshStatus::Failed, Some(reason));
        }
        if self.refresh.status == RefreshStatus::Cancelling {
            return self.finish_what_is_under_way().unwrap_or_else(|| {
                Step::End(RefreshStatus::Cancelled, Some(CANCELLED.to_owned()))
            });
        }
        if self.look.is_suspended {
            return wait("Waiting for suspended processes to be resumed.".to_owned());
        }
        let standby = self.look.members.iter().find(|it| self.is_outdated_standby(it));
        if let Some(member) = standby
            && spec.standby == OfStandby::Terminate
        {
            return Step::Remove(member.id.clone());
        }
        match pace.paused_until {
            Some(until) if until <= now => return Step::Resume,
            Some(_) => {
                let finishing = self.finish_what_is_under_way();
                return finishing.filter(|it| !matches!(it, Step::Wait { .. })).unwrap_or_else(
                    || wait("Waiting for the checkpoint delay before continuing.".to_owned()),
                );
            }
            None => {}
        }
        // Without checkpoints, all instances are replaced.
        let last = spec.checkpoints.len().saturating_sub(1);
        let goal = spec.checkpoints.get(pace.checkpoint).copied().unwrap_or(100);
        if progress.percentage >= goal {
            let passed = spec.checkpoints.iter().filter(|it| **it <= progress.percentage).count();
            if passed <= last && !spec.checkpoints.is_empty() {
                return Step::Pause { next: passed, until: now + spec.checkpoint_delay };
            }
            // The last checkpoint ends the refresh, even if it is not 100.
            let is_partial = spec.checkpoints.last().is_some_and(|it| *it < 100);
            if is_partial || (self.old.is_empty() && self.blocked().is_none()) {
                return self.finish_what_is_under_way().unwrap_or_else(|| self.finish(now));
            }
        }
        self.replace(goal).unwrap_or_else(|| self.wait())
    }

    fn failure(&self, now: Duration) -> Option<String> {
        let (refresh, pace) = (self.refresh, &self.refresh.pace);
        let is_over = |since: Option<Duration>| {
            since.is_some_and(|since| since + refresh.spec.patience <= now)
        };
        if is_over(pace.failing_since) {
            let what = "The refresh failed: new instances do not enter service, or are unhealthy.";
            return Some(what.to_owned());
        }
        if is_over(pace.blocked_since) {
            return self.blocked().map(|what| format!("The refresh failed: {what}"));
        }
        (refresh.started + LONGEST <= now)
            .then(|| "The refresh failed: it has taken 14 days.".to_owned())
    }

    /// Ends the refresh, after its bake time.
    fn finish(&self, now: Duration) -> Step {
        let bake = self.refresh.spec.bake;
        match self.refresh.pace.baking_until {
            None if !bake.is_zero() => Step::Bake(now + bake),
            Some(until) if until > now => wait("Waiting for the bake time.".to_owned()),
            _ => Step::End(RefreshStatus::Successful, None),
        }
    }

    /// Returns the next step of the replacements that have begun; `None`: they have ended.
    fn finish_what_is_under_way(&self) -> Option<Step> {
        if self.refresh.pace.surge > 0 && self.ready > self.look.desired {
            let victim = self.candidates().next();
            return Some(victim.map_or(Step::GiveUpSurge, |it| Step::Retire(it.id.clone())));
        }
        self.under_way().map(wait)
    }

    /// Begins a replacement, as far as the percentages and the next checkpoint allow it.
    fn replace(&self, goal: u32) -> Option<Step> {
        let (refresh, surge) = (self.refresh, self.refresh.pace.surge);
        let (desired, candidate) = (self.look.desired, self.candidates().next());
        let budget = self.most_unavailable();
        let can_take = self.ready + budget > desired;
        if surge > 0 && can_take {
            return Some(candidate.map_or(Step::GiveUpSurge, |it| Step::Retire(it.id.clone())));
        }
        let candidate = candidate?;
        let begun = self.total.saturating_sub(self.old.len()) + surge;
        if begun >= share_of(self.total, goal) {
            return None;
        }
        if refresh.replaces_volumes() {
            return can_take.then(|| Step::Renew(candidate.id.clone()));
        }
        if can_take && (budget > 0 || self.running > desired) {
            return Some(Step::Replace(candidate.id.clone()));
        }
        let may_surge = surge < self.most_beyond() && surge < self.candidates().count();
        (may_surge && self.running >= desired + surge).then_some(Step::Surge)
    }

    /// The instances that can be replaced now, the oldest first.
    fn candidates(&self) -> impl Iterator<Item = &'a Member> {
        let replaces_protected = self.refresh.spec.protected == OfProtected::Refresh;
        let is_free = move |it: &&&Member| !it.protected || replaces_protected;
        self.old.iter().filter(is_free).filter(|it| it.stage == Stage::Ready).copied()
    }

    /// Returns how many instances may be out of service for the refresh; the percentage is rounded up
    /// (<https://pub.dev/documentation/aws_autoscaling_api/latest/autoscaling-2011-01-01/RefreshPreferences-class.html>).
    /// A percentage below 100 allows at least one, or small groups could not be refreshed; so does the replacement of root volumes, which
    /// launches nothing.
    fn most_unavailable(&self) -> usize {
        let min = self.refresh.spec.min_healthy;
        let unavailable = self.look.desired - share_of(self.look.desired, min);
        if min < 100 || self.refresh.replaces_volumes() { unavailable.max(1) } else { 0 }
    }

    /// Returns how many instances beyond the desired capacity the group may have: at least one if the percentages do
    /// not allow less than the desired capacity.
    fn most_beyond(&self) -> usize {
        let spec = &self.refresh.spec;
        let beyond = self.look.desired * (spec.max_healthy as usize - 100) / 100;
        let needs_one = spec.min_healthy >= 100 || spec.max_healthy > 100;
        if needs_one { beyond.max(1) } else { beyond }
    }

    fn is_outdated_standby(&self, member: &Member) -> bool {
        member.stage == Stage::Standby && !member.is_updated
    }

    /// Names what only an operator can change.
    fn blocked(&self) -> Option<String> {
        let spec = &self.refresh.spec;
        let protected = self.old.iter().filter(|it| it.protected);
        let protected = protected.filter(|_| spec.protected == OfProtected::Wait);
        let protected = protected.map(|it| (&it.id, "is protected from scale in"));
        let standby = self.look.members.iter().filter(|it| self.is_outdated_standby(it));
        let standby = standby.filter(|_| spec.standby == OfStandby::Wait);
        let mut waits = protected.chain(standby.map(|it| (&it.id, "is in Standby")));
        waits.next().map(|(id, why)| format!("waiting for instances. For example: {id} {why}."))
    }

    /// Names a replacement that is under way.
    fn under_way(&self) -> Option<String> {
        let first = |is_so: fn(&Member) -> bool| self.look.members.iter().find(|it| is_so(it));
        let waiting = |what: &str, it: &Member| {
            format!("Waiting for instances to {what} before continuing. For example: {}.", it.id)
        };
        if let Some(it) = first(|it| matches!(it.stage, Stage::Warming(_))) {
            return Some(waiting("warm up", it));
        }
        if let Some(it) = first(|it| it.stage == Stage::Coming) {
            return Some(waiting("enter service", it));
        }
        if let Some(it) = first(|it| it.stage == Stage::Leaving) {
            return Some(waiting("terminate", it));
        }
        (self.running < self.look.desired + self.refresh.pace.surge)
            .then(|| "Waiting for instances to launch before continuing.".to_owned())
    }

    fn wait(&self) -> Step {
        match (self.under_way(), self.blocked()) {
            (None, Some(reason)) => Step::Wait { reason: Some(reason), blocked: true },
            (reason, _) => Step::Wait { reason, blocked: false },
        }
    }
}

fn wait(reason: String) -> Step {
    Step::Wait { reason: Some(reason), blocked: false }
}

/// Returns this percentage of `total`, rounded up.
fn share_of(total: usize, percentage: u32) -> usize {
    (total * percentage as usize).div_ceil(100)
}
