//! The targets of the bench, and the numbers that miss them.

use std::fmt::Write;

use anyhow::bail;
use serde::Serialize;

use crate::stage::{Mark, Style};

/// A target for a number.
#[derive(Clone, Debug, Serialize)]
pub struct Target {
    pub what: &'static str,
    pub measured: f64,
    pub limit: f64,
    /// Whether the limit is a minimum.
    pub at_least: bool,
    pub hit: bool,
    pub unit: &'static str,
}

impl Target {
    pub fn at_most(what: &'static str, measured: f64, limit: f64, unit: &'static str) -> Target {
        Target { what, measured, limit, at_least: false, hit: measured <= limit, unit }
    }

    pub fn at_least(what: &'static str, measured: f64, limit: f64, unit: &'static str) -> Target {
        Target { what, measured, limit, at_least: true, hit: measured >= limit, unit }
    }

    /// The line of the report.
    pub fn line(&self, style: Style) -> String {
        let Target { what, measured, unit, .. } = self;
        let (sign, mark) = if self.hit { ("✓", Mark::Good) } else { ("✗", Mark::Bad) };
        format!(
            "{} {what:<44} {:>9} {unit:<4} {}{}",
            style.paint(mark, sign),
            self.number(*measured),
            self.limit(),
            if self.hit { String::new() } else { format!(", {}", self.miss()) }
        )
    }

    /// Says by how much the number misses the target.
    fn miss(&self) -> String {
        let by = (self.measured - self.limit).abs();
        let percent = by / self.limit * 100.0;
        format!("missed by {} {} ({percent:.0} %)", self.number(by), self.unit)
    }

    fn limit(&self) -> String {
        let relation = if self.at_least { "at least" } else { "at most" };
        format!("{relation} {} {}", self.limit, self.unit)
    }

    /// Small limits need more digits.
    fn number(&self, number: f64) -> String {
        let digits = match self.limit {
            limit if limit < 1.0 => 3,
            limit if limit < 100.0 => 2,
            _ => 0,
        };
        format!("{number:.digits$}")
    }
}

/// Checks that no target is missed.
///
/// # Errors
/// Names each missed target in a line of its own, and says by how much.
pub fn judge(targets: &[Target]) -> anyhow::Result<()> {
    let missed: Vec<_> = targets.iter().filter(|target| !target.hit).collect();
    if missed.is_empty() {
        return Ok(());
    }
    let mut text = format!("{} of {} targets are missed", missed.len(), targets.len());
    for target in missed {
        let Target { what, measured, unit, .. } = target;
        let (measured, limit, miss) = (target.number(*measured), target.limit(), target.miss());
        // Writing to a String cannot fail.
        write!(text, "\n  {what}: {measured} {unit}, the target is {limit}: {miss}").ok();
    }
    bail!(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_within_the_target() {
        let targets = [
            Target::at_most("boot", 1.25, 1.25, "×"),
            Target::at_least("script", 12.0, 12.0, "×"),
            Target::at_most("binary", 9.9, 10.0, "MB"),
        ];
        assert!(judge(&targets).is_ok());
        assert!(judge(&[]).is_ok());
    }

    #[test]
    fn each_miss_is_named_with_its_size() {
        let targets = [
            Target::at_most("boot", 1.5, 1.25, "×"),
            Target::at_most("binary", 9.9, 10.0, "MB"),
            Target::at_least("script", 9.0, 12.0, "×"),
            Target::at_most("CPU", 0.036, 0.03, "%"),
            Target::at_most("calls", 2100.4, 2000.0, "/h"),
        ];
        let text = judge(&targets).unwrap_err().to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "4 of 5 targets are missed",
                "  boot: 1.50 ×, the target is at most 1.25 ×: missed by 0.25 × (20 %)",
                "  script: 9.00 ×, the target is at least 12 ×: missed by 3.00 × (25 %)",
                "  CPU: 0.036 %, the target is at most 0.03 %: missed by 0.006 % (20 %)",
                "  calls: 2100 /h, the target is at most 2000 /h: missed by 100 /h (5 %)",
            ]
        );
    }
}
