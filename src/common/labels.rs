//! The labels that a node requests in the swarm: facts of its instance, and the operator's labels from tags and the
//! configuration. Plain values; managers set them.
//!
//! skep refuses a key that no placement constraint can name (swarmkit accepts letters, digits and `._-` after
//! `node.labels.`), and a key in the namespaces of Docker and of skep.

use std::collections::BTreeMap;
use std::fmt;

use crate::common::instance::Instance;

/// Labels by key.
pub type Labels = BTreeMap<String, String>;

/// Label with the comma-separated keys that skep has set on a node. It is written together with them, so that every
/// manager can tell at any time which labels skep must not change.
pub const OWNED: &str = "skep.labels";

/// Label with the availability that skep has set on a node, and the one before; see `swarm::settle`.
pub const AVAILABILITY: &str = "skep.availability";

/// A tag `skep:label:<key>` becomes the label `<key>`.
pub const TAG_PREFIX: &str = "skep:label:";

/// Reserved namespaces: skep's, then Docker's (<https://docs.docker.com/engine/manage-resources/labels/>).
const RESERVED: [&str; 4] = ["skep.", "com.docker.", "io.docker.", "org.dockerproject."];
/// AWS's limit for the key of an instance tag.
const LONGEST_KEY: usize = 128;
/// AWS's limit for the value of an instance tag.
const LONGEST_VALUE: usize = 256;

/// The labels that a node requests, and the tags that were refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The facts of the instance, and the operator's valid labels.
    pub labels: Labels,
    /// Tags with [`TAG_PREFIX`] that cannot become labels, in the order of their keys.
    pub refused: Vec<Refused>,
}

/// A tag that cannot become a label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The tag's key, with [`TAG_PREFIX`].
    pub tag: String,
    why: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tag {}: {}", self.tag, self.why)
    }
}

/// Returns the labels of an instance. `configured` has been checked with the rest of the configuration. A tag wins over
/// it; a refused tag leaves it in force.
#[must_use]
pub fn wanted(instance: &Instance, group: Option<&str>, configured: &Labels) -> Wanted {
    let mut wanted = Wanted { labels: configured.clone(), ..Wanted::default() };
    for (tag, value) in &instance.tags {
        let Some(key) = tag.strip_prefix(TAG_PREFIX) else { continue };
        match check(key, value) {
            Ok(()) => drop(wanted.labels.insert(key.to_owned(), value.clone())),
            Err(why) => wanted.refused.push(Refused { tag: tag.clone(), why }),
        }
    }
    let facts = [
        ("skep.zone", Some(instance.zone.as_str())),
        ("skep.instance-type", Some(instance.instance_type.as_str())),
        ("skep.market", Some(instance.market.as_str())),
        ("skep.group", group),
    ];
    let facts = facts.into_iter().filter_map(|(key, value)| Some((key.into(), value?.into())));
    wanted.labels.extend(facts);
    wanted
}

/// Checks that an operator can use this label.
///
/// # Errors
/// The mistake and its remedy, in one line.
pub fn check(key: &str, value: &str) -> Result<(), String> {
    let lower = key.to_ascii_lowercase();
    if let Some(taken) = RESERVED.iter().find(|namespace| lower.starts_with(**namespace)) {
        let whose = if *taken == RESERVED[0] { "skep" } else { "Docker" };
        return Err(format!("\"{key}\": labels that begin with {taken} are reserved for {whose}"));
    }
    if !is_storable(key, value) {
        return Err(format!(
            "\"{key}\": a label's key has 1 to {LONGEST_KEY} letters, digits and ._-, and its value \
             {LONGEST_VALUE} characters at most"
        ));
    }
    Ok(())
}

/// Whether a constraint can name the label and skep may set it. Labels in a ledger row were checked when the row was
/// written, unless it was edited by hand.
#[must_use]
pub fn is_storable(key: &str, value: &str) -> bool {
    let right = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    (1..=LONGEST_KEY).contains(&key.len())
        && key.chars().all(right)
        && ![OWNED, AVAILABILITY].contains(&key)
        && value.chars().count() <= LONGEST_VALUE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::instance::Market;

    fn instance(tags: &[(&str, &str)]) -> Instance {
        Instance {
            id: "i-0abc".into(),
            instance_type: "m6g.large".into(),
            zone: "eu-central-1a".into(),
            region: "eu-central-1".into(),
            private_address: [10, 0, 0, 1].into(),
            market: Market::Spot,
            group: None,
            stack: None,
            tags: tags.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
        }
    }

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()
    }

    #[test]
    fn an_instance_tells_its_zone_type_market_and_group() {
        let facts = [
            ("skep.instance-type", "m6g.large"),
            ("skep.market", "spot"),
            ("skep.zone", "eu-central-1a"),
        ];
        assert_eq!(wanted(&instance(&[]), None, &Labels::new()).labels, labels(&facts));
        let grouped = wanted(&instance(&[]), Some("workers"), &Labels::new()).labels;
        assert_eq!(grouped.get("skep.group").map(String::as_str), Some("workers"));
        assert_eq!(grouped.len(), facts.len() + 1);
    }

    #[test]
    fn a_tag_beats_the_configuration_and_a_bad_one_is_left_out_alone() {
        let tags = [
            ("Name", "worker one"),
            ("skep:cluster", "prod"),
            ("skep:label:disk", "ssd"),
            ("skep:label:empty", ""),
            ("skep:label:", "nothing"),
            ("skep:label:a=b", "x"),
            ("skep:label:skep.zone", "mine"),
            ("skep:label:tier", &"x".repeat(257)),
        ];
        let configured = labels(&[("disk", "hdd"), ("tier", "web")]);
        let Wanted { labels, refused } = wanted(&instance(&tags), None, &configured);
        let own: Vec<_> = labels.iter().filter(|(key, _)| !key.starts_with("skep.")).collect();
        let own: Vec<_> = own.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(own, [("disk", "ssd"), ("empty", ""), ("tier", "web")]);
        assert_eq!(labels["skep.zone"], "eu-central-1a");
        let refused: Vec<&str> = refused.iter().map(|refused| refused.tag.as_str()).collect();
        let bad = ["skep:label:", "skep:label:a=b", "skep:label:skep.zone", "skep:label:tier"];
        assert_eq!(refused, bad);
    }

    #[test]
    fn a_key_is_what_a_constraint_can_name_and_nobody_elses() {
        for key in ["disk", "a", "com.example.tier-1", "Tier_2", "1", ".", "skep", "dockerfile"] {
            assert_eq!(check(key, "x"), Ok(()), "{key}");
        }
        for key in ["", "a b", "a/b", "ü", "a,b", "a:b", &"k".repeat(129)] {
            assert!(check(key, "x").unwrap_err().contains("letters, digits and ._-"), "{key}");
        }
        for key in ["com.docker.x", "IO.Docker.x", "org.dockerproject.x"] {
            assert!(check(key, "x").unwrap_err().contains("reserved for Docker"), "{key}");
        }
        assert!(check(OWNED, "x").unwrap_err().contains("reserved for skep"));
        assert!(!is_storable(OWNED, "x"), "a row must not forge it");
        assert!(check("disk", &"ü".repeat(256)).is_ok());
        assert!(check("disk", &"ü".repeat(257)).is_err());
    }
}
