//! Feeds any text to the readers of the metadata, and what they read to the rules for notices and the identity.
//!
//! An input has sections, separated by lines of `---`: the first line of each is the path of an item, and the rest its
//! text. `ttl` and `date` are headers of the answers.

use axum::http::HeaderValue;
use time::OffsetDateTime;

use super::Seen;
use super::debouncer::NoticeDebouncer;
use crate::clients::imds::stub::{Stub, soon};
use crate::clients::imds::{Imds, ImdsError};
use crate::config::Settings;
use crate::config::identity::Identity;
use crate::fuzz::{Target, kind, run};

const INPUTS: [&str; 10] = [
    "autoscaling/target-lifecycle-state\nTerminated",
    "autoscaling/target-lifecycle-state\nWarmed:Stopped",
    "spot/instance-action\n{\"action\": \"terminate\", \"time\": \"2026-11-28T12:02:00Z\"}",
    "events/recommendations/rebalance\n{\"noticeTime\": \"2026-11-28T12:00:00Z\"}",
    "events/maintenance/scheduled\n[{\"EventId\": \"instance-event-1\", \"Code\": \"instance-stop\", \"State\": \"active\", \"Description\": \"scheduled stop\", \"NotBefore\": \"28 Nov 2026 12:00:43 GMT\", \"NotAfter\": \"29 Nov 2026 12:00:43 GMT\"}, {\"EventId\": \"instance-event-2\", \"Code\": \"system-reboot\", \"State\": \"completed\", \"NotBefore\": \"1 Nov 2026 12:00:43 GMT\"}]",
    "dynamic/instance-identity/document\n{\"accountId\": \"123456789012\", \"region\": \"eu-central-1\"}",
    "tags/instance\nName\nskep:cluster\nskep:role\n---\ntags/instance/Name\nworker one\n---\ntags/instance/skep:cluster\nprod\n---\ntags/instance/skep:role\nworker",
    "local-ipv4\n10.0.1.7\n---\ninstance-id\ni-0abc\n---\nplacement/region\neu-central-1",
    "ttl\n21600\n---\nspot/instance-action\n{\"action\": \"stop\", \"time\": \"2026-11-28T12:02:00Z\"}",
    "date\nSat, 28 Nov 2026 12:00:00 GMT\n---\nautoscaling/target-lifecycle-state\nInService",
];
const WORDS: [&str; 20] = [
    "---\n",
    "Warmed:Terminated",
    "Standby",
    "Detached",
    "terminate",
    "stop",
    "hibernate",
    "instance-retirement",
    "active",
    "canceled",
    "GMT",
    "EventId",
    "NotBefore",
    "NotAfter",
    "31 Dec 9999 23:59:59 GMT",
    "1 Jan 0000 00:00:00 GMT",
    "Fri, 31 Dec 9999 23:59:59 GMT",
    "aws:autoscaling:groupName",
    "swarm-stack-id",
    "arn:aws:cloudformation:::stack/a/b",
];
/// Sections that do not belong to the identity.
const NOTICES: [&str; 6] = [
    "autoscaling/target-lifecycle-state",
    "spot/instance-action",
    "events/recommendations/rebalance",
    "events/maintenance/scheduled",
    "ttl",
    "date",
];
/// The lifetime of tokens that the service grants, in seconds.
const TTL: u64 = 21_600;
/// Number of tags that are listed. AWS allows 50; skep reads each of them with a request.
const MOST_TAGS: usize = 60;
/// Number of sections that are read: each may need ten requests.
const MOST_SECTIONS: usize = 8;

#[test]
fn no_metadata_stop_a_node() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let stub = runtime.block_on(Stub::start());
    let imds = stub.imds();
    let corpus = INPUTS.map(|input| input.as_bytes().to_vec()).into();
    let target = Target { name: "metadata", corpus, words: &WORDS };
    let mut debouncer = NoticeDebouncer::default();
    run(&target, |input| {
        let text = String::from_utf8_lossy(input);
        let sections: Vec<(&str, &str)> = text
            .split("\n---\n")
            .take(MOST_SECTIONS)
            .filter_map(|it| it.split_once('\n'))
            .collect();
        serve(&stub, &sections);
        let kinds = runtime.block_on(read(&imds, &sections, &mut debouncer));
        // Another item must not have a kept token's lifetime.
        stub.answers().items.clear();
        kinds
    });
}

fn serve(stub: &Stub, sections: &[(&str, &str)]) {
    stub.fill();
    let mut answers = stub.answers();
    (answers.ttl, answers.date) = (TTL, None);
    for (path, text) in sections {
        match *path {
            "ttl" => {
                answers.ttl = text.parse().unwrap_or(TTL);
                answers.revoked = answers.tokens;
            }
            "date" => answers.date = HeaderValue::from_str(text).ok().map(|_| (*text).to_owned()),
            "tags/instance" => {
                let keys: Vec<&str> = text.lines().take(MOST_TAGS).collect();
                answers.items.insert((*path).to_owned(), keys.join("\n"));
            }
            path => drop(answers.items.insert(path.to_owned(), (*text).to_owned())),
        }
    }
}

/// Reads the items that the sections name, and decides on them. Returns the kinds of the results.
async fn read(
    imds: &Imds,
    sections: &[(&str, &str)],
    debouncer: &mut NoticeDebouncer,
) -> Vec<String> {
    let now = OffsetDateTime::now_utc();
    let mut seen = Seen { is_whole: true, is_member: true, ..Seen::default() };
    let mut kinds = Vec::new();
    let is_notice = |path: &str| NOTICES.contains(&path);
    // Ten requests: once for all facts in the input.
    let mut identity = None;
    if sections.iter().any(|(path, _)| !is_notice(path)) {
        identity = identify(imds).await;
    }
    for (path, _) in sections {
        let failed = match *path {
            "autoscaling/target-lifecycle-state" => {
                take(&mut seen.target, imds.fetch_target_lifecycle_state(soon()).await)
            }
            "spot/instance-action" => take(&mut seen.spot, imds.fetch_spot_action(soon()).await),
            "events/recommendations/rebalance" => {
                take(&mut seen.rebalance, imds.fetch_rebalance(soon()).await)
            }
            "events/maintenance/scheduled" => {
                take(&mut seen.maintenance, imds.fetch_scheduled_maintenance(soon()).await)
            }
            "ttl" | "date" => None,
            _ => identity.take(),
        };
        kinds.extend(failed);
    }
    let _ = imds.clock_offset();
    let settings = Settings::default();
    let told = debouncer.see(&seen, &settings, now);
    if let Some(notice) = &told.notice {
        assert!(notice.deadline <= now + settings.leave.deadline, "{notice:?}");
    }
    kinds.push(kind(&format!("{:?}", (told.notice.map(|it| it.reason), told.scheduling_hold))));
    let booted_at = now - std::time::Duration::from_secs(3600);
    kinds.push(format!("{} old", seen.take_old(Some(booted_at), now).len().min(3)));
    kinds
}

fn take<T>(slot: &mut T, read: Result<T, ImdsError>) -> Option<String> {
    match read {
        Ok(value) => {
            *slot = value;
            None
        }
        Err(error) => Some(kind_of(&error)),
    }
}

async fn identify(imds: &Imds) -> Option<String> {
    let instance = match imds.fetch_instance(soon()).await {
        Ok(instance) => instance,
        Err(error) => return Some(kind_of(&error)),
    };
    let identity = Identity::resolve(&Settings::default(), &instance);
    let mistakes = identity.err()?.0;
    Some(mistakes.iter().map(|mistake| format!("{:?}", (&mistake.origin, &mistake.key))).collect())
}

/// Returns the kind of an error, without the words of the answer.
fn kind_of(error: &ImdsError) -> String {
    match error {
        ImdsError::Malformed { path, problem, .. } => {
            format!("{path} {}", kind(problem).chars().take(20).collect::<String>())
        }
        error => kind(&error.to_string()),
    }
}
