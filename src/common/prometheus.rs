//! Reads Prometheus' text format, as far as flushers need it: samples with their labels. Comments, timestamps and
//! exemplars are skipped.
//!
//! <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>

/// One sample of a page.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Name of the metric, such as `queue_size`.
    pub name: String,
    /// Names and unquoted values of its labels, in the order of the page.
    pub labels: Vec<(String, String)>,
    /// Value of the sample; 0 in a [`selector`].
    pub value: f64,
}

impl Sample {
    /// Returns the value of the label `name`; `None` if the sample has no such label.
    #[must_use]
    pub fn label(&self, name: &str) -> Option<&str> {
        let found = self.labels.iter().find(|(own, _)| own == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// Returns all samples of a page; other lines are skipped.
pub fn samples(page: &str) -> impl Iterator<Item = Sample> {
    page.lines().filter_map(|line| {
        let (series, rest) = series(line.trim())?;
        let value = rest.split_whitespace().next()?.parse().ok()?;
        Some(Sample { value, ..series })
    })
}

/// Parses a selector such as `queue_size{name="main"}`: a name, with or without labels.
#[must_use]
pub fn selector(text: &str) -> Option<Sample> {
    series(text).filter(|(_, rest)| rest.trim().is_empty()).map(|(series, _)| series)
}

/// Parses `name{label="value",…}`; returns it with the text that follows.
fn series(text: &str) -> Option<(Sample, &str)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':');
    let end = text.find(|c| !is_name(c)).unwrap_or(text.len());
    let (name, mut rest) = text.split_at(end);
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let mut labels = Vec::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner.trim_start();
        while !rest.starts_with('}') {
            let (label, after) = rest.split_once('=')?;
            let (value, after) = quoted(after.trim_start())?;
            labels.push((label.trim().to_owned(), value));
            rest = after.trim_start();
            rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
        }
        rest = &rest[1..];
    }
    Some((Sample { name: name.to_owned(), labels, value: 0.0 }, rest))
}

/// Parses a label's quoted value; returns it without quotes and escapes, with the text that follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let text = text.strip_prefix('"')?;
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match characters.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_with_their_labels() {
        let page = "# HELP x of y\n# TYPE x counter\nx_total{a=\"1\",b=\"q\\\"{}\\\\ \\n,\"} 12 1700000000000\n\
                    up 1\nbad{a=1} 2\nalso bad\nfar +Inf\nspaced{ a = \"1\" , } 3e2\n12 4\n";
        let found: Vec<_> = samples(page).collect();
        let names: Vec<_> = found.iter().map(|it| (it.name.as_str(), it.value)).collect();
        assert_eq!(
            names,
            [("x_total", 12.0), ("up", 1.0), ("far", f64::INFINITY), ("spaced", 300.0)]
        );
        assert_eq!(found[0].label("b"), Some("q\"{}\\ \n,"));
        assert_eq!(found[3].label("a"), Some("1"));
    }

    #[test]
    fn a_selector_is_a_series_and_nothing_else() {
        assert_eq!(selector("a:b{c=\"d\"}").unwrap().labels, [("c".into(), "d".into())]);
        for wrong in ["", "1a", "a b", "a{b}", "a{b=\"c\"", "a{b=\"c\"} 1"] {
            assert_eq!(selector(wrong), None, "{wrong}");
        }
    }

    proptest::proptest! {
        /// A shipper can answer any text.
        #[test]
        fn no_page_is_too_strange(page in "[a-z{}=\"\\\\,# 0-9é\n]{0,60}") {
            samples(&page).for_each(drop);
        }
    }
}
