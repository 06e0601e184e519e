//! The start of every scenario: a cloud, and instances that run the `skep` of this build.

pub mod browser;
pub mod departures;
pub mod gate;
pub mod nodes;
pub mod policies;
pub mod quorum;
pub mod seen;
pub mod services;
pub mod signed;
pub mod swarm;
pub mod terminal;
pub mod trouble;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use skep_sim::fleet::{Fleet, FleetOptions};

/// Timeout for anything that happens soon in the good case. Nothing is measured by it: the scenarios share two cores,
/// which may stand still for half a minute.
pub const PATIENCE: Duration = secs(420);

/// `n` seconds.
#[must_use]
pub const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// The `skep` beside this test binary (`make test` builds it first), or the one that `SKEP_BIN` names.
///
/// # Panics
/// When it does not exist.
#[must_use]
pub fn skep_binary() -> PathBuf {
    let path = std::env::var_os("SKEP_BIN").map_or_else(
        || {
            let test = std::env::current_exe().expect("this test has a path");
            test.ancestors().nth(2).expect("it is in target/<profile>/deps").join("skep")
        },
        PathBuf::from,
    );
    assert!(path.exists(), "{} is not there: run `make test`", path.display());
    path
}

/// Options for a fleet whose instances run this build's skep, on the machine's own Docker Engine or on
/// another one.
#[must_use]
pub fn options() -> FleetOptions {
    let engine = second_engine();
    let mut daemon = serde_json::Map::new();
    // No scenario reaches a published port. A daemon's hundred calls of iptables are a sixth of the cost of a node, the
    // network for such ports a quarter. Docker has both on the second engine, in the demo, in `make chaos` and on
    // booted machines.
    let ingress = engine.is_some();
    if !ingress {
        daemon.insert("iptables".to_owned(), false.into());
    }
    FleetOptions {
        skep: Some(skep_binary()),
        engine,
        one_swarm: true,
        ingress,
        daemon,
        ..FleetOptions::default()
    }
}

/// The folder of another Docker Engine's programs: `SKEP_ENGINE`, and for the tests of `engine.rs` the one that
/// `scripts/second-engine.sh` has unpacked.
///
/// # Panics
/// When it is missing.
#[must_use]
pub fn second_engine() -> Option<PathBuf> {
    let named = std::env::var_os("SKEP_ENGINE").map(PathBuf::from);
    named.or_else(|| {
        let test = std::env::current_exe().expect("this test has a path");
        test.file_name().filter(|name| name.to_string_lossy().starts_with("engine-"))?;
        let target = test.ancestors().nth(3).expect("it is in target/<profile>/deps");
        let engine = target.join("engine/bin");
        assert!(engine.is_dir(), "run scripts/second-engine.sh first");
        Some(engine)
    })
}

/// Names of the clusters that scenarios create.
const CLUSTERS: [&str; 3] = ["test", "demo", "chaos"];

/// A fleet without instances. The roles of its clusters have the template's permissions, and no more: a policy that
/// grants too little makes scenarios fail.
///
/// # Errors
/// When the machine lacks a part that a fleet needs, or the template's test has not run.
pub async fn fleet(options: FleetOptions) -> anyhow::Result<Fleet> {
    let fleet = Fleet::start(options).await.context("the fleet did not start")?;
    policies::enforce(fleet.cloud(), &CLUSTERS, &policies::STORES)?;
    Ok(fleet)
}
