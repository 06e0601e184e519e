//! Lays out tables with aligned columns, for the reports of the demo, the bench and the soak.

/// Lays out rows under their heads, words to the left and numbers to the right. A head can have several lines. Returns
/// the lines of the head and those of the rows.
pub(crate) fn lay_out(heads: &[&str], rows: &[Vec<String>]) -> (Vec<String>, Vec<String>) {
    let depth = heads.iter().map(|head| head.lines().count()).max().unwrap_or_default();
    let head_line = |line: usize| -> Vec<String> {
        let nth = |head: &&str| head.lines().nth(line).unwrap_or_default().to_owned();
        heads.iter().map(nth).collect()
    };
    let head: Vec<Vec<String>> = (0..depth).map(head_line).collect();
    let columns: Vec<(usize, bool)> = (0..heads.len())
        .map(|column| {
            let cells = || rows.iter().filter_map(move |row| row.get(column));
            let all = head.iter().filter_map(|line| line.get(column)).chain(cells());
            let width = all.map(|cell| cell.chars().count()).max().unwrap_or_default();
            let is_text = cells().any(|cell| cell.starts_with(char::is_alphabetic));
            (width, is_text)
        })
        .collect();
    let line = |cells: &Vec<String>| {
        let padded = cells.iter().zip(&columns).map(|(cell, &(width, is_text))| {
            if is_text { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    (head.iter().map(line).collect(), rows.iter().map(line).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stand_left_and_numbers_right() {
        let rows =
            [["worker-1", "2.1 s"], ["w", "12.1 s"]].map(|row| row.map(str::to_owned).to_vec());
        let (head, body) = lay_out(&["NODE", "BOOT →\nREADY"], &rows);
        assert_eq!(head, ["NODE      BOOT →", "           READY"]);
        assert_eq!(body, ["worker-1   2.1 s", "w         12.1 s"]);
    }
}
