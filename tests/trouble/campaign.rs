//! Some minutes of `make chaos` with fixed seeds, under the template's policies.

use anyhow::ensure;
use skep_sim::chaos::plan::{Plan, Profile};
use skep_sim::chaos::round;
use skep_sim::witness::tale::Tale;

async fn rounds_hold(profile: Profile, seed: u64, rounds: u32) -> anyhow::Result<()> {
    let fleet = harness::fleet(round::options(harness::options(), seed)).await?;
    let mut plans = (1..=rounds).map(|round| Plan::draw(profile, seed, round));
    let (mut played, mut failed) = (0, Vec::new());
    let mut done = |outcome: round::Outcome| {
        println!("{}: {:.0} s", outcome.plan.name, outcome.seconds);
        played += 1;
        if !outcome.violations.is_empty() {
            failed.push(outcome);
        }
    };
    round::play(&fleet, &mut plans, Tale::silent(), &mut done).await?;
    ensure!(failed.is_empty(), "{failed:#?}\n{}", fleet.report());
    assert_eq!(played, rounds);
    fleet.stop().await
}

#[tokio::test]
async fn soft_rounds_hold() -> anyhow::Result<()> {
    rounds_hold(Profile::Soft, 1, 2).await
}

/// Managers that lock themselves, tokens in DynamoDB, and machines whose power is cut.
#[tokio::test]
async fn hard_rounds_hold() -> anyhow::Result<()> {
    rounds_hold(Profile::Hard, 6, 1).await
}
