//! The observation of a machine.

use std::time::Duration;

use time::OffsetDateTime;

use super::{LEASE, Machine, World, name, node_name, swarm_name};
use crate::clients::docker::{LocalNode, LocalState};
use crate::clients::ledger::CharterPhase;
use crate::common::fact::Fact;
use crate::common::instance::Role;
use crate::lifecycle::boot::decide::{Mark, NEVER_RECORDED, Observed, OwnSwarm};

impl World {
    pub fn look(&mut self, node: usize) -> Observed {
        let host = &self.nodes[node];
        let (has_quorum, me) = (self.is_led(node), self.machine(node));
        let is_manager = host.swarm.is_some() && self.is_manager_of(me);
        let local = LocalNode {
            state: if host.swarm.is_some() { LocalState::Active } else { LocalState::Inactive },
            node_id: host.swarm.map(|swarm| node_name(me, swarm)),
            swarm_id: host.swarm.map(swarm_name),
            is_manager,
            has_managers: has_quorum,
            managers: vec![],
            error: String::new(),
            address: None,
            live_restore: false,
        };
        let charter = self.charter.as_ref();
        let is_named = charter.is_some_and(|charter| {
            charter.phase == CharterPhase::Open && charter.swarm_id == local.swarm_id
        });
        let is_asked = !is_named
            || !self.rows.contains_key(&me)
                && charter.is_some_and(|it| it.fences(&name(me), NEVER_RECORDED));
        let own_swarm = host
            .swarm
            .filter(|_| is_manager && is_asked && has_quorum)
            .map(|swarm| self.own_swarm(me, swarm));
        let absence = match (host.role, host.swarm, own_swarm) {
            (Role::Manager, None, _) => self.absence(node, None),
            (Role::Manager, Some(swarm), Some(own)) if charter.is_none() => {
                self.absence(node, Some((swarm, own.outranks())))
            }
            _ => None,
        };
        Observed {
            charter: self.charter.clone(),
            own_swarm,
            lives_on: None,
            has_leader: Fact::from(has_quorum),
            local,
            certificate_error: None,
            certified: None,
            member: self.rows.get(&self.machine(node)).map(|row| self.member(me, *row)),
            absence,
            is_joining: Fact::CannotTell,
            is_moved: false,
            peer_demotion: None,
            unsettled_for: Duration::ZERO,
            lease: LEASE,
            now: self.now(),
        }
    }

    fn own_swarm(&self, me: Machine, swarm: usize) -> OwnSwarm {
        let (founded_at, label) = self.labels[swarm];
        let of_rows = self.rows.values().filter(|row| row.swarm == swarm && !row.is_unreadable);
        let highest = of_rows.map(|row| row.generation).max();
        OwnSwarm {
            mark: label.map_or(Mark::Missing, |_| Mark::Ours),
            is_alone: self.swarms[swarm].len() <= 1,
            generation: if self.charter.is_none() { label.max(highest) } else { label },
            created_at: Some(OffsetDateTime::UNIX_EPOCH + Duration::from_secs(founded_at)),
            has_former: self.has_former(me, swarm),
        }
    }

    /// Returns an observation without the rows and without Docker's answer about its swarm, and without the certificate
    /// if that alone identifies the swarm.
    pub(super) fn look_blind(&mut self, node: usize) -> Observed {
        let mut seen = self.look(node);
        self.nodes[node].gone = None;
        if seen.local.swarm_id.is_some() && !(seen.local.is_manager && self.is_led(node)) {
            seen.local.swarm_id = None;
            seen.certificate_error = Some("Input/output error".into());
        }
        Observed { own_swarm: None, absence: None, has_leader: Fact::CannotTell, ..seen }
    }
}
