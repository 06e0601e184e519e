//! Asking before something is done that cannot be undone.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

/// Is there somebody at standard input?
pub fn can_be_asked() -> bool {
    io::stdin().is_terminal()
}

/// Asks for `word`, which nobody types by mistake.
///
/// # Errors
/// Standard input or error is broken.
pub fn is_given(word: &str) -> io::Result<bool> {
    eprint!("\nType {word} to do it: ");
    io::stderr().flush()?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim() == word)
}
