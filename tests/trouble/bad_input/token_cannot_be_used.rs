//! Tokens that are empty, malformed, or not readable.

use anyhow::{Context, ensure};
use harness::PATIENCE;
use harness::options;
use harness::trouble::{
    CLUSTER, Failure, all_ready, aws, create_group, create_group_with_hooks, first_of,
    fleet_of_firsts, row,
};
use skep_sim::cloud::{Deny, Service, Who};
use skep_sim::fleet::LAUNCH_HOOK;

/// A value that an operator stored by mistake.
const NO_TOKEN: &str = "sesame-open-3pu6hszjas19xyp7ghgosyx9k8";

#[tokio::test]
async fn a_join_token_that_cannot_be_used_is_named_and_never_quoted() -> anyhow::Result<()> {
    let fleet = fleet_of_firsts(options(), |_, instance| match instance.launch().group.as_str() {
        "founder" | "denied" => Ok(()),
        "missing" => instance.write_config("boot.deadline = \"15s\"\ntokens.path = \"/missing\""),
        group => instance.write_config(&format!("tokens.path = \"/{group}\"")),
    })
    .await?;
    let cloud = fleet.cloud();
    cloud.create_table("skep")?;
    create_group(&fleet, "founder", &[("skep:cluster", CLUSTER), ("skep:role", "manager")])?;
    all_ready(&fleet, 1).await?;
    for (path, value) in [("/empty", " "), ("/malformed", NO_TOKEN)] {
        let name = format!("{path}/{CLUSTER}/worker-token/1");
        let put = ["ssm", "put-parameter", "--type", "SecureString", "--name", &name, "--value"];
        aws(&fleet, &[&put[..], &[value]].concat()).await?;
    }
    cloud.deny(Deny::new(Who::Role("skep-denied".to_owned()), Service::Ssm, "GetParameter"));

    let words: [(&str, &[&str]); 4] = [
        ("malformed", &["/malformed/test/worker-token/1 holds no join token", "SWMTKN-1-"]),
        ("denied", &["/skep/test/worker-token/1", "access denied", "grant ssm:GetParameter"]),
        ("missing", &["boot.deadline", "worker token of generation 1", "secret store"]),
        ("empty", &["/empty/test/worker-token/1 holds no join token", "empty", "store"]),
    ];
    for (group, _) in words {
        create_group(&fleet, group, &[("skep:cluster", CLUSTER), ("skep:role", "worker")])?;
    }
    for (group, words) in words {
        let failure = Failure::of(&fleet, group).await?;
        failure.says_only(1, words)?;
        failure.is_known()?;
        failure.has_left_nothing().await?;
        ensure!(!failure.instance.log().contains(NO_TOKEN), "{group} quotes what was stored");
    }
    assert_eq!(fleet.nodes().await?.len(), 1, "no other node joined");
    fleet.stop().await
}

#[tokio::test]
async fn a_founder_that_may_not_store_the_tokens_gives_everything_back() -> anyhow::Result<()> {
    let fleet = fleet_of_firsts(options(), |_, _| Ok(())).await?;
    let cloud = fleet.cloud();
    cloud.create_table("skep")?;
    let put = Deny::new(Who::Role("skep-founder".to_owned()), Service::Ssm, "PutParameter");
    cloud.deny(put.on("/skep/test/manager-token/*"));
    create_group(&fleet, "founder", &[("skep:cluster", CLUSTER), ("skep:role", "manager")])?;

    let failure = Failure::of(&fleet, "founder").await?;
    failure.says_only(1, &["ssm:PutParameter", "manager-token/1", "access denied", "grant"])?;
    failure.is_known()?;
    failure.has_left_nothing().await?;
    // It did start to found, or the checks above would prove nothing.
    ensure!(failure.instance.log().contains("founding the swarm"));
    let charter = row(&fleet, "charter")?;
    ensure!(charter.is_some_and(|charter| charter["phase"]["S"] == "founding"));
    fleet.stop().await
}

/// Auto Scaling may terminate the machine as soon as it has the result.
#[tokio::test]
async fn what_was_begun_is_given_back_and_the_reason_said_before_the_instance_is_abandoned()
-> anyhow::Result<()> {
    let fleet = fleet_of_firsts(options(), |_, _| Ok(())).await?;
    let cloud = fleet.cloud();
    cloud.create_table("skep")?;
    cloud.deny(Deny::new(Who::Anyone, Service::Ssm, "PutParameter"));
    // Without a termination hook the power is cut at once.
    let tags = [("skep:cluster", CLUSTER), ("skep:role", "manager")];
    create_group_with_hooks(&fleet, "founder", &tags, &[LAUNCH_HOOK])?;

    let instance = first_of(&fleet, "founder").await?;
    fleet.wait_until("the power to be cut", PATIENCE, async || Ok(instance.is_gone())).await?;
    let charter = row(&fleet, "charter")?.context("it never began")?;
    assert_eq!(charter["lease_expires_at"]["N"], "0", "the claim is released: {charter}");
    let log = instance.log();
    let is_reason = |line: &str| line.contains(" ERROR ") && line.contains("ssm:PutParameter");
    assert!(log.lines().any(is_reason), "the reason is logged:\n{log}");
    fleet.stop().await
}
