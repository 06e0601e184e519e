//! The events that can happen, in every order, and the properties that must hold throughout.

use stateright::{Model, Property};

use super::look::Decision;
use super::{Action, Death, Departing, Life, Manager, Raft, Request, Time, World};
use crate::clock::Clock;

impl Departing {
    /// Adds the actions of one manager, and those of Docker and the other managers on it.
    fn moves(&self, world: &World, one: usize, actions: &mut Vec<Action>) {
        let manager = &world.managers[one];
        match manager.decided {
            Some(_) => actions.push(Action::Act(one)),
            None if manager.is_leaving() => {
                let learns = manager.has_forgotten && world.ours(one).is_yes();
                if learns || !matches!(world.decide(one, self.fence), Decision::Wait) {
                    actions.push(Action::Look(one));
                }
            }
            None => {}
        }
        if manager.decided.is_none() && world.is_to_reopen(one, self.fence) {
            actions.push(Action::Look(one));
        }
        if manager.decided.is_none() && manager.life == Life::Serving && one < self.leaving {
            actions.push(Action::Tell(one));
        }
        if world.can_follow(one) {
            actions.push(Action::RaftFollows(one));
        }
        if manager.raft == Raft::Dropped {
            actions.push(Action::Hears(one));
        }
        if world.is_served(one) {
            actions.push(Action::Serve(one));
        }
        if manager.is_member() && !manager.votes() && manager.death != Death::Seen {
            actions.push(Action::Notice(one));
        }
        if world.is_to_be_buried(one) {
            let idle = |by: &usize| world.managers[*by].decided.is_none();
            let helpers = (0..world.managers.len()).filter(|by| world.can_help(*by, one));
            actions.extend(helpers.filter(idle).map(|by| Action::Bury { by, dead: one }));
        }
        if world.is_to_be_swept(one) {
            actions.push(Action::Sweep(one));
        }
    }

    /// Adds the faults that can happen to one manager.
    fn troubles(&self, world: &World, one: usize, actions: &mut Vec<Action>) {
        let (manager, spent) = (&world.managers[one], &world.spent);
        if !manager.is_alive() {
            return;
        }
        if spent.crashes < self.crashes {
            if manager.decided.is_some() {
                actions.extend([Action::Crash(one), Action::CrashInMidRequest(one)]);
            } else if Self::forgets(manager) && !manager.has_forgotten {
                actions.push(Action::Crash(one));
            }
        }
        if manager.is_leaving() && spent.hurries < self.hurries {
            if !manager.is_impatient {
                actions.push(Action::PatienceEnds(one));
            }
            if manager.time != Time::Over {
                actions.push(Action::TimeRunsOut(one));
            }
        }
        if spent.terminations < self.terminations {
            actions.push(Action::Terminate(one));
        }
        if spent.outages < self.outages {
            actions.push(Action::Outage(one));
        }
    }

    /// Whether a skep that restarts in its departure loses its knowledge of whose swarm it is in. If it can reach the
    /// ledger, it reads this there, and the restart changes nothing.
    fn forgets(manager: &Manager) -> bool {
        manager.is_leaving() && manager.in_swarm && manager.is_cut_off
    }

    /// Whether a manager can join. Not once the last manager has decided to close the charter or to leave: it has
    /// waited for minutes, and acts at once after its observation.
    fn may_join(&self, world: &World) -> bool {
        let closes =
            |one: &Manager| matches!(one.decided, Some(Request::CloseCharter | Request::LeaveLast));
        world.spent.replacements < self.replacements
            && world.is_open
            && world.has_quorum()
            && !world.managers.iter().any(closes)
    }
}

impl Model for Departing {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        for one in 0..world.managers.len() {
            self.moves(world, one, actions);
            self.troubles(world, one, actions);
        }
        actions.extend((0..world.late.len()).map(Action::Arrive));
        // Raft carries out a possible demotion in less time than a lease lasts.
        let is_done = (0..world.managers.len()).all(|one| !world.can_follow(one));
        if world.turn.is_some() && is_done && world.spent.expiries < self.expiries {
            actions.push(Action::LeaseRunsOut);
        }
        if self.may_join(world) {
            actions.push(Action::Join);
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        match action {
            Action::Tell(one) => next.tell(one),
            Action::Look(one) => next.look_around(one, self.fence),
            Action::Act(one) => {
                let request = next.managers[one].decided.take()?;
                next.send(one, request, self.fence);
            }
            Action::Crash(one) | Action::CrashInMidRequest(one) => {
                let request = next.managers[one].decided.take();
                if action == Action::CrashInMidRequest(one) {
                    next.late.push(request?);
                }
                next.managers[one].has_forgotten |= Self::forgets(&world.managers[one]);
                next.spent.crashes += 1;
            }
            Action::Arrive(index) => {
                let request = next.late.remove(index);
                next.arrive(request);
            }
            Action::RaftFollows(one) => next.raft_follows(one),
            Action::Hears(one) => next.managers[one].raft = Raft::Out,
            Action::Serve(one) => next.serve(one),
            Action::Bury { by, dead } => next.bury(by, dead),
            Action::Sweep(one) => next.sweep(one),
            Action::Notice(one) => next.managers[one].death = Death::Seen,
            Action::LeaseRunsOut => {
                next.spent.expiries += 1;
                next.see_the_dead();
            }
            Action::PatienceEnds(one) => {
                next.spent.hurries += 1;
                next.managers[one].is_impatient = true;
            }
            Action::TimeRunsOut(one) => {
                next.spent.hurries += 1;
                next.managers[one].time = match world.managers[one].time {
                    Time::Ample => Time::LeaveDue,
                    Time::LeaveDue | Time::Over => Time::Over,
                };
            }
            Action::Terminate(one) => {
                next.spent.terminations += 1;
                next.end(one, Life::Terminated);
            }
            Action::Outage(one) => {
                next.spent.outages += 1;
                next.managers[one].is_cut_off = !world.managers[one].is_cut_off;
            }
            Action::Join => {
                next.spent.replacements += 1;
                next.managers.push(Manager::new(Clock::Right));
            }
        }
        (next != *world).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("the quorum is lost by deaths alone", |_, world: &World| {
                world.has_quorum() || !world.has_lost_a_minority()
            }),
            Property::always(
                "nobody is removed on a look from before a death",
                |_, world: &World| !world.wrongs.blind_removal,
            ),
            Property::always("no member of raft leaves but the last", |_, world: &World| {
                !world.wrongs.desertion
            }),
            Property::always("the charter is closed by the last manager", |_, world: &World| {
                !world.wrongs.early_close
            }),
            Property::always(
                "with no more trouble the charter is open over a swarm that lives",
                |model, world: &World| world.ends_open(model.fence),
            ),
            Property::always(
                "with no more trouble every departure ends",
                |model, world: &World| world.settles(model.fence),
            ),
            Property::always(
                "who cannot tell whose swarm it is in changes nothing in it",
                |_, world: &World| !world.wrongs.in_doubt,
            ),
            Property::sometimes("a manager goes in good order", |_, world: &World| {
                world.managers.iter().any(|one| one.life == Life::Gone && one.raft == Raft::Out)
            }),
            Property::sometimes("the last one closes the charter", |_, world: &World| {
                !world.is_open
            }),
        ]
    }
}
