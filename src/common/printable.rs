//! Text from elsewhere (rows, answers, old log lines), as it may be shown: no control character reaches a terminal or a
//! log.

/// Returns at most `longest` characters of a text, with control characters as escapes such as `\\u{1b}`, and with `…`
/// for the rest.
#[must_use]
pub fn printable(text: &str, longest: usize) -> String {
    let mut shown = String::with_capacity(text.len().min(longest));
    let mut characters = text.chars();
    for c in characters.by_ref().take(longest) {
        if is_harmful(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    if characters.next().is_some() {
        shown.push('…');
    }
    shown
}

/// Whether the character can change more than its own place: control characters, and those that reverse the direction
/// of the text after them.
fn is_harmful(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_a_cursor_or_is_too_long_is_not_shown_as_it_is() {
        assert_eq!(printable("größer 💥", 99), "größer 💥");
        assert_eq!(printable("a\u{1b}[2Jb\nc\u{202e}", 99), "a\\u{1b}[2Jb\\nc\\u{202e}");
        assert_eq!(printable("abcdef", 3), "abc…");
    }
}
