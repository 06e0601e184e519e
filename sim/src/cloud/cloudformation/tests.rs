use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn stacks(signals: u32) -> Stacks {
    let mut stacks = Stacks::new("eu-central-1", 1);
    let resource = |logical_id: &str, signals| StackResourceSpec {
        logical_id: logical_id.to_owned(),
        group: None,
        signals,
        timeout: SECOND * 60,
    };
    let spec = StackSpec {
        name: "demo".to_owned(),
        resources: vec![resource("Nodes", signals), resource("Table", 0)],
    };
    stacks.create(spec, Duration::ZERO).unwrap();
    stacks
}

fn signal(stacks: &mut Stacks, id: &str, signal: Signal) -> Result<(), ApiError> {
    stacks.signal("demo", "Nodes", id, signal, SECOND)
}

#[test]
fn unique_ids_are_counted_once() {
    let mut stacks = stacks(2);
    signal(&mut stacks, "i-1", Signal::Success).unwrap();
    signal(&mut stacks, "i-1", Signal::Success).unwrap();
    assert_eq!(stacks.view("demo").unwrap().status, "CREATE_IN_PROGRESS");
    signal(&mut stacks, "i-2", Signal::Success).unwrap();
    assert_eq!(stacks.view("demo").unwrap().status, "CREATE_COMPLETE");
    let refused = signal(&mut stacks, "i-3", Signal::Success).unwrap_err();
    assert!(refused.message.ends_with("is in CREATE_COMPLETE state and cannot be signaled"));
    assert_eq!(stacks.next_deadline(), None);
}

#[test]
fn one_failure_fails_the_stack() {
    let mut stacks = stacks(2);
    signal(&mut stacks, "i-1", Signal::Failure).unwrap();
    let view = stacks.view("demo").unwrap();
    assert_eq!(view.status, "CREATE_FAILED");
    assert!(view.reason.unwrap().contains("[Nodes]"));
}

#[test]
fn silence_fails_the_stack_in_time() {
    let mut stacks = stacks(1);
    assert_eq!(stacks.next_deadline(), Some(SECOND * 60));
    stacks.tick(SECOND * 60);
    assert_eq!(stacks.view("demo").unwrap().status, "CREATE_FAILED");
}

#[test]
fn unknown_stacks_and_resources_are_named() {
    let mut stacks = stacks(1);
    let unknown = stacks.signal("other", "Nodes", "i-1", Signal::Success, SECOND);
    assert_eq!(unknown.unwrap_err().message, "Stack with id other does not exist");
    let unknown = stacks.signal("demo", "Other", "i-1", Signal::Success, SECOND);
    assert_eq!(unknown.unwrap_err().message, "Resource Other does not exist for stack demo");
}
