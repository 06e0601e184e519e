//! The address of the webhook. It is often a secret itself, so that only the host is shown.

use std::fmt;
use std::net::IpAddr;

use reqwest::Url;

/// Displayed as `https://hooks.example.com/***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Address(Url);

impl Address {
    /// Parses the content of the file.
    ///
    /// # Errors
    /// What is wrong with it, without repeating it.
    pub fn parse(content: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(content).map_err(|_| "is not valid UTF-8")?;
        // The parser would remove line breaks.
        if text.contains(char::is_whitespace) {
            return Err("must contain nothing but the address".into());
        }
        let url: Url = text.parse().map_err(|problem| format!("contains no URL: {problem}"))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(
                "contains a user name or a password; remove them, messages are signed".into()
            );
        }
        match url.scheme() {
            "https" => Ok(Self(url)),
            "http" if is_loopback(&url) => Ok(Self(url)),
            _ => Err("must begin with https://; http:// only for a loopback address such as \
                      http://127.0.0.1:8080/"
                .into()),
        }
    }

    /// Returns the whole address.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.as_str()
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}/***", self.0.scheme(), self.0.host_str().unwrap_or_default())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_leaves_the_host_and_only_the_host_is_shown() {
        for (text, shown) in [
            ("https://hooks.example.com/T0KEN?key=T0KEN", "https://hooks.example.com/***"),
            ("http://127.0.0.1:8080/T0KEN", "http://127.0.0.1/***"),
            ("http://[::1]/T0KEN", "http://[::1]/***"),
        ] {
            let address = Address::parse(text.as_bytes()).unwrap();
            assert_eq!(
                (address.expose(), format!("{address} {address:?}")),
                (text, format!("{shown} {shown}"))
            );
        }
        for (text, problem) in [
            ("http://hooks.example.com/T0KEN", "must begin with https://"),
            ("http://localhost.example.com/T0KEN", "must begin with https://"),
            ("http://10.0.0.1/T0KEN", "must begin with https://"),
            ("ftp://127.0.0.1/T0KEN", "must begin with https://"),
            ("https://me:T0KEN@example.com/", "a user name or a password"),
            ("hooks.example.com/T0KEN", "contains no URL"),
            ("https://a.example/T0KEN\nhttps://b.example/", "nothing but the address"),
        ] {
            let error = Address::parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(problem) && !error.contains("T0KEN"), "{error}");
        }
        assert!(Address::parse(b"\xff").is_err());
    }
}
