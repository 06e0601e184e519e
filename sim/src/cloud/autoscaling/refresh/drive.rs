//! Looks at the group of an instance refresh, and takes its steps.

use std::cmp::Reverse;
use std::time::Duration;

use super::decide::{LONGEST, Look, Member, Stage, Step, decide};
use super::spec::RefreshStatus;
use super::{Refresh, active, status_event};
use crate::cloud::autoscaling::instance::Instance;
use crate::cloud::autoscaling::lifecycle::Event;
use crate::cloud::autoscaling::rebalance::population;
use crate::cloud::autoscaling::scaling::{Outcome, Scaling};
use crate::cloud::autoscaling::states::{LifecycleState, Process};
use crate::cloud::specs::GroupSpec;

/// The cause of the terminations, as the activities show it.
const CAUSE: &str = "an instance was taken out of service in response to an instance refresh.";

impl Refresh {
    pub(super) fn end(&mut self, status: RefreshStatus, reason: Option<String>, now: Duration) {
        (self.status, self.reason, self.ended) = (status, reason, Some(now));
        (self.pace.surge, self.next) = (0, None);
    }

    /// Whether the instance is as this refresh makes it.
    fn is_updated(&self, it: &Instance, of_group: &GroupSpec) -> bool {
        if it.sequence > self.last_old || self.begun.contains(&it.id) {
            return true;
        }
        let image = self.image(&it.instance_type).unwrap_or(&of_group.image_id);
        // Root volumes are compared by their image only.
        let is_same = self.replaces_volumes()
            || (it.user_data == of_group.user_data && it.instance_type == of_group.instance_type);
        self.spec.skip_matching && it.image_id == *image && is_same
    }

    /// `None`: the refresh has nothing to do with it.
    fn stage(&self, it: &Instance, now: Duration) -> Option<Stage> {
        use LifecycleState as S;
        let is_new = it.sequence > self.last_old || self.unproven.contains(&it.id);
        let ready_at = it.lifecycle.since() + self.warmup;
        match it.lifecycle.state() {
            state if state.is_warmed() || state.is_retained() || state.is_terminated() => None,
            state if state.is_leaving() => self.begun.contains(&it.id).then_some(Stage::Leaving),
            S::Standby | S::EnteringStandby => Some(Stage::Standby),
            state if !state.counts() => None,
            S::InService if is_new && ready_at > now => Some(Stage::Warming(ready_at)),
            S::InService => Some(Stage::Ready),
            _ => Some(Stage::Coming),
        }
    }

    /// Notes which new instances have become ready, and whether one was lost before.
    fn prove(&mut self, look: &Look, now: Duration) {
        let is_new =
            |it: &&Member| it.is_updated && matches!(it.stage, Stage::Coming | Stage::Warming(_));
        let mut is_failing = false;
        let mut is_proven = false;
        self.unproven.retain(|id| {
            let stage = look.members.iter().find(|it| it.id == *id).map(|it| it.stage);
            is_failing |= matches!(stage, None | Some(Stage::Leaving));
            is_proven |= stage == Some(Stage::Ready);
            matches!(stage, Some(Stage::Coming | Stage::Warming(_) | Stage::Standby))
        });
        self.unproven.extend(look.members.iter().filter(is_new).map(|it| it.id.clone()));
        let since = self.pace.failing_since.filter(|_| !is_proven);
        let counts = |it: &&Member| !matches!(it.stage, Stage::Standby | Stage::Leaving);
        let running = look.members.iter().filter(counts).count();
        let is_whole = self.unproven.is_empty() && running >= look.desired;
        // Nothing launches, although nothing forbids it: no zone or no address is left.
        is_failing |= self.unproven.is_empty() && running < look.desired && !look.is_suspended;
        self.pace.failing_since = since.or_else(|| is_failing.then_some(now)).filter(|_| !is_whole);
    }

    /// Finds the next time at which a step can be due without another change.
    fn reckon(&mut self, look: &Look, now: Duration) {
        let pace = &self.pace;
        let over = [pace.blocked_since, pace.failing_since].into_iter().flatten();
        let over = over.map(|since| since + self.spec.patience);
        let warm = look.members.iter().filter_map(|it| match it.stage {
            Stage::Warming(until) => Some(until),
            _ => None,
        });
        let end = self.started + LONGEST;
        let pauses = [pace.paused_until, pace.baking_until, Some(end)].into_iter().flatten();
        self.next = over.chain(warm).chain(pauses).filter(|at| *at > now).min();
    }
}

impl Scaling {
    /// Returns the next time at which a refresh has something to do.
    pub(in crate::cloud::autoscaling) fn refresh_deadline(&self) -> Option<Duration> {
        self.refreshes.iter().filter_map(|it| it.next).min()
    }

    /// Takes one step of one refresh; returns `false` when all of them wait.
    pub(in crate::cloud::autoscaling) fn advance_refreshes(&mut self, now: Duration) -> bool {
        (0..self.refreshes.len())
            .any(|index| self.refreshes[index].is_active() && self.advance(index, now))
    }

    fn look(&self, refresh: &Refresh, now: Duration) -> Option<Look> {
        let group = self.groups.get(&refresh.group)?;
        let spec = &group.spec;
        let mut members: Vec<&Instance> =
            self.instances.values().filter(|it| it.group == refresh.group).collect();
        // As the termination policies do: the fullest zone first.
        let counted = self.members(&refresh.group);
        members.sort_by_key(|it| (Reverse(population(&counted, &it.zone)), it.sequence));
        let member = |it: &Instance| {
            let is_updated = refresh.is_updated(it, spec);
            let stage = refresh.stage(it, now)?;
            Some(Member { id: it.id.clone(), stage, is_updated, protected: it.protected })
        };
        let members = members.into_iter().filter_map(member).collect();
        let is_suspended =
            [Process::Launch, Process::Terminate, Process::InstanceRefresh].into_iter();
        let is_suspended = is_suspended.into_iter().any(|process| group.is_suspended(process));
        Some(Look { desired: spec.desired as usize, is_suspended, members })
    }

    /// Takes the next step of a refresh; returns `false` when it waits.
    fn advance(&mut self, index: usize, now: Duration) -> bool {
        let Some(look) = self.look(&self.refreshes[index], now) else { return false };
        let refresh = &mut self.refreshes[index];
        refresh.prove(&look, now);
        let (progress, step) = decide(refresh, &look, now);
        refresh.progress = progress;
        if let Step::Wait { reason, blocked } = step {
            let since = refresh.pace.blocked_since.unwrap_or(now);
            refresh.pace.blocked_since = blocked.then_some(since);
            refresh.reason = reason;
            refresh.reckon(&look, now);
            return false;
        }
        self.take(index, step, now);
        true
    }

    fn take(&mut self, index: usize, step: Step, now: Duration) {
        let refresh = &mut self.refreshes[index];
        match step {
            Step::Replace(id) => self.begin(index, &id, true, now),
            Step::Remove(id) => self.begin(index, &id, false, now),
            Step::Retire(id) => {
                refresh.pace.surge -= 1;
                self.begin(index, &id, false, now);
            }
            Step::Renew(id) => {
                refresh.begun.insert(id.clone());
                refresh.unproven.insert(id.clone());
                // Not refused: the instance is in service.
                let _ = self.step(&id, Event::ReplaceRootVolume, now);
            }
            Step::Surge => refresh.pace.surge += 1,
            Step::GiveUpSurge => refresh.pace.surge = 0,
            Step::Pause { next, until } => {
                (refresh.pace.checkpoint, refresh.pace.paused_until) = (next, Some(until));
            }
            Step::Resume => refresh.pace.paused_until = None,
            Step::Bake(until) => {
                refresh.pace.baking_until = Some(until);
                self.mark(index, RefreshStatus::Baking);
            }
            Step::End(status, reason) => {
                refresh.end(status, reason, now);
                self.mark(index, status);
                if status == RefreshStatus::Successful {
                    self.adopt(index);
                }
            }
            Step::Wait { .. } => {}
        }
    }

    fn begin(&mut self, index: usize, id: &str, replace: bool, now: Duration) {
        self.refreshes[index].begun.insert(id.to_owned());
        self.begin_termination(id, replace, CAUSE, now);
    }

    fn mark(&mut self, index: usize, status: RefreshStatus) {
        self.refreshes[index].status = status;
        let event = status_event(&self.refreshes[index]);
        self.emit(event);
    }

    /// Makes the desired configuration that of the group.
    fn adopt(&mut self, index: usize) {
        let refresh = &self.refreshes[index];
        let Some(group) = self.groups.get_mut(&refresh.group) else { return };
        if let Some(image) = refresh.image(&group.spec.instance_type) {
            group.spec.image_id.clone_from(image);
        }
    }

    /// Orders a new root volume for an instance.
    pub(in crate::cloud::autoscaling) fn order_root_volume(&mut self, id: &str) {
        let Some(instance) = self.instances.get_mut(id) else { return };
        let refresh = active(&self.refreshes, &instance.group);
        if let Some(image) = refresh.and_then(|it| it.image(&instance.instance_type)) {
            instance.image_id.clone_from(image);
        }
        let (instance, image) = (instance.id.clone(), instance.image_id.clone());
        self.outcomes.push(Outcome::ReplaceRootVolume { instance, image });
    }

    pub(in crate::cloud::autoscaling) fn root_volume_is_replaced(
        &mut self,
        id: &str,
        replaced: Result<(), String>,
        now: Duration,
    ) {
        match replaced {
            // A machine that is on its way out is not brought back.
            Ok(()) => drop(self.step(id, Event::RootVolumeReplaced, now)),
            Err(error) => {
                tracing::warn!(id, error, "a root volume could not be replaced");
                let is_replacing = |it: &Instance| {
                    it.lifecycle.state() == LifecycleState::ReplacingRootVolumeProceed
                };
                if self.instances.get(id).is_some_and(is_replacing) {
                    let cause = "an instance was taken out of service because its root volume \
                                 could not be replaced.";
                    self.begin_termination(id, true, cause, now);
                }
            }
        }
        self.converge(now);
    }
}
