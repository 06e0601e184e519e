//! The role of a node is not configured, or is an unknown one.

use harness::options;
use harness::trouble::{Failure, create_group, fleet_of_firsts, launch_results};
use skep_sim::cloud::{ActionResult, GroupSpec, HookSpec, Transition};
use skep_sim::fleet::{LAUNCH_HOOK, TERMINATION_HOOK};

#[tokio::test]
async fn a_role_that_is_missing_or_unknown_is_a_mistake_of_the_configuration() -> anyhow::Result<()>
{
    let fleet = fleet_of_firsts(options(), |_, _| Ok(())).await?;
    fleet.cloud().create_table("skep")?;
    create_group(&fleet, "none", &[("skep:cluster", "test")])?;
    create_group(&fleet, "boss", &[("skep:cluster", "test"), ("skep:role", "boss")])?;

    let none = Failure::of(&fleet, "none").await?;
    none.says_only(
        78,
        &["role: no source names the role", "skep:role", "role = \"manager\" or \"worker\""],
    )?;
    none.is_known()?;
    none.has_left_nothing().await?;

    let boss = Failure::of(&fleet, "boss").await?;
    boss.says_only(78, &["tag skep:role: role:", "boss", "manager", "worker"])?;
    boss.is_known()?;
    boss.has_left_nothing().await?;
    fleet.stop().await
}

/// Without the tags the stack is unknown, too; Auto Scaling itself knows the group.
#[tokio::test]
async fn tags_that_the_metadata_hides_are_to_be_shown() -> anyhow::Result<()> {
    let fleet = fleet_of_firsts(options(), |_, _| Ok(())).await?;
    fleet.cloud().create_table("skep")?;
    let tags = [("skep:cluster", "test"), ("skep:role", "worker")];
    let hidden = GroupSpec {
        name: "hidden".to_owned(),
        max: 1,
        desired: 1,
        tags: tags.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        metadata_tags: false,
        ..GroupSpec::default()
    };
    let hook = HookSpec::new("hidden", LAUNCH_HOOK, Transition::Launching);
    let termination = HookSpec::new("hidden", TERMINATION_HOOK, Transition::Terminating);
    fleet.cloud().create_group_with_hooks(hidden, vec![hook, termination])?;

    let failure = Failure::of(&fleet, "hidden").await?;
    failure.says_only(
        78,
        &[
            "cluster: no source names the cluster",
            "role: no source names the role",
            "InstanceMetadataTags",
        ],
    )?;
    assert_eq!(launch_results(&fleet, &failure.instance), [ActionResult::Abandon]);
    failure.has_left_nothing().await?;
    fleet.stop().await
}
