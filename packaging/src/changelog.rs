//! Reads `CHANGELOG.md` and writes Debian's changelog from it. Version and changelog have one source each: the version
//! is Cargo's, the changes are in `CHANGELOG.md`.

use anyhow::{Context, Result, bail};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use time::macros::format_description;

/// The heading of the changes that no release has.
const UNRELEASED: &str = "Unreleased";
const MAINTAINER: &str = "The skep developers <maintainers@skep.invalid>";
/// The revision that cargo-deb gives a package.
const REVISION: &str = "-1";
/// Maximum length of a line in Debian's changelog.
const WIDTH: usize = 78;

/// The changes of one version.
#[derive(Debug)]
pub struct Section<'a> {
    /// `None`: they are not released.
    version: Option<&'a str>,
    date: Option<OffsetDateTime>,
    /// Markdown, without the heading.
    text: &'a str,
}

/// Returns the sections from the newest to the oldest.
///
/// # Errors
/// When a heading is neither `## Unreleased` nor `## 1.2.3 - 2026-12-31`, or when a version has two sections.
pub fn sections(changelog: &str) -> Result<Vec<Section<'_>>> {
    let mut sections = Vec::<Section<'_>>::new();
    for part in changelog.split("\n## ").skip(1) {
        let (heading, text) = part.split_once('\n').unwrap_or((part, ""));
        let (version, date) = match heading.trim().split_once(" - ") {
            None if heading.trim() == UNRELEASED => (None, None),
            Some((version, date)) if version.starts_with(|c: char| c.is_ascii_digit()) => {
                let date = time::Date::parse(date, format_description!("[year]-[month]-[day]"))
                    .with_context(|| format!("CHANGELOG.md: the date of {version}: {date}"))?;
                (Some(version), Some(date.midnight().assume_utc()))
            }
            _ => bail!("CHANGELOG.md: write \"## 1.2.3 - 2026-12-31\" instead of \"## {heading}\""),
        };
        if sections.iter().any(|earlier| earlier.version == version) {
            bail!("CHANGELOG.md has two sections for {}", version.unwrap_or(UNRELEASED));
        }
        sections.push(Section { version, date, text: text.trim() });
    }
    Ok(sections)
}

/// Returns Debian's changelog (deb-changelog(5)). Changes without a release are listed under the version that Cargo
/// has, as UNRELEASED, with the date of the sources.
///
/// # Errors
/// When a date cannot be written.
pub fn debian(sections: &[Section<'_>], version: &str, sources: OffsetDateTime) -> Result<String> {
    let mut text = String::new();
    for section in sections.iter().filter(|section| !section.text.is_empty()) {
        let distribution = if section.version.is_some() { "stable" } else { "UNRELEASED" };
        let date = section.date.unwrap_or(sources).format(&Rfc2822)?;
        let name = section.version.unwrap_or(version);
        text += &format!("skep ({name}{REVISION}) {distribution}; urgency=medium\n\n");
        let changes: String = section.text.lines().map(debian_line).collect();
        text += changes.trim_start_matches('\n');
        text += &format!("\n -- {MAINTAINER}  {date}\n\n");
    }
    Ok(text.trim_end().to_owned() + "\n")
}

/// Returns one line of Markdown as lines of Debian's changelog, which are all indented. An empty line ends an entry only
/// for the reader's eye, so it is left out.
fn debian_line(line: &str) -> String {
    let content = line.trim_start();
    let depth = line.len() - content.len();
    if content.is_empty() {
        return String::new();
    }
    if let Some(heading) = content.strip_prefix("### ") {
        return format!("\n  [ {heading} ]\n");
    }
    let (first, words) = match content.strip_prefix("- ") {
        Some(words) if depth == 0 => ("  * ".to_owned(), words),
        Some(words) => (format!("  {}- ", " ".repeat(depth)), words),
        None => ("    ".to_owned() + &" ".repeat(depth), content),
    };
    let mut lines = String::new();
    let mut open = first.clone();
    for word in words.split_whitespace() {
        if open.len() + word.len() > WIDTH && open.trim_start().len() > 2 {
            lines += &format!("{}\n", open.trim_end());
            open = " ".repeat(first.len());
        }
        open += word;
        open.push(' ');
    }
    lines + open.trim_end() + "\n"
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const TEXT: &str = "\
# Changelog

About it.

## 0.2.0 - 2026-12-31

### Added

- One thing, whose description is so long that a line of Debian's changelog cannot hold it.
  - A part of it.

## 0.1.0 - 2026-11-30

- The first.
";

    #[test]
    fn debian_s_changelog_lists_every_version_with_its_date() {
        let found =
            debian(&sections(TEXT).unwrap(), "0.2.0", datetime!(2027-01-01 0:00 UTC)).unwrap();
        assert_eq!(
            found,
            "\
skep (0.2.0-1) stable; urgency=medium

  [ Added ]
  * One thing, whose description is so long that a line of Debian's changelog
    cannot hold it.
    - A part of it.

 -- The skep developers <maintainers@skep.invalid>  Thu, 31 Dec 2026 00:00:00 +0000

skep (0.1.0-1) stable; urgency=medium

  * The first.

 -- The skep developers <maintainers@skep.invalid>  Mon, 30 Nov 2026 00:00:00 +0000
"
        );
    }

    #[test]
    fn the_real_changelog_can_be_read() {
        let text = include_str!("../../CHANGELOG.md");
        let found = sections(text).unwrap();
        let version = env!("CARGO_PKG_VERSION");
        let list = debian(&found, version, datetime!(2027-01-01 0:00 UTC)).unwrap();
        assert!(list.contains(&format!("skep ({version}-1) ")), "{list}");
        for line in list.lines() {
            assert!(
                line.is_empty() || line.starts_with(' ') || line.starts_with("skep ("),
                "{line}"
            );
        }
    }

    #[test]
    fn a_heading_of_another_form_and_a_version_with_two_sections_are_mistakes() {
        for text in ["\n## 0.2\n", "\n## v0.2.0 - 2026-12-31\n", "\n## 0.2.0 - 31.12.2026\n"] {
            assert!(sections(text).is_err(), "{text}");
        }
        let twice = "\n## 0.2.0 - 2026-12-31\n\n## 0.2.0 - 2026-12-30\n";
        assert!(sections(twice).unwrap_err().to_string().contains("two sections for 0.2.0"));
    }
}
