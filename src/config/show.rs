//! Shows the settings in force as JSON, from which their text is made.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::Ipv4Net;
use reqwest::Url;
use serde_json::{Value, json};

use super::condition::Condition;
use super::values::{
    BackupPlace, Choice, Destination, DockerHost, JoinAvailability, LogFilter, LogFormat,
    Rebalance, Shipper, TokenStore,
};
use crate::common::instance::Role;
use crate::common::labels::Labels;

/// A value as `skep config --json` shows it; a source accepts it again.
pub(super) trait Show {
    fn show(&self) -> Value;
}

macro_rules! show {
    ($($type:ty: $value:ident => $shown:expr;)+) => {
        $(impl Show for $type {
            fn show(&self) -> Value {
                let $value = self;
                json!($shown)
            }
        })+
    };
}

show! {
    bool: value => value;
    u8: value => value;
    f64: value => value;
    String: value => value;
    PathBuf: value => value.display().to_string();
    IpAddr: value => value;
    SocketAddr: value => value;
    Duration: value => in_one_unit(*value);
    Role: value => value.word();
    TokenStore: value => value.word();
    LogFormat: value => value.word();
    JoinAvailability: value => value.word();
    Rebalance: value => value.word();
    LogFilter: value => value.to_string();
    DockerHost: value => value.to_string();
    Ipv4Net: value => value.to_string();
    u32: value => value;
    BackupPlace: value => value.to_string();
    Destination: value => value.to_string();
    Shipper: value => value.word();
    Url: value => value.as_str();
    Condition: value => value.to_string();
}

/// In the format of a variable.
impl Show for Labels {
    fn show(&self) -> Value {
        self.iter().map(|(key, value)| format!("{key}={value}")).collect()
    }
}

impl<T: Show> Show for Option<T> {
    fn show(&self) -> Value {
        self.as_ref().map_or(Value::Null, Show::show)
    }
}

impl<T: Show> Show for Vec<T> {
    fn show(&self) -> Value {
        self.iter().map(Show::show).collect()
    }
}

/// Formats a duration in the largest unit that leaves no rest: `80s`, not `1m 20s`.
fn in_one_unit(duration: Duration) -> String {
    const UNITS: [(&str, u128); 6] = [
        ("d", 86_400_000_000_000),
        ("h", 3_600_000_000_000),
        ("m", 60_000_000_000),
        ("s", 1_000_000_000),
        ("ms", 1_000_000),
        ("us", 1_000),
    ];
    let nanoseconds = duration.as_nanos();
    let whole = UNITS.iter().find(|(_, unit)| nanoseconds.is_multiple_of(*unit));
    let (name, unit) = whole.copied().unwrap_or(("ns", 1));
    format!("{}{name}", nanoseconds / unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_shown_so_that_it_can_be_read_again() {
        for text in ["7d", "36h", "10m", "90m", "80s", "500ms", "1500us", "7ns"] {
            let duration = humantime::parse_duration(text).unwrap();
            assert_eq!(duration.show(), text);
        }
        assert_eq!(Duration::from_secs(3600).show(), "1h");
    }
}
