//! Checks the join tokens: their place, whether they can be read, and whether they belong to the charter's swarm.

use super::{Finding, skipped_without_node};
use crate::clients::ledger::Charter;
use crate::clients::secrets::{Item, SecretsError};
use crate::common::instance::Role;
use crate::node::Node;

pub async fn examine(node: Option<&Node>) -> Vec<Finding> {
    let Some(node) = node else { return skipped_without_node(&["worker token"]) };
    let charter = node.ledger.fetch_charter().await;
    let Ok(charter) = charter else {
        let why = "the charter, which names the generation, cannot be read";
        return vec![Finding::skipped("worker token", why, "repair the table first")];
    };
    let (worker, manager) = tokio::join!(
        token(node, Role::Worker, charter.as_ref()),
        token(node, Role::Manager, charter.as_ref()),
    );
    vec![worker, manager]
}

/// Checks that a token that this role needs is stored, and that a worker cannot read the managers' token.
async fn token(node: &Node, role: Role, charter: Option<&Charter>) -> Finding {
    let check = match role {
        Role::Worker => "worker token",
        Role::Manager => "manager token",
    };
    // No swarm has generation 0: the read still shows whether the role permits it.
    let generation = charter.map_or(0, |charter| charter.generation);
    let place = node.tokens.place(Item::Token(role), generation);
    let fetched = node.tokens.fetch(role, generation).await;
    if node.role == Role::Worker && role == Role::Manager {
        return out_of_reach(check, &place, fetched.map(drop));
    }
    let digest = charter.and_then(|charter| charter.ca_digest.as_deref());
    match fetched {
        Err(error) => Finding::of_error(check, &error),
        Ok(Some(token)) if digest.is_some_and(|digest| digest != token.ca_digest()) => {
            Finding::failed(
                check,
                format!("{place} holds a token of a swarm other than the charter's"),
                "skep rotate-tokens, on a manager",
            )
        }
        Ok(Some(_)) => Finding::ok(check, format!("{place} holds this swarm's token")),
        Ok(None) if digest.is_none() => {
            Finding::ok(check, format!("{place} can be read; no swarm is open yet"))
        }
        Ok(None) => {
            let evidence = format!("{place} does not exist, and the charter is open");
            Finding::failed(
                check,
                evidence,
                "check tokens.path and tokens.store; skep rotate-tokens, on a manager",
            )
        }
    }
}

fn out_of_reach(check: &'static str, place: &str, fetched: Result<(), SecretsError>) -> Finding {
    match fetched {
        Err(error) if is_denied(&error) => {
            Finding::ok(check, format!("this worker cannot read {place}"))
        }
        Err(error) => Finding::of_error(check, &error),
        Ok(()) => Finding::failed(
            check,
            format!(
                "this worker can read {place}: any program with the node's role can join as a manager"
            ),
            "remove the permission from the workers' role; AmazonSSMManagedInstanceCore grants it",
        ),
    }
}

fn is_denied(error: &SecretsError) -> bool {
    use crate::clients::aws::AwsErrorKind::AccessDenied;
    use crate::clients::ledger::LedgerError;
    match error {
        SecretsError::Aws(error) | SecretsError::Ledger(LedgerError::Aws(error)) => {
            error.kind == AccessDenied
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;
    use crate::clients::aws::{AwsError, AwsErrorKind};

    #[test]
    fn a_worker_that_may_read_the_managers_token_is_a_failure() {
        let error = |kind| {
            SecretsError::Aws(AwsError { kind, ..AwsError::malformed("ssm", "GetParameter", "x") })
        };
        let verdict = |fetched| out_of_reach("manager token", "x", fetched).verdict;
        assert_eq!(verdict(Err(error(AwsErrorKind::AccessDenied))), Verdict::Ok);
        assert_eq!(verdict(Err(error(AwsErrorKind::Unreachable))), Verdict::Failed);
        assert_eq!(verdict(Ok(())), Verdict::Failed);
    }

    #[test]
    fn what_is_no_token_is_told_with_its_remedy_and_not_quoted() {
        let reason = crate::clients::secrets::MalformedToken::Empty;
        let error = SecretsError::Malformed { place: "/skep/a/worker-token/1".into(), reason };
        let finding = Finding::of_error("worker token", &error);
        assert_eq!(finding.evidence, "/skep/a/worker-token/1 holds no join token: it is empty");
        assert!(
            finding.remedy.unwrap().starts_with("store the output of `docker swarm join-token -q`")
        );
    }
}
