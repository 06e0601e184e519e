//! Removes secrets from text that leaves the host.
//!
//! Guarantees: after it, a text holds none of the values that the caller knows to be secret, and none of these forms:
//! join tokens and unlock keys, keys and session tokens of AWS, private keys, JSON web tokens, user names and passwords
//! and queries in URLs, addresses of webhooks, `Authorization` headers, and values behind names such as `password=`.
//! Where a form is doubtful, the text goes: a few harmless words are masked, too.
//!
//! Caveat: a secret of another form, such as a password in a sentence, stays.

use regex_lite::{Captures, Error, Regex};
use serde_json::Value;

/// Stands for what was removed.
pub const MASK: &str = "***";
/// Characters of the shortest value that is looked for: a shorter one would mask parts of harmless words.
const SHORTEST_KNOWN: usize = 4;

/// Patterns and their replacements, in the order of their use.
const RULES: &[(&str, &str)] = &[
    (
        r"(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|$)",
        MASK,
    ),
    (r"SWM(TKN|KEY)-[A-Za-z0-9+/=_-]*", "SWM${1}-***"),
    (r"(A[KSB]IA)[A-Z0-9]{12,}", "${1}***"),
    (r"eyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?", MASK),
    // The rest of the line: such a value may have several words.
    (r#"(?i)(authorization["']?\s*[:=]\s*).+"#, "${1}***"),
    (r"(?i)\b(bearer\s+)[A-Za-z0-9+/=._~-]{8,}", "${1}***"),
    (r"(?i)\b(basic\s+)[A-Za-z0-9+/=]{16,}", "${1}***"),
    // A user name and a password, then the query, then the path of a webhook.
    (r#"(://)[^\s/"'<>]+@"#, "${1}***@"),
    (r#"(://[^\s?#"'<>]*)[?#][^\s"'<>]*"#, "${1}?***"),
    (r#"(?i)(https?://[^\s/"'<>]*hook[^\s/"'<>]*)/[^\s"'<>]*"#, "${1}/***"),
    (r#"(?i)(https?://[^\s/"'<>]+)/[^\s"'<>]*hook[^\s"'<>]*"#, "${1}/***"),
    (
        r#"(?i)((?:password|passwd|pwd|secret|token|signature|credentials?|api[_-]?key|access[_-]?key(?:[_-]?id)?|private[_-]?key|unlock[_-]?key)["']?\s*=\s*)(?:"[^"]*"|'[^']*'|[^\s"'&,;]+)"#,
        "${1}***",
    ),
    // With a colon, only names that are no words of a sentence.
    (
        r#"(?i)((?:password|passwd|secret[_-]?access[_-]?key|session[_-]?token|security[_-]?token|api[_-]?key|private[_-]?key)["']?\s*:\s*)(?:"[^"]*"|'[^']*'|[^\s"'&,;}]+)"#,
        "${1}***",
    ),
    (r#"(?i)("[^"\\]*(?:token|secret|password)"\s*:\s*)"[^"]*""#, "${1}\"***\""),
];

/// A word of Base64 as long as a secret access key of AWS, which has 40 characters; tokens are longer.
const LONG_BASE64: &str = "[A-Za-z0-9+/]{40,}=*";

/// Ends of the names of JSON values that are secret whatever they look like, without case, `_` and `-`.
const SECRET_NAMES: [&str; 12] = [
    "password",
    "passwd",
    "secret",
    "token",
    "authorization",
    "signature",
    "accesskey",
    "accesskeyid",
    "apikey",
    "privatekey",
    "unlockkey",
    "credentials",
];

/// Removes secrets. Shows none of them in `Debug`, because it has none.
pub struct Redactor {
    known: Vec<String>,
    rules: Vec<(Regex, &'static str)>,
    long_base64: Regex,
}

impl Redactor {
    /// Returns a redactor that also removes these values, wherever they are.
    ///
    /// # Errors
    /// A pattern is wrong, which a test excludes.
    pub fn new(known: impl IntoIterator<Item = String>) -> Result<Self, Error> {
        let mut all = Vec::new();
        for value in known {
            let value = value.trim();
            if value.chars().count() < SHORTEST_KNOWN {
                continue;
            }
            // In a line of JSON, some characters have escapes.
            let quoted = Value::from(value).to_string();
            all.push(quoted[1..quoted.len() - 1].to_owned());
            all.push(value.to_owned());
        }
        // A longer value may contain a shorter one.
        all.sort_by_key(|value| std::cmp::Reverse(value.len()));
        all.dedup();
        let rule = |(pattern, with): &(&str, &'static str)| Ok((Regex::new(pattern)?, *with));
        let rules = RULES.iter().map(rule).collect::<Result<_, Error>>()?;
        Ok(Self { known: all, rules, long_base64: Regex::new(LONG_BASE64)? })
    }

    /// Returns the text without secrets.
    #[must_use]
    pub fn text(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for value in &self.known {
            text = text.replace(value.as_str(), MASK);
        }
        for (rule, with) in &self.rules {
            text = rule.replace_all(&text, *with).into_owned();
        }
        let judge = |found: &Captures<'_>| {
            let word = &found[0];
            if looks_random(word) { MASK.to_owned() } else { word.to_owned() }
        };
        self.long_base64.replace_all(&text, judge).into_owned()
    }

    /// Returns the value without secrets: in its texts, in its keys, and behind keys that name a secret.
    #[must_use]
    pub fn json(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.text(text)),
            Value::Array(items) => items.iter().map(|item| self.json(item)).collect(),
            Value::Object(fields) => {
                let field = |(key, value): (&String, &Value)| {
                    let value = if names_a_secret(key) { masked(value) } else { value.clone() };
                    (self.text(key), self.json(&value))
                };
                Value::Object(fields.iter().map(field).collect())
            }
            other => other.clone(),
        }
    }
}

/// Whether a long word mixes characters as an encoded key does: hexadecimal digests and names do not.
fn looks_random(word: &str) -> bool {
    let has = |is_it: fn(&u8) -> bool| word.bytes().any(|byte| is_it(&byte));
    has(u8::is_ascii_uppercase) && has(u8::is_ascii_lowercase)
}

fn names_a_secret(key: &str) -> bool {
    let plain: String =
        key.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    SECRET_NAMES.iter().any(|name| plain.ends_with(name))
}

/// Masks a text, or the texts of a list. An object behind such a name is a setting or a group, and is read on.
fn masked(value: &Value) -> Value {
    match value {
        Value::String(_) => MASK.into(),
        Value::Array(items) => items.iter().map(masked).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn redacted(text: &str) -> String {
        Redactor::new([]).unwrap().text(text)
    }

    #[test]
    fn each_form_is_masked_and_its_surroundings_stay() {
        let key = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
        for (text, expected) in [
            ("token SWMTKN-1-abc-def expired", "token SWMTKN-*** expired"),
            ("key 'SWMKEY-1-a+b/c' works", "key 'SWMKEY-***' works"),
            ("by AKIAIOSFODNN7EXAMPLE in", "by AKIA*** in"),
            ("http://user:pa@ss@proxy:3128/x", "http://***@proxy:3128/x"),
            ("GET https://s3/a?X-Amz-Signature=1 ok", "GET https://s3/a?*** ok"),
            (
                "to https://hooks.slack.com/services/T/B/x failed",
                "to https://hooks.slack.com/*** failed",
            ),
            ("to https://discord.com/api/webhooks/1/x failed", "to https://discord.com/*** failed"),
            ("Authorization: AWS4-HMAC-SHA256 Credential=a, b", "Authorization: ***"),
            ("sent Bearer abcdefgh1 twice", "sent Bearer *** twice"),
            ("password=hunter2, user=me", "password=***, user=me"),
            ("AWS_SECRET_ACCESS_KEY=x y", "AWS_SECRET_ACCESS_KEY=*** y"),
            (r#"{"session_token":"a b","n":1}"#, r#"{"session_token":***,"n":1}"#),
            (&format!("is {key} wrong"), "is *** wrong"),
            ("a -----BEGIN RSA PRIVATE KEY-----\nx\n-----END RSA PRIVATE KEY----- b", "a *** b"),
        ] {
            assert_eq!(redacted(text), expected);
        }
    }

    #[test]
    fn what_a_reader_needs_stays() {
        for text in [
            "ssm GetParameter /skep/prod/worker-token/1: access denied",
            "worker token: access denied; grant ssm:GetParameter on arn:aws:ssm:eu-central-1:123456789012:parameter/skep",
            "i-0a83c0ccd92120d16 at 172.31.128.7, swarm t5363dhc3bh414uvstvgtw48u, generation 3",
            "engine 28.5.2, commit 0123456789abcdef0123456789abcdef01234567",
            "cannot connect to http://169.254.169.254/latest/meta-data/",
            "autoscaling:DescribeAutoScalingInstances in prod-WorkerAsg-1ABCDEFGHIJKL",
        ] {
            assert_eq!(redacted(text), text);
        }
    }

    #[test]
    fn json_stays_json_and_a_key_that_names_a_secret_masks_its_value() {
        let redactor = Redactor::new(["open \"sesame\"".to_owned()]).unwrap();
        let value = json!({
            "worker_token": "short", "tokens.store": { "value": "ssm" }, "SWMTKN-1-a-b": [1, "x"],
            "doing": "said open \"sesame\"", "unlockKey": ["a", "b"],
        });
        let expected = json!({
            "worker_token": MASK, "tokens.store": { "value": "ssm" }, "SWMTKN-***": [1, "x"],
            "doing": "said ***", "unlockKey": [MASK, MASK],
        });
        assert_eq!(redactor.json(&value), expected);
        let line = redactor.text(&json!({ "said": "open \"sesame\"" }).to_string());
        assert_eq!(line, r#"{"said":"***"}"#);
    }

    /// Returns a text with a secret in one of the forms, and the secret.
    pub(crate) fn secrets() -> impl Strategy<Value = (String, String)> {
        let with = |pattern: &str, around: fn(&str) -> String| {
            prop::string::string_regex(pattern)
                .unwrap()
                .prop_map(move |secret| (around(&secret), secret))
        };
        prop_oneof![
            with("[0-9a-z]{50}-[0-9a-z]{25}", |it| format!("SWMTKN-1-{it}")),
            with("[A-Za-z0-9+/]{43}", |it| format!("SWMKEY-1-{it}")),
            with("(AKIA|ASIA)[A-Z0-9]{16}", str::to_owned),
            with("[A-Z][a-z][A-Za-z0-9+/]{38}", str::to_owned),
            with("[A-Z][a-z][A-Za-z0-9+/]{200,400}", |it| format!("{it}==")),
            with("[a-z]{4,8}:[A-Za-z0-9!$%@]{6,20}", |it| format!(
                "https://{it}@proxy.example:3128/"
            )),
            with("[A-Za-z0-9%&=._-]{6,40}", |it| format!("https://example.com/path?{it}")),
            with("T[A-Z0-9]{8}/B[A-Z0-9]{8}/[A-Za-z0-9]{24}", |it| {
                format!("https://hooks.slack.com/services/{it}")
            }),
            with("[A-Za-z0-9+/=_. ]{6,60}[a-z0-9]", |it| format!("Authorization: Basic {it}")),
            with("[A-Za-z0-9._-]{20,60}", |it| format!("bearer {it}")),
            with("[A-Za-z0-9+/_.-]{6,40}", |it| format!("client_secret={it}")),
            with("[A-Za-z0-9+/_.-]{6,40}", |it| format!("Password: {it}")),
            with("[A-Za-z0-9+/\n]{50,200}", |it| {
                format!("-----BEGIN EC PRIVATE KEY-----\n{it}\n-----END EC PRIVATE KEY-----")
            }),
        ]
    }

    proptest! {
        #[test]
        fn no_secret_survives_in_any_surroundings(
            (text, secret) in secrets(),
            before in "[ -~äß\n]{0,40}[ (\"\n]",
            after in "[ )\"\n][ -~äß\n]{0,40}",
            known in "[!-~]{4,30}",
        ) {
            let around = format!("{before}{text}{after}");
            let shown = redacted(&around);
            prop_assert!(!shown.contains(&secret), "{secret:?} of {around:?} in {shown:?}");
            let redactor = Redactor::new([known.clone()]).unwrap();
            let value = json!({ "doing": around, &around: [format!("{before}{known}{after}")] });
            let shown = redactor.json(&value).to_string();
            prop_assert!(!shown.contains(&secret), "{secret:?} of {around:?} in {shown:?}");
            let shown = redactor.text(&format!("{before}{known}{after}"));
            // What is left is a part of a mask or of the surroundings.
            let rest = format!("{before}{after}{MASK}");
            prop_assert!(!shown.contains(&known) || rest.contains(&known), "{known:?} in {shown:?}");
        }
    }
}
