//! Errors that every service has.

use skep_sim::cloud::{Deny, Fault, Who};

use super::bench::Bench;

#[tokio::test(flavor = "multi_thread")]
async fn faults_denials_and_a_wrong_clock_reach_the_caller_as_errors() {
    let bench = Bench::start().await;
    let describe = ["autoscaling", "describe-auto-scaling-groups"];
    let get = ["ssm", "get-parameter", "--name", "/a"];
    let throttle = Fault { throttle: 1.0, ..Fault::default() };
    bench.cloud.faults().set(None, None, throttle);
    assert!(bench.refused(&describe).await.contains("(Throttling)"));
    assert!(bench.refused(&get).await.contains("(ThrottlingException)"));
    bench.cloud.faults().clear();

    bench.cloud.deny(Deny::new(Who::Anyone, None, "*"));
    assert!(bench.refused(&describe).await.contains("(AccessDenied)"));
    assert!(bench.refused(&get).await.contains("(AccessDeniedException)"));
    bench.cloud.allow_all();

    bench.cloud.set_clock_offset(time::Duration::minutes(10));
    let late = bench.refused(&describe).await;
    assert!(late.contains("(SignatureDoesNotMatch)") && late.contains("5 min."), "{late}");
    let late = bench.refused(&get).await;
    assert!(late.contains("(InvalidSignatureException)"), "{late}");
}
