//! `skep doctor`: checks everything that this node depends on, and prints the findings.

mod fleet;

use std::process::ExitCode;

use clap::Args;

use super::{draw, print};
use crate::config::Settings;
use crate::doctor::{Finding, Verdict, examine, report, worst};
use crate::telemetry::logging::wants_colour;

/// Nothing has failed, and there are warnings.
const EXIT_WARNINGS: u8 = 4;
/// Length of the longest verdict and a gap.
const MARGIN: usize = 9;

#[derive(Debug, Args)]
pub struct Arguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// On a manager: collect the findings of every node
    #[arg(long)]
    fleet: bool,
}

/// Prints every finding; the worst one decides the exit code.
///
/// # Errors
/// When standard output cannot be written, or as for [`fleet::examine_and_print`].
pub async fn examine_and_print(
    arguments: &Arguments,
    settings: &Settings,
) -> anyhow::Result<ExitCode> {
    if arguments.fleet {
        return fleet::examine_and_print(arguments.json, settings).await;
    }
    if !arguments.json && draw::terminal().is_some() {
        eprintln!("Checking; this takes a few seconds.");
    }
    let findings = examine(settings).await;
    let worst = worst(&findings);
    print::to_stdout(&if arguments.json {
        format!("{:#}\n", report(&findings))
    } else {
        let width = draw::terminal().map(|(width, _)| width);
        text(&findings, width, wants_colour(&std::io::stdout()))
    })?;
    Ok(match worst {
        Verdict::Ok | Verdict::Skipped => ExitCode::SUCCESS,
        Verdict::Warning => EXIT_WARNINGS.into(),
        Verdict::Failed => ExitCode::FAILURE,
    })
}

/// Returns a line for each finding and for each remedy.
fn lines_of(findings: &[Finding], width: Option<usize>, colour: bool) -> Vec<String> {
    let mut lines = Vec::new();
    for Finding { check, verdict, evidence, remedy } in findings {
        let label = paint(*verdict, colour);
        lines.extend(draw::wrap(&label, &format!("{check}: {evidence}"), width));
        if let Some(remedy) = remedy {
            let word = if *verdict == Verdict::Skipped { "to check" } else { "remedy" };
            lines.extend(draw::wrap(&" ".repeat(MARGIN), &format!("{word}: {remedy}"), width));
        }
    }
    lines
}

fn text(findings: &[Finding], width: Option<usize>, colour: bool) -> String {
    let mut lines = lines_of(findings, width, colour);
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    let all = [Verdict::Ok, Verdict::Warning, Verdict::Failed, Verdict::Skipped];
    let counted = all.map(|verdict| format!("{} {}", count(verdict), verdict.as_str()));
    lines.extend([String::new(), counted.join(", ")]);
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn paint(verdict: Verdict, colour: bool) -> String {
    let word = verdict.as_str();
    let gap = " ".repeat(MARGIN - word.len());
    let code = match verdict {
        _ if !colour => return format!("{word}{gap}"),
        Verdict::Ok => 32,
        Verdict::Skipped => 2,
        Verdict::Warning => 33,
        Verdict::Failed => 31,
    };
    format!("\x1b[{code}m{word}\x1b[0m{gap}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings() -> Vec<Finding> {
        vec![
            Finding::ok("region", "eu-central-1"),
            Finding::warning(
                "disk",
                "1.0 of 20.0 GiB free at /var/lib/docker",
                "docker system prune",
            ),
            Finding::skipped(
                "hop limit",
                "the metadata does not contain it",
                "aws ec2 describe-instances",
            ),
        ]
    }

    #[test]
    fn a_finding_is_a_line_and_its_remedy_another() {
        assert_eq!(
            text(&findings(), None, false),
            "ok       region: eu-central-1\n\
             warning  disk: 1.0 of 20.0 GiB free at /var/lib/docker\n         remedy: docker system prune\n\
             skipped  hop limit: the metadata does not contain it\n         to check: aws ec2 describe-instances\n\
             \n1 ok, 1 warning, 0 failed, 1 skipped\n"
        );
    }

    #[test]
    fn forty_columns_are_enough() {
        let narrow = text(&findings(), Some(40), false);
        assert!(narrow.lines().all(|line| line.chars().count() <= 40), "{narrow}");
        assert!(narrow.contains("         /var/lib/docker\n"), "{narrow}");
        assert!(text(&findings(), None, true).starts_with("\x1b[32mok\x1b[0m       region"));
    }
}
