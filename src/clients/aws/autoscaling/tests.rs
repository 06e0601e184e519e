//! Tests against a stub that answers in Auto Scaling's own XML.

use super::*;
use crate::clients::aws::stub::Stub;

const NO_ACTION: &str = "No active Lifecycle Action found with instance ID i-0abc";

pub(crate) fn described(instances: &str, next_token: &str) -> String {
    format!(
        "<DescribeAutoScalingInstancesResponse \
         xmlns=\"http://autoscaling.amazonaws.com/doc/2011-01-01/\">\
         <DescribeAutoScalingInstancesResult>{instances}{next_token}\
         </DescribeAutoScalingInstancesResult>\
         <ResponseMetadata><RequestId>1</RequestId></ResponseMetadata>\
         </DescribeAutoScalingInstancesResponse>"
    )
}

pub(crate) fn list(instances: &[(&str, &str)]) -> String {
    let members: String = instances
        .iter()
        .map(|(id, state)| {
            format!(
                "<member><InstanceId>{id}</InstanceId>\
                 <AutoScalingGroupName>workers</AutoScalingGroupName>\
                 <AvailabilityZone>eu-central-1a</AvailabilityZone>\
                 <LifecycleState>{state}</LifecycleState><HealthStatus>HEALTHY</HealthStatus>\
                 <ProtectedFromScaleIn>false</ProtectedFromScaleIn></member>"
            )
        })
        .collect();
    format!("<AutoScalingInstances>{members}</AutoScalingInstances>")
}

#[tokio::test]
async fn an_instance_is_in_its_group_or_in_none() {
    let stub = Stub::start().await;
    let autoscaling = stub.aws().await.autoscaling;
    stub.answer(200, &described(&list(&[("i-0abc", "Terminating:Wait")]), ""));
    let instance = autoscaling.fetch_instance("i-0abc").await.unwrap().unwrap();
    assert_eq!(
        instance,
        GroupInstance {
            group: "workers".into(),
            lifecycle_state: LifecycleState::TerminatingWait,
            health: "HEALTHY".into(),
            protected: Some(false),
            settings: None,
        }
    );
    assert!(stub.last_request().contains("InstanceIds.member.1=i-0abc"));
    for empty in ["<AutoScalingInstances/>", "<AutoScalingInstances></AutoScalingInstances>"] {
        stub.answer(200, &described(empty, ""));
        assert_eq!(autoscaling.fetch_instance("i-0abc").await.unwrap(), None);
    }
}

#[tokio::test]
async fn groups_are_asked_by_name() {
    let stub = Stub::start().await;
    let autoscaling = stub.aws().await.autoscaling;
    let answer = |groups: &str| {
        format!(
            "<DescribeAutoScalingGroupsResponse \
             xmlns=\"http://autoscaling.amazonaws.com/doc/2011-01-01/\">\
             <DescribeAutoScalingGroupsResult>{groups}</DescribeAutoScalingGroupsResult>\
             </DescribeAutoScalingGroupsResponse>"
        )
    };
    let group = |name: &str, id: &str, state: &str| {
        format!(
            "<member><AutoScalingGroupName>{name}</AutoScalingGroupName><Instances><member>\
             <InstanceId>{id}</InstanceId><LifecycleState>{state}</LifecycleState>\
             <HealthStatus>Healthy</HealthStatus></member></Instances></member>"
        )
    };
    let groups =
        group("workers", "i-1", "Terminating:Wait") + &group("managers", "i-2", "InService");
    let both = answer(&format!("<AutoScalingGroups>{groups}</AutoScalingGroups>"));
    let states = async |names: &[&str]| {
        let names = names.iter().copied().collect();
        let listed = autoscaling.fetch_groups("prod", &names).await.unwrap();
        let state = |(id, it): (&String, &GroupInstance)| {
            format!("{id} {} {}", it.group, it.lifecycle_state.as_str())
        };
        listed.iter().map(state).collect::<Vec<_>>()
    };
    let expected = ["i-1 workers Terminating:Wait", "i-2 managers InService"];
    stub.answer(200, &both);
    assert_eq!(states(&["managers", "workers"]).await, expected);
    let asked = stub.requests();
    assert_eq!(asked.len(), 1, "all groups have the tag");
    assert!(asked[0].contains("Filters.member.1.Name=tag%3Askep%3Acluster"), "{asked:?}");
    assert!(asked[0].contains("Filters.member.1.Values.member.1=prod"), "{asked:?}");
    stub.answer(200, &answer(""));
    assert!(states(&[]).await.is_empty(), "without names it does not list the whole account");
    assert_eq!(stub.requests().len(), 2);
    stub.answer(200, &answer(""));
    stub.answer(200, &both);
    assert_eq!(states(&["managers"]).await, expected, "groups without the tag");
    assert!(stub.last_request().contains("AutoScalingGroupNames.member.1=managers"));
}

#[tokio::test]
async fn many_ids_are_asked_in_chunks_and_all_pages_are_read() {
    let stub = Stub::start().await;
    let autoscaling = stub.aws().await.autoscaling;
    let ids: Vec<String> = (0..51).map(|n| format!("i-{n:03}")).collect();
    stub.answer(200, &described(&list(&[("i-000", "InService")]), "<NextToken>more</NextToken>"));
    stub.answer(200, &described(&list(&[("i-001", "InService")]), ""));
    stub.answer(200, &described(&list(&[("i-050", "Pending:Wait")]), ""));
    let listed = autoscaling.fetch_listed(&ids).await.unwrap();
    assert_eq!(listed.keys().collect::<Vec<_>>(), ["i-000", "i-001", "i-050"]);
    let requests = stub.requests();
    assert_eq!(requests.len(), 3);
    assert!(requests[0].contains("member.50=i-049") && !requests[0].contains("i-050"));
    assert!(requests[1].contains("NextToken=more") && requests[1].contains("member.50=i-049"));
    assert!(requests[2].contains("member.1=i-050") && !requests[2].contains("member.2"));
}

#[tokio::test]
async fn nobody_is_asked_about_nobody() {
    let stub = Stub::start().await;
    let ids: [&str; 0] = [];
    assert!(stub.aws().await.autoscaling.fetch_listed(&ids).await.unwrap().is_empty());
    assert_eq!(stub.requests().len(), 0, "without ids the call lists the whole account");
}

#[tokio::test]
async fn no_answer_is_never_an_empty_one() {
    let stub = Stub::start().await;
    let autoscaling = stub.aws().await.autoscaling;
    for (status, body) in [
        (200, String::new()),
        (200, "<html>captive portal</html>".to_owned()),
        (200, described("", "")),
        (500, String::new()),
        (400, Stub::xml_error("Throttling", "Rate exceeded")),
        (403, Stub::xml_error("AccessDenied", "not authorized")),
    ] {
        stub.answer(status, &body);
        let answer = autoscaling.fetch_instance("i-0abc").await;
        assert!(answer.is_err(), "{status} {body:?} became {answer:?}");
    }
}

#[tokio::test]
async fn a_later_chunk_that_fails_fails_the_whole() {
    let stub = Stub::start().await;
    let ids: Vec<String> = (0..51).map(|n| format!("i-{n:03}")).collect();
    stub.answer(200, &described(&list(&[("i-000", "InService")]), ""));
    stub.answer(400, &Stub::xml_error("Throttling", "Rate exceeded"));
    let error = stub.aws().await.autoscaling.fetch_listed(&ids).await.unwrap_err();
    assert_eq!(error.kind, AwsErrorKind::Throttled);
    assert!(error.is_retryable());
}

#[tokio::test]
async fn an_answer_without_the_asking_instance_says_nothing_about_the_others() {
    let stub = Stub::start().await;
    let autoscaling = stub.aws().await.autoscaling;
    let ids: Vec<String> = (0..60).map(|n| format!("i-{n:03}")).collect();
    let mut ids: BTreeSet<&str> = ids.iter().map(String::as_str).collect();
    ids.extend(["i-own", "no id", "i-012345678901234567890"]);
    stub.answer(200, &described(&list(&[("i-own", "InService"), ("i-001", "InService")]), ""));
    stub.answer(200, &described(&list(&[]), ""));
    let survey = autoscaling.survey("i-own", &ids).await.unwrap();
    assert!(survey.is_gone("i-000") && !survey.is_gone("i-001") && !survey.is_gone("i-own"));
    assert!(!survey.is_gone("i-059"), "an empty page is no evidence");
    assert!(!survey.is_gone("no id"), "no call asked about it");
    let requests = stub.requests();
    assert_eq!(requests.len(), 2);
    assert!(requests.iter().all(|request| request.contains("=i-own")));
    assert!(requests[0].contains("member.50=") && !requests[0].contains("member.51="));
    assert!(
        !requests.concat().contains("012345678901234567890"),
        "AWS would refuse the whole call"
    );

    stub.answer(200, &described(&list(&[("i-own", "InService")]), ""));
    stub.answer(400, &Stub::xml_error("Throttling", "Rate exceeded"));
    assert!(autoscaling.survey("i-own", &ids).await.is_err(), "half an answer is an error");
    assert!(
        autoscaling.survey("i-own", &BTreeSet::from(["i-own"])).await.unwrap().answered.is_empty()
    );
}

#[test]
fn of_several_hooks_the_configured_one_is_taken_or_ours() {
    let hook = |name: &str, transition| Hook {
        name: name.into(),
        transition,
        heartbeat_timeout: Duration::from_secs(300),
        global_timeout: Duration::from_secs(30_000),
        default_result: HookResult::Continue,
    };
    let leave = |name| hook(name, Transition::Terminating);
    let chosen = |hooks: &[Hook], configured| {
        choose_hook(hooks.to_vec(), Transition::Terminating, configured).map(|hook| hook.name)
    };
    let launch = hook("skep-launch", Transition::Launching);
    assert_eq!(chosen(std::slice::from_ref(&launch), None), None);
    assert_eq!(chosen(&[launch, leave("any")], None).as_deref(), Some("any"));
    let several = [leave("theirs"), leave("skep-terminate")];
    assert_eq!(chosen(&several, None).as_deref(), Some("skep-terminate"));
    assert_eq!(chosen(&several, Some("theirs")).as_deref(), Some("theirs"));
    assert_eq!(chosen(&several[..1], Some("another")), None);
    assert_eq!(chosen(&[leave("one"), leave("two")], None), None);
}

#[tokio::test]
async fn hooks_carry_their_times_and_aws_defaults() {
    let stub = Stub::start().await;
    stub.answer(
        200,
        "<DescribeLifecycleHooksResponse><DescribeLifecycleHooksResult><LifecycleHooks>\
         <member><LifecycleHookName>leave</LifecycleHookName>\
         <AutoScalingGroupName>workers</AutoScalingGroupName>\
         <LifecycleTransition>autoscaling:EC2_INSTANCE_TERMINATING</LifecycleTransition>\
         <HeartbeatTimeout>300</HeartbeatTimeout><GlobalTimeout>30000</GlobalTimeout>\
         <DefaultResult>CONTINUE</DefaultResult></member>\
         <member><LifecycleHookName>ready</LifecycleHookName>\
         <LifecycleTransition>autoscaling:EC2_INSTANCE_LAUNCHING</LifecycleTransition></member>\
         <member><LifecycleHookName>short</LifecycleHookName>\
         <LifecycleTransition>autoscaling:SOMETHING_NEW</LifecycleTransition>\
         <HeartbeatTimeout>30</HeartbeatTimeout></member>\
         </LifecycleHooks></DescribeLifecycleHooksResult></DescribeLifecycleHooksResponse>",
    );
    let hooks = stub.aws().await.autoscaling.fetch_hooks("workers").await.unwrap();
    let hook = |name: &str, transition, heartbeat, global, default_result| Hook {
        name: name.into(),
        transition,
        heartbeat_timeout: Duration::from_secs(heartbeat),
        global_timeout: Duration::from_secs(global),
        default_result,
    };
    assert_eq!(
        hooks,
        [
            hook("leave", Transition::Terminating, 300, 30_000, HookResult::Continue),
            hook("ready", Transition::Launching, 3600, 172_800, HookResult::Abandon),
            hook("short", Transition::Other, 30, 3000, HookResult::Abandon),
        ]
    );
    assert!(stub.last_request().contains("AutoScalingGroupName=workers"));
}

#[tokio::test]
async fn a_heartbeat_and_a_completion_name_hook_group_and_instance() {
    let stub = Stub::start().await;
    let autoscaling = stub.aws().await.autoscaling;
    let names = |extra: &str| {
        let request = stub.last_request();
        let parts =
            ["LifecycleHookName=leave", "AutoScalingGroupName=workers", "InstanceId=i-0abc", extra];
        for part in parts {
            assert!(request.split('&').any(|pair| pair == part), "{part}: {request}");
        }
    };
    let recorded = "<RecordLifecycleActionHeartbeatResponse>\
        <RecordLifecycleActionHeartbeatResult/></RecordLifecycleActionHeartbeatResponse>";
    stub.answer(200, recorded);
    let answer = autoscaling.heartbeat("leave", "workers", "i-0abc").await.unwrap();
    assert_eq!(answer, HeartbeatAnswer::Recorded);
    names("Action=RecordLifecycleActionHeartbeat");
    for (result, word) in [(HookResult::Continue, "CONTINUE"), (HookResult::Abandon, "ABANDON")] {
        let completed = "<CompleteLifecycleActionResponse><CompleteLifecycleActionResult/>\
            </CompleteLifecycleActionResponse>";
        stub.answer(200, completed);
        let answer = autoscaling.complete("leave", "workers", "i-0abc", result).await.unwrap();
        assert_eq!(answer, CompletionAnswer::Completed);
        names(&format!("LifecycleActionResult={word}"));
    }
}

#[tokio::test]
async fn no_active_action_is_an_answer_and_other_refusals_are_errors() {
    let stub = Stub::start().await;
    let autoscaling = stub.aws().await.autoscaling;
    let complete = || autoscaling.complete("leave", "workers", "i-0abc", HookResult::Continue);
    let beat = || autoscaling.heartbeat("leave", "workers", "i-0abc");
    stub.answer(400, &Stub::xml_error("ValidationError", NO_ACTION));
    assert_eq!(complete().await.unwrap(), CompletionAnswer::NoActiveAction);
    stub.answer(400, &Stub::xml_error("ValidationError", NO_ACTION));
    assert_eq!(beat().await.unwrap(), HeartbeatAnswer::NoActiveAction);
    for (code, message, retryable) in [
        ("ValidationError", "Lifecycle hook leave does not exist", false),
        ("ResourceContention", "You already have a pending update", true),
        ("AccessDenied", NO_ACTION, false),
    ] {
        stub.answer(400, &Stub::xml_error(code, message));
        let error = complete().await.unwrap_err();
        assert_eq!(error.is_retryable(), retryable, "{error}");
        stub.answer(400, &Stub::xml_error(code, message));
        assert_eq!(beat().await.unwrap_err().code.as_deref(), Some(code));
    }
}

#[tokio::test]
async fn a_broken_instance_is_called_so_and_the_grace_period_holds() {
    let stub = Stub::start().await;
    let autoscaling = stub.aws().await.autoscaling;
    stub.answer(
        200,
        "<SetInstanceHealthResponse xmlns=\"http://autoscaling.amazonaws.com/doc/2011-01-01/\">\
         <ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></SetInstanceHealthResponse>",
    );
    autoscaling.set_unhealthy("i-0abc").await.unwrap();
    let request = stub.last_request();
    for part in ["InstanceId=i-0abc", "HealthStatus=Unhealthy", "ShouldRespectGracePeriod=true"] {
        assert!(request.contains(part), "{request}");
    }
    stub.answer(403, &Stub::xml_error("AccessDenied", "not authorized"));
    let denied = autoscaling.set_unhealthy("i-0abc").await.unwrap_err();
    assert_eq!(denied.kind, AwsErrorKind::AccessDenied);
    assert!(denied.to_string().contains("grant autoscaling:SetInstanceHealth on instance i-0abc"));
}
