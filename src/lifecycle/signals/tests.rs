//! Tests of the pauses between attempts, and of the group whose hook is completed.

use std::cell::RefCell;

use super::*;
use crate::clients::aws::AwsErrorKind;
use crate::clients::aws::stub::Stub;

fn in_group(group: Option<&str>, aws: &Aws) -> Announcer {
    let group = group.map(str::to_owned);
    let instance = Instance { group, ..Instance::example() };
    Announcer::new(&instance, &Settings::default(), aws)
}

pub(crate) fn listed(group: &str, state: &str) -> String {
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

pub(crate) fn hooks(name: &str, transition: &str) -> String {
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

pub(crate) const COMPLETED: &str = "<CompleteLifecycleActionResponse \
     xmlns=\"http://autoscaling.amazonaws.com/doc/2011-01-01/\">\
     <CompleteLifecycleActionResult/></CompleteLifecycleActionResponse>";

/// The answer for a group that has no hook.
pub(crate) const NO_HOOKS: &str = "<DescribeLifecycleHooksResponse \
     xmlns=\"http://autoscaling.amazonaws.com/doc/2011-01-01/\">\
     <DescribeLifecycleHooksResult><LifecycleHooks/></DescribeLifecycleHooksResult>\
     </DescribeLifecycleHooksResponse>";

pub(crate) fn no_action() -> String {
    Stub::xml_error("ValidationError", "No active Lifecycle Action found with instance ID i-0abc")
}

#[tokio::test]
async fn the_termination_hook_is_that_of_the_group_that_has_the_instance_now() {
    let stub = Stub::start().await;
    let announcer = in_group(Some("before"), &stub.aws().await);
    stub.answer(200, &listed("now", "Terminating:Wait"));
    stub.answer(200, &hooks("skep-terminate", "TERMINATING"));
    let found = announcer.find_hook(Transition::Terminating).await.unwrap();
    assert_eq!(found.map(|(group, hook)| (group, hook.name)).unwrap().0, "now");
    assert!(stub.last_request().contains("AutoScalingGroupName=now"));
}

#[tokio::test]
async fn without_an_answer_the_group_that_is_known_is_asked() {
    let stub = Stub::start().await;
    let announcer = in_group(Some("known"), &stub.aws().await);
    stub.answer(403, &Stub::xml_error("AccessDenied", "not authorized"));
    stub.answer(200, &hooks("skep-terminate", "TERMINATING"));
    let found = announcer.find_hook(Transition::Terminating).await.unwrap();
    assert_eq!(found.unwrap().0, "known");
}

#[tokio::test]
async fn without_an_answer_nobody_can_tell_whether_there_is_a_termination_hook() {
    let (stub, state) = (Stub::start().await, StateHandle::default());
    let announcer = in_group(None, &stub.aws().await).showing(&state);
    let find = async || announcer.find_termination_hook(Instant::now()).await;
    let trouble = || state.now().trouble.unwrap_or_default();
    assert!(find().await.is_err(), "AWS does not answer");
    assert!(trouble().starts_with("the termination hook cannot be read: "), "{}", trouble());
    stub.answer(200, &listed("workers", "Terminating:Wait"));
    assert!(find().await.is_err(), "it does not return the hooks");
    stub.answer(200, &listed("workers", "Terminating:Wait"));
    stub.answer(200, NO_HOOKS);
    assert!(find().await.unwrap().is_none() && announcer.known_termination_hook().is_none());
    assert_eq!(trouble(), "", "it has answered");
    stub.answer(200, &listed("workers", "Terminating:Wait"));
    stub.answer(200, &hooks("skep-terminate", "TERMINATING"));
    assert!(find().await.unwrap().is_some());
    assert!(find().await.is_err() && announcer.known_termination_hook().is_some());
    announcer.forget_termination_hook();
    assert!(announcer.known_termination_hook().is_none());
    assert_eq!(trouble(), "", "it is not shown after the departure");
}

#[tokio::test]
async fn the_launch_hook_of_another_group_is_completed_after_attaching() {
    let stub = Stub::start().await;
    let announcer = in_group(Some("before"), &stub.aws().await);
    stub.answer(200, &hooks("skep-launch", "LAUNCHING"));
    stub.answer(400, &no_action());
    stub.answer(200, &listed("now", "Pending:Wait"));
    stub.answer(200, &hooks("other-launch", "LAUNCHING"));
    stub.answer(200, COMPLETED);
    let said = announcer.complete_launch(HookResult::Continue).await.unwrap();
    assert_eq!(said, Delivery::Arrived);
    let asked = stub.last_request();
    assert!(asked.contains("AutoScalingGroupName=now"), "{asked}");
    assert!(asked.contains("LifecycleHookName=other-launch"), "{asked}");
}

#[tokio::test]
async fn a_launch_hook_that_may_still_come_is_asked_again() {
    for (state, expected) in [
        ("Pending", Delivery::NotYet),
        ("RootVolumeReplaced", Delivery::NotYet),
        ("SomethingNew", Delivery::NotYet),
        ("InService", Delivery::NotNeeded),
    ] {
        let stub = Stub::start().await;
        let announcer = in_group(Some("workers"), &stub.aws().await);
        stub.answer(200, &hooks("skep-launch", "LAUNCHING"));
        stub.answer(400, &no_action());
        stub.answer(200, &listed("workers", state));
        let said = announcer.complete_launch(HookResult::Continue).await.unwrap();
        assert_eq!(said, expected, "{state}");
    }
}

/// skep crashed before it completed the hook, or another node removed this one from the swarm.
#[tokio::test]
async fn an_instance_that_comes_back_into_the_pool_completes_the_hook_that_waits() {
    let in_pool = async |answers: &[(u16, String)]| {
        let stub = Stub::start().await;
        let announcer = in_group(Some("workers"), &stub.aws().await);
        stub.answer(200, &listed("workers", "Warmed:Pending:Wait"));
        for (status, answer) in answers {
            stub.answer(*status, answer);
        }
        (announcer.enter_pool().await.unwrap(), stub.last_request())
    };
    let launch = || (200, hooks("skep-launch", "LAUNCHING"));
    let termination = || (200, hooks("skep-terminate", "TERMINATING"));
    let (none, completed) = (|| (200, NO_HOOKS.to_owned()), || (200, COMPLETED.to_owned()));
    let waits = || (200, listed("workers", "Warmed:Pending:Wait"));
    let nothing_waits = || (400, no_action());

    let (said, asked) = in_pool(&[launch(), completed()]).await;
    assert_eq!(said, Delivery::Arrived);
    assert!(asked.contains("skep-launch") && asked.contains("CONTINUE"), "{asked}");
    for before in [vec![launch(), nothing_waits()], vec![none()]] {
        let answers = [before, vec![waits(), termination(), completed()]].concat();
        let (said, asked) = in_pool(&answers).await;
        assert_eq!(said, Delivery::Arrived);
        assert!(asked.contains("skep-terminate") && asked.contains("CONTINUE"), "{asked}");
    }
    let answers = [launch(), nothing_waits(), waits(), termination(), nothing_waits()];
    assert_eq!(in_pool(&answers).await.0, Delivery::NotYet, "both are asked again");
    assert_eq!(in_pool(&[none(), waits(), none()]).await.0, Delivery::NotNeeded);
}

fn refused(kind: AwsErrorKind) -> AwsError {
    AwsError {
        service: "cloudformation",
        operation: "SignalResource",
        resource: "stack prod".into(),
        kind,
        code: None,
        message: String::new(),
    }
}

/// Returns the pauses within a day, between attempts that all have the same result.
async fn waits(answer: impl Fn() -> Result<Delivery, AwsError>) -> Vec<Duration> {
    let at = RefCell::new(Vec::new());
    let repeated = repeat(Signal::CloudFormation, async || {
        at.borrow_mut().push(Instant::now());
        answer()
    });
    let day = Duration::from_secs(24 * 3600);
    assert!(tokio::time::timeout(day, repeated).await.is_err(), "it never arrives");
    at.take().windows(2).map(|pair| pair[1] - pair[0]).collect()
}

#[tokio::test(start_paused = true)]
async fn a_signal_that_is_refused_is_sent_ever_more_seldom() {
    for (kind, cap) in [(AwsErrorKind::AccessDenied, 300), (AwsErrorKind::Failing, 60)] {
        let waits = waits(|| Err(refused(kind))).await;
        let (quick, later) = waits.split_at(QUICK_ATTEMPTS as usize);
        assert!(quick.iter().all(|wait| *wait <= RETRY_INTERVAL * 2), "{quick:?}");
        assert!(later[0] >= Duration::from_secs(10), "{later:?}");
        let cap = Duration::from_secs(cap);
        let tick = Duration::from_millis(2);
        let last = &later[5..];
        assert!(last.iter().all(|wait| *wait >= cap && *wait <= cap * 2 + tick), "{last:?}");
        assert!(last.iter().any(|wait| wait.abs_diff(last[0]) > tick), "no jitter: {last:?}");
    }
    let waits = waits(|| Ok(Delivery::NotYet)).await;
    assert!(waits.last().is_some_and(|wait| *wait >= Duration::from_secs(60)));
}

async fn announcer(stub: &Stub, state_dir: &std::path::Path) -> Announcer {
    let stack = StackResource { stack: "prod".into(), logical_id: "WorkerGroup".into() };
    let instance = Instance { stack: Some(stack), ..Instance::example() };
    let settings = Settings { state_dir: state_dir.to_owned(), ..Settings::default() };
    Announcer::new(&instance, &settings, &stub.aws().await)
}

#[tokio::test]
async fn a_signal_that_nobody_has_got_is_not_marked_as_sent() {
    let (stub, dir) = (Stub::start().await, tempfile::tempdir().unwrap());
    let announcer = announcer(&stub, dir.path()).await;
    let marker = Marker::of(dir.path(), &announcer.instance.id);
    let send = async || {
        let say = async || announcer.signal(SignalStatus::Success).await;
        announcer.send_until_accepted(&marker, Signal::CloudFormation, say).await;
        (marker.is_set(Signal::CloudFormation).await, stub.requests().len())
    };
    let unknown = Stub::xml_error("ValidationError", "Stack prod does not exist");
    stub.answer(400, &unknown);
    assert_eq!(send().await, (false, 1), "as in another region than the stack's");
    stub.answer(200, "<SignalResourceResponse/>");
    assert_eq!(send().await, (true, 2), "the next start of skep sends it");
    assert_eq!(send().await, (true, 2), "once");
}
