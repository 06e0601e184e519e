//! An unchecked value, as its source contains it.

use toml::de::DeValue;

/// The mistake in one value and its remedy, in one line.
pub type Problem = String;

/// A value of a file keeps its TOML type. A value of a variable or a flag is [`Raw::Bare`] and takes the type of its
/// key.
#[derive(Clone, Debug, PartialEq)]
pub enum Raw {
    Bare(String),
    Text(String),
    Boolean(bool),
    /// Digits, as TOML writes them.
    Number(String),
    List(Vec<Raw>),
    /// One line of a section whose keys the operator chooses.
    Entry(String, Box<Raw>),
    /// Name of a type that no key accepts.
    Other(&'static str),
}

impl Raw {
    /// Reads the text of a variable, a flag or a default. A TOML string or array is read as TOML.
    pub fn bare(text: &str) -> Self {
        let text = text.trim();
        match DeValue::parse(text) {
            Ok(value) if text.starts_with(['"', '\'', '[']) => value.get_ref().into(),
            _ => Raw::Bare(text.into()),
        }
    }

    pub fn text(&self) -> Result<&str, Problem> {
        match self {
            Raw::Bare(text) | Raw::Text(text) => Ok(text),
            other => Err(format!("expected text, found {}; write it in quotes", other.type_name())),
        }
    }

    pub fn boolean(&self) -> Result<bool, Problem> {
        match self {
            Raw::Boolean(value) => Ok(*value),
            Raw::Bare(text) if text == "true" => Ok(true),
            Raw::Bare(text) if text == "false" => Ok(false),
            Raw::Bare(text) => Err(format!("\"{text}\" is neither true nor false")),
            other => Err(format!("expected true or false, found {}", other.type_name())),
        }
    }

    pub fn number(&self) -> Result<&str, Problem> {
        match self {
            Raw::Bare(digits) | Raw::Number(digits) => Ok(digits),
            other => Err(format!("expected a number, found {}", other.type_name())),
        }
    }

    /// Returns the items of a TOML array of strings, or of bare text with commas.
    pub fn list(&self) -> Result<Vec<&str>, Problem> {
        match self {
            Raw::List(items) => items.iter().map(Raw::text).collect(),
            Raw::Bare(text) => Ok(text.split(',').map(str::trim).collect()),
            other => Err(format!("expected a list [\"…\", \"…\"], found {}", other.type_name())),
        }
    }

    /// Returns the pairs of a list of `key=value`, or of one line of the key's section.
    pub fn pairs(&self) -> Result<Vec<(&str, &str)>, Problem> {
        if let Raw::Entry(key, value) = self {
            let value = value.text().map_err(|problem| format!("\"{key}\": {problem}"))?;
            return Ok(vec![(key, value)]);
        }
        let pairs = self.list()?.into_iter().map(|item| {
            item.split_once('=').ok_or_else(|| format!("expected key=value, found \"{item}\""))
        });
        pairs.collect()
    }

    fn type_name(&self) -> &'static str {
        match self {
            Raw::Bare(_) | Raw::Text(_) => "text",
            Raw::Boolean(_) => "true or false",
            Raw::Number(_) => "a number",
            Raw::List(_) => "a list",
            Raw::Entry(..) => "a section",
            Raw::Other(name) => name,
        }
    }
}

impl From<&DeValue<'_>> for Raw {
    fn from(value: &DeValue<'_>) -> Self {
        match value {
            DeValue::String(text) => Raw::Text(text.to_string()),
            DeValue::Boolean(value) => Raw::Boolean(*value),
            DeValue::Integer(digits) => Raw::Number(digits.to_string()),
            DeValue::Float(digits) => Raw::Number(digits.to_string()),
            DeValue::Array(items) => {
                Raw::List(items.iter().map(|item| item.get_ref().into()).collect())
            }
            DeValue::Table(_) => Raw::Other("a section"),
            DeValue::Datetime(_) => Raw::Other("a date"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_value_is_toml_only_where_it_looks_like_it() {
        assert_eq!(Raw::bare(" 10m "), Raw::Bare("10m".into()));
        assert_eq!(Raw::bare("true"), Raw::Bare("true".into()));
        assert_eq!(Raw::bare("'a b'"), Raw::Text("a b".into()));
        let list = Raw::List(vec![Raw::Text("a".into()), Raw::Text("b".into())]);
        assert_eq!(Raw::bare(r#"["a", "b"]"#), list);
        assert_eq!(Raw::bare("[half"), Raw::Bare("[half".into()));
    }

    #[test]
    fn a_bare_value_takes_the_type_that_is_wanted() {
        let bare = Raw::bare("true");
        assert_eq!(bare.boolean(), Ok(true));
        assert_eq!(bare.text(), Ok("true"));
        assert_eq!(Raw::bare("a, b").list(), Ok(vec!["a", "b"]));
        assert!(Raw::bare("yes").boolean().is_err());
    }

    #[test]
    fn a_value_of_a_file_keeps_its_type() {
        assert!(Raw::Text("true".into()).boolean().is_err());
        assert!(Raw::Text("1".into()).number().is_err());
        assert!(Raw::Text("a, b".into()).list().is_err());
        assert!(Raw::Number("1".into()).text().unwrap_err().starts_with("expected text, found"));
        assert!(Raw::List(vec![Raw::Boolean(true)]).list().is_err());
    }
}
