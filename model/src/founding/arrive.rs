//! Carries out decided requests: the ledger's conditions, Docker's answers, and the state in which everything ends.

use skep::common::instance::Role;
use skep::lifecycle::boot::Step;

use super::{Fence, Host, LEASE, World, Write};
use crate::charter::Row;
use crate::clock::Clock;
use crate::sight::Sight;

/// Observations of every node that are enough for all to be Ready when no more faults happen.
const ROUNDS_TO_SETTLE: usize = 12;

impl World {
    /// Accepts or refuses a request, as DynamoDB's conditions and Docker do. `id` has sent it, and may be gone: then
    /// only a request to DynamoDB still counts.
    pub(super) fn arrive(&mut self, id: u8, write: Write, fence: Fence) {
        match write {
            Write::Claim { seen, now } => self.claim(id, seen, now),
            Write::Publish { claim, swarm } => {
                if claim.is_still_claimed(self.charter) || fence == Fence::Missing {
                    self.opened.push((claim.generation, swarm));
                    self.charter = Some(Row { is_open: true, swarm: Some(swarm), ..claim });
                    self.rows.push((id, claim.generation));
                }
            }
            Write::Init { .. } | Write::Join { .. } | Write::Discard | Write::LeaveStale => {
                let Some(slot) = self.hosts.iter().position(|host| host.id == id) else { return };
                self.tell_docker(slot, write);
            }
        }
    }

    fn claim(&mut self, id: u8, seen: Option<Row>, now: i64) {
        if !Row::is_as_seen(seen, self.charter, now) {
            return;
        }
        let lost = seen.and_then(|seen| seen.swarm);
        self.has_robbed |= lost.is_some_and(|swarm| self.managers_of(swarm).next().is_some());
        self.charter = Some(Row {
            is_open: false,
            generation: seen.map_or(0, |seen| seen.generation) + 1,
            founder: id,
            lease_expires_at: now + LEASE.as_secs().cast_signed(),
            swarm: None,
            former: lost.or(seen.and_then(|seen| seen.former)),
            recovers: None,
        });
    }

    /// Sends a request to Docker, which refuses an init and a join while it is in any swarm.
    fn tell_docker(&mut self, slot: usize, write: Write) {
        let Host { id, role, swarm, .. } = self.hosts[slot];
        match (write, swarm) {
            (Write::Init { generation }, None) => {
                self.hosts[slot].swarm = u8::try_from(self.swarms.len()).ok();
                self.swarms.push(vec![id]);
                self.labels.push(generation);
            }
            (Write::Join { generation }, None) => {
                let published = self.opened.iter().rev().find(|open| open.0 == generation);
                // A node can join only through a manager of a swarm with a quorum.
                if let Some((_, swarm)) = published.copied()
                    && self.has_quorum(swarm)
                {
                    self.hosts[slot].swarm = Some(swarm);
                    self.swarms[usize::from(swarm)].push(id);
                    if role == Role::Manager {
                        self.rows.push((id, generation));
                    }
                }
            }
            (Write::Discard | Write::LeaveStale, Some(swarm)) => {
                self.hosts[slot].swarm = None;
                self.swarms[usize::from(swarm)].retain(|member| *member != id);
            }
            _ => {}
        }
    }

    pub(super) fn terminate(&mut self, slot: u8) {
        let id = u8::try_from(self.hosts.len() + self.terminations).expect("few instances");
        self.terminations += 1;
        let host = &mut self.hosts[usize::from(slot)];
        *host = Host { id, is_silent: false, swarm: None, decided: None, ..host.clone() };
    }

    /// Whether every node is Ready in the same swarm in the end when no more faults happen. A swarm without a quorum of
    /// which some managers are still there is exempt: only an operator can repair it.
    pub(super) fn settles(&self, fence: Fence) -> bool {
        let mut world = self.clone();
        for host in &mut world.hosts {
            host.is_silent = false;
        }
        let is_halved = |(_, swarm): &(u64, u8)| {
            !world.has_quorum(*swarm) && world.managers_of(*swarm).next().is_some()
        };
        if world.opened.last().is_some_and(is_halved) {
            return true;
        }
        for round in 0..ROUNDS_TO_SETTLE {
            if round == ROUNDS_TO_SETTLE / 2 {
                world.expiries += Clock::expiries_beyond(LEASE);
            }
            for slot in world.slots() {
                let decided = world.hosts[usize::from(slot)].decided.take();
                if let Some(write) = decided.or_else(|| world.write(slot, fence, Sight::Clear)) {
                    world.arrive(world.host(slot).id, write, fence);
                }
            }
        }
        world.slots().all(|slot| matches!(world.step(slot, fence, Sight::Clear), Step::Ready(_)))
    }
}
