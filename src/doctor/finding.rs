//! Defines the finding of a check.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::common::errors::{Explained, evidence_chain};

/// The result of a check, ordered from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It works.
    Ok,
    /// The check is not possible from this host or at this time.
    Skipped,
    /// It works now, and will fail some day.
    Warning,
    /// It does not work.
    Failed,
}

impl Verdict {
    /// Returns the word in the output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Skipped => "skipped",
            Self::Warning => "warning",
            Self::Failed => "failed",
        }
    }
}

/// A check with its verdict, evidence and remedy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Name of the check; several findings can have the same.
    pub check: Cow<'static, str>,
    /// Result of the check.
    pub verdict: Verdict,
    /// The observation behind the verdict.
    pub evidence: String,
    /// The repair; for a skipped check, how to check by hand. `None` if the verdict is ok.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Finding {
    /// Returns a finding that all is well.
    #[must_use]
    pub fn ok(check: impl Into<Cow<'static, str>>, evidence: impl Into<String>) -> Self {
        let evidence = evidence.into();
        Self { check: check.into(), verdict: Verdict::Ok, evidence, remedy: None }
    }

    /// Returns a finding that the check is not possible; `remedy` shows how to check by hand.
    #[must_use]
    pub fn skipped(
        check: impl Into<Cow<'static, str>>,
        why: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { verdict: Verdict::Skipped, ..Self::failed(check, why, remedy) }
    }

    /// Returns a finding that something will fail some day.
    #[must_use]
    pub fn warning(
        check: impl Into<Cow<'static, str>>,
        evidence: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { verdict: Verdict::Warning, ..Self::failed(check, evidence, remedy) }
    }

    /// Returns a finding that something fails.
    #[must_use]
    pub fn failed(
        check: impl Into<Cow<'static, str>>,
        evidence: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let (evidence, remedy) = (evidence.into(), Some(remedy.into()));
        Self { check: check.into(), verdict: Verdict::Failed, evidence, remedy }
    }

    /// Returns the finding for an error.
    #[must_use]
    pub fn of_error(check: impl Into<Cow<'static, str>>, error: &impl Explained) -> Self {
        let remedy = error.remedy().unwrap_or_else(|| "run it again in a minute".into());
        Self::failed(check, evidence_chain(error), remedy)
    }
}

/// Returns the worst verdict; ok without findings.
#[must_use]
pub fn worst(findings: &[Finding]) -> Verdict {
    findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Ok)
}

/// Returns what `skep doctor --json` prints, and what a manager gets that asks for the findings.
#[must_use]
pub fn report(findings: &[Finding]) -> Value {
    json!({ "worst": worst(findings), "findings": findings })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::aws::{AwsError, AwsErrorKind};
    use crate::clients::ledger::LedgerError;

    #[test]
    fn evidence_and_remedy_of_an_error_are_told_apart() {
        let wrong = LedgerError::WrongKeys { table: "skep".into() };
        let finding = Finding::of_error("table", &wrong);
        assert_eq!(finding.evidence, "table skep has other keys than skep needs");
        assert!(finding.remedy.unwrap().starts_with("create one with partition key `cluster`"));
        let source = <serde_dynamo::Error as serde::de::Error>::custom("no generation");
        let odd = LedgerError::Malformed { item: "charter".into(), source };
        let finding = Finding::of_error("table", &odd);
        assert_eq!(finding.evidence, "ledger item charter cannot be read: no generation");
        assert_eq!(finding.remedy.unwrap(), "repair it, or delete it if nothing needs it");
        let denied = AwsError {
            kind: AwsErrorKind::AccessDenied,
            ..AwsError::malformed("ssm", "GetParameter", "/skep/a/worker-token/1")
        };
        let finding = Finding::of_error("token", &denied);
        assert!(finding.evidence.ends_with("access denied (the answer is incomplete)"));
        assert!(finding.remedy.unwrap().starts_with("grant ssm:GetParameter on /skep/a/"));
    }

    #[test]
    fn the_worst_is_the_greatest() {
        use Verdict::{Failed, Ok, Skipped, Warning};
        assert_eq!([Warning, Ok, Failed, Skipped].into_iter().max(), Some(Failed));
        assert_eq!([Skipped, Warning, Ok].into_iter().max(), Some(Warning));
    }
}
