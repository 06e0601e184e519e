//! Reads the lines of a stream in bounded memory.

use std::collections::VecDeque;

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Longest line in bytes; people read the log. The rest of a longer line is read and discarded.
pub const LONGEST_LINE: usize = 500;

/// Reads a stream line by line. A line is returned as soon as it ends or is [`LONGEST_LINE`] bytes long.
#[derive(Debug)]
pub struct Lines<R> {
    /// `None` after its end.
    stream: Option<R>,
    buffer: [u8; 1024],
    ready: VecDeque<String>,
    partial: Vec<u8>,
    /// The beginning of the current line was returned already; its rest is discarded.
    is_cut: bool,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    /// Returns a reader of `stream`; `None` counts as an empty stream.
    pub fn new(stream: Option<R>) -> Self {
        let (ready, partial) = (VecDeque::new(), Vec::new());
        Self { stream, buffer: [0; 1024], ready, partial, is_cut: false }
    }

    /// Returns the next line without its line break; `None` at the end of the stream or after an error. Cancel safe.
    pub async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(line);
            }
            match self.stream.as_mut()?.read(&mut self.buffer).await {
                Ok(read @ 1..) => self.take(read),
                Ok(_) | Err(_) => {
                    self.stream = None;
                    self.end_line();
                }
            }
        }
    }

    fn take(&mut self, read: usize) {
        for at in 0..read {
            match self.buffer[at] {
                b'\n' => self.end_line(),
                _ if self.is_cut => {}
                byte => {
                    self.partial.push(byte);
                    if self.partial.len() == LONGEST_LINE {
                        self.end_line();
                        self.is_cut = true;
                    }
                }
            }
        }
    }

    fn end_line(&mut self) {
        if !self.partial.is_empty() {
            self.ready.push_back(String::from_utf8_lossy(&self.partial).into_owned());
            self.partial.clear();
        }
        self.is_cut = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_cut_and_nothing_is_kept_of_the_rest() {
        let text = format!("one\n\n{}\ntwo\n{}", "é".repeat(5000), "x".repeat(LONGEST_LINE));
        let mut lines = Lines::new(Some(text.as_bytes()));
        let mut found = Vec::new();
        while let Some(line) = lines.next().await {
            found.push(line.len());
            assert!(lines.partial.len() <= LONGEST_LINE);
        }
        assert_eq!(found, [3, LONGEST_LINE, 3, LONGEST_LINE]);
        assert_eq!(lines.next().await, None);
    }
}
