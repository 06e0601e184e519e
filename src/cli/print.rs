//! Prints text and tables to standard output. Rows, answers and old log lines are part of what is printed: of their
//! control characters none reaches the terminal.

use std::io::{self, ErrorKind, Write};

use crate::common::printable::on_terminal;

/// Gap between two columns.
const GAP: &str = "  ";

/// Writes to standard output. A reader that closes the pipe, such as `head`, is no error.
pub fn to_stdout(text: &str) -> io::Result<()> {
    while_read(text).map(drop)
}

/// Writes to standard output. Returns `false` once the reader has closed the pipe.
pub fn while_read(text: &str) -> io::Result<bool> {
    as_it_is(&on_terminal(text))
}

/// Writes to standard output without escapes: what comes from elsewhere in the text must have them already. Returns
/// `false` once the reader has closed the pipe.
pub fn as_it_is(text: &str) -> io::Result<bool> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        result => result.map(|()| true),
    }
}

/// Returns one line per row. Each column is as wide as its widest cell; the last one is not padded.
pub fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: [usize; N] = std::array::from_fn(|column| width(column).unwrap_or(0));
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join(GAP).trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["KEY", "VALUE", "FROM"], ["a", "größer", "x"], ["longer", "", ""]];
        let text = table(&rows.map(|row| row.map(String::from)));
        assert_eq!(text, "KEY     VALUE   FROM\na       größer  x\nlonger\n");
    }
}
