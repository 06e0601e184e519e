//! Keeps the last lines of a source in bounded memory, whatever the size of the source.

use std::collections::VecDeque;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::host::flush::files::open_regular;

/// Bytes kept of one source, its newest lines: 10,000 lines of 800 bytes.
pub const LARGEST_SOURCE: usize = 8 << 20;
/// Memory of a line beside its text.
const LINE_OVERHEAD: usize = 64;
/// A longer line is cut.
const LONGEST_LINE: usize = 1 << 20;
const CHUNK: usize = 64 << 10;

/// Reads a source from its beginning, and keeps its end.
#[derive(Debug)]
pub struct Tail {
    most_lines: usize,
    most_bytes: usize,
    lines: VecDeque<String>,
    bytes: usize,
    partial: Vec<u8>,
    is_cut: bool,
}

impl Tail {
    pub fn new(most_lines: usize) -> Self {
        Self {
            most_lines,
            most_bytes: LARGEST_SOURCE,
            lines: VecDeque::new(),
            bytes: 0,
            partial: Vec::new(),
            is_cut: false,
        }
    }

    /// Adds the next piece of the source, which may end in the middle of a line.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.partial.extend_from_slice(&bytes[..end]);
            self.end_line();
            bytes = &bytes[end + 1..];
        }
        self.partial.extend_from_slice(bytes);
        if self.partial.len() >= LONGEST_LINE {
            self.end_line();
        }
    }

    /// Returns the lines, and whether they are fewer than wanted because they are too long.
    pub fn end(mut self) -> (Vec<String>, bool) {
        if !self.partial.is_empty() {
            self.end_line();
        }
        (self.lines.into(), self.is_cut)
    }

    fn end_line(&mut self) {
        let line = String::from_utf8_lossy(&self.partial);
        let line = line.strip_suffix('\r').unwrap_or(&line).to_owned();
        self.partial.clear();
        self.bytes += line.len() + LINE_OVERHEAD;
        self.lines.push_back(line);
        while self.lines.len() > self.most_lines {
            self.drop_first();
            self.is_cut = false;
        }
        while self.bytes > self.most_bytes && self.lines.len() > 1 {
            self.drop_first();
            self.is_cut = true;
        }
    }

    fn drop_first(&mut self) {
        if let Some(line) = self.lines.pop_front() {
            self.bytes -= line.len() + LINE_OVERHEAD;
        }
    }

    /// Reads the end of a file without its beginning. Blocks.
    ///
    /// # Errors
    /// Errors of the file system, and for anything but a regular file.
    pub fn of_file(path: &Path, most_lines: usize) -> io::Result<Self> {
        let mut tail = Self::new(most_lines);
        let mut file = open_regular(path)?;
        let most = tail.most_bytes as u64;
        let start = file.metadata()?.len().saturating_sub(most);
        file.seek(SeekFrom::Start(start))?;
        let mut file = file.take(most);
        let mut chunk = vec![0; CHUNK];
        let mut is_inside_a_line = start > 0;
        loop {
            let mut bytes = match file.read(&mut chunk)? {
                0 => break,
                read => &chunk[..read],
            };
            if is_inside_a_line {
                let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else { continue };
                bytes = &bytes[end + 1..];
                is_inside_a_line = false;
            }
            tail.feed(bytes);
        }
        tail.is_cut |= start > 0 && tail.lines.len() < most_lines;
        Ok(tail)
    }

    /// Reads a stream to its end.
    ///
    /// # Errors
    /// When the stream breaks.
    pub async fn read(&mut self, mut stream: impl AsyncRead + Unpin) -> io::Result<()> {
        let mut chunk = vec![0; CHUNK];
        loop {
            match stream.read(&mut chunk).await? {
                0 => return Ok(()),
                read => self.feed(&chunk[..read]),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small(most_lines: usize, room: usize) -> Tail {
        Tail { most_bytes: room * (LINE_OVERHEAD + 1), ..Tail::new(most_lines) }
    }

    #[test]
    fn the_last_lines_are_kept_however_they_come() {
        let mut tail = Tail::new(2);
        for piece in ["on", "e\ntwo\r\n", "", "thr", "ee\nfo", "ur"] {
            tail.feed(piece.as_bytes());
        }
        assert_eq!(tail.end(), (vec!["three".to_owned(), "four".to_owned()], false));
    }

    #[test]
    fn memory_is_bounded_and_what_is_missing_is_said() {
        let mut tail = small(100, 3);
        (0..1000).for_each(|n| tail.feed(format!("{}\n", n % 10).as_bytes()));
        assert_eq!(tail.bytes, tail.most_bytes);
        assert_eq!(tail.end(), (["7", "8", "9"].map(str::to_owned).to_vec(), true));
        // Also without any end of a line.
        let mut tail = Tail::new(100);
        let piece = vec![b'x'; CHUNK];
        (0..400).for_each(|_| tail.feed(&piece));
        assert!(tail.bytes <= LARGEST_SOURCE && tail.partial.len() < LONGEST_LINE);
        assert!(tail.end().1);
    }

    #[test]
    fn a_files_end_is_read_from_a_whole_line_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let text: String = (0..900_000).map(|n| format!("line {n:06}\n")).collect();
        std::fs::write(&path, &text).unwrap();
        let (lines, is_cut) = Tail::of_file(&path, 3).unwrap().end();
        assert_eq!(lines, ["line 899997", "line 899998", "line 899999"]);
        assert!(!is_cut);
        let (lines, is_cut) = Tail::of_file(&path, 900_000).unwrap().end();
        assert!(is_cut && lines.iter().all(|line| line.len() == 11));
    }
}
