use super::*;

fn target(corpus: &[&str]) -> Target<'static> {
    let corpus = corpus.iter().map(|input| input.as_bytes().to_vec()).collect();
    Target { name: "example", corpus, words: &["wanted"] }
}

/// Runs a target that fails when its input satisfies the condition. Returns the failure.
fn failure_if(condition: impl Fn(&[u8]) -> bool) -> String {
    let (text, input) = failure(|input| assert!(!condition(input), "found"));
    assert!(condition(&input), "the saved input fails alike");
    text
}

/// Runs a target that fails. Returns the failure and the saved input.
fn failure(execute: impl FnMut(&[u8])) -> (String, Vec<u8>) {
    let run = || run_for(&target(&["name = 1\nother = 2"]), HANG, 7, execute);
    let panic = catch_unwind(AssertUnwindSafe(run)).expect_err("it fails");
    let text = *panic.downcast::<String>().expect("a text");
    let path = text.split("saved as ").nth(1).and_then(|rest| rest.split(')').next()).unwrap();
    let input = fs::read(path).unwrap();
    fs::remove_file(path).unwrap();
    (text, input)
}

#[test]
fn a_panic_is_reported_with_its_input_and_found_again_with_its_seed() {
    let has = |word: &'static str| {
        move |input: &[u8]| input.windows(word.len()).any(|part| part == word.as_bytes())
    };
    let first = failure_if(has("wanted"));
    assert!(first.contains("it panics") && first.contains("of seed 7"), "{first}");
    assert_eq!(failure_if(has("wanted")), first);
    failure_if(has("name = 2"));
    failure_if(has("1.5"));
    failure_if(<[u8]>::is_empty);
    failure_if(|input| input.len() > LONGEST / 2);
}

#[test]
fn a_panic_in_a_task_is_a_failure() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (text, _) = failure(|_| {
        let task = runtime.block_on(async { tokio::spawn(async { panic!("in a task") }).await });
        assert!(task.is_err(), "the runtime catches it");
    });
    assert!(text.contains("it panics, at execution 1 "), "{text}");
}

#[test]
fn an_execution_that_hangs_and_a_process_that_grows_are_failures() {
    let run = Run::new("example", HANG, 1);
    let now = run.began;
    run.resident.store(1 << 20, Ordering::Relaxed);
    assert_eq!(run.trouble(now + HANG, GROWTH), None);
    assert!(run.trouble(now + HANG + TICK, 0).unwrap().contains("longer than 30 s"));
    assert!(run.trouble(now, 3 * GROWTH).unwrap().contains("grown by 191 MiB"));
    assert!(resident() > 1 << 20);
}

#[test]
fn a_message_is_the_same_kind_whatever_it_quotes() {
    let of = |text: &str| kind(&format!("line 12: \"{text}\" is not one of a, b"));
    assert_eq!(of("x"), of("another 7"));
    assert_ne!(of("x"), kind("line 12: unknown key"));
}
