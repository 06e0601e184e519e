//! Changes correct inputs at random.

use std::ops::Range;

use super::LONGEST;

/// Words that are special somewhere: limits of numbers and times, what ends a text, a line or a path, and what a
/// terminal executes.
const WORDS: [&str; 40] = [
    "",
    "0",
    "-1",
    "1.5",
    "1e400",
    "NaN",
    "255",
    "65536",
    "4294967296",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551615",
    "99999999999999999999999999999999999999",
    "253402300799",
    "-377705116800",
    "9999-12-31T23:59:59Z",
    "9999-12-31T23:59:59-23:59",
    "0000-01-01T00:00:00+23:59",
    "null",
    "true",
    "false",
    "[]",
    "{}",
    "\"\"",
    "\"",
    "'",
    "\\",
    "\\ud800",
    "\\u001b[2J",
    "\0",
    "\n",
    "\r\n",
    "\u{1b}[2J",
    "\u{9b}2J",
    "ü💥",
    "../../services/web",
    "%2e%2e/",
    "::1",
    "i-0",
    "node-0",
];

/// Returns an input of the corpus after a few changes. Half of them begin as one of the `correct` inputs, with which the
/// corpus begins, however many others were kept.
pub(super) fn changed(
    rng: &mut fastrand::Rng,
    corpus: &[Vec<u8>],
    correct: usize,
    words: &[&str],
) -> Vec<u8> {
    let first = if rng.bool() { correct } else { corpus.len() };
    let mut input = pick(rng, &corpus[..first]).to_vec();
    loop {
        change(rng, &mut input, corpus, words);
        input.truncate(LONGEST);
        if rng.u8(..3) == 0 {
            return input;
        }
    }
}

fn change(rng: &mut fastrand::Rng, input: &mut Vec<u8>, corpus: &[Vec<u8>], words: &[&str]) {
    let part = range(rng, input.len());
    let (at, piece) = (part.start, input[part.clone()].to_vec());
    match rng.u8(..24) {
        0..=1 if at < input.len() => input[at] ^= 1 << rng.u8(..8),
        2 => input.splice(at..at, (0..rng.u8(1..5)).map(|_| rng.u8(..))).for_each(drop),
        3..=4 => drop(input.drain(part)),
        5 => input.splice(at..at, piece).for_each(drop),
        6 if rng.u8(..8) == 0 => {
            let times = (1 << rng.u32(..16)).min(LONGEST / piece.len().max(1));
            input.splice(at..at, piece.repeat(times)).for_each(drop);
        }
        7 => input.truncate(at),
        8..=9 => {
            let other = pick(rng, corpus);
            let rest = range(rng, other.len()).start;
            input.truncate(at);
            input.extend_from_slice(&other[rest..]);
        }
        10..=12 => {
            // Another input's line.
            let lines: Vec<&[u8]> = pick(rng, corpus).split(|byte| *byte == b'\n').collect();
            let line = [lines[rng.usize(..lines.len())], b"\n"].concat();
            let own = word_at(input, at, |byte| byte != b'\n');
            let end = if rng.bool() { own.start } else { (own.end + 1).min(input.len()) };
            input.splice(own.start..end, line).for_each(drop);
        }
        13 => input.splice(at..at, word(rng, words).bytes()).for_each(drop),
        _ => {
            let own = word_at(input, at, is_of_word);
            let new = match rng.u8(..8) {
                0 => rng.u64(..).to_string().into_bytes(),
                1 => (1_i128 << rng.u32(..70)).to_string().into_bytes(),
                2..=3 => {
                    let other = pick(rng, corpus);
                    let word = word_at(other, range(rng, other.len()).start, is_of_word);
                    other[word].to_vec()
                }
                _ => word(rng, words).into(),
            };
            input.splice(own, new).for_each(drop);
        }
    }
}

fn pick<'a>(rng: &mut fastrand::Rng, corpus: &'a [Vec<u8>]) -> &'a [u8] {
    &corpus[rng.usize(..corpus.len())]
}

fn word<'a>(rng: &mut fastrand::Rng, words: &[&'a str]) -> &'a str {
    let own = words.len();
    // Half of the words are of the target's own format.
    if own > 0 && rng.bool() { words[rng.usize(..own)] } else { WORDS[rng.usize(..WORDS.len())] }
}

/// Returns a part, mostly a short one.
fn range(rng: &mut fastrand::Rng, length: usize) -> Range<usize> {
    let start = rng.usize(..=length);
    let longest = (length - start).min(1 << rng.u32(..12));
    start..start + rng.usize(..=longest)
}

/// Returns the range around `at` whose bytes all are `within`.
fn word_at(input: &[u8], at: usize, within: impl Fn(u8) -> bool) -> Range<usize> {
    let before = input[..at].iter().rev().take_while(|byte| within(**byte)).count();
    let after = input[at..].iter().take_while(|byte| within(**byte)).count();
    at - before..at + after
}

fn is_of_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._:/".contains(&byte)
}
