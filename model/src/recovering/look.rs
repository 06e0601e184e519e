//! Each host's observation, and skep's decision on it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use skep::clients::aws::autoscaling::GroupInstance;
use skep::clients::docker::{LocalNode, LocalState};
use skep::clients::ledger::{Charter, Member, MemberState};
use skep::common::fact::Fact;
use skep::common::instance::{Instance, Market, Membership, Role};
use skep::lifecycle::boot::{self, Absence, Mark, OwnSwarm};
use skep::lifecycle::membership::{self, Reach, Records, Verdict};
use skep::lifecycle::recover;
use time::OffsetDateTime;

use super::{Fence, Host, MemberRow, Node, Request, Seat, World};
use crate::charter::{at, name, swarm_name};
use crate::sight::Sight;

/// The default of `boot.lost_after`.
const PATIENCE: Duration = Duration::from_secs(120);

fn node_name((id, joins): Node) -> String {
    format!("{id}-joined-{joins}")
}

impl MemberRow {
    fn member(self, id: u8, updated_at: OffsetDateTime) -> Member {
        let instance = Instance {
            id: name(id),
            arn: String::new(),
            instance_type: String::new(),
            zone: String::new(),
            region: String::new(),
            private_address: address(id).into(),
            market: Market::OnDemand,
            group: Some("managers".into()),
            stack: None,
            tags: BTreeMap::new(),
        };
        let membership = Membership {
            node_id: node_name(self.node),
            swarm_id: String::new(),
            generation: self.generation,
            role: self.role,
        };
        let state = if self.is_removed { MemberState::Removed } else { MemberState::Ready };
        Member::new(&instance, &membership, self.role, state, updated_at)
    }
}

fn address(id: u8) -> [u8; 4] {
    [10, 0, 0, id]
}

impl World {
    /// Returns the charter as skep reads it.
    fn charter(&self, fence: Fence) -> Charter {
        let mut charter = self.charter.charter();
        if fence == Fence::Unfenced && self.charter.is_open {
            charter.recovers = None;
        }
        charter
    }

    fn local(&self, slot: u8) -> LocalNode {
        let Host { role, seat, .. } = *self.host(slot);
        let is_led = self.is_led(slot);
        LocalNode {
            state: if seat.is_some() { LocalState::Active } else { LocalState::Inactive },
            node_id: seat.map(|seat| node_name(seat.node)),
            swarm_id: seat.map(|seat| swarm_name(self.history(seat.history).swarm)),
            is_manager: seat.is_some() && role == Role::Manager,
            has_managers: is_led,
            managers: vec![],
            error: if is_led || seat.is_none() { "" } else { "no leader" }.into(),
            address: None,
            live_restore: false,
        }
    }

    fn own_row(&self, slot: u8) -> Option<Member> {
        let id = self.host(slot).id;
        self.rows.get(&id).map(|row| row.member(id, at(self.now(slot))))
    }

    pub(super) fn has_row(&self, slot: u8, seat: Seat) -> bool {
        self.rows.get(&self.host(slot).id).is_some_and(|row| row.node == seat.node)
    }

    /// Returns the rows of the other managers: of the charter's generation, or of any while a recovery runs.
    fn manager_rows(&self, slot: u8) -> impl Iterator<Item = (u8, MemberRow)> + use<'_> {
        let (me, is_recovery) = (self.host(slot).id, !self.charter.is_open);
        let all = self.rows.iter().map(|(id, row)| (*id, *row));
        all.filter(move |(id, row)| {
            let is_of = row.generation == self.charter.generation
                || is_recovery && self.charter.recovers.is_some();
            *id != me && row.role == Role::Manager && is_of
        })
    }

    /// Whether the instance's Docker port answers this host.
    pub(super) fn hears(&self, slot: u8, id: u8) -> bool {
        self.slot_of(id).is_some_and(|other| {
            let Host { role, seat, .. } = *self.host(other);
            role == Role::Manager && seat.is_some() && self.reaches(slot, other)
        })
    }

    /// Returns the keys of unreadable rows.
    fn unreadable(sight: Sight) -> BTreeSet<String> {
        match sight {
            Sight::NoRows => ["member#manager#i".to_owned()].into(),
            _ => BTreeSet::new(),
        }
    }

    /// Whether a leader answers there, as far as the observation can tell.
    fn has_leader(&self, slot: u8, fence: Fence, sight: Sight) -> Fact {
        match (sight, fence) {
            (Sight::NoLeader, Fence::SilenceIsNo) => Fact::No,
            (Sight::NoLeader, _) => Fact::CannotTell,
            _ => self.is_led(slot).into(),
        }
    }

    fn absence(&self, slot: u8, sight: Sight) -> Absence {
        let me = self.host(slot).id;
        let mut managers: Vec<u8> = self.manager_rows(slot).map(|(id, _)| id).collect();
        managers.extend(Some(self.charter.founder).filter(|founder| *founder != me));
        let others =
            || self.rows.iter().filter(|(id, row)| **id != me && row.role == Role::Manager);
        let listed = managers.iter().filter(|id| self.slot_of(**id).is_some());
        Absence {
            listed: listed.copied().map(name).collect(),
            is_self_listed: true,
            listening: others().any(|(id, _)| self.hears(slot, *id)).then_some(address(0).into()),
            managers: managers.into_iter().map(name).collect(),
            // A row is written in less than these two minutes.
            lasted: if self.is_row_due() { Duration::ZERO } else { PATIENCE },
            patience: PATIENCE,
            unreadable: Self::unreadable(sight),
            ..Absence::default()
        }
    }

    /// Returns the nodes of other managers that joined under an earlier generation.
    pub(super) fn former(&self, slot: u8) -> Vec<Node> {
        let me = self.host(slot).id;
        let others = self.rows.iter().filter(|(id, row)| {
            let is_former = row.generation < self.charter.generation;
            **id != me && row.role == Role::Manager && is_former
        });
        others.map(|(_, row)| row.node).collect()
    }

    /// Returns boot's next step.
    pub(super) fn step(&self, slot: u8, fence: Fence, sight: Sight) -> boot::Step {
        let Host { id, role, seat, .. } = *self.host(slot);
        let charter = self.charter(fence);
        let local = self.local(slot);
        let is_named = self.charter.is_open && local.swarm_id == charter.swarm_id;
        let has_row = seat.is_some_and(|seat| self.has_row(slot, seat));
        let is_recreated = is_named && !has_row && charter.fences(&name(id), 0);
        let is_answered = sight != Sight::NoLeader && self.is_led(slot);
        let may_ask = local.is_manager && is_answered && (!is_named || is_recreated);
        let own_swarm = seat.filter(|_| may_ask).map(|seat| {
            let history = self.history(seat.history);
            let is_asked = charter.is_recovery() || is_recreated;
            let former = if is_asked { self.former(slot) } else { vec![] };
            OwnSwarm {
                mark: Mark::Ours,
                is_alone: history.listed.len() <= 1,
                // Founded under an earlier claim than the open charter's.
                generation: Some(0),
                created_at: None,
                has_former: match former.iter().any(|node| history.raft.contains(node)) {
                    _ if is_recreated && fence == Fence::Unasked => Fact::No,
                    false if sight == Sight::NoRows => Fact::CannotTell,
                    is_former => is_former.into(),
                },
            }
        });
        let may_be_lost = self.charter.is_open || charter.is_recovery();
        let seen = boot::Observed {
            member: seat.and_then(|_| self.own_row(slot)),
            own_swarm,
            absence: (seat.is_none()
                && role == Role::Manager
                && may_be_lost
                && sight != Sight::NoList)
                .then(|| self.absence(slot, sight)),
            charter: Some(charter),
            local,
            certificate_error: None,
            certified: None,
            lives_on: None,
            has_leader: self.has_leader(slot, fence, sight),
            is_joining: Fact::CannotTell,
            is_moved: false,
            peer_demotion: None,
            unsettled_for: Duration::ZERO,
            lease: Duration::ZERO,
            now: at(self.now(slot)),
        };
        boot::decide(&name(id), role, &seen)
    }

    /// Whether a serving node finds that it is out of the swarm and must boot again.
    pub(super) fn is_out(&self, slot: u8, fence: Fence, sight: Sight) -> bool {
        let Host { id, role, seat, serves, .. } = *self.host(slot);
        let (Some(generation), Some(seat)) = (serves, seat) else { return false };
        let membership = Membership {
            node_id: node_name(seat.node),
            swarm_id: swarm_name(self.history(seat.history).swarm),
            generation,
            role,
        };
        let records = Records {
            charter: Some(self.charter(fence)),
            row: self.own_row(slot),
            is_manager_there: !self.doors(slot).is_empty(),
            reach: Reach::Open,
            has_leader: self.has_leader(slot, fence, sight),
        };
        let records = Some(records).filter(|_| sight != Sight::NoRows);
        let seen = membership::Observed { local: self.local(slot), is_moved: false, records };
        matches!(membership::decide(&name(id), &membership, &seen), Verdict::Out(_))
    }

    /// Returns the managers through which it can try to join.
    pub(super) fn doors(&self, slot: u8) -> Vec<u8> {
        let rows = self.manager_rows(slot);
        let open = rows.filter(|(id, row)| {
            let is_of = row.generation == self.charter.generation && !row.is_removed;
            is_of && self.hears(slot, *id)
        });
        open.map(|(id, _)| id).collect()
    }

    /// Whether a manager has joined and its row is still on its way. Until the row is written, no observation of the
    /// quorum and no patience ends.
    fn is_row_due(&self) -> bool {
        let is_own = |request: Request| matches!(request, Request::Record { then: None, .. });
        let is_sending = |slot: u8| {
            let Host { role, seat, is_mute, decided, .. } = *self.host(slot);
            let has_row = seat.is_none_or(|seat| self.has_row(slot, seat));
            let is_due = decided.is_some_and(is_own) || !has_row && self.is_led(slot);
            role == Role::Manager && !is_mute && is_due
        };
        self.late.iter().any(|late| is_own(late.1)) || self.slots().any(is_sending)
    }

    /// Whether a step is under way that takes less than the 16 seconds after which Docker adopts a manager.
    pub(super) fn is_hurried(&self) -> bool {
        let is_publishing = |request: Request| {
            matches!(request, Request::Record { then: Some(_), .. } | Request::Publish { .. })
        };
        self.is_row_due()
            || self.hosts.iter().any(|host| host.decided.is_some_and(is_publishing))
            || self.late.iter().any(|late| is_publishing(late.1))
    }

    /// Whether its row was written after the former managers were removed from the node list and before the charter
    /// opened. Docker admits such a manager, and its skep makes it leave by force: a known case that is left out.
    pub(super) fn is_overlooked(&self, slot: u8) -> bool {
        let Host { id, .. } = *self.host(slot);
        let row = self.rows.get(&id);
        row.is_some_and(|row| self.charter.charter().fences(&name(id), row.generation))
    }

    /// Whether `skep recover` starts a recovery there.
    pub(super) fn may_recover(&self, slot: u8, fence: Fence, sight: Sight) -> bool {
        if self.charter.is_open && self.is_row_due() {
            return false;
        }
        let me = self.host(slot).id;
        let now = at(self.now(slot));
        let is_written = |id: u8| self.slot_of(id).is_some_and(|other| !self.host(other).is_mute);
        let others = self.manager_rows(slot).map(|(id, row)| {
            row.member(id, if is_written(id) { now } else { OffsetDateTime::UNIX_EPOCH })
        });
        let listed = self.hosts.iter().map(|host| {
            let (group, lifecycle_state, health) =
                (String::new(), "InService".into(), String::new());
            (
                name(host.id),
                GroupInstance { group, lifecycle_state, health, protected: None, settings: None },
            )
        });
        let listening = self.manager_rows(slot).filter(|(id, _)| self.hears(slot, *id));
        recover::decide(&recover::Observed {
            me: name(me),
            charter: Some(self.charter(fence)),
            local: Some(self.local(slot)),
            row: self.own_row(slot),
            others: others.collect(),
            unreadable: Self::unreadable(sight),
            listed: Some(listed.collect()).filter(|_| sight != Sight::NoList),
            listening: listening.map(|(id, _)| address(id).into()).collect(),
            unlock_keys: None,
            has_leader: self.has_leader(slot, fence, sight),
            leaves_by: None,
            now,
        })
        .is_ok()
    }

    /// Whether the open charter's swarm has a quorum, and the ledger has a row, written every minute, of every manager
    /// in that quorum.
    pub(super) fn has_known_quorum(&self) -> bool {
        let is_known = |slot: &u8| {
            let host = self.host(*slot);
            let row = self.rows.get(&host.id);
            let node = host.seat.map(|seat| seat.node);
            let is_right = row.is_some_and(|row| {
                Some(row.node) == node && row.generation == self.charter.generation
            });
            is_right && !host.is_mute
        };
        let decides = |is_away: bool| {
            let quorum = self.quorum(self.published(), is_away);
            !quorum.is_empty() && quorum.iter().all(is_known)
        };
        self.charter.is_open && (decides(false) || decides(true))
    }
}
