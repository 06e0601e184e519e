//! The labels of a node in the swarm: the operator's, from tags and the configuration, which the node requests; and the
//! facts of its instance, which managers read from EC2. Plain values; managers set them.
//!
//! skep refuses a key that no placement constraint can name (swarmkit accepts letters, digits and `._-` after
//! `node.labels.`), and a key in the namespaces of Docker and of skep.

use std::collections::BTreeMap;
use std::fmt;

/// Labels by key.
pub type Labels = BTreeMap<String, String>;

/// Label with the comma-separated keys that skep has set on a node. It is written together with them, so that every
/// manager can tell at any time which labels skep must not change.
pub const OWNED: &str = "skep.labels";

/// Label with the availability that skep has set on a node, and the one before; see `swarm::settle`.
pub const AVAILABILITY: &str = "skep.availability";

/// Label of a node whose instance skep protects from scale-in.
pub const PROTECTED: &str = "skep.protected";

/// Label with the id of the instance that the node is.
pub const INSTANCE: &str = "skep.instance";
/// Label with the availability zone, such as `eu-central-1a`.
pub const ZONE: &str = "skep.zone";
/// Label with the instance type, such as `t3.small`.
pub const INSTANCE_TYPE: &str = "skep.instance-type";
/// Label with the purchase option, `spot` or `on-demand`.
pub const MARKET: &str = "skep.market";
/// Label with the Auto Scaling group of the instance.
pub const GROUP: &str = "skep.group";

/// A tag `skep:label:<key>` becomes the label `<key>`.
pub const TAG_PREFIX: &str = "skep:label:";

/// Start of the keys of skep's own labels, which nobody can request.
pub const OWN_NAMESPACE: &str = "skep.";

/// Reserved namespaces: skep's, then Docker's (<https://docs.docker.com/engine/manage-resources/labels/>).
const RESERVED: [&str; 4] = [OWN_NAMESPACE, "com.docker.", "io.docker.", "org.dockerproject."];
/// Maximum number of labels that a node requests: AWS's limit of tags on an instance.
pub const MOST: usize = 50;

/// AWS's limit for the key of an instance tag.
const LONGEST_KEY: usize = 128;
/// AWS's limit for the value of an instance tag.
const LONGEST_VALUE: usize = 256;

/// The labels that a node requests, and the tags that were refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The operator's valid labels.
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

/// Returns the labels that a node with these tags requests. `configured` has been checked with the rest of the
/// configuration. A tag wins over it; a refused tag leaves it in force.
#[must_use]
pub fn wanted(tags: &BTreeMap<String, String>, configured: &Labels) -> Wanted {
    let mut wanted = Wanted { labels: configured.clone(), ..Wanted::default() };
    for (tag, value) in tags {
        let Some(key) = tag.strip_prefix(TAG_PREFIX) else { continue };
        let is_one_more = !wanted.labels.contains_key(key) && wanted.labels.len() >= MOST;
        let checked = check(key, value).and_then(|()| match is_one_more {
            true => {
                Err(format!("a node has at most {MOST} labels, with those of the configuration"))
            }
            false => Ok(()),
        });
        match checked {
            Ok(()) => drop(wanted.labels.insert(key.to_owned(), value.clone())),
            Err(why) => wanted.refused.push(Refused { tag: tag.clone(), why }),
        }
    }
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
        return Err(format!("{key:?}: labels that begin with {taken} are reserved for {whose}"));
    }
    if !is_storable(key, value) {
        return Err(format!(
            "{key:?}: a label's key has 1 to {LONGEST_KEY} letters, digits and ._-, and its value \
             {LONGEST_VALUE} characters at most, on one line"
        ));
    }
    Ok(())
}

/// Whether a constraint can name the label.
fn is_storable(key: &str, value: &str) -> bool {
    let right = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    (1..=LONGEST_KEY).contains(&key.len())
        && key.chars().all(right)
        && value.chars().count() <= LONGEST_VALUE
        && !value.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()
    }

    #[test]
    fn a_label_too_many_is_refused_and_one_that_replaces_another_is_not() {
        let configured: Labels = (0..MOST).map(|n| (format!("k{n}"), "x".to_owned())).collect();
        let tags = [("skep:label:k1", "new"), ("skep:label:other", "x")];
        let tags = tags.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let Wanted { labels, refused } = wanted(&tags, &configured);
        assert_eq!((labels.len(), labels["k1"].as_str()), (MOST, "new"));
        assert_eq!(refused.len(), 1);
        assert!(refused[0].to_string().contains("skep:label:other: a node has at most 50 labels"));
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
        let tags = tags.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let Wanted { labels, refused } = wanted(&tags, &configured);
        let own: Vec<_> = labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(own, [("disk", "ssd"), ("empty", ""), ("tier", "web")]);
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
        assert!(check(INSTANCE, "i-1").is_err() && check("disk", "a\nb").is_err());
        assert!(check("disk", &"ü".repeat(256)).is_ok());
        assert!(check("disk", &"ü".repeat(257)).is_err());
    }
}
