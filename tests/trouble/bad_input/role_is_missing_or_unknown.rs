//! Nothing says what a node is to be, or something says what there is not.

use harness::options;
use harness::trouble::{Failure, create_group, fleet_of_firsts};

#[tokio::test]
async fn a_role_that_is_missing_or_unknown_is_a_mistake_of_the_configuration() -> anyhow::Result<()>
{
    let fleet = fleet_of_firsts(options(), |_, _| Ok(())).await?;
    fleet.cloud().create_table("skep")?;
    create_group(&fleet, "none", &[("skep:cluster", "test")])?;
    create_group(&fleet, "boss", &[("skep:cluster", "test"), ("skep:role", "boss")])?;

    let none = Failure::of(&fleet, "none").await?;
    none.says_only(78, &["role: nothing says", "skep:role", "role = \"manager\" or \"worker\""])?;
    none.is_known()?;
    none.has_left_nothing().await?;

    let boss = Failure::of(&fleet, "boss").await?;
    boss.says_only(78, &["tag skep:role: role:", "boss", "manager", "worker"])?;
    boss.is_known()?;
    boss.has_left_nothing().await?;
    fleet.stop().await
}
