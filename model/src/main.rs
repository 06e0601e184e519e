//! `make model`: checks every model as deep as the time allows, and prints how deep that was.

use std::fmt::Debug;
use std::hash::Hash;
use std::process::ExitCode;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use clap::Parser;
use skep_model::departing::{self, Departing};
use skep_model::founding::{Fence, Founding};
use skep_model::recovering::{self, Recovering};
use stateright::{Checker, Expectation, Model};

/// skep's protocols under a model checker.
#[derive(Parser)]
struct Arguments {
    /// Time limit for all models together
    #[arg(long = "for", value_name = "DURATION", default_value = "10m", value_parser = humantime::parse_duration)]
    time: Duration,
}

fn main() -> ExitCode {
    let Arguments { time } = Arguments::parse();
    let quiet = Founding {
        managers: 3,
        workers: 2,
        crashes: 3,
        expiries: 3,
        terminations: 0,
        silences: 0,
        dim_looks: 2,
        fence: Fence::Held,
    };
    let losing = Founding {
        workers: 1,
        crashes: 1,
        expiries: 1,
        terminations: 3,
        silences: 2,
        ..quiet.clone()
    };
    let leaving = Departing {
        managers: 3,
        leaving: 3,
        replacements: 1,
        crashes: 1,
        expiries: 0,
        terminations: 1,
        outages: 0,
        hurries: 1,
        are_clocks_off: false,
        fence: departing::Fence::Held,
    };
    let disagreeing = Departing {
        managers: 4,
        replacements: 0,
        crashes: 1,
        expiries: 1,
        outages: 1,
        hurries: 0,
        are_clocks_off: true,
        ..leaving.clone()
    };
    let recovering = Recovering {
        managers: 3,
        lost: 1,
        workers: 1,
        recoveries: 2,
        crashes: 1,
        expiries: 1,
        terminations: 0,
        cuts: 1,
        outages: 0,
        adoptions: 1,
        dim_looks: 2,
        are_clocks_off: true,
        fence: recovering::Fence::Held,
    };
    let share = time / 5;
    let hold = [
        check("founding and joining: 3 managers, 2 workers", quiet, share),
        check("losing and founding anew: 3 managers, 1 worker", losing, share),
        check("departing: 3 managers, all leave", leaving, share),
        check("departing, clocks off: 3 of 4 managers leave", disagreeing, share),
        check("recovering: 1 of 3 managers lost, 1 worker", recovering, share),
    ];
    if hold.iter().all(|holds| *holds) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Checks one model for at most `time`, prints the result, and returns whether every property holds.
fn check<M>(what: &str, model: M, time: Duration) -> bool
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq + Send + Sync + 'static,
{
    let start = Instant::now();
    // A single thread never checks the timeout.
    let threads = available_parallelism().map_or(2, |cores| cores.get().max(2));
    let checker = model.checker().threads(threads).timeout(time).spawn_bfs().join();
    // Unless the time was over first, the checker has visited every state.
    let is_whole = start.elapsed() < time;
    let mut holds = true;
    for property in checker.model().properties() {
        let found = checker.discovery(property.name);
        match (property.expectation, found) {
            (Expectation::Sometimes, None) if is_whole => {
                println!("{what}: never seen: {}", property.name);
                holds = false;
            }
            (Expectation::Always | Expectation::Eventually, Some(path)) => {
                println!("{what}: does not hold: {}\n{path}", property.name);
                holds = false;
            }
            _ => {}
        }
    }
    let extent = if is_whole { "all there are" } else { "all that the time allowed" };
    println!(
        "{what}: {} unique states, depth {}, {extent}: {}",
        checker.unique_state_count(),
        checker.max_depth(),
        if holds { "everything holds" } else { "FAILED" }
    );
    holds
}
