//! AWS refuses requests with a wrong clock, with an unclear error: skep compares its clock with the metadata's date
//! first, and reports it better.

use harness::options;
use harness::trouble::{Failure, fleet_of_firsts, rows};
use skep_sim::fleet::ClusterSpec;

#[tokio::test]
async fn a_clock_that_is_an_hour_off_is_named_before_anything_is_asked() -> anyhow::Result<()> {
    for (offset, direction) in [(time::Duration::HOUR, "behind"), (-time::Duration::HOUR, "ahead")]
    {
        let fleet = fleet_of_firsts(options(), |_, _| Ok(())).await?;
        fleet.cloud().set_clock_offset(offset);
        fleet.create_cluster(&ClusterSpec::new("test", 1, 0))?;

        let failure = Failure::of(&fleet, "test-managers").await?;
        failure.says_only(1, &["the clock is", direction, "chrony"])?;
        // AWS refuses the first request; the SDK takes the time from the refusal for the next.
        failure.is_known()?;
        failure.has_left_nothing().await?;
        assert!(rows(&fleet, "skep")?.is_empty());
        fleet.stop().await?;
    }
    Ok(())
}
