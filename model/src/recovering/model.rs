//! What may happen in which order, and what must hold throughout.

use skep::boot::Step;
use skep::instance::Role;
use stateright::{Model, Property};

use super::{Action, Host, Recovering, Request, World};

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
    /// What skep does there, with the ledger within its reach.
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
        if serves.is_some() {
            if world.is_out(slot, self.fence) || world.wanted_row(slot).is_some() {
                actions.push(Action::Care(slot));
            }
        } else {
            match world.step(slot, self.fence) {
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
            && world.may_recover(slot, self.fence)
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

    /// What the world does to it.
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
            Action::Look(slot) => next.look(slot, None, self.fence),
            Action::LookFor { slot, through } => next.look(slot, Some(through), self.fence),
            Action::Care(slot) => next.care(slot, self.fence),
            Action::Recover(slot) => {
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
                    boots && matches!(world.step(slot, model.fence), Step::Refuse(_))
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
