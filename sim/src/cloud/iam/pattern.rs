//! Values of a policy: text with wildcards and a policy variable.

use super::PolicyError;

/// The only policy variable that this cloud resolves; AWS compares names of keys without regard to case.
const VARIABLE: &str = "ec2:SourceInstanceARN";

#[derive(Clone, Debug)]
pub(super) struct Pattern {
    /// As in the policy.
    pub text: String,
    pieces: Vec<Piece>,
}

#[derive(Clone, Copy, Debug)]
enum Piece {
    /// `*`
    Any,
    /// `?`
    One,
    Literal(char),
    /// The variable. Its value is literal: a wildcard in it matches only itself.
    SourceInstance,
}

impl Pattern {
    /// Text without wildcards.
    pub fn literal(text: &str) -> Result<Self, PolicyError> {
        Ok(Self { text: text.to_owned(), pieces: pieces(text, false)? })
    }

    pub fn wild(text: &str) -> Result<Self, PolicyError> {
        Ok(Self { text: text.to_owned(), pieces: pieces(text, true)? })
    }

    /// An action: AWS compares actions without regard to case.
    pub fn action(text: &str) -> Result<Self, PolicyError> {
        Ok(Self { text: text.to_owned(), ..Self::wild(&text.to_ascii_lowercase())? })
    }

    /// A resource. AWS substitutes a variable only after the fifth colon of an ARN:
    /// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_variables.html#policy-vars-wheretouse>
    pub fn resource(text: &str) -> Result<Self, PolicyError> {
        match text.split_once("${") {
            Some((before, _)) if before.matches(':').count() < 5 => Err(refused(text)),
            _ => Self::wild(text),
        }
    }

    /// A value of `ArnEquals` or `ArnLike`, which do the same. AWS checks each of an ARN's six parts separately; so
    /// does this pattern with the ARN of an instance, which has no more colons than the pattern.
    /// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_condition_operators.html#Conditions_ARN>
    pub fn arn(text: &str) -> Result<Self, PolicyError> {
        if text.matches(':').count() < 5 {
            return Err(PolicyError(format!("{text} is not an ARN")));
        }
        Self::resource(text)
    }

    /// Whether `text` matches, in a request with this value of the variable. Without a value, no text matches a pattern
    /// with the variable:
    /// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_variables.html#policy-vars-no-value>
    pub fn fits(&self, text: &str, source_instance: Option<&str>) -> bool {
        fits(&self.pieces, text, source_instance)
    }
}

fn fits(pieces: &[Piece], text: &str, source_instance: Option<&str>) -> bool {
    let Some((first, rest)) = pieces.split_first() else {
        return text.is_empty();
    };
    let mut chars = text.chars();
    let left = match first {
        Piece::Any => {
            let starts = text.char_indices().map(|(index, _)| index).chain([text.len()]);
            return starts.into_iter().any(|start| fits(rest, &text[start..], source_instance));
        }
        Piece::One => chars.next().map(|_| chars.as_str()),
        Piece::Literal(literal) => text.strip_prefix(*literal),
        Piece::SourceInstance => source_instance.and_then(|value| text.strip_prefix(value)),
    };
    left.is_some_and(|left| fits(rest, left, source_instance))
}

fn pieces(text: &str, has_wildcards: bool) -> Result<Vec<Piece>, PolicyError> {
    let (mut pieces, mut rest) = (vec![], text);
    while let Some(first) = rest.chars().next() {
        if let Some(variable) = rest.strip_prefix("${") {
            let known =
                variable.split_once('}').filter(|(name, _)| name.eq_ignore_ascii_case(VARIABLE));
            (_, rest) = known.ok_or_else(|| refused(text))?;
            pieces.push(Piece::SourceInstance);
            continue;
        }
        rest = &rest[first.len_utf8()..];
        pieces.push(match first {
            '*' if has_wildcards => Piece::Any,
            '?' if has_wildcards => Piece::One,
            _ => Piece::Literal(first),
        });
    }
    Ok(pieces)
}

fn refused(text: &str) -> PolicyError {
    PolicyError(format!("the policy variable in {text}"))
}
