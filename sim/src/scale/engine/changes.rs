//! Makes changes of the swarm at swarmkit's pace: init, join, leave, updates of nodes.

use std::net::Ipv4Addr;

use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until};

use super::model::{Left, Place, Plan, State, availability};
use super::refusal::Refusal;
use super::{Engines, identity, pace};

impl Engines {
    /// Founds a swarm; returns the founder's node id as JSON.
    pub(super) async fn init(&self, address: Ipv4Addr, request: &Value) -> Result<String, Refusal> {
        if self.world().host(address)?.place != Place::Out {
            return Err(Refusal::already_in_swarm());
        }
        // Taken now: a second request is refused meanwhile.
        self.world().set_place(address, Place::Joining(0));
        sleep(pace::INIT).await;
        let founded = self.world().init(address, request);
        let node = founded.map_err(|error| Refusal::internal(&error))?;
        self.open_port(address).map_err(|error| Refusal::internal(&error))?;
        Ok(json!(node).to_string())
    }

    /// Joins; Docker stops waiting after [`pace::JOIN_PATIENCE`], and the join goes on.
    pub(super) async fn join(&self, address: Ipv4Addr, request: &Value) -> Result<(), Refusal> {
        let plan = self.world().begin_join(address, request)?;
        let (tell, joined) = oneshot::channel();
        let (this, availability) = (self.clone(), availability(request));
        self.shared.runtime.spawn(async move {
            // Nobody waits any more after a time-out.
            let _ = tell.send(this.carry_out(address, plan, &availability).await);
        });
        match tokio::time::timeout(pace::JOIN_PATIENCE, joined).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(Refusal::no_host()),
            Err(_) => Err(Refusal::join_goes_on()),
        }
    }

    async fn carry_out(
        &self,
        address: Ipv4Addr,
        plan: Plan,
        availability: &str,
    ) -> Result<(), Refusal> {
        let (attempt, swarm, is_manager) = match plan {
            Plan::Refused { attempt, refusal } => {
                sleep(pace::JOIN_REFUSAL).await;
                let mut world = self.world();
                if world.host(address)?.place == Place::Joining(attempt) {
                    world.set_place(address, Place::Out);
                }
                return Err(refusal);
            }
            Plan::Worker { attempt, swarm } => {
                sleep(pace::within(pace::JOINING)).await;
                if self.is_joining(address, attempt) {
                    self.shared.leader.serve(pace::WORKER_JOIN).await;
                }
                (attempt, swarm, false)
            }
            Plan::Manager { attempt, swarm } => {
                let _turn = self.shared.manager_joins.lock().await;
                if self.is_joining(address, attempt) {
                    sleep(pace::MANAGER_JOIN).await;
                }
                (attempt, swarm, true)
            }
        };
        let admitted = self.world().admit(address, attempt, &swarm, is_manager, availability);
        let Some(node) = admitted.map_err(|error| Refusal::internal(&error))? else {
            return Err(Refusal::not_in_swarm());
        };
        if is_manager {
            self.open_port(address).map_err(|error| Refusal::internal(&error))?;
        }
        let this = self.clone();
        self.shared.runtime.spawn(async move {
            // The next batch is due at a time that does not depend on this node.
            let batch = u64::try_from(pace::STATUS_BATCH.as_millis()).unwrap_or_default();
            sleep(pace::within(0..=batch)).await;
            this.set_ready(&swarm, &node, address);
        });
        Ok(())
    }

    fn is_joining(&self, address: Ipv4Addr, attempt: u64) -> bool {
        let world = self.world();
        world.host(address).is_ok_and(|host| host.place == Place::Joining(attempt))
    }

    fn set_ready(&self, swarm: &str, node: &str, address: Ipv4Addr) {
        let mut world = self.world();
        let is_there = world
            .hosts
            .get(&address)
            .is_some_and(|host| matches!(&host.place, Place::In { node: own, .. } if own == node));
        if is_there && let Some(swarm) = world.swarms.get_mut(swarm) {
            swarm.set_state(node, State::Ready);
        }
    }

    pub(super) async fn leave(&self, address: Ipv4Addr, force: bool) -> Result<(), Refusal> {
        self.world().may_leave(address, force)?;
        let is_in = matches!(self.world().host(address)?.place, Place::In { .. });
        if is_in {
            sleep(pace::within(pace::LEAVING)).await;
        }
        let left = self.world().leave(address);
        self.close_port(address);
        if let Some(left) = left {
            self.miss_heartbeats(left);
        }
        Ok(())
    }

    /// Lists a node as down once its managers have missed its heartbeats.
    pub(super) fn miss_heartbeats(&self, left: Left) {
        let this = self.clone();
        self.shared.runtime.spawn(async move {
            sleep(pace::within(pace::DOWN_AFTER)).await;
            if let Some(swarm) = this.world().swarms.get_mut(&left.swarm) {
                swarm.set_state(&left.node, State::Down);
            }
        });
    }

    pub(super) async fn update(
        &self,
        address: Ipv4Addr,
        id: &str,
        version: u64,
        spec: Value,
    ) -> Result<(), Refusal> {
        self.world().served_by(address)?;
        self.shared.leader.serve(pace::WRITE).await;
        let (swarm, is_demotion) = {
            let mut world = self.world();
            let swarm = world.served_by(address)?;
            (swarm.id.clone(), swarm.update(id, version, spec)?)
        };
        if is_demotion {
            let (this, id) = (self.clone(), id.to_owned());
            self.shared.runtime.spawn(async move { this.demote(&swarm, &id).await });
        }
        Ok(())
    }

    async fn demote(&self, swarm: &str, id: &str) {
        let shown_at = Instant::now() + pace::DEMOTION_SHOWN;
        sleep_until(shown_at).await;
        let (was_leader, address) = {
            let mut world = self.world();
            let Some(swarm) = world.swarms.get_mut(swarm) else { return };
            let Some(address) = swarm.nodes.get(id).map(|node| node.address) else { return };
            (swarm.remove_member(id), address)
        };
        let done =
            if was_leader { pace::within(pace::LEADER_DEMOTION_DONE) } else { pace::DEMOTION_DONE };
        sleep_until(shown_at + done).await;
        if let Err(error) = self.world().set_manager(address, id, false) {
            tracing::error!("cannot demote {id}: {error:#}");
        }
        self.close_port(address);
    }

    pub(super) async fn respecify(
        &self,
        address: Ipv4Addr,
        version: u64,
        spec: Value,
        rotated: [bool; 2],
    ) -> Result<(), Refusal> {
        self.world().served_by(address)?;
        self.shared.leader.serve(pace::WRITE).await;
        let secrets = rotated.map(|is_new| is_new.then(|| identity::id(&mut fastrand::Rng::new())));
        self.world().served_by(address)?.respecify(version, spec, secrets)
    }
}
