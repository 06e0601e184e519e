//! Asks the operator to confirm an action that cannot be undone.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

/// Whether standard input is a terminal.
pub fn can_be_asked() -> bool {
    io::stdin().is_terminal()
}

/// Whether the operator confirms `skep <command>` by typing `word`; without a terminal, no, which it prints.
///
/// # Errors
/// Standard input or error is broken.
pub fn is_confirmed(command: &str, word: &str) -> io::Result<bool> {
    if !can_be_asked() {
        eprintln!(
            "skep: cannot ask for confirmation without a terminal; `skep {command} --yes` does not ask"
        );
        return Ok(false);
    }
    is_given(word)
}

/// Asks the operator to type `word`, which is hard to type by mistake. Returns whether the operator did.
///
/// # Errors
/// Standard input or error is broken.
pub fn is_given(word: &str) -> io::Result<bool> {
    eprint!("\nType {word} to confirm: ");
    io::stderr().flush()?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim() == word)
}
