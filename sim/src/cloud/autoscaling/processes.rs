//! The processes of a group that can be suspended:
//! <https://docs.aws.amazon.com/autoscaling/ec2/userguide/as-suspend-resume-processes.html>.

use std::time::Duration;

use super::group::Group;
use super::scaling::Scaling;
use super::states::Process;
use crate::cloud::Cloud;
use crate::cloud::errors::ApiError;
use crate::cloud::wire::Params;
use crate::cloud::xml::Xml;

impl Group {
    pub fn is_suspended(&self, process: Process) -> bool {
        self.suspended.contains(&process)
    }

    /// Whether instances that are marked as unhealthy are replaced.
    pub(super) fn replaces_unhealthy(&self) -> bool {
        !self.is_suspended(Process::ReplaceUnhealthy) && !self.is_suspended(Process::Terminate)
    }
}

impl Scaling {
    /// Suspends processes of a group.
    pub fn suspend(&mut self, group: &str, processes: &[Process]) -> Result<(), ApiError> {
        self.group_mut(group)?.suspended.extend(processes);
        Ok(())
    }

    /// Resumes processes of a group, and does what was left undone.
    pub fn resume(
        &mut self,
        group: &str,
        processes: &[Process],
        now: Duration,
    ) -> Result<(), ApiError> {
        self.group_mut(group)?.suspended.retain(|it| !processes.contains(it));
        self.replace_marked(group, now);
        self.tick(now);
        self.touch();
        Ok(())
    }

    /// Replaces the instances that were marked as unhealthy while this was suspended.
    fn replace_marked(&mut self, group: &str, now: Duration) {
        if !self.group(group).is_ok_and(Group::replaces_unhealthy) {
            return;
        }
        let marked = self.instances().filter(|it| it.group == group && !it.healthy);
        let marked = marked.filter(|it| !it.lifecycle.state().is_leaving());
        for id in marked.map(|it| it.id.clone()).collect::<Vec<_>>() {
            let cause = "an instance was taken out of service in response to a user health-check.";
            self.begin_termination(&id, true, cause, now);
        }
    }
}

/// `SuspendProcesses` and `ResumeProcesses`; `None`: the call is neither.
pub(super) fn handle(
    scaling: &mut Scaling,
    action: &str,
    params: &Params,
    now: Duration,
) -> Option<Result<(), ApiError>> {
    let group = params.required("AutoScalingGroupName");
    match action {
        "SuspendProcesses" => {
            Some(group.and_then(|group| scaling.suspend(group, &processes(params)?)))
        }
        "ResumeProcesses" => {
            Some(group.and_then(|group| scaling.resume(group, &processes(params)?, now)))
        }
        _ => None,
    }
}

/// Returns the processes that a call names; without a name it is for all of them.
fn processes(params: &Params) -> Result<Vec<Process>, ApiError> {
    let names = params.list("ScalingProcesses");
    if names.is_empty() {
        return Ok(Process::ALL.to_vec());
    }
    let process = |name: &String| {
        Process::parse(name).ok_or_else(|| {
            ApiError::validation(format!("Scaling process '{name}' is not a valid process type."))
        })
    };
    names.iter().map(process).collect()
}

/// Writes what the description of a group shows of its suspended processes.
pub(super) fn of_group(xml: &mut Xml, group: &Group) {
    xml.list("SuspendedProcesses", &group.suspended, |xml, process| {
        xml.text("ProcessName", process.as_str());
        xml.text("SuspensionReason", "User suspended");
    });
}

impl Cloud {
    /// Suspends processes of a group.
    pub fn suspend(&self, group: &str, processes: &[Process]) -> Result<(), ApiError> {
        self.change(|state, _| state.scaling.suspend(group, processes))
    }

    /// Resumes processes of a group.
    pub fn resume(&self, group: &str, processes: &[Process]) -> Result<(), ApiError> {
        self.change(|state, now| state.scaling.resume(group, processes, now))
    }
}
