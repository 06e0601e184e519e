//! Draws a block of lines on a terminal and redraws it in place. A pipe gets no such blocks.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _};

use terminal_size::{Height, Width, terminal_size_of};

use super::print;
use crate::common::printable::on_terminal;

/// Assumed size of a terminal that does not report its size.
const USUAL: (usize, usize) = (80, 24);
/// In a narrower terminal, text is unreadable anyway.
const NARROWEST: usize = 20;
/// Stands for a cut text.
pub const ELLIPSIS: char = '…';

/// Returns the columns and lines of the terminal at standard output; `None` in a pipe, and if the terminal cannot
/// move its cursor.
pub fn terminal() -> Option<(usize, usize)> {
    let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    size().filter(|_| !is_dumb)
}

/// Returns the columns of the terminal at standard output, also of one that cannot move its cursor; `None` in a pipe.
pub fn columns() -> Option<usize> {
    size().map(|(columns, _)| columns)
}

fn size() -> Option<(usize, usize)> {
    if !io::stdout().is_terminal() {
        return None;
    }
    let size = terminal_size_of(io::stdout()).map(|(Width(w), Height(h))| (w.into(), h.into()));
    Some(size.filter(|(width, height)| *width > 0 && *height > 0).unwrap_or(USUAL))
}

/// A block of lines below everything that was printed before.
#[derive(Debug, Default)]
pub struct Block {
    /// Number of its lines on the screen.
    shown: usize,
}

impl Block {
    /// Draws the block over the one before.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn draw(&mut self, lines: &[String], (width, height): (usize, usize)) -> io::Result<()> {
        let (text, shown) = frame(lines, width, height, self.shown);
        self.shown = shown;
        print::as_it_is(&text).map(drop)
    }
}

/// Returns the text that replaces a block of `shown` lines, and its number of lines. Every line must fit: the
/// terminal would break a longer one, and the next frame would start at the wrong line.
fn frame(lines: &[String], width: usize, height: usize, shown: usize) -> (String, usize) {
    let mut text = String::new();
    if shown > 0 {
        // Move up to the first line of the block, and erase everything from there.
        let _ = write!(text, "\x1b[{shown}A\r\x1b[J");
    }
    // The cursor needs its own line below the block.
    let room = height.saturating_sub(1).max(1);
    let lines = &lines[..lines.len().min(room)];
    for line in lines {
        text.push_str(&fit(&on_terminal(line), width));
        text.push('\n');
    }
    (text, lines.len())
}

/// Cuts a line to a width; colour codes do not count.
pub fn fit(line: &str, width: usize) -> String {
    let mut cut = String::new();
    let (mut used, mut is_escape, mut is_cut) = (0, false, false);
    let visible = visible(line);
    for c in line.chars() {
        if is_escape || c == '\x1b' {
            is_escape = !(is_escape && c.is_ascii_alphabetic());
            cut.push(c);
        } else if visible > width && used + 1 == width {
            is_cut = true;
            cut.push(ELLIPSIS);
            used += 1;
        } else if !is_cut && used < width {
            cut.push(c);
            used += 1;
        }
    }
    cut
}

fn visible(line: &str) -> usize {
    let mut is_escape = false;
    let is_visible = |c: &char| {
        let was_escape = is_escape;
        is_escape = *c == '\x1b' || is_escape && !c.is_ascii_alphabetic();
        !was_escape && !is_escape
    };
    line.chars().filter(is_visible).count()
}

/// Wraps a text into lines of at most `width`: `first` starts the first line, and the others are indented as far.
/// Without a width (in a pipe), returns one line.
pub fn wrap(first: &str, text: &str, width: Option<usize>) -> Vec<String> {
    let Some(width) = width.map(|width| width.max(NARROWEST)) else {
        return vec![format!("{first}{text}")];
    };
    let indent = visible(first).min(width / 2);
    let room = width - indent;
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let mut word: Vec<char> = word.chars().collect();
        while !word.is_empty() {
            let last = lines.last_mut().map_or(0, |line| line.chars().count());
            let gap = usize::from(last > 0);
            if last + gap + word.len() <= room {
                let line = lines.last_mut().into_iter();
                line.for_each(|line| {
                    line.push_str(&" "[..gap]);
                    line.extend(&word);
                });
                break;
            }
            if last > 0 {
                lines.push(String::new());
                continue;
            }
            // The word is longer than a whole line.
            let rest = word.split_off(room);
            lines.pop();
            lines.extend([word.iter().collect(), String::new()]);
            word = rest;
        }
    }
    if lines.len() > 1 && lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    let blanks = " ".repeat(indent);
    let begin = |n: usize| if n == 0 { first } else { &blanks };
    lines.iter().enumerate().map(|(n, line)| format!("{}{line}", begin(n))).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_block_takes_the_place_of_the_one_before() {
        let lines = |of: &[&str]| of.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
        assert_eq!(frame(&lines(&["a", "b"]), 80, 24, 0), ("a\nb\n".into(), 2));
        assert_eq!(frame(&lines(&["c"]), 80, 24, 2), ("\x1b[2A\r\x1b[Jc\n".into(), 1));
        let foreign = frame(&lines(&["\x1b[2Ja", "\x1b[32mok\x1b[0m"]), 80, 24, 1).0;
        assert_eq!(foreign, "\x1b[1A\r\x1b[J\\u001b[2Ja\n\x1b[32mok\x1b[0m\n");
        let (text, shown) = frame(&lines(&["a", "b", "c", "d"]), 80, 3, 0);
        assert_eq!((text.as_str(), shown), ("a\nb\n", 2), "no higher than the terminal");
    }

    #[test]
    fn colours_take_no_room_and_are_closed() {
        assert_eq!(fit("\x1b[32mready\x1b[0m", 5), "\x1b[32mready\x1b[0m");
        assert_eq!(fit("\x1b[32mready\x1b[0m now", 4), "\x1b[32mrea…\x1b[0m");
    }

    #[test]
    fn a_text_is_wrapped_behind_its_label_and_left_alone_in_a_pipe() {
        let wrapped = wrap("ok  ", "the quick brown fox jumps", Some(20));
        assert_eq!(wrapped, ["ok  the quick brown", "    fox jumps"]);
        assert_eq!(wrap("ok  ", "the quick", None), ["ok  the quick"]);
    }

    proptest! {
        /// For any text, no line is wider than the terminal, and no word is lost.
        #[test]
        fn every_line_fits(text in "[a-zA-Zäö/ -]{0,200}", width in 20usize..100) {
            prop_assert!(fit(&text, width).chars().count() <= width);
            let lines = wrap("warning  ", &text, Some(width));
            prop_assert!(lines.iter().all(|line| line.chars().count() <= width), "{lines:?}");
            let letters = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
            prop_assert_eq!(letters(&lines.concat()), format!("warning{}", letters(&text)));
        }
    }
}
