//! Text from elsewhere (rows, answers, old log lines), as it may be shown: no control character of it reaches a terminal
//! or a log.

use std::borrow::Cow;
use std::fmt::Write;

/// Returns at most `longest` characters of a text on one line, with control characters as escapes such as `\u001b`, and
/// with `…` for the rest.
#[must_use]
pub fn printable(text: &str, longest: usize) -> String {
    let end = text.char_indices().nth(longest).map(|(end, _)| end);
    let shown = on_one_line(&text[..end.unwrap_or(text.len())]).into_owned();
    if end.is_some() { shown + "…" } else { shown }
}

/// Returns a text on one line, with control characters as escapes.
#[must_use]
pub fn on_one_line(text: &str) -> Cow<'_, str> {
    escaped(text, |_| 0)
}

/// Returns a text of several lines for a terminal: line ends, tabs and colours stay, and every other control character
/// becomes an escape that is also valid in JSON.
#[must_use]
pub fn on_terminal(text: &str) -> Cow<'_, str> {
    escaped(text, |rest| match rest.as_bytes() {
        [b'\n' | b'\t', ..] => 1,
        [0x1b, b'[', parameters @ ..] => {
            let is_parameter = |byte: &u8| byte.is_ascii_digit() || *byte == b';';
            let length = parameters.iter().take_while(|byte| is_parameter(byte)).count();
            if parameters.get(length) == Some(&b'm') { length + 3 } else { 0 }
        }
        _ => 0,
    })
}

/// Escapes the harmful characters, but for those at which `kept` returns a number of bytes that stay.
fn escaped(text: &str, kept: impl Fn(&str) -> usize) -> Cow<'_, str> {
    if !text.contains(is_harmful) {
        return Cow::Borrowed(text);
    }
    let (mut shown, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find(is_harmful) {
        shown.push_str(&rest[..at]);
        rest = &rest[at..];
        let stays = kept(rest);
        shown.push_str(&rest[..stays]);
        rest = &rest[stays..];
        if stays == 0 {
            let mut characters = rest.chars();
            match characters.next() {
                Some('\n') => shown.push_str("\\n"),
                // Writing to a string does not fail.
                Some(c) => drop(write!(shown, "\\u{:04x}", u32::from(c))),
                None => {}
            }
            rest = characters.as_str();
        }
    }
    shown.push_str(rest);
    Cow::Owned(shown)
}

/// Whether the character can change more than its own place: control characters, and those that reverse the direction
/// of the text after them.
fn is_harmful(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_moves_a_cursor_or_is_too_long_is_not_shown_as_it_is() {
        assert_eq!(printable("größer 💥", 99), "größer 💥");
        let odd = "a\u{1b}[2Jb\nc\u{202e}\u{9b}";
        assert_eq!(printable(odd, 99), r"a\u001b[2Jb\nc\u202e\u009b");
        assert_eq!(printable("abcdef", 3), "abc…");
        assert_eq!(on_terminal("\u{1b}[31mred\u{1b}[0m\n\ta"), "\u{1b}[31mred\u{1b}[0m\n\ta");
        assert_eq!(on_terminal("\u{1b}]0;title\u{7}\u{1b}[2J"), r"\u001b]0;title\u0007\u001b[2J");
    }

    proptest! {
        #[test]
        fn no_text_keeps_a_harmful_character(text in "(.|\u{1b}\\[|[\u{0}-\u{9f}]|\u{202e}|3|m){0,40}") {
            prop_assert!(!on_one_line(&text).contains(is_harmful));
            let shown = on_terminal(&text).replace("\u{1b}[", "[").replace(['\n', '\t'], "");
            prop_assert!(!shown.contains(is_harmful), "{shown:?}");
        }
    }
}
