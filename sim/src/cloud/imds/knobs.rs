//! What a test can make of one instance's metadata service.

use std::time::Duration;

use fastrand::Rng;

use crate::cloud::faults::Fate;
use crate::cloud::{Cloud, lock};

/// The settings behind the handle.
pub(super) struct Knobs {
    /// The service is switched off in the instance's options: 403 for everything.
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

    /// The fate of the next request, and how much longer it takes.
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

/// A handle to the knobs of one instance's metadata. They go with the instance.
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

    /// 403 for everything, or back on.
    pub fn switch_off(&self, off: bool) -> &Self {
        self.set(|node| node.knobs.off = off)
    }

    /// Every token that was given out is refused from now on.
    pub fn invalidate_tokens(&self) -> &Self {
        self.set(|node| node.tokens.clear())
    }

    /// Every answer takes this much longer.
    pub fn latency(&self, latency: Duration) -> &Self {
        self.set(|node| node.knobs.latency = latency)
    }

    /// 500 for the next requests.
    pub fn fail_next(&self, requests: u32) -> &Self {
        self.set(|node| node.knobs.fail_next = requests)
    }

    /// 500 with this probability, from 0 to 1.
    pub fn fail_probability(&self, probability: f64) -> &Self {
        self.set(|node| node.knobs.fail_probability = probability)
    }

    /// Connections are closed without an answer, or served again.
    pub fn drop_connections(&self, drop: bool) -> &Self {
        self.set(|node| node.knobs.drop_connections = drop)
    }

    /// Everything as it was at first; tokens stay.
    pub fn reset(&self) -> &Self {
        self.set(|node| node.knobs = Knobs::new(0))
    }
}
