//! The timeline: printed on the terminal as it happens, or only kept.

use serde::Serialize;

use crate::stage::{Mark, Style};

/// Width of a node's name in columns.
const NAME: usize = 10;

/// One line.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    pub seconds: f64,
    /// The node's name; `None` for a line that is not about a single node.
    pub node: Option<String>,
    pub what: String,
    /// Whether it is the heading of a part.
    pub is_heading: bool,
}

#[derive(Debug)]
pub struct Tale {
    pub lines: Vec<Line>,
    style: Option<Style>,
}

impl Tale {
    /// Prints every line on standard output.
    pub fn aloud(style: Style) -> Tale {
        Tale { lines: Vec::new(), style: Some(style) }
    }

    /// Only keeps the lines.
    pub fn silent() -> Tale {
        Tale { lines: Vec::new(), style: None }
    }

    pub fn heading(&mut self, seconds: f64, what: &str) {
        if let Some(style) = self.style {
            println!("\n{}", style.paint(Mark::Heading, &format!("── {what} ──")));
        }
        self.keep(seconds, None, what, true);
    }

    /// Adds a line; `mark` highlights an important one.
    pub fn tell(&mut self, seconds: f64, node: Option<&str>, what: &str, mark: Option<Mark>) {
        if let Some(style) = self.style {
            let text = mark.map_or_else(|| what.to_owned(), |mark| style.paint(mark, what));
            let time = style.paint(Mark::Faint, &format!("{seconds:>6.1} s"));
            println!("{time}  {:<NAME$}  {text}", node.unwrap_or_default());
        }
        self.keep(seconds, node, what, false);
    }

    fn keep(&mut self, seconds: f64, node: Option<&str>, what: &str, is_heading: bool) {
        let node = node.map(str::to_owned);
        self.lines.push(Line { seconds, node, what: what.to_owned(), is_heading });
    }
}
