//! The events that can happen, in every order, and the properties that must hold throughout.

use skep::common::instance::Role;
use skep::lifecycle::boot::Step;
use stateright::{Model, Property};

use super::{Action, Host, Recovering, Request, World};
use crate::sight::Sight;

impl Request {
    fn is_for_the_ledger(self) -> bool {
        matches!(
            self,
            Self::Claim { .. }
                | Self::ClaimRecovery { .. }
                | Self::Record { .. }
                | Self::Publish { .. }
        )
    }
}

impl Recovering {
    /// Adds skep's actions on this host, if it can reach the ledger.
    fn moves(&self, world: &World, slot: u8, actions: &mut Vec<Action>) {
        let Host { decided, serves, role, is_mute, .. } = *world.host(slot);
        if is_mute {
            return;
        }
        if decided.is_some() {
            actions.push(Action::Act(slot));
            if world.spent.crashes < self.crashes {
                actions.extend([Action::Crash(slot), Action::CrashInMidRequest(slot)]);
            }
            return;
        }
        self.dim_looks(world, slot, actions);
        if serves.is_some() {
            if world.is_out(slot, self.fence, Sight::Clear) || world.wanted_row(slot).is_some() {
                actions.push(Action::Care(slot));
            }
        } else {
            match world.step(slot, self.fence, Sight::Clear) {
                Step::Wait { .. } | Step::Refuse(_) => {}
                Step::Join { .. } => {
                    let doors = world.doors(slot).into_iter();
                    actions.extend(doors.map(|through| Action::LookFor { slot, through }));
                }
                _ => actions.push(Action::Look(slot)),
            }
        }
        if role == Role::Manager
            && world.spent.recoveries < self.recoveries
            && world.may_recover(slot, self.fence, Sight::Clear)
        {
            actions.push(Action::Recover(slot));
        }
        if world.may_bury(slot) {
            actions.push(Action::Bury(slot));
        }
        if world.may_mark(slot) {
            actions.push(Action::Mark(slot));
        }
    }

    /// Adds the observations that lack an answer and lead to another decision than a clear one.
    fn dim_looks(&self, world: &World, slot: u8, actions: &mut Vec<Action>) {
        if world.spent.dim_looks >= self.dim_looks {
            return;
        }
        let Host { serves, role, .. } = *world.host(slot);
        let is_due = role == Role::Manager && world.spent.recoveries < self.recoveries;
        for sight in Sight::DIM {
            let is_news = |is_it: &dyn Fn(Sight) -> bool| is_it(sight) && !is_it(Sight::Clear);
            if serves.is_some() {
                if is_news(&|sight| world.is_out(slot, self.fence, sight)) {
                    actions.push(Action::CareDimly { slot, sight });
                }
            } else {
                let dim = world.step(slot, self.fence, sight);
                let is_idle =
                    matches!(dim, Step::Wait { .. } | Step::Refuse(_) | Step::Join { .. });
                if !is_idle && dim != world.step(slot, self.fence, Sight::Clear) {
                    actions.push(Action::LookDimly { slot, sight });
                }
            }
            if is_due && is_news(&|sight| world.may_recover(slot, self.fence, sight)) {
                actions.push(Action::RecoverDimly { slot, sight });
            }
        }
    }

    /// Adds Docker's actions and the faults that can happen to this host.
    fn troubles(&self, world: &World, slot: u8, actions: &mut Vec<Action>) {
        let spent = &world.spent;
        if world.next_history(slot).is_some() {
            match world.host(slot).role {
                Role::Manager => {
                    let may = !world.is_hurried() && !world.is_overlooked(slot);
                    if may && spent.adoptions < self.adoptions {
                        actions.push(Action::Adopt(slot));
                    }
                }
                Role::Worker => actions.push(Action::Follow(slot)),
            }
        }
        if spent.terminations < self.lost + self.terminations {
            actions.push(Action::Terminate(slot));
        }
        if spent.cuts < self.cuts {
            actions.push(Action::Cut(slot));
        }
        if spent.outages < self.outages {
            actions.push(Action::Outage(slot));
        }
    }
}

impl Model for Recovering {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        for slot in world.slots() {
            self.moves(world, slot, actions);
            self.troubles(world, slot, actions);
        }
        actions.extend((0..world.late.len()).map(Action::Arrive));
        if !world.charter.is_open && world.spent.expiries < self.expiries {
            actions.push(Action::LeaseRunsOut);
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        match action {
            Action::Look(slot) => next.look(slot, None, self.fence, Sight::Clear),
            Action::LookFor { slot, through } => {
                next.look(slot, Some(through), self.fence, Sight::Clear);
            }
            Action::Care(slot) => next.care(slot, self.fence, Sight::Clear),
            Action::LookDimly { slot, sight } => {
                next.spent.dim_looks += 1;
                next.look(slot, None, self.fence, sight);
            }
            Action::CareDimly { slot, sight } => {
                next.spent.dim_looks += 1;
                next.care(slot, self.fence, sight);
            }
            Action::Recover(slot) => {
                next.spent.recoveries += 1;
                next.recover(slot);
            }
            Action::RecoverDimly { slot, .. } => {
                next.spent.dim_looks += 1;
                next.spent.recoveries += 1;
                next.recover(slot);
            }
            Action::Act(slot) => {
                let request = next.host_mut(slot).decided.take()?;
                next.send(slot, request, self.fence);
            }
            Action::Crash(slot) => {
                next.spent.crashes += 1;
                let host = next.host_mut(slot);
                (host.decided, host.serves) = (None, None);
            }
            Action::CrashInMidRequest(slot) => {
                next.spent.crashes += 1;
                let request = next.host_mut(slot).decided.take()?;
                if request.is_for_the_ledger() {
                    next.late.push((world.host(slot).id, request));
                } else {
                    next.send(slot, request, self.fence);
                }
                let host = next.host_mut(slot);
                (host.decided, host.serves) = (None, None);
            }
            Action::Arrive(index) => {
                let (id, request) = next.late.remove(index);
                next.arrive(id, request, self.fence);
            }
            Action::LeaseRunsOut => next.spent.expiries += 1,
            Action::Terminate(slot) => next.terminate(slot),
            Action::Cut(slot) => {
                next.spent.cuts += 1;
                let host = next.host_mut(slot);
                host.is_away = !host.is_away;
            }
            Action::Outage(slot) => {
                next.spent.outages += 1;
                let host = next.host_mut(slot);
                host.is_mute = !host.is_mute;
            }
            Action::Adopt(slot) => {
                next.spent.adoptions += 1;
                next.move_on(slot);
            }
            Action::Follow(slot) => next.move_on(slot),
            Action::Bury(slot) => next.bury(slot),
            Action::Mark(slot) => next.mark(slot),
        }
        (next != *world).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one history per generation is published", |_, world: &World| {
                let opened = &world.opened;
                opened.iter().all(|open| opened.iter().all(|it| it.0 != open.0 || it == open))
            }),
            Property::always("no recovery begins beside a known quorum", |_, world: &World| {
                !world.wrongs.against_quorum
            }),
            Property::always(
                "none is given up while a manager of it is there",
                |_, world: &World| !world.wrongs.robbery,
            ),
            Property::always(
                "a manager is Ready in the history that was published, and in no other",
                |_, world: &World| !world.wrongs.stray,
            ),
            Property::always("nobody leaves the charter's own raft", |_, world: &World| {
                !world.wrongs.desertion
            }),
            Property::always("nobody is refused", |model, world: &World| {
                let is_refused = |slot| {
                    let boots = world.host(slot).serves.is_none();
                    let step = world.step(slot, model.fence, Sight::Clear);
                    boots && matches!(step, Step::Refuse(_))
                };
                !world.slots().any(is_refused)
            }),
            Property::always(
                "with no more trouble all end in one swarm",
                |model, world: &World| world.settles(model.fence),
            ),
            Property::sometimes("a quorum is re-created", |_, world: &World| {
                world.charter.is_open && world.charter.recovers.is_some()
            }),
            Property::sometimes("a recovery is taken over", |_, world: &World| {
                world.opened.iter().any(|open| open.0 == 3 && world.charter.recovers.is_some())
            }),
        ]
    }
}
