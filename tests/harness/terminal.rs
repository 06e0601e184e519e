//! The visible result of the bytes that a terminal received.

/// Columns of the widest line; control sequences for cursor and colours have no width.
#[must_use]
pub fn widest(drawn: &str) -> usize {
    let mut widest = 0;
    for line in drawn.split(['\n', '\r']) {
        let (mut columns, mut is_escape) = (0, false);
        for c in line.chars() {
            if is_escape || c == '\x1b' {
                is_escape = !(is_escape && c.is_ascii_alphabetic());
            } else {
                columns += 1;
            }
        }
        widest = widest.max(columns);
    }
    widest
}
