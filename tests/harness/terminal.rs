//! What a terminal shows of what it got.

/// Columns of the widest line; what moves the cursor or colours takes no room.
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
