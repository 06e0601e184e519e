//! Settings with which a test disturbs one instance's metadata service.

use std::time::Duration;

use fastrand::Rng;

use crate::cloud::faults::Fate;
use crate::cloud::{Cloud, lock};

/// The settings behind the handle.
pub(super) struct Knobs {
    /// The instance's options switch the service off: 403 for every request.
    pub off: bool,
    latency: Duration,
    fail_next: u32,
    fail_probability: f64,
    drop_connections: bool,
    random: Rng,
}

impl Knobs {
    pub fn new(seed: u64) -> Self {
        Self {
            off: false,
            latency: Duration::ZERO,
            fail_next: 0,
            fail_probability: 0.0,
            drop_connections: false,
            random: Rng::with_seed(seed),
        }
    }

    /// Returns the fate of the next request, and its additional latency.
    pub fn draw(&mut self) -> (Fate, Duration) {
        let drawn = self.random.f64() < self.fail_probability;
        let fate = if self.drop_connections {
            Fate::Dropped
        } else if self.fail_next > 0 {
            self.fail_next -= 1;
            Fate::Failed
        } else if drawn {
            Fate::Failed
        } else {
            Fate::Served
        };
        (fate, self.latency)
    }
}

/// A handle to the settings of one instance's metadata service. They end with the instance.
pub struct ImdsKnobs {
    cloud: Cloud,
    instance_id: String,
}

impl ImdsKnobs {
    pub(crate) fn new(cloud: Cloud, instance_id: &str) -> Self {
        Self { cloud, instance_id: instance_id.to_owned() }
    }

    fn set(&self, set: impl FnOnce(&mut super::Node)) -> &Self {
        let mut state = lock(&self.cloud.inner.state);
        set(state.metadata.node(&self.instance_id));
        self
    }

    /// Switches the service off (403 for every request) or on again.
    pub fn switch_off(&self, off: bool) -> &Self {
        self.set(|node| node.knobs.off = off)
    }

    /// Invalidates every token that was issued so far.
    pub fn invalidate_tokens(&self) -> &Self {
        self.set(|node| node.tokens.clear())
    }

    /// Delays every answer by this time.
    pub fn latency(&self, latency: Duration) -> &Self {
        self.set(|node| node.knobs.latency = latency)
    }

    /// Answers the next requests with 500.
    pub fn fail_next(&self, requests: u32) -> &Self {
        self.set(|node| node.knobs.fail_next = requests)
    }

    /// Answers with 500 with this probability, from 0 to 1.
    pub fn fail_probability(&self, probability: f64) -> &Self {
        self.set(|node| node.knobs.fail_probability = probability)
    }

    /// Closes connections without an answer, or serves them again.
    pub fn drop_connections(&self, drop: bool) -> &Self {
        self.set(|node| node.knobs.drop_connections = drop)
    }

    /// Restores all settings; tokens stay.
    pub fn reset(&self) -> &Self {
        self.set(|node| node.knobs = Knobs::new(0))
    }
}
