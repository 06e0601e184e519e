//! Commands for containers that behave in a known way when they are stopped. They sleep for an hour at a time: each
//! `sleep` starts a process, and scenarios have a hundred tasks at once.

/// Exits with 0 as soon as it gets SIGTERM.
pub fn graceful() -> Vec<String> {
    shell("trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done")
}

/// Exits with 0 after `seconds` from SIGTERM.
pub fn slow_to_stop(seconds: f32) -> Vec<String> {
    shell(&format!("trap 'sleep {seconds}; exit 0' TERM; while :; do sleep 3600 & wait $!; done"))
}

/// Ignores SIGTERM: Docker kills it after its grace, and it exits with 137.
pub fn stubborn() -> Vec<String> {
    shell("trap '' TERM; while :; do sleep 3600; done")
}

fn shell(script: &str) -> Vec<String> {
    ["sh", "-c", script].map(str::to_owned).to_vec()
}
