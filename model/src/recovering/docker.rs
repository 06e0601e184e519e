//! Docker's part: the members of each raft, its quorum, and the nodes that move to another history by themselves.

use skep::common::instance::Role;

use super::{History, Host, Node, Seat, World};

impl World {
    /// Returns the host that is this node in that history.
    fn seated(&self, history: u8, node: Node) -> Option<u8> {
        self.slot_of(node.0).filter(|slot| self.host(*slot).seat == Some(Seat { history, node }))
    }

    pub(super) fn reaches(&self, one: u8, other: u8) -> bool {
        self.host(one).is_away == self.host(other).is_away
    }

    /// Whether it reaches a manager that was beside it in raft and now continues without it.
    fn hears_of_its_removal(&self, slot: u8, seat: Seat) -> bool {
        let raft = &self.history(seat.history).raft;
        self.slots().filter(|other| *other != slot && self.reaches(slot, *other)).any(|other| {
            let Some(Seat { history, node }) = self.host(other).seat else { return false };
            raft.contains(&node)
                && self.descends(history, seat.history)
                && !self.history(history).raft.contains(&seat.node)
        })
    }

    fn descends(&self, history: u8, from: u8) -> bool {
        let parent = self.history(history).parent;
        parent.is_some_and(|parent| parent == from || self.descends(parent, from))
    }

    /// Whether its vote counts in its history.
    fn votes(&self, slot: u8) -> bool {
        self.host(slot).seat.is_some_and(|seat| {
            let is_in = self.history(seat.history).raft.contains(&seat.node);
            is_in && !self.hears_of_its_removal(slot, seat)
        })
    }

    /// Returns the managers of a history that decide together on one side of the network; none without a quorum.
    pub(super) fn quorum(&self, history: u8, is_away: bool) -> Vec<u8> {
        let raft = &self.history(history).raft;
        let seated = raft.iter().filter_map(|node| self.seated(history, *node));
        let voters: Vec<u8> = seated
            .filter(|slot| self.host(*slot).is_away == is_away && self.votes(*slot))
            .collect();
        if 2 * voters.len() > raft.len() { voters } else { vec![] }
    }

    /// Whether a leader answers there.
    pub(super) fn is_led(&self, slot: u8) -> bool {
        let Host { is_away, seat, .. } = self.host(slot);
        seat.is_some_and(|Seat { history, node }| {
            let quorum = self.quorum(history, *is_away);
            let is_member = self.history(history).listed.contains(&node);
            match self.host(slot).role {
                Role::Manager => quorum.contains(&slot),
                Role::Worker => is_member && !quorum.is_empty(),
            }
        })
    }

    fn found(&mut self, slot: u8, history: History) {
        let number = u8::try_from(self.histories.len()).expect("few histories");
        self.histories.push(history);
        let host = self.host_mut(slot);
        let node = host.seat.map_or((host.id, host.joins), |seat| seat.node);
        host.joins = host.joins.max(node.1 + 1);
        host.seat = Some(Seat { history: number, node });
    }

    /// Founds a swarm. Docker refuses this while it is in any swarm.
    pub(super) fn init(&mut self, slot: u8) {
        let Host { id, joins, seat: None, .. } = *self.host(slot) else { return };
        let swarm = self.histories.iter().map(|it| it.swarm).max().unwrap_or_default() + 1;
        let alone = [(id, joins)].into();
        let listed = [(id, joins)].into();
        self.found(slot, History { swarm, parent: None, raft: alone, listed });
    }

    /// Re-creates the quorum with `--force-new-cluster`. A repetition changes nothing.
    pub(super) fn recreate(&mut self, slot: u8) {
        let Some(Seat { history, node }) = self.host(slot).seat else { return };
        let old = self.history(history).clone();
        let raft = [node].into();
        if old.raft != raft {
            self.found(slot, History { parent: Some(history), raft, ..old });
            let founder = self.charter.founder;
            self.follow_founder(founder);
        }
    }

    /// Removes the former managers from the node list. Returns `false` if no leader answers, or one of them is in raft.
    pub(super) fn strike_out(&mut self, slot: u8, former: &[Node]) -> bool {
        let Some(seat) = self.host(slot).seat.filter(|_| self.is_led(slot)) else { return false };
        let history = &mut self.histories[usize::from(seat.history)];
        if former.iter().any(|node| history.raft.contains(node)) {
            return false;
        }
        history.listed.retain(|node| !former.contains(node));
        true
    }

    /// Joins through a manager that has a leader. Docker refuses this while it is in any swarm.
    pub(super) fn join(&mut self, slot: u8, through: u8) {
        let Host { id, role, joins, seat: None, .. } = *self.host(slot) else { return };
        let Some(manager) = self.slot_of(through) else { return };
        let Some(seat) = self.host(manager).seat else { return };
        if self.is_led(manager) && self.reaches(slot, manager) {
            let node = (id, joins);
            let history = &mut self.histories[usize::from(seat.history)];
            history.listed.insert(node);
            if role == Role::Manager {
                history.raft.insert(node);
            }
            let host = self.host_mut(slot);
            (host.joins, host.seat) = (joins + 1, Some(Seat { node, ..seat }));
        }
    }

    /// Leaves the swarm. Raft keeps a manager that leaves by force as a dead member.
    pub(super) fn leave(&mut self, slot: u8) {
        let Some(Seat { history, node }) = self.host_mut(slot).seat.take() else { return };
        let is_of_the_charters = history == self.published() && self.charter.is_open;
        self.wrongs.desertion |= is_of_the_charters && self.history(history).raft.contains(&node);
    }

    /// Returns the history that continues with this node, once its own has no leader for it any more.
    pub(super) fn next_history(&self, slot: u8) -> Option<u8> {
        let Host { is_away, seat: Some(seat), role, .. } = *self.host(slot) else { return None };
        let swarm = self.history(seat.history).swarm;
        let goes_on = |history: &u8| {
            let next = self.history(*history);
            next.swarm == swarm
                && next.listed.contains(&seat.node)
                && !self.quorum(*history, is_away).is_empty()
                && (role == Role::Worker || self.descends(*history, seat.history))
        };
        if self.is_led(slot) || (role == Role::Manager && !self.hears_of_its_removal(slot, seat)) {
            return None;
        }
        let all = (0u8..).take(self.histories.len()).filter(|next| *next != seat.history);
        all.filter(goes_on).last()
    }

    /// Moves a worker to another manager, or a former manager back into raft.
    pub(super) fn move_on(&mut self, slot: u8) {
        let Some(history) = self.next_history(slot) else { return };
        let host = self.host_mut(slot);
        let role = host.role;
        let Some(seat) = &mut host.seat else { return };
        seat.history = history;
        let node = seat.node;
        if role == Role::Manager {
            self.histories[usize::from(history)].raft.insert(node);
        }
    }
}
