//! `skep-sim chaos`: random faults by seed on a fleet of real daemons, judged from outside after every round.
//!
//! A round is a [`plan`] that is [drawn](draw) from its seed. [`perform`] applies it to the fleet, [`settle`] heals
//! everything and waits until the fleet is whole, and [`judge`] lists the violations from the records of
//! [`crate::witness`] and [`observe`]. [`experiments`] are plans with a name, [`shrink`] searches for the shortest plan
//! that still fails, and [`soak`] is a long run with many departures.

mod draw;
mod experiments;
mod judge;
mod observe;
mod perform;
pub mod plan;
pub mod round;
mod rows;
mod settle;
mod shrink;
mod soak;

use std::cell::RefCell;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Args;
use futures_util::future::try_join_all;

use crate::fleet::FleetOptions;
use crate::stage::{self, Mark, Style};
use crate::witness::tale::Tale;
use plan::{Plan, Profile};
use round::Outcome;

#[derive(Debug, Args)]
pub struct Arguments {
    /// Rounds to play
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seed of the campaign [default: random]
    #[arg(long)]
    seed: Option<u64>,
    /// Severity of the faults
    #[arg(long, value_enum, default_value_t = Profile::Soft)]
    profile: Profile,
    /// Number of fleets that run at the same time; they share the rounds
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4))]
    fleets: u32,
    /// Play the named experiments instead, or only those whose name contains WORD
    #[arg(long, value_name = "WORD", num_args = 0..=1, default_missing_value = "", conflicts_with_all = ["replay", "shrink", "soak"])]
    experiments: Option<String>,
    /// Play one round again, by its name, such as soft-1-17, or its file
    #[arg(long, value_name = "ROUND", conflicts_with_all = ["shrink", "soak"])]
    replay: Option<String>,
    /// Find the shortest part of a round that still fails, by its name or its file
    #[arg(long, value_name = "ROUND", conflicts_with = "soak")]
    shrink: Option<String>,
    /// Let a node leave every minute for this time, such as 2h, and check that resource usage does not grow
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    soak: Option<Duration>,
    /// Print everything that happens
    #[arg(long, short)]
    verbose: bool,
    /// The skep binary [default: the one beside this program]
    #[arg(long, value_name = "FILE")]
    skep: Option<PathBuf>,
    /// Directory of another Docker engine
    #[arg(long, value_name = "DIRECTORY")]
    engine: Option<PathBuf>,
    /// Directory for the file of each round
    #[arg(long, value_name = "DIRECTORY", default_value_os_t = stage::output_dir("chaos"))]
    out: PathBuf,
}

/// Plays a campaign.
///
/// # Errors
/// Names the rounds with violations, or the reason why the campaign could not be played.
pub async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let _lock = lock(&arguments.out)?;
    if let Some(length) = arguments.soak {
        return soak::run(arguments, length).await;
    }
    if let Some(round) = &arguments.shrink {
        return shrink::run(arguments, find(round)?).await;
    }
    let seed = arguments.seed.unwrap_or_else(|| u64::from(fastrand::u16(..)));
    let plans: Vec<Plan> = match (&arguments.experiments, &arguments.replay) {
        (Some(word), _) => {
            let all = experiments::all().into_iter();
            all.filter(|plan| plan.name.contains(word.as_str())).collect()
        }
        (None, Some(round)) => vec![find(round)?],
        (None, None) => {
            (1..=arguments.rounds).map(|round| Plan::draw(arguments.profile, seed, round)).collect()
        }
    };
    ensure!(!plans.is_empty(), "no experiment has this in its name");
    println!(
        "{} rounds of seed {}, {} at a time; a file for each in {}",
        plans.len(),
        plans[0].seed,
        arguments.fleets,
        arguments.out.display()
    );
    let failed = campaign(arguments, &plans).await?;
    if failed.is_empty() {
        println!("all {} rounds held", plans.len());
        return Ok(());
    }
    bail!(
        "{} of {} rounds did not hold: {}. Play one again with `--replay {}`, shrink it with `--shrink {}`",
        failed.len(),
        plans.len(),
        failed.join(", "),
        failed[0],
        failed[0]
    )
}

impl Arguments {
    fn options(&self, seed: u64) -> anyhow::Result<FleetOptions> {
        let base = FleetOptions {
            skep: Some(stage::skep_binary(self.skep.as_deref())?),
            engine: self.engine.as_deref().map(std::path::absolute).transpose()?,
            ..FleetOptions::default()
        };
        Ok(round::options(base, seed))
    }

    fn tale(&self) -> Tale {
        if self.verbose { Tale::aloud(Style::of_stdout()) } else { Tale::silent() }
    }
}

/// Plays all plans on [`Arguments::fleets`] fleets at the same time. Returns the names of those with violations.
async fn campaign(arguments: &Arguments, plans: &[Plan]) -> anyhow::Result<Vec<String>> {
    let style = Style::of_stdout();
    let failed = RefCell::new(Vec::new());
    let played = RefCell::new(0);
    let rest = RefCell::new(plans.iter().cloned());
    let Some(seed) = plans.first().map(|plan| plan.seed) else { return Ok(Vec::new()) };
    let fleets = (0..arguments.fleets).map(async |_| {
        let options = arguments.options(seed)?;
        while rest.borrow().len() > 0 {
            let mut next = std::iter::from_fn(|| rest.borrow_mut().next());
            let mut done = |outcome: Outcome| {
                *played.borrow_mut() += 1;
                tell(&outcome, *played.borrow(), plans.len(), style);
                if let Err(error) = keep(&arguments.out, &outcome) {
                    eprintln!("{error:#}");
                }
                if !outcome.violations.is_empty() {
                    failed.borrow_mut().push(outcome.plan.name);
                }
            };
            stage::on_stage(options.clone(), async |fleet| {
                round::play(fleet, &mut next, arguments.tale(), &mut done).await
            })
            .await?;
        }
        anyhow::Ok(())
    });
    try_join_all(fleets).await?;
    Ok(failed.into_inner())
}

/// Prints one line for a round without violations, and more for one with violations.
fn tell(outcome: &Outcome, number: usize, of: usize, style: Style) {
    let Outcome { plan, violations, settled_after, seconds, logs, .. } = outcome;
    let settled = settled_after.map_or("not whole again".to_owned(), |after| {
        format!("whole again {after:.0} s after the last trouble")
    });
    let (sign, mark) = if violations.is_empty() { ("✓", Mark::Good) } else { ("✗", Mark::Bad) };
    println!(
        "{} {number:>3} of {of}  {}: {} steps, {seconds:.0} s, {settled}",
        style.paint(mark, sign),
        plan.name,
        plan.steps.len()
    );
    for violation in violations {
        println!("    {}", style.paint(Mark::Bad, violation));
    }
    if !violations.is_empty() {
        println!("    logs: {}", logs.display());
    }
}

fn keep(out: &Path, outcome: &Outcome) -> anyhow::Result<()> {
    stage::write_json(&out.join(format!("{}.json", outcome.plan.name)), outcome)
}

/// Finds a plan by the name of its round or experiment, or reads it from a campaign's file.
fn find(round: &str) -> anyhow::Result<Plan> {
    if let Some(plan) = experiments::all().into_iter().find(|plan| plan.name == round) {
        return Ok(plan);
    }
    let mut parts = round.split('-');
    let profile = match parts.next() {
        Some("soft") => Some(Profile::Soft),
        Some("hard") => Some(Profile::Hard),
        _ => None,
    };
    let mut number = || parts.next().and_then(|part| part.parse::<u64>().ok());
    if let (Some(profile), Some(seed), Some(round)) = (profile, number(), number()) {
        return Ok(Plan::draw(profile, seed, u32::try_from(round)?));
    }
    let text = std::fs::read_to_string(round).with_context(|| {
        format!("{round} is no round (such as soft-1-17), no experiment, and no file")
    })?;
    let document: serde_json::Value = serde_json::from_str(&text)?;
    let plan = document.get("plan").cloned().unwrap_or(document);
    serde_json::from_value(plan).with_context(|| format!("{round} holds no plan"))
}

/// Locks the output directory: campaigns share it and the machine, so only one runs at a time.
fn lock(out: &Path) -> anyhow::Result<File> {
    std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let file = File::create(out.join("lock"))?;
    ensure!(
        file.try_lock().is_ok(),
        "another campaign is running and writes into {}: wait for it, or end it with Ctrl-C",
        out.display()
    );
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_is_found_by_its_name_and_in_its_file() {
        let plan = find("hard-3-4").unwrap();
        assert_eq!(plan, Plan::draw(Profile::Hard, 3, 4));
        let dir = tempfile::tempdir().unwrap();
        let outcome = Outcome {
            plan: plan.clone(),
            violations: vec![],
            settled_after: None,
            seconds: 1.0,
            logs: dir.path().to_owned(),
            timeline: vec![],
        };
        keep(dir.path(), &outcome).unwrap();
        let file = dir.path().join("hard-3-4.json");
        assert_eq!(find(file.to_str().unwrap()).unwrap(), plan);
        assert_eq!(find("tokens-deleted").unwrap().name, "tokens-deleted");
        let error = format!("{:#}", find("soft-x-1").unwrap_err());
        assert!(error.contains("soft-x-1 is no round"), "{error}");
    }

    #[test]
    fn one_campaign_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = lock(dir.path()).unwrap();
        let error = lock(dir.path()).unwrap_err().to_string();
        assert!(error.starts_with("another campaign is running"), "{error}");
        drop(first);
        lock(dir.path()).unwrap();
    }
}
