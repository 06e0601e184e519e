//! Which group's hook is completed, by what Auto Scaling answers.

use std::net::IpAddr;

use super::*;
use crate::aws::stub::Stub;
use crate::instance::Market;

fn announcer(group: Option<&str>, aws: &Aws) -> Announcer {
    let instance = Instance {
        id: "i-0abc".into(),
        instance_type: String::new(),
        zone: String::new(),
        region: String::new(),
        private_address: IpAddr::from([10, 0, 0, 1]),
        market: Market::OnDemand,
        group: group.map(str::to_owned),
        stack: None,
        tags: Default::default(),
    };
    Announcer::new(&instance, &Settings::default(), aws)
}

fn listed(group: &str, state: &str) -> String {
    format!(
        "<DescribeAutoScalingInstancesResponse \
         xmlns=\"http://autoscaling.amazonaws.com/doc/2011-01-01/\">\
         <DescribeAutoScalingInstancesResult><AutoScalingInstances><member>\
         <InstanceId>i-0abc</InstanceId><AutoScalingGroupName>{group}</AutoScalingGroupName>\
         <LifecycleState>{state}</LifecycleState><HealthStatus>HEALTHY</HealthStatus>\
         </member></AutoScalingInstances></DescribeAutoScalingInstancesResult>\
         </DescribeAutoScalingInstancesResponse>"
    )
}

fn hooks(name: &str, transition: &str) -> String {
    format!(
        "<DescribeLifecycleHooksResponse \
         xmlns=\"http://autoscaling.amazonaws.com/doc/2011-01-01/\">\
         <DescribeLifecycleHooksResult><LifecycleHooks><member>\
         <LifecycleHookName>{name}</LifecycleHookName>\
         <LifecycleTransition>autoscaling:EC2_INSTANCE_{transition}</LifecycleTransition>\
         </member></LifecycleHooks></DescribeLifecycleHooksResult>\
         </DescribeLifecycleHooksResponse>"
    )
}

const COMPLETED: &str = "<CompleteLifecycleActionResponse \
     xmlns=\"http://autoscaling.amazonaws.com/doc/2011-01-01/\">\
     <CompleteLifecycleActionResult/></CompleteLifecycleActionResponse>";

fn no_action() -> String {
    Stub::xml_error("ValidationError", "No active Lifecycle Action found with instance ID i-0abc")
}

#[tokio::test]
async fn the_termination_hook_is_that_of_the_group_that_has_the_instance_now() {
    let stub = Stub::start().await;
    let announcer = announcer(Some("before"), &stub.aws().await);
    stub.answer(200, &listed("now", "Terminating:Wait"));
    stub.answer(200, &hooks("skep-terminate", "TERMINATING"));
    let found = announcer.find_hook(Transition::Terminating).await.unwrap();
    assert_eq!(found.map(|(group, hook)| (group, hook.name)).unwrap().0, "now");
    assert!(stub.last_request().contains("AutoScalingGroupName=now"));
}

#[tokio::test]
async fn without_an_answer_the_group_that_is_known_is_asked() {
    let stub = Stub::start().await;
    let announcer = announcer(Some("known"), &stub.aws().await);
    stub.answer(403, &Stub::xml_error("AccessDenied", "not authorized"));
    stub.answer(200, &hooks("skep-terminate", "TERMINATING"));
    let found = announcer.find_hook(Transition::Terminating).await.unwrap();
    assert_eq!(found.unwrap().0, "known");
}

#[tokio::test]
async fn the_launch_hook_of_another_group_is_completed_after_attaching() {
    let stub = Stub::start().await;
    let announcer = announcer(Some("before"), &stub.aws().await);
    stub.answer(200, &hooks("skep-launch", "LAUNCHING"));
    stub.answer(400, &no_action());
    stub.answer(200, &listed("now", "Pending:Wait"));
    stub.answer(200, &hooks("other-launch", "LAUNCHING"));
    stub.answer(200, COMPLETED);
    let said = announcer.complete_launch(HookResult::Continue).await.unwrap();
    assert_eq!(said, Said::Arrived);
    let asked = stub.last_request();
    assert!(asked.contains("AutoScalingGroupName=now"), "{asked}");
    assert!(asked.contains("LifecycleHookName=other-launch"), "{asked}");
}

#[tokio::test]
async fn a_launch_hook_that_may_still_come_is_asked_again() {
    for (state, expected) in [
        ("Pending", Said::NotYet),
        ("RootVolumeReplaced", Said::NotYet),
        ("SomethingNew", Said::NotYet),
        ("InService", Said::NotNeeded),
    ] {
        let stub = Stub::start().await;
        let announcer = announcer(Some("workers"), &stub.aws().await);
        stub.answer(200, &hooks("skep-launch", "LAUNCHING"));
        stub.answer(400, &no_action());
        stub.answer(200, &listed("workers", state));
        let said = announcer.complete_launch(HookResult::Continue).await.unwrap();
        assert_eq!(said, expected, "{state}");
    }
}
