//! A condition that the answer of a URL must meet before the node leaves: `<URL> <where> <comparison> <number>`.

use std::fmt;
use std::str::FromStr;

use reqwest::Url;

/// A URL and the condition for its answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// The URL to poll, with the scheme `http` and without user name and password.
    pub url: Url,
    /// A JSON pointer (RFC 6901), which begins with `/`; or else a sample of Prometheus' text format, with or without
    /// labels.
    pub place: String,
    /// How the value at `place` must compare with `number`.
    pub comparison: Comparison,
    /// The right side of the comparison; finite.
    pub number: f64,
}

/// A comparison of a value in the answer with the condition's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// Written as `==`.
    Equal,
    /// Written as `!=`.
    NotEqual,
    /// Written as `<`.
    Less,
    /// Written as `<=`.
    AtMost,
    /// Written as `>`.
    More,
    /// Written as `>=`.
    AtLeast,
}

const COMPARISONS: [(&str, Comparison); 6] = [
    ("==", Comparison::Equal),
    ("!=", Comparison::NotEqual),
    ("<", Comparison::Less),
    ("<=", Comparison::AtMost),
    (">", Comparison::More),
    (">=", Comparison::AtLeast),
];

impl Comparison {
    /// Whether the comparison holds, with `value` on its left side and `number` on its right side.
    #[must_use]
    pub fn holds(self, value: f64, number: f64) -> bool {
        match self {
            Self::Equal => value == number,
            Self::NotEqual => value != number,
            Self::Less => value < number,
            Self::AtMost => value <= number,
            Self::More => value > number,
            Self::AtLeast => value >= number,
        }
    }
}

impl FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = || {
            let (url, rest) = text.trim().split_once(' ')?;
            let (rest, number) = rest.rsplit_once(' ')?;
            let (place, comparison) = rest.trim().rsplit_once(' ')?;
            let comparison = COMPARISONS.iter().find(|(sign, _)| *sign == comparison)?.1;
            let number = number.parse::<f64>().ok().filter(|number| number.is_finite())?;
            Some((url, place.trim(), comparison, number))
        };
        let Some((url, place, comparison, number)) = parts() else {
            return Err(format!(
                "{} is not a condition such as \"http://127.0.0.1:8080/stats /queue/size == 0\"",
                quoted(text)
            ));
        };
        if !place.starts_with('/') && crate::common::prometheus::selector(place).is_none() {
            return Err(format!(
                "\"{place}\" is neither a JSON pointer such as \"/queue/size\" nor a sample such as \
                 \"queue_size{{name=\\\"main\\\"}}\""
            ));
        }
        Ok(Self { url: http_url(url)?, place: place.to_owned(), comparison, number })
    }
}

/// Parses the URL of a shipper's endpoint: plain HTTP on this host, because skep's client for it has no TLS.
pub fn http_url(text: &str) -> Result<Url, String> {
    url_of(text, &["http"]).map_err(|problem| {
        format!("{problem}; write one such as \"http://127.0.0.1:2020\" (no https)")
    })
}

/// Parses a URL that can be shown: it must not contain a user name or a password, and no error repeats them.
pub fn url_of(text: &str, schemes: &[&str]) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|problem| format!("{}: {problem}", quoted(text)))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("the URL contains a user name or a password".into());
    }
    if schemes.contains(&url.scheme()) && url.has_host() {
        return Ok(url);
    }
    Err(format!("{} is not a URL with the scheme {}", quoted(text), schemes.join(" or ")))
}

/// Quotes a text; without its content if it contains an `@`, because a password may precede that.
fn quoted(text: &str) -> String {
    if text.contains('@') { "the value".into() } else { format!("\"{text}\"") }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = COMPARISONS.iter().find(|(_, it)| *it == self.comparison).map_or("", |it| it.0);
        write!(f, "{} {} {sign} {}", self.url, self.place, self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_shown_as_it_is_said() {
        for text in [
            "http://127.0.0.1:8080/stats /queue/size == 0",
            "http://[::1]:9/ up >= 1",
            "http://localhost/m queue_size{name=\"a b\",x=\"y\"} < 0.5",
        ] {
            assert_eq!(text.parse::<Condition>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_wrong_with_a_condition_is_said() {
        for (text, problem) in [
            ("http://127.0.0.1/stats", "is not a condition"),
            ("http://127.0.0.1/ /a = 0", "is not a condition"),
            ("http://127.0.0.1/ /a == inf", "is not a condition"),
            ("http://127.0.0.1/ a b == 0", "neither a JSON pointer"),
            ("https://127.0.0.1/ /a == 0", "no https"),
            ("http://me:secret@127.0.0.1/ /a == 0", "a user name or a password"),
            ("http://me:secret@127.0.0.1/ /a", "is not a condition"),
            ("http://me:secret@:x/ /a == 0", "the value"),
            ("127.0.0.1/x /a == 0", "relative URL"),
        ] {
            let said = text.parse::<Condition>().unwrap_err();
            assert!(said.contains(problem) && !said.contains("secret"), "{said}");
        }
    }
}
