//! `skep doctor` reports no problem on healthy nodes, names each broken part with its remedy, and its checks change
//! nothing.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use harness::departures::{ledger, options_with, standing};
use harness::swarm::call;
use harness::terminal::widest;
use serde_json::{Value, json};
use skep_sim::cloud::{Deny, Service, Who};
use skep_sim::fleet::{ClusterSpec, Instance};

/// A boot that is shorter than its hook, and an overlay pool outside of the simulated VPC (10.78.0.0/24).
const SOUND: &str = "[boot]\ndeadline = \"4m\"\n[swarm]\naddress_pool = [\"10.128.0.0/9\"]\n";

/// Findings by check.
type Findings = BTreeMap<String, Vec<Value>>;

async fn examine(instance: &Instance, more: &[&str]) -> anyhow::Result<(Option<i32>, Findings)> {
    let said = instance.skep([&["doctor", "--json"], more].concat()).await?;
    let report: Value =
        serde_json::from_slice(&said.stdout).with_context(|| format!("{said:?}"))?;
    let mut findings = Findings::new();
    for finding in report["findings"].as_array().context("no findings")? {
        let check = finding["check"].as_str().context("no check")?;
        findings.entry(check.to_owned()).or_default().push(finding.clone());
    }
    Ok((said.status.code(), findings))
}

/// The findings that are neither well nor skipped.
fn bad(findings: &Findings) -> Vec<&Value> {
    let is_bad =
        |finding: &&Value| finding["verdict"] == "warning" || finding["verdict"] == "failed";
    findings.values().flatten().filter(is_bad).collect()
}

/// Checks that exactly these checks are bad, each with this verdict and these texts in evidence and remedy.
fn only(findings: &Findings, expected: &[(&str, &str, &str, &str)]) -> anyhow::Result<()> {
    let bad = bad(findings);
    for (check, verdict, evidence, remedy) in expected {
        let is_it = |finding: &&&Value| {
            let says = |key: &str, words: &str| {
                finding[key].as_str().is_some_and(|text| text.contains(words))
            };
            finding["check"] == *check
                && finding["verdict"] == *verdict
                && says("evidence", evidence)
                && says("remedy", remedy)
        };
        ensure!(bad.iter().any(|it| is_it(&it)), "no {check} {verdict} {evidence}: {bad:#?}");
    }
    let named: Vec<&str> = expected.iter().map(|it| it.0).collect();
    let others: Vec<_> = bad
        .iter()
        .filter(|it| !it["check"].as_str().is_some_and(|check| named.contains(&check)))
        .collect();
    ensure!(others.is_empty(), "more than {named:?}: {others:#?}");
    Ok(())
}

#[tokio::test]
async fn what_is_well_is_said_to_be_and_what_is_broken_is_named() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("test", 1, 1);
    let fleet = standing(options_with(SOUND), &spec).await?;
    let manager = fleet.group(&spec.managers_group())[0].clone();
    let worker = fleet.group(&spec.workers_group())[0].clone();
    let before = ledger(&fleet)?.len();
    let signals =
        |fleet: &skep_sim::fleet::Fleet| fleet.cloud().stack("test").map(|it| format!("{it:?}"));
    let stack = signals(&fleet);

    for (node, role) in [(&manager, "manager"), (&worker, "worker")] {
        let (code, findings) = examine(node, &[]).await?;
        only(&findings, &[])?;
        ensure!(code == Some(0), "{role}: {code:?}");
        let ok = |check: &str, words: &str| {
            findings.get(check).into_iter().flatten().any(|it| {
                it["verdict"] == "ok"
                    && it["evidence"].as_str().is_some_and(|it| it.contains(words))
            })
        };
        let expected = [
            ("metadata", node.id()),
            ("region", "eu-central-1"),
            ("clock", "0 s"),
            ("cluster and role", role),
            ("table", "generation 1 is open"),
            ("dynamodb:UpdateItem", node.id()),
            ("worker token", "/skep/test/worker-token/1"),
            ("manager token", "/skep/test/manager-token/1"),
            ("autoscaling:DescribeAutoScalingInstances", "InService"),
            ("autoscaling:CompleteLifecycleAction", "test-"),
            ("cloudformation:SignalResource", "stack test"),
            ("membership", "Active"),
            ("disk", "GiB free"),
            ("overlay pools", "10.128.0.0/9; the VPC has 10.78.0.0/24"),
            ("ports", if role == "worker" { "2377/tcp answers" } else { "no other manager" }),
            ("launch hook", "boot.deadline is 4m"),
            ("termination hook", "skep-terminate"),
            ("skep", "ready"),
        ];
        for (check, words) in expected {
            ensure!(ok(check, words), "{role}: no {check} {words}: {findings:#?}");
        }
    }
    // The checks have changed nothing.
    ensure!(ledger(&fleet)?.len() == before, "{:#?}", ledger(&fleet)?);
    ensure!(signals(&fleet) == stack);
    ensure!(fleet.cloud().instances().iter().all(|it| it.lifecycle.as_str() == "InService"));

    // Breaks one part after the other.
    let cloud = fleet.cloud();
    cloud.deny(Deny::new(Who::Role("skep-worker".into()), Service::DynamoDb, "UpdateItem"));
    cloud.deny(Deny::new(Who::Role("skep-worker".into()), Service::Ssm, "GetParameter"));
    cloud.deny(Deny::new(
        Who::Role("skep-worker".into()),
        Service::AutoScaling,
        "CompleteLifecycleAction",
    ));
    let (code, findings) = examine(&worker, &[]).await?;
    ensure!(code == Some(1), "{code:?}");
    only(
        &findings,
        &[
            (
                "dynamodb:UpdateItem",
                "failed",
                "rows of test#arn:aws:ec2:",
                "grant dynamodb:UpdateItem",
            ),
            ("worker token", "failed", "access denied", "grant ssm:GetParameter"),
            ("autoscaling:CompleteLifecycleAction", "failed", "access denied", "grant autoscaling"),
        ],
    )?;

    let of_managers = [
        ("ec2:DescribeInstances", Service::Ec2, "DescribeInstances"),
        (
            "autoscaling:DescribeAutoScalingGroups",
            Service::AutoScaling,
            "DescribeAutoScalingGroups",
        ),
    ];
    for (check, service, operation) in of_managers {
        let (_, findings) = examine(&manager, &[]).await?;
        ensure!(findings[check][0]["verdict"] == "ok", "{findings:#?}");
        cloud.deny(Deny::new(Who::Role("skep-manager".into()), service, operation));
        let (code, findings) = examine(&manager, &[]).await?;
        ensure!(code == Some(1) && findings[check][0]["verdict"] == "failed", "{findings:#?}");
        let remedy = findings[check][0]["remedy"].as_str().unwrap_or_default();
        ensure!(remedy.contains(operation), "{findings:#?}");
    }

    let (code, findings) = examine(&manager, &["--table", "absent"]).await?;
    ensure!(code == Some(1), "{code:?}");
    let remedy = findings["table"][0]["remedy"].as_str().unwrap_or_default();
    ensure!(remedy.starts_with("grant dynamodb:GetItem on table absent"), "{findings:#?}");

    let wide = ["--set", "swarm.address_pool=10.0.0.0/8", "--set", "boot.deadline=10m"];
    let (code, findings) = examine(&worker, &wide).await?;
    ensure!(code == Some(1), "{code:?}");
    let launch = ("launch hook", "warning", "boot.deadline is 10m", "longer than boot.deadline");
    let pools =
        ("overlay pools", "warning", "10.0.0.0/8 overlaps the VPC's 10.78.0.0/24", "address_pool");
    for (check, verdict, evidence, remedy) in [launch, pools] {
        let found = &findings[check][0];
        ensure!(found["verdict"] == verdict, "{found}");
        ensure!(found["evidence"].as_str().is_some_and(|it| it.contains(evidence)), "{found}");
        ensure!(found["remedy"].as_str().is_some_and(|it| it.contains(remedy)), "{found}");
    }

    worker.isolate(true)?;
    cloud.set_clock_offset(time::Duration::HOUR);
    let (code, findings) = examine(&worker, &[]).await?;
    ensure!(code == Some(1), "{code:?}");
    let is = |check: &str, verdict: &str, words: &str| {
        findings.get(check).into_iter().flatten().any(|it| {
            it["verdict"] == verdict && it["evidence"].as_str().is_some_and(|it| it.contains(words))
        })
    };
    ensure!(is("ports", "failed", "2377/tcp"), "{findings:#?}");
    ensure!(is("clock", "failed", "behind the metadata's"), "{findings:#?}");
    cloud.set_clock_offset(time::Duration::ZERO);

    cloud.imds_knobs(worker.id()).switch_off(true);
    let (code, findings) = examine(&worker, &[]).await?;
    ensure!(code == Some(1) && is_skipped(&findings, "table"), "{findings:#?}");
    ensure!(findings["metadata"][0]["verdict"] == "failed", "{findings:#?}");

    // The output for a person, on a terminal of 40 columns and in a pipe.
    let text = manager.skep(["doctor"]).await?;
    let text = String::from_utf8(text.stdout)?;
    ensure!(text.starts_with("ok       metadata: i-") && !text.contains('\x1b'), "{text}");
    let drawn = manager.skep_on_terminal(40, "doctor").await?;
    let drawn = String::from_utf8(drawn.stdout)?;
    ensure!(drawn.contains("\x1b[32mok\x1b[0m"), "{drawn}");
    ensure!(widest(&drawn) <= 40, "{drawn}");

    call(&fleet, "DynamoDB_20120810.DeleteTable", &json!({ "TableName": "skep" })).await?;
    let (code, findings) = examine(&manager, &[]).await?;
    ensure!(code == Some(1), "{code:?}");
    let table = &findings["table"][0];
    ensure!(table["evidence"].as_str().is_some_and(|it| it.contains("table skep: not found")));
    ensure!(table["remedy"].as_str().is_some_and(|it| it.contains("create table skep")));
    ensure!(is_skipped(&findings, "dynamodb") && is_skipped(&findings, "ports"), "{findings:#?}");
    fleet.stop().await
}

fn is_skipped(findings: &Findings, check: &str) -> bool {
    findings.get(check).is_some_and(|of| of.iter().all(|it| it["verdict"] == "skipped"))
}
