//! Each host's observation, and skep's decision on it.

use std::collections::BTreeSet;
use std::time::Duration;

use skep::clients::docker::{LocalNode, LocalState};
use skep::common::fact::Fact;
use skep::common::instance::Role;
use skep::lifecycle::boot::{Absence, Mark, Observed, OwnSwarm, Step, decide};

use super::{Fence, Host, LEASE, World, Write};
use crate::charter::{Row, at, name, number, swarm_name};
use crate::sight::Sight;

/// The default of `boot.lost_after`.
const PATIENCE: Duration = Duration::from_secs(120);

impl World {
    /// Returns the observation of a manager that must join. Its patience counts as over: the state that it observes
    /// may have lasted for long.
    fn absence(&self, slot: u8, fence: Fence, sight: Sight) -> Option<Absence> {
        let me = self.host(slot);
        let unreadable: BTreeSet<String> = match sight {
            Sight::NoRows => ["member#manager#i".to_owned()].into(),
            _ => BTreeSet::new(),
        };
        let Some(row) = self.charter else {
            return Some(Absence { unreadable, ..Absence::default() });
        };
        if !row.is_open || sight == Sight::NoList {
            return None;
        }
        let others = || self.rows.iter().filter(|(id, _)| *id != me.id);
        let mut managers: BTreeSet<u8> =
            others().filter(|(_, of)| *of == row.generation).map(|(id, _)| *id).collect();
        managers.insert(row.founder);
        managers.remove(&me.id);
        let listens = |id: u8| self.alive(id).is_some_and(|it| it.swarm.is_some() && !it.is_silent);
        let is_listed = |id: &u8| self.alive(*id).is_some() && fence != Fence::SilenceIsDeath;
        Some(Absence {
            listed: managers.iter().copied().filter(is_listed).map(name).collect(),
            managers: managers.into_iter().map(name).collect(),
            is_self_listed: true,
            listening: others().any(|(id, _)| listens(*id)).then_some([10, 0, 0, 1].into()),
            lasted: PATIENCE,
            patience: PATIENCE,
            unreadable,
            ..Absence::default()
        })
    }

    fn look(&self, slot: u8, fence: Fence, sight: Sight) -> Observed {
        let Host { id, role, swarm, .. } = *self.host(slot);
        let is_manager = swarm.is_some() && role == Role::Manager;
        let is_answered = sight != Sight::NoLeader;
        let is_named = self.charter.is_some_and(|row| row.is_open && row.swarm == swarm);
        Observed {
            charter: self.charter.map(Row::charter),
            local: LocalNode {
                state: if swarm.is_some() { LocalState::Active } else { LocalState::Inactive },
                node_id: swarm.map(|swarm| format!("{id}-in-{swarm}")),
                swarm_id: swarm.map(swarm_name),
                is_manager,
                has_managers: swarm.is_some(),
                managers: vec![],
                error: String::new(),
                address: None,
                live_restore: false,
            },
            certificate_error: None,
            certified: None,
            member: None,
            // Without a quorum the swarm's label cannot be read.
            own_swarm: swarm
                .filter(|swarm| is_answered && is_manager && !is_named && self.has_quorum(*swarm))
                .map(|swarm| OwnSwarm {
                    mark: Mark::Ours,
                    is_alone: !self.has_joiners(swarm),
                    generation: Some(self.label(swarm)),
                    created_at: None,
                    has_former: match sight {
                        Sight::NoRows => Fact::CannotTell,
                        _ => Fact::No,
                    },
                }),
            lives_on: None,
            has_leader: match swarm.filter(|_| is_manager) {
                Some(_) if !is_answered => Fact::CannotTell,
                swarm => Fact::from(swarm.is_some_and(|swarm| self.has_quorum(swarm))),
            },
            is_joining: Fact::CannotTell,
            lease: LEASE,
            absence: if swarm.is_none() && role == Role::Manager {
                self.absence(slot, fence, sight)
            } else {
                None
            },
            is_moved: false,
            peer_demotion: None,
            unsettled_for: Duration::ZERO,
            now: at(self.now(slot)),
        }
    }

    /// Returns skep's next step.
    pub(super) fn step(&self, slot: u8, fence: Fence, sight: Sight) -> Step {
        decide(&name(self.host(slot).id), self.host(slot).role, &self.look(slot, fence, sight))
    }

    pub(super) fn write(&self, slot: u8, fence: Fence, sight: Sight) -> Option<Write> {
        match self.step(slot, fence, sight) {
            Step::Claim { seen, .. } => {
                Some(Write::Claim { seen: seen.as_ref().map(Row::of), now: self.now(slot) })
            }
            Step::Init { claim } => Some(Write::Init { generation: claim.generation }),
            Step::Publish { claim, membership } => {
                Some(Write::Publish { claim: Row::of(&claim), swarm: number(&membership.swarm_id) })
            }
            Step::Join { charter } => Some(Write::Join { generation: charter.generation }),
            Step::Discard { .. } => Some(Write::Discard),
            Step::LeaveStale { .. } => Some(Write::LeaveStale),
            Step::Wait { .. } | Step::Ready(_) | Step::Refuse(_) => None,
            step @ (Step::AskOut { .. }
            | Step::Unlock { .. }
            | Step::Recreate { .. }
            | Step::Mark { .. }
            | Step::PublishAgain { .. }) => panic!("no cause for {step:?}"),
        }
    }
}
