//! The values of CloudWatch's calls and answers, in the form that both of its protocols share.

use std::collections::BTreeMap;

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::cloud::clock;
use crate::cloud::errors::ApiError;
use crate::cloud::wire::Params;
use crate::cloud::xml::Xml;

/// The most parts of a parameter's name that are read.
const MOST_PARTS: usize = 16;

/// One value. The Query protocol has only texts, lists and maps.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::cloud) enum Data {
    Null,
    Bool(bool),
    Whole(i64),
    Number(f64),
    Text(String),
    Time(OffsetDateTime),
    List(Vec<Data>),
    Map(BTreeMap<String, Data>),
}

impl Data {
    /// Returns a map of these members.
    pub fn map<const N: usize>(members: [(&str, Data); N]) -> Self {
        Self::Map(members.map(|(name, value)| (name.to_owned(), value)).into())
    }

    pub fn text(text: &str) -> Self {
        Self::Text(text.to_owned())
    }

    /// Reads a value of the JSON protocol.
    pub fn of_json(value: Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(value),
            Value::Number(number) => match number.as_i64() {
                Some(whole) => Self::Whole(whole),
                None => Self::Number(number.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(text) => Self::Text(text),
            Value::Array(items) => Self::List(items.into_iter().map(Self::of_json).collect()),
            Value::Object(members) => {
                let members = members.into_iter().map(|(name, it)| (name, Self::of_json(it)));
                Self::Map(members.collect())
            }
        }
    }

    /// Returns the value in the JSON protocol, in which times are seconds since 1970.
    pub fn to_json(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(value) => (*value).into(),
            Self::Whole(number) => (*number).into(),
            Self::Number(number) => (*number).into(),
            Self::Text(text) => text.as_str().into(),
            Self::Time(time) => {
                // Whole milliseconds, as AWS has them.
                let millis = time.unix_timestamp_nanos() / 1_000_000;
                (millis as f64 / 1000.0).into()
            }
            Self::List(items) => items.iter().map(Self::to_json).collect(),
            Self::Map(members) => {
                members.iter().map(|(name, value)| (name.clone(), value.to_json())).collect()
            }
        }
    }

    /// Reads the parameters of the Query protocol: `MetricData.member.1.Value=3` is the value of the first item of a
    /// list.
    pub fn of_form(form: &Params) -> Self {
        let mut root = Self::Map(BTreeMap::new());
        // The deepest parameter has nine parts; each costs a stack frame.
        for (name, value) in form.pairs().filter(|(name, _)| name.split('.').count() <= MOST_PARTS)
        {
            root.insert(name.split('.'), value);
        }
        root.with_lists()
    }

    fn insert<'a>(&mut self, mut path: impl Iterator<Item = &'a str>, value: &str) {
        match (self, path.next()) {
            (it, None) => *it = Self::text(value),
            (Self::Map(members), Some(name)) => {
                let member = members.entry(name.to_owned());
                member.or_insert_with(|| Self::Map(BTreeMap::new())).insert(path, value);
            }
            // A value that has members, too: the first one counts.
            (_, Some(_)) => {}
        }
    }

    /// Replaces the maps that stand for lists: their only member is `member`, and its members are numbered.
    fn with_lists(self) -> Self {
        let Self::Map(mut members) = self else { return self };
        let is_list = members.len() == 1 && matches!(members.get("member"), Some(Self::Map(_)));
        if is_list && let Some(Self::Map(items)) = members.remove("member") {
            let numbered = items.into_iter().map(|(number, item)| (number.parse::<u32>(), item));
            let mut items: Vec<_> =
                numbered.filter_map(|(number, item)| Some((number.ok()?, item))).collect();
            items.sort_by_key(|(number, _)| *number);
            return Self::List(items.into_iter().map(|(_, item)| item.with_lists()).collect());
        }
        Self::Map(members.into_iter().map(|(name, it)| (name, it.with_lists())).collect())
    }

    /// Returns a member of a map; `None` also for a null.
    pub fn get(&self, name: &str) -> Option<&Self> {
        let Self::Map(members) = self else { return None };
        members.get(name).filter(|it| !matches!(it, Self::Null))
    }

    pub fn text_of(&self, name: &str) -> Option<&str> {
        match self.get(name)? {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Returns the items of a list; none where it is missing.
    pub fn list_of(&self, name: &str) -> &[Self] {
        match self.get(name) {
            Some(Self::List(items)) => items,
            _ => &[],
        }
    }

    pub fn number_of(&self, name: &str) -> Result<Option<f64>, ApiError> {
        self.get(name).map(|value| value.number().ok_or_else(|| malformed(name))).transpose()
    }

    /// Returns a number, which may be infinite or none.
    pub fn number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            // Exact up to 2^53.
            Self::Whole(number) => Some(*number as f64),
            Self::Text(text) => text.parse().ok(),
            _ => None,
        }
    }

    pub fn bool_of(&self, name: &str) -> Result<Option<bool>, ApiError> {
        self.get(name)
            .map(|value| match value {
                Self::Bool(value) => Ok(*value),
                Self::Text(text) => text.parse().map_err(|_| malformed(name)),
                _ => Err(malformed(name)),
            })
            .transpose()
    }

    pub fn time_of(&self, name: &str) -> Result<Option<OffsetDateTime>, ApiError> {
        self.get(name).map(|value| value.time().ok_or_else(|| malformed(name))).transpose()
    }

    fn time(&self) -> Option<OffsetDateTime> {
        if let Self::Text(text) = self {
            return OffsetDateTime::parse(text, &Rfc3339).ok();
        }
        let since_1970 = std::time::Duration::try_from_secs_f64(self.number()?).ok()?;
        OffsetDateTime::UNIX_EPOCH.checked_add(since_1970.try_into().ok()?)
    }

    /// Writes the value as an element of the Query protocol.
    pub fn write(&self, xml: &mut Xml, name: &str) {
        match self {
            Self::Null => {}
            Self::Bool(value) => xml.display(name, value),
            Self::Whole(number) => xml.display(name, number),
            Self::Number(number) => xml.display(name, number),
            Self::Text(text) => xml.text(name, text),
            Self::Time(time) => xml.text(name, &clock::iso_seconds(*time)),
            Self::List(items) => {
                xml.open(name);
                for item in items {
                    item.write(xml, "member");
                }
                xml.close(name);
            }
            Self::Map(_) => {
                xml.open(name);
                self.write_members(xml);
                xml.close(name);
            }
        }
    }

    /// Writes the members of a map.
    pub fn write_members(&self, xml: &mut Xml) {
        if let Self::Map(members) = self {
            for (name, value) in members {
                value.write(xml, name);
            }
        }
    }
}

fn malformed(name: &str) -> ApiError {
    ApiError::new(400, "MalformedInput", format!("{name} has a value of another type"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_of_the_query_protocol_become_lists_and_maps() {
        let form = b"Action=X&D.member.2.V=2e1&D.member.10.V=3&D.member.1.N.member.1.Name=a&T=2026-11-30T18:00:05Z";
        let data = Data::of_form(&Params::parse(form));
        let items = data.list_of("D");
        assert_eq!(items.len(), 3);
        assert_eq!(items[0].list_of("N")[0].text_of("Name"), Some("a"));
        assert_eq!(items[1].number_of("V"), Ok(Some(20.0)));
        assert_eq!(items[2].number_of("V"), Ok(Some(3.0)));
        let time = time::macros::datetime!(2026-11-30 18:00:05 UTC);
        assert_eq!(data.time_of("T"), Ok(Some(time)));
        assert!(data.number_of("Action").is_err());
        assert_eq!(data.list_of("missing"), []);
    }

    #[test]
    fn values_of_the_json_protocol_are_read_and_written() {
        let time = time::macros::datetime!(2026-11-30 18:00:05.25 UTC);
        let text = r#"{"A": [1, -2.5, true, null], "T": 1796061605.25, "V": "NaN"}"#;
        let data = Data::of_json(serde_json::from_str(text).unwrap());
        assert_eq!(data.list_of("A")[..2], [Data::Whole(1), Data::Number(-2.5)]);
        assert_eq!(data.time_of("T"), Ok(Some(time)));
        assert!(data.number_of("V").unwrap().unwrap().is_nan());
        assert_eq!(Data::Time(time).to_json(), serde_json::json!(1_796_061_605.25));
        assert_eq!(data.to_json(), serde_json::from_str::<Value>(text).unwrap());
    }

    #[test]
    fn answers_of_the_query_protocol_are_elements() {
        let time = time::macros::datetime!(2026-11-30 18:00:05 UTC);
        let data = Data::map([
            ("A", Data::List(vec![Data::map([("V", Data::Number(1.5))])])),
            ("B", Data::Time(time)),
            ("C", Data::text("<")),
        ]);
        let mut xml = Xml::default();
        data.write_members(&mut xml);
        assert_eq!(
            xml.finish(),
            "<A><member><V>1.5</V></member></A><B>2026-11-30T18:00:05Z</B><C>&lt;</C>"
        );
    }
}
