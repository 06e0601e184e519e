//! What a check has found.

use std::borrow::Cow;

use serde::Serialize;

use crate::clients::aws::AwsError;
use crate::clients::ledger::LedgerError;

/// From good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Ok,
    /// It cannot be known from here and now.
    Skipped,
    /// It works, and will not some day.
    Warning,
    Failed,
}

impl Verdict {
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

/// A check, how it came out, and by what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub check: Cow<'static, str>,
    pub verdict: Verdict,
    /// What was seen.
    pub evidence: String,
    /// What mends it; for a check that was skipped, how to know. None where all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Finding {
    pub fn ok(check: impl Into<Cow<'static, str>>, evidence: impl Into<String>) -> Self {
        let evidence = evidence.into();
        Self { check: check.into(), verdict: Verdict::Ok, evidence, remedy: None }
    }

    pub fn skipped(
        check: impl Into<Cow<'static, str>>,
        why: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { verdict: Verdict::Skipped, ..Self::failed(check, why, remedy) }
    }

    pub fn warning(
        check: impl Into<Cow<'static, str>>,
        evidence: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { verdict: Verdict::Warning, ..Self::failed(check, evidence, remedy) }
    }

    pub fn failed(
        check: impl Into<Cow<'static, str>>,
        evidence: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let (evidence, remedy) = (evidence.into(), Some(remedy.into()));
        Self { check: check.into(), verdict: Verdict::Failed, evidence, remedy }
    }

    /// A call to AWS that failed.
    pub fn of_aws(check: impl Into<Cow<'static, str>>, error: &AwsError) -> Self {
        let remedy = error.remedy().unwrap_or_else(|| "run it again in a minute".into());
        Self::failed(check, error.evidence(), remedy)
    }

    /// A look at the ledger that failed.
    pub fn of_ledger(check: impl Into<Cow<'static, str>>, error: &LedgerError) -> Self {
        match error {
            LedgerError::Aws(error) => Self::of_aws(check, error),
            error => Self::of_sentence(check, error),
        }
    }

    /// An error of ours that says what is wrong, a colon, and what to do.
    pub fn of_sentence(check: impl Into<Cow<'static, str>>, error: &dyn std::error::Error) -> Self {
        let sentence = crate::common::errors::chain(error);
        let (evidence, remedy) =
            sentence.split_once(": ").unwrap_or((&sentence, "see the journal"));
        Self::failed(check, evidence, remedy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::aws::AwsErrorKind;

    #[test]
    fn evidence_and_remedy_of_an_error_are_told_apart() {
        let wrong = LedgerError::WrongKeys { table: "skep".into() };
        let finding = Finding::of_ledger("table", &wrong);
        assert_eq!(finding.evidence, "table skep has other keys than skep needs");
        assert!(finding.remedy.unwrap().starts_with("create one with partition key `cluster`"));
        let denied = AwsError {
            kind: AwsErrorKind::AccessDenied,
            ..AwsError::malformed("ssm", "GetParameter", "/skep/a/worker-token/1")
        };
        let finding = Finding::of_aws("token", &denied);
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
