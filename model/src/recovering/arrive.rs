//! Carries out decided requests: the ledger's conditions, and skep's next step on the answer.

use skep::common::instance::Role;
use skep::lifecycle::boot::Step;

use super::{Fence, LEASE, MemberRow, Request, Seat, World};
use crate::charter::{Row, number};
use crate::sight::Sight;

impl World {
    /// Observes as a booting node, and decides a request or becomes Ready.
    pub(super) fn look(&mut self, slot: u8, through: Option<u8>, fence: Fence, sight: Sight) {
        let step = self.step(slot, fence, sight);
        let now = self.now(slot);
        let decided = match step {
            Step::Claim { seen, .. } => {
                let seen = seen.expect("there has always been a charter");
                Some(Request::Claim { seen: Row::of(&seen), now })
            }
            Step::Init { .. } => Some(Request::Init),
            Step::Recreate { .. } => Some(Request::Recreate),
            Step::Publish { claim, .. } => {
                let claim = Row::of(&claim);
                Some(match claim.recovers {
                    Some(_) => Request::StrikeOut { claim },
                    None => self.record(slot, claim.generation, Some(claim)),
                })
            }
            Step::Join { .. } => through.map(|through| Request::Join { through }),
            Step::Discard { .. } => Some(Request::Leave { by_force: true }),
            Step::LeaveStale { by_force, .. } => Some(Request::Leave { by_force }),
            Step::Ready(membership) => {
                let generation = membership.generation;
                assert_eq!(Some(number(&membership.swarm_id)), self.swarm_of(slot));
                self.is_ready(slot, generation);
                self.wanted_row(slot)
            }
            Step::Wait { .. } | Step::Refuse(_) => None,
            step @ (Step::AskOut { .. }
            | Step::Unlock { .. }
            | Step::Mark { .. }
            | Step::PublishAgain { .. }) => panic!("no cause for {step:?}"),
        };
        self.host_mut(slot).decided = decided;
    }

    fn swarm_of(&self, slot: u8) -> Option<u8> {
        self.host(slot).seat.map(|seat| self.history(seat.history).swarm)
    }

    fn record(&self, slot: u8, generation: u64, claim: Option<Row>) -> Request {
        let Seat { node, history } = self.host(slot).seat.expect("in a swarm");
        let row = MemberRow { role: self.host(slot).role, node, generation, is_removed: false };
        Request::Record { row, then: claim.map(|claim| (claim, history)) }
    }

    fn is_ready(&mut self, slot: u8, generation: u64) {
        let host = self.host_mut(slot);
        host.serves = Some(generation);
        let (role, seat) = (host.role, host.seat);
        let published = self.opened.iter().rev().find(|open| open.0 == generation);
        let is_in = published.map(|open| open.1) == seat.map(|seat| seat.history);
        self.wrongs.stray |= role == Role::Manager && !is_in;
    }

    /// Returns the write that a serving node's row needs, if any.
    pub(super) fn wanted_row(&self, slot: u8) -> Option<Request> {
        let host = self.host(slot);
        let (generation, Seat { node, .. }) = (host.serves?, host.seat?);
        let is_right = self.rows.get(&host.id).is_some_and(|row| {
            row.node == node && (row.generation == generation || row.is_removed)
        });
        (!is_right).then(|| self.record(slot, generation, None))
    }

    /// Observes as a serving node, which boots again or writes its row.
    pub(super) fn care(&mut self, slot: u8, fence: Fence, sight: Sight) {
        if self.is_out(slot, fence, sight) {
            self.host_mut(slot).serves = None;
        } else {
            self.host_mut(slot).decided = self.wanted_row(slot);
        }
    }

    pub(super) fn recover(&mut self, slot: u8) {
        self.wrongs.against_quorum |= self.has_known_quorum();
        let Some(swarm) = self.swarm_of(slot) else { return };
        let now = self.now(slot);
        let request = Request::ClaimRecovery { seen: self.charter, swarm, now };
        self.host_mut(slot).decided = Some(request);
    }

    /// Sends the decided request. A request that follows immediately from the answer is decided next.
    pub(super) fn send(&mut self, slot: u8, request: Request, fence: Fence) {
        let next = match request {
            Request::Init => {
                self.init(slot);
                None
            }
            Request::Recreate => {
                self.recreate(slot);
                None
            }
            Request::StrikeOut { claim } => {
                let former = self.former(slot);
                let is_done = self.strike_out(slot, &former);
                is_done.then(|| self.record(slot, claim.generation, Some(claim)))
            }
            Request::Join { through } => {
                self.join(slot, through);
                None
            }
            Request::Leave { .. } => {
                self.leave(slot);
                None
            }
            ledgers => {
                self.arrive(self.host(slot).id, ledgers, fence);
                match ledgers {
                    Request::Record { then: Some((claim, history)), .. } => {
                        Some(Request::Publish { claim, history })
                    }
                    _ => None,
                }
            }
        };
        self.host_mut(slot).decided = next;
    }

    /// Accepts or refuses a request, as DynamoDB's conditions do. `id` has sent it, and may be gone.
    pub(super) fn arrive(&mut self, id: u8, request: Request, fence: Fence) {
        match request {
            Request::Claim { seen, now } => self.claim(id, seen, now),
            Request::ClaimRecovery { seen, swarm, now } => {
                let may = Row::is_as_seen(Some(seen), Some(self.charter), now);
                if may || fence == Fence::Unclaimed {
                    self.charter = Row {
                        is_open: false,
                        generation: seen.generation + 1,
                        founder: id,
                        lease_expires_at: now + LEASE.as_secs().cast_signed(),
                        swarm: None,
                        recovers: Some(swarm),
                        ..seen
                    };
                }
            }
            Request::Record { row, .. } => {
                let old = self.rows.get(&id);
                if !old.is_some_and(|old| old.node == row.node && old.is_removed) {
                    self.rows.insert(id, row);
                }
            }
            Request::Publish { claim, history } => {
                if claim.is_still_claimed(Some(self.charter)) || fence == Fence::Unclaimed {
                    let swarm = self.history(history).swarm;
                    self.opened.push((claim.generation, history));
                    self.charter = Row { is_open: true, swarm: Some(swarm), ..claim };
                    self.follow_founder(id);
                }
            }
            Request::Init
            | Request::Recreate
            | Request::StrikeOut { .. }
            | Request::Join { .. }
            | Request::Leave { .. } => panic!("that goes to Docker: {request:?}"),
        }
    }

    /// Makes the founder's history the published one: the founder may have re-created the quorum once more before its
    /// request arrived.
    pub(super) fn follow_founder(&mut self, founder: u8) {
        let seat = self.slot_of(founder).and_then(|slot| self.host(slot).seat);
        let Some(Seat { history, .. }) = seat.filter(|_| self.charter.is_open) else { return };
        let swarm = self.history(history).swarm;
        if let Some((_, opened)) = self.opened.last_mut()
            && self.charter.founder == founder
            && self.charter.swarm == Some(swarm)
        {
            *opened = history;
        }
    }

    fn claim(&mut self, id: u8, seen: Row, now: i64) {
        if !Row::is_as_seen(Some(seen), Some(self.charter), now) {
            return;
        }
        let lost = seen.swarm.or(seen.recovers);
        let is_there = |slot: u8| {
            let host = self.host(slot);
            let is_known = self.rows.contains_key(&host.id);
            let history = host.seat.map(|seat| seat.history);
            is_known && host.role == Role::Manager && history == Some(self.published())
        };
        self.wrongs.robbery |= lost.is_some() && self.slots().any(is_there);
        self.charter = Row {
            is_open: false,
            generation: seen.generation + 1,
            founder: id,
            lease_expires_at: now + LEASE.as_secs().cast_signed(),
            swarm: None,
            former: lost.or(seen.former),
            recovers: None,
        };
    }
}
