//! Reads one TOML file by the table of keys, with the line of each value and mistake.

use std::ops::Range;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::found::{Found, Given};
use super::mistake::{Mistake, Origin};
use super::nearest::{did_you_mean, nearest};
use super::raw::Raw;
use super::settings::{KEYS, Key};

/// The section whose keys the operator chooses: any valid label key.
const FREE_SECTION: &str = "labels";

/// Adds the values and mistakes in `text`, the content of the file at `path`, to `found`.
pub fn read(path: &Path, text: &str, found: &mut Found) {
    let (document, errors) = DeTable::parse_recoverable(text);
    let spans = errors.iter().map(|error| error.span().unwrap_or(0..0));
    let sound = spans.clone().map(|span| span.start).min().unwrap_or(usize::MAX);
    let fragment = Fragment { path, text, sound };
    for (error, span) in errors.iter().zip(spans) {
        let problem = error.message().lines().collect::<Vec<_>>().join(", ");
        found.mistakes.push(Mistake::of(fragment.at(span), problem));
    }
    fragment.walk(document.get_ref(), "", found);
}

struct Fragment<'a> {
    path: &'a Path,
    text: &'a str,
    /// End of the part that the parser understood. After it, the parser recovers with names that are not in the file.
    sound: usize,
}

impl Fragment<'_> {
    fn walk(&self, table: &DeTable<'_>, section: &str, found: &mut Found) {
        for (name, value) in table {
            let origin = self.at(name.span());
            let end = if value.get_ref().is_table() { name.span().end } else { value.span().end };
            if end >= self.sound {
                continue;
            }
            let name = join(section, name.get_ref());
            match (KEYS.iter().find(|key| key.name == name), value.get_ref()) {
                (Some(key), DeValue::Table(entries)) if key.name == FREE_SECTION => {
                    self.entries(key, entries, "", found);
                }
                (Some(key), value) => found.given.push(Given { key, raw: value.into(), origin }),
                (None, DeValue::Table(inner)) if is_section(&name) => {
                    self.walk(inner, &name, found);
                }
                (None, value) => {
                    let problem = unknown(&name, value);
                    found.mistakes.push(Mistake::at(origin, name, problem));
                }
            }
        }
    }

    /// Adds every line of a section whose keys the operator chooses, each with its own origin. A dot separates sections
    /// in TOML but not in a label, so `com.example.tier = "web"` is one key.
    fn entries(&self, key: &'static Key, table: &DeTable<'_>, before: &str, found: &mut Found) {
        for (name, value) in table {
            let origin = self.at(name.span());
            let own = join(before, name.get_ref());
            match value.get_ref() {
                DeValue::Table(inner) => self.entries(key, inner, &own, found),
                _ if value.span().end >= self.sound => {}
                value => {
                    let raw = Raw::Entry(own, Box::new(value.into()));
                    found.given.push(Given { key, raw, origin });
                }
            }
        }
    }

    fn at(&self, span: Range<usize>) -> Origin {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        Origin::File { path: self.path.into(), line: Some(line) }
    }
}

fn unknown(name: &str, value: &DeValue<'_>) -> String {
    if is_section(name) {
        return format!("expected a section, found a value; write [{name}]");
    }
    if matches!(value, DeValue::Table(_)) {
        let sections = KEYS.iter().filter_map(Key::section);
        let mut near = nearest(name, sections);
        near.dedup();
        return format!("unknown section{}", did_you_mean(&near));
    }
    format!("unknown key{}", did_you_mean(&similar_keys(name)))
}

/// Returns the keys with a spelling near `name`; if there are none, those of the same name in other sections.
pub(super) fn similar_keys(name: &str) -> Vec<&'static str> {
    let near = nearest(name, KEYS.iter().map(|key| key.name));
    if !near.is_empty() {
        return near;
    }
    let last = |name: &str| name.rsplit('.').next().map(str::to_string);
    KEYS.iter().map(|key| key.name).filter(|key| last(key) == last(name)).collect()
}

fn is_section(name: &str) -> bool {
    KEYS.iter().any(|key| key.section() == Some(name))
}

fn join(section: &str, name: &str) -> String {
    if section.is_empty() { name.into() } else { format!("{section}.{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(text: &str) -> Vec<String> {
        let mut found = Found::default();
        read(Path::new("skep.toml"), text, &mut found);
        found.mistakes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_value_keeps_its_line() {
        let mut found = Found::default();
        let text = "cluster = 'prod'\nnotices.spot = false\n\n[boot] # slow\ndeadline = '5m'\n";
        read(Path::new("skep.toml"), text, &mut found);
        assert_eq!(found.mistakes, []);
        let mut given: Vec<_> =
            found.given.iter().map(|g| (g.key.name, g.raw.clone(), g.origin.to_string())).collect();
        given.sort_by_key(|(name, ..)| *name);
        assert_eq!(
            given,
            [
                ("boot.deadline", Raw::Text("5m".into()), "skep.toml:5".into()),
                ("cluster", Raw::Text("prod".into()), "skep.toml:1".into()),
                ("notices.spot", Raw::Boolean(false), "skep.toml:2".into()),
            ]
        );
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_the_nearest_one() {
        assert_eq!(
            mistakes("\n[boot]\ndeadlin = '5m'"),
            ["skep.toml:3: boot.deadlin: unknown key; did you mean boot.deadline?"]
        );
        assert_eq!(
            mistakes("deadline = '5m'"),
            ["skep.toml:1: deadline: unknown key; did you mean boot.deadline or leave.deadline?"]
        );
        assert_eq!(mistakes("colour = 1"), ["skep.toml:1: colour: unknown key"]);
    }

    #[test]
    fn a_label_is_a_line_whatever_dots_its_key_has() {
        let mut found = Found::default();
        let text = "[labels]\ndisk = 'ssd'\ncom.example.tier = 'web'\n'com.example.rack' = '7'\n";
        read(Path::new("skep.toml"), text, &mut found);
        assert_eq!(found.mistakes, []);
        let mut given: Vec<_> =
            found.given.iter().map(|given| (&given.raw, &given.origin)).collect();
        given.sort_by_key(|(_, origin)| *origin);
        let given: Vec<_> = given.iter().map(|(raw, at)| (raw.pairs(), at.to_string())).collect();
        let pair = |key, value, line| (Ok(vec![(key, value)]), format!("skep.toml:{line}"));
        let expected = [
            pair("disk", "ssd", 2),
            pair("com.example.tier", "web", 3),
            pair("com.example.rack", "7", 4),
        ];
        assert_eq!(given, expected);
    }

    #[test]
    fn an_unknown_section_is_one_mistake() {
        assert_eq!(
            mistakes("[bot]\ndeadline = '5m'\nlease = '1s'"),
            ["skep.toml:1: bot: unknown section; did you mean boot?"]
        );
        assert_eq!(
            mistakes("boot = '5m'"),
            ["skep.toml:1: boot: expected a section, found a value; write [boot]"]
        );
    }

    #[test]
    fn every_syntax_error_has_its_line() {
        let found = mistakes("cluster = \nrole = 'worker'\ntable = 'a\n");
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("skep.toml:1: "), "{found:?}");
        assert!(found[1].starts_with("skep.toml:3: "), "{found:?}");
    }

    #[test]
    fn a_syntax_error_hides_no_mistake_before_it_and_invents_none_after_it() {
        let found = mistakes("colour = 1\n[boot\ndeadline = '5m'\n[notices]\nspots = true");
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found.contains(&"skep.toml:1: colour: unknown key".into()), "{found:?}");
        let found = mistakes("[swarm]\naddress_pool = ['10.0.0.0/8',\nsubnet_size = 20\n");
        assert!(found.iter().all(|mistake| !mistake.contains("address_pool")), "{found:?}");
    }

    #[test]
    fn a_key_twice_is_a_mistake() {
        let found = mistakes("role = 'worker'\nrole = 'manager'\n");
        assert_eq!(found, ["skep.toml:2: duplicate key"]);
    }
}
