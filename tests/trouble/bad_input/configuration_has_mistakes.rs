//! A file and a variable with several mistakes.

use harness::options;
use harness::trouble::{Failure, fleet_of_firsts, rows};
use skep_sim::fleet::{ClusterSpec, FleetOptions, Restart};

const CONFIG: &str = r#"
rolle = "worker"
role = "boss"
[boot]
deadline = 600
[swarm]
advertise_address = "54.1.2.3"
[notices]
intervall = "2s"
"#;

#[tokio::test]
async fn every_mistake_is_named_at_once_and_nothing_is_begun() -> anyhow::Result<()> {
    let mut options = FleetOptions {
        config: Some(CONFIG.to_owned()),
        restart: Restart::OnFailure(harness::secs(1)),
        ..options()
    };
    options.skep_env.insert("SKEP_LEAVE_FLUSH_SHARE".to_owned(), "0.9".to_owned());
    let fleet = fleet_of_firsts(options, |_, _| Ok(())).await?;
    fleet.create_cluster(&ClusterSpec::new("test", 1, 0))?;

    let failure = Failure::of(&fleet, "test-managers").await?;
    let mistakes: [&[&str]; 6] = [
        &["skep.toml:2:", "rolle", "role"],
        &["skep.toml:3:", "role", "boss", "manager", "worker"],
        &["skep.toml:5:", "boot.deadline", "600s"],
        &["skep.toml:7:", "swarm.advertise_address", "54.1.2.3", "private"],
        &["skep.toml:9:", "intervall", "interval"],
        &["SKEP_LEAVE_FLUSH_SHARE", "0.9", "0.5"],
    ];
    let lines = failure.errors();
    for words in mistakes {
        let found = lines.iter().any(|line| words.iter().all(|word| line.contains(word)));
        assert!(found, "no line has {words:?}:\n{}", failure.instance.log());
    }
    assert_eq!(lines.len(), mistakes.len(), "{}", failure.instance.log());
    failure.says(78, &[])?;
    failure.is_known()?;
    failure.has_left_nothing().await?;
    assert!(rows(&fleet, "skep")?.is_empty());
    // systemd's `RestartPreventExitStatus=78`: a restart does not repair a file.
    assert_eq!(failure.instance.exit_codes(), [78]);
    fleet.stop().await
}
