//! Starts and cancels refreshes, and answers for them.

use std::collections::BTreeSet;
use std::time::Duration;

use super::spec::{RefreshSpec, RefreshStatus, RefreshView};
use super::{Refresh, active, decide, status_event};
use crate::cloud::Cloud;
use crate::cloud::autoscaling::scaling::Scaling;
use crate::cloud::errors::ApiError;

impl Scaling {
    /// Starts a refresh; returns its id.
    pub fn start_refresh(
        &mut self,
        name: &str,
        spec: RefreshSpec,
        now: Duration,
    ) -> Result<String, ApiError> {
        let group = self.group(name)?;
        spec.check()?;
        if active(&self.refreshes, name).is_some() {
            return Err(ApiError::new(
                400,
                "InstanceRefreshInProgress",
                "An Instance Refresh is already in progress and blocks the execution of this \
                 Instance Refresh.",
            ));
        }
        let members = self.instances.values().filter(|it| it.group == name);
        spec.check_group(group, members.map(|it| it.instance_type.clone()))?;
        let grace = group.spec.health_check_grace;
        let refresh = Refresh {
            id: self.ids.uuid(),
            group: name.to_owned(),
            warmup: spec.warmup.unwrap_or(grace),
            spec,
            status: RefreshStatus::InProgress,
            reason: None,
            started: now,
            ended: None,
            progress: decide::Progress::default(),
            last_old: self.sequence,
            begun: BTreeSet::new(),
            unproven: BTreeSet::new(),
            pace: decide::Pace::default(),
            next: None,
        };
        let id = refresh.id.clone();
        self.emit(status_event(&refresh));
        self.refreshes.push(refresh);
        self.converge(now);
        Ok(id)
    }

    /// Cancels the active refresh; returns its id. With `waits`, replacements that have begun end first.
    pub fn cancel_refresh(
        &mut self,
        name: &str,
        waits: bool,
        now: Duration,
    ) -> Result<String, ApiError> {
        self.group(name)?;
        let refreshes = self.refreshes.iter_mut().rev();
        let mut refreshes = refreshes.filter(|it| it.group == name && it.is_active());
        let refresh = refreshes.next().ok_or_else(|| {
            ApiError::new(
                400,
                "ActiveInstanceRefreshNotFound",
                "No in progress or pending Instance Refresh found for Auto Scaling group",
            )
        })?;
        let id = refresh.id.clone();
        refresh.status = RefreshStatus::Cancelling;
        let event = status_event(refresh);
        if !waits {
            refresh.end(RefreshStatus::Cancelled, Some(decide::CANCELLED.to_owned()), now);
        }
        let ended = refresh.ended.is_some().then(|| status_event(refresh));
        self.emit(event);
        ended.into_iter().for_each(|event| self.emit(event));
        self.converge(now);
        Ok(id)
    }

    /// Returns the refreshes of a group, newest first.
    pub(super) fn refreshes_of(&self, name: &str) -> impl Iterator<Item = &Refresh> {
        self.refreshes.iter().rev().filter(move |it| it.group == name)
    }

    /// Returns the number of instances that a group may have beyond its desired capacity, for its refresh.
    pub fn refresh_surge(&self, name: &str) -> usize {
        active(&self.refreshes, name).map_or(0, |it| it.pace.surge)
    }

    pub fn check_no_root_volumes_refreshed(&self, name: &str) -> Result<(), ApiError> {
        if active(&self.refreshes, name).is_some_and(Refresh::replaces_volumes) {
            return Err(ApiError::validation(
                "You can't add a warm pool to an Auto Scaling group that has an active instance \
                 refresh with Replace Root Volume.",
            ));
        }
        Ok(())
    }
}

impl Cloud {
    /// Starts an instance refresh of a group; returns its id.
    pub fn start_refresh(&self, group: &str, spec: RefreshSpec) -> Result<String, ApiError> {
        self.change(|state, now| state.scaling.start_refresh(group, spec, now))
    }

    /// Returns a refresh that replaces the root volumes of a group by new ones from the group's own image.
    pub fn root_volumes_of(&self, group: &str) -> Result<RefreshSpec, ApiError> {
        self.change(|state, _| {
            let spec = &state.scaling.group(group)?.spec;
            Ok(RefreshSpec::root_volumes(&spec.instance_type, &spec.image_id))
        })
    }

    /// Cancels a group's active instance refresh; replacements that have begun still end.
    pub fn cancel_refresh(&self, group: &str) -> Result<(), ApiError> {
        self.change(|state, now| state.scaling.cancel_refresh(group, true, now).map(drop))
    }

    /// Returns the newest instance refresh of a group.
    pub fn refresh(&self, group: &str) -> Option<RefreshView> {
        self.change(|state, _| state.scaling.refreshes_of(group).next().map(Refresh::view))
    }

    /// Records the result of an order to replace a root volume. A failure makes the group replace the instance.
    pub fn root_volume_is_replaced(&self, instance_id: &str, replaced: Result<(), String>) {
        self.change(|state, now| state.scaling.root_volume_is_replaced(instance_id, replaced, now));
    }
}
