//! The events that can happen, in every order, and the properties that must hold throughout.

use skep::lifecycle::boot::Step;
use stateright::{Model, Property};

use super::{Action, Founding, World};
use crate::sight::Sight;

impl Founding {
    /// Adds the observations that lack an answer and lead to another decision than a clear one.
    fn dim_looks(&self, world: &World, slot: u8, actions: &mut Vec<Action>) {
        if world.dim_looks >= self.dim_looks {
            return;
        }
        let clear = world.write(slot, self.fence, Sight::Clear);
        let differs = |sight: &Sight| {
            let dim = world.write(slot, self.fence, *sight);
            dim.is_some() && dim != clear
        };
        let dim = Sight::DIM.into_iter().filter(differs);
        actions.extend(dim.map(|sight| Action::LookDimly { slot, sight }));
    }
}

impl Model for Founding {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        for slot in world.slots() {
            match world.host(slot).decided {
                None => {
                    if world.write(slot, self.fence, Sight::Clear).is_some() {
                        actions.push(Action::Look(slot));
                    }
                    self.dim_looks(world, slot, actions);
                }
                Some(_) => {
                    actions.push(Action::Act(slot));
                    if world.crashes < self.crashes {
                        actions.push(Action::Crash(slot));
                        actions.push(Action::CrashInMidRequest(slot));
                    }
                }
            }
            if world.terminations < self.terminations {
                actions.push(Action::Terminate(slot));
            }
            if world.silences < self.silences {
                actions.push(Action::Silence(slot));
            }
        }
        actions.extend((0..world.late.len()).map(Action::Arrive));
        if world.expiries < self.expiries {
            actions.push(Action::LeaseRunsOut);
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        let id = |slot: u8| world.host(slot).id;
        match action {
            Action::Look(slot) => {
                let decided = world.write(slot, self.fence, Sight::Clear);
                next.hosts[usize::from(slot)].decided = decided;
            }
            Action::LookDimly { slot, sight } => {
                next.dim_looks += 1;
                next.hosts[usize::from(slot)].decided = world.write(slot, self.fence, sight);
            }
            Action::Act(slot) => {
                let write = next.hosts[usize::from(slot)].decided.take()?;
                next.arrive(id(slot), write, self.fence);
            }
            Action::Crash(slot) => {
                next.hosts[usize::from(slot)].decided.take()?;
                next.crashes += 1;
            }
            Action::CrashInMidRequest(slot) => {
                let write = next.hosts[usize::from(slot)].decided.take()?;
                next.late.push((id(slot), write));
                next.crashes += 1;
            }
            Action::Arrive(index) => {
                let (id, write) = next.late.remove(index);
                next.arrive(id, write, self.fence);
            }
            Action::LeaseRunsOut => next.expiries += 1,
            Action::Terminate(slot) => next.terminate(slot),
            Action::Silence(slot) => {
                next.silences += 1;
                let host = &mut next.hosts[usize::from(slot)];
                host.is_silent = !host.is_silent;
            }
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one swarm per generation is published", |_, world: &World| {
                let opened = &world.opened;
                opened.iter().all(|open| opened.iter().all(|it| it.0 != open.0 || it == open))
            }),
            Property::always(
                "none is given up while a manager of it is there",
                |_, world: &World| !world.has_robbed,
            ),
            Property::always("nobody joins a swarm that was not published", |_, world: &World| {
                (0u8..).take(world.swarms.len()).all(|swarm| {
                    !world.has_joiners(swarm) || world.opened.iter().any(|open| open.1 == swarm)
                })
            }),
            Property::always("two swarms never have managers and joiners", |_, world: &World| {
                let is_alive = |swarm: &u8| {
                    world.has_joiners(*swarm) && world.managers_of(*swarm).next().is_some()
                };
                (0u8..).take(world.swarms.len()).filter(is_alive).count() <= 1
            }),
            Property::always("nobody is refused", |model, world: &World| {
                let dim = &Sight::DIM[..if model.dim_looks > 0 { Sight::DIM.len() } else { 0 }];
                let is_refused =
                    |slot, sight| matches!(world.step(slot, model.fence, sight), Step::Refuse(_));
                let mut sights = dim.iter().chain(&[Sight::Clear]);
                !sights.any(|sight| world.slots().any(|slot| is_refused(slot, *sight)))
            }),
            Property::always("with no more trouble all become Ready", |model, world: &World| {
                world.settles(model.fence)
            }),
            Property::sometimes("a claim is taken over", |_, world: &World| {
                world.charter.is_some_and(|row| row.generation > 1)
            }),
            Property::sometimes("somebody joins", |_, world: &World| {
                (0u8..).take(world.swarms.len()).any(|swarm| world.has_joiners(swarm))
            }),
        ]
    }
}
