//! Tells what becomes of the instance when its node leaves by `skep leave`.

use super::view::Node;
use crate::common::instance::SchedulingHold;

/// The instance, and what its Auto Scaling group does with it.
pub struct Fate {
    /// `this instance` if the id is not known.
    id: String,
    /// `None` if neither the metadata nor the settings name the group.
    group: Option<String>,
    is_detached: bool,
    is_standby: bool,
}

impl Fate {
    /// Describes the instance of `node`, which is `None` if the running skep cannot be understood. The settings' group
    /// comes before that of the metadata.
    pub fn of(node: Option<&Node>, group: Option<&str>) -> Self {
        let (id, tagged) = node.and_then(Node::place).unwrap_or(("this instance", None));
        Self {
            id: id.to_owned(),
            group: group.or(tagged).map(str::to_owned),
            is_detached: node.is_some_and(|node| node.is_detached),
            is_standby: node.and_then(|it| it.scheduling_hold) == Some(SchedulingHold::Standby),
        }
    }

    /// Whether the group replaces the instance once it is powered off; the error is the reason why not.
    pub fn can_be_replaced(&self) -> Result<(), String> {
        let id = &self.id;
        let why = match &self.group {
            None => format!(
                "neither the metadata nor autoscaling.group names an Auto Scaling group of {id}"
            ),
            Some(group) if self.is_detached => format!("group {group} has detached {id}"),
            Some(_) if self.is_standby => {
                format!("{id} is in Standby, where Auto Scaling does not check its health")
            }
            Some(_) => return Ok(()),
        };
        Err(format!(
            "{why}: powered off, it would not be replaced. Leave without --terminate, and terminate \
             the instance with AWS's tools"
        ))
    }

    fn place(&self) -> String {
        let id = &self.id;
        match &self.group {
            Some(group) if self.is_detached => {
                format!("{id} keeps running; Auto Scaling group {group} has detached it")
            }
            Some(group) if self.is_standby => {
                format!("{id} keeps running, in Standby in Auto Scaling group {group}")
            }
            Some(group) => format!("{id} keeps running, InService in Auto Scaling group {group}"),
            None => format!("{id} keeps running, InService where an Auto Scaling group has it"),
        }
    }

    /// Returns the command that has the instance replaced.
    fn replacing(&self) -> String {
        format!(
            "aws autoscaling terminate-instance-in-auto-scaling-group --instance-id {} \
             --no-should-decrement-desired-capacity",
            self.id
        )
    }

    /// Text before the departure: its effects that an operator may not expect.
    pub fn before(&self) -> String {
        format!(
            "The node leaves the swarm. {}: no replacement is launched, unless a load balancer's \
             health check has it replaced. To have it replaced, terminate it instead: {}",
            self.place(),
            self.replacing()
        )
    }

    /// Text after the departure, with the command that brings the node back.
    pub fn after(&self) -> String {
        format!(
            "{}, and is not in the swarm. To have it replaced: {}. To take it back: systemctl start \
             skep",
            self.place(),
            self.replacing()
        )
    }

    /// Text before a departure with `--terminate`.
    pub fn before_power_off(&self) -> String {
        format!(
            "The node leaves the swarm. Then {} is powered off, and {}. The instance and its volumes \
             are lost",
            self.id,
            self.replaced()
        )
    }

    pub fn after_power_off(&self) -> String {
        format!("{} powers off, and {}", self.id, self.replaced())
    }

    /// Text after a departure with `--terminate` that did not end well, or if the machine cannot be powered off.
    pub fn not_powered_off(&self) -> String {
        format!(
            "{} was not powered off. To have it replaced all the same: {}",
            self.id,
            self.replacing()
        )
    }

    fn replaced(&self) -> String {
        let group = self.group.as_deref().unwrap_or("its group");
        format!(
            "Auto Scaling group {group} replaces it within some minutes, unless its health checks or \
             replacements are suspended"
        )
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::common::state::Phase;

    fn node(role: &str, group: Option<&str>) -> Node {
        let node = json!({
            "phase": "ready", "since": "2026-11-02T12:00:00Z", "doing": "serving", "role": "worker",
            "instance": {
                "id": "i-0abc", "instance_type": "t3.small", "zone": "a", "group": group,
                "private_address": "10.0.0.7",
            },
            "membership": { "node_id": "n1", "generation": 1, "role": role },
        });
        serde_json::from_value(node).unwrap()
    }

    fn fate(group: Option<&str>) -> Fate {
        Fate::of(Some(&node("worker", group)), None)
    }

    #[test]
    fn an_operator_is_told_that_nothing_replaces_the_instance() {
        let (grouped, lone) = (fate(Some("workers")), fate(None));
        for text in [grouped.before(), grouped.after(), lone.before(), lone.after()] {
            for part in ["i-0abc keeps running", "InService", "terminate-instance-in-auto-scaling"]
            {
                assert!(text.contains(part), "no {part:?} in {text}");
            }
        }
        assert!(grouped.before().contains("group workers: no replacement is launched"));
        assert!(grouped.after().contains("systemctl start skep"));
    }

    #[test]
    fn only_an_instance_that_its_group_replaces_is_powered_off() {
        assert_eq!(fate(Some("workers")).can_be_replaced(), Ok(()));
        let text = fate(Some("workers")).before_power_off();
        assert!(text.contains("i-0abc is powered off, and Auto Scaling group workers replaces it"));
        assert!(fate(None).can_be_replaced().unwrap_err().contains("names an Auto Scaling group"));
        let by_settings = Fate::of(Some(&node("worker", None)), Some("workers"));
        assert_eq!(by_settings.can_be_replaced(), Ok(()));
        let mut detached = node("worker", Some("workers"));
        detached.is_detached = true;
        let detached = Fate::of(Some(&detached), None);
        assert!(detached.can_be_replaced().unwrap_err().starts_with("group workers has detached"));
        assert!(detached.before().contains("has detached it: no replacement"));
        let mut standby = node("worker", Some("workers"));
        standby.scheduling_hold = Some(SchedulingHold::Standby);
        let standby = Fate::of(Some(&standby), None);
        assert!(standby.can_be_replaced().unwrap_err().contains("i-0abc is in Standby"));
        let unknown = Fate::of(None, None);
        assert!(unknown.can_be_replaced().is_err());
        assert!(unknown.before().contains("this instance keeps running"));
    }

    #[test]
    fn a_manager_is_one_by_dockers_word_and_whoever_leaves_is_not_asked_again() {
        assert!(node("manager", None).is_manager() && !node("worker", None).is_manager());
        let mut leaving = node("manager", None);
        assert!(!leaving.is_leaving());
        leaving.phase = Phase::Left;
        assert!(leaving.is_leaving());
    }
}
