//! Commands for containers that behave in a known way when they are stopped. They sleep for an hour at a time: each
//! `sleep` starts a process, and scenarios have a hundred tasks at once.

use std::time::Duration;

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

/// Time that a request of [`LONG_PATH`] takes.
pub const LONG_REQUEST: Duration = Duration::from_secs(2);
/// Path of a long request to [`web`].
pub const LONG_PATH: &str = "/cgi-bin/long";
/// Path of the health check of [`web`].
pub const HEALTH_PATH: &str = "/health";

/// Serves HTTP on `port`: `hello` at `/`, and `long` at [`LONG_PATH`] after [`LONG_REQUEST`]. After SIGTERM it fails its
/// health check and goes on serving until no request has come for 2 s; then it finishes what it has begun, and exits
/// with 0.
pub fn web(port: u16) -> Vec<String> {
    let (pages, long) = (pages(), LONG_REQUEST.as_secs());
    shell(&format!(
        r#"{pages}; touch /www{HEALTH_PATH}
        httpd -f -vv -p {port} -h /www 2>/log & server=$!
        requests() {{ grep -c -e 'url:/$' -e 'url:{LONG_PATH}' /log; }}
        leave() {{
            rm /www{HEALTH_PATH}
            seen=-1; now=$(requests)
            while [ "$now" != "$seen" ]; do seen=$now; sleep 2; now=$(requests); done
            kill $server; sleep {long}; exit 0
        }}
        trap leave TERM
        while :; do sleep 3600 & wait $!; done"#
    ))
}

/// Serves the same on `port`, without a health check. At SIGTERM it ends at once, and cuts what it has begun.
pub fn web_until_sigterm(port: u16) -> Vec<String> {
    let pages = pages();
    shell(&format!(
        r#"{pages}
        httpd -p {port} -h /www
        trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done"#
    ))
}

/// Writes the pages of both.
fn pages() -> String {
    let long = LONG_REQUEST.as_secs();
    format!(
        r"mkdir -p /www/cgi-bin; echo hello >/www/index.html
        printf '#!/bin/sh\necho; sleep {long}; echo long\n' >/www{LONG_PATH}; chmod +x /www{LONG_PATH}"
    )
}

fn shell(script: &str) -> Vec<String> {
    ["sh", "-c", script].map(str::to_owned).to_vec()
}
