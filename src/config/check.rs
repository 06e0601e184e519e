//! Finds mistakes that several values make together.

use super::Loaded;
use super::found::Given;
use super::mistake::Mistake;

pub(super) fn together(loaded: &Loaded, given: &[Given], mistakes: &mut Vec<Mistake>) {
    both_or_neither(given, "cloudformation.stack", "cloudformation.resource", mistakes);
    both_or_neither(given, "cloudformation.resource", "cloudformation.stack", mistakes);
    both_or_neither(given, "webhook.url_file", "webhook.secret_file", mistakes);
    both_or_neither(given, "webhook.secret_file", "webhook.url_file", mistakes);
    needs(
        given,
        "backup.to",
        "backup.kms_key",
        "environment variables would be stored unencrypted",
        mistakes,
    );
    if loaded.settings.backup.restore {
        needs(given, "backup.restore", "backup.to", "there is nothing to restore", mistakes);
    }
    pool_holds_a_subnet(loaded, mistakes);
}

/// Finds the mistake that `key` is set without `other`.
fn needs(given: &[Given], key: &str, other: &str, why: &str, mistakes: &mut Vec<Mistake>) {
    let last = |name| given.iter().rfind(|given| given.key.name == name);
    if let (Some(lonely), None) = (last(key), last(other)) {
        let problem = format!("{other} is missing: without it, {why}");
        mistakes.push(Mistake::at(lonely.origin.clone(), key, problem));
    }
}

fn both_or_neither(given: &[Given], key: &str, other: &str, mistakes: &mut Vec<Mistake>) {
    let last = |name| given.iter().rfind(|given| given.key.name == name);
    if let (Some(lonely), None) = (last(key), last(other)) {
        let problem = format!("{other} is missing; set both or neither");
        mistakes.push(Mistake::at(lonely.origin.clone(), key, problem));
    }
}

fn pool_holds_a_subnet(loaded: &Loaded, mistakes: &mut Vec<Mistake>) {
    const KEY: &str = "swarm.subnet_size";
    if mistakes.iter().any(|mistake| mistake.key.as_deref() == Some(KEY)) {
        return;
    }
    let swarm = &loaded.settings.swarm;
    let size = swarm.subnet_size;
    if let Some(range) = swarm.address_pool.iter().find(|range| range.prefix_len() > size) {
        let origin = loaded.origin("swarm.address_pool");
        let problem = format!("{range} is smaller than one /{size} subnet; see {KEY}");
        mistakes.push(Mistake::at(origin, "swarm.address_pool", problem));
    }
}
