//! Observes the swarm for `skep recover`.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::future::join_all;
use time::OffsetDateTime;
use tokio::time::{Instant, sleep, timeout};

use super::decide::{Leaving, Observed};
use super::error::RecoverError;
use crate::clients::docker::{LocalNode, first_listening};
use crate::clients::ledger::{Charter, Member, MemberRows};
use crate::clients::secrets::Item;
use crate::common::errors::chain;
use crate::common::fact::Fact;
use crate::common::instance::{Departure, Role};
use crate::manager::peers;
use crate::node::Node;

/// The quorum counts as lost if no leader answers for this time: an election blocks Docker for 10 to 14 s.
const QUORUM_PATIENCE: Duration = Duration::from_secs(20);
/// A leader answers within milliseconds; without one Docker may not answer for half a minute, and then reports in
/// `/info` that there is none.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Without a leader `/info` takes up to 20 s.
const INFO_WITHIN: Duration = Duration::from_secs(30);

/// Looks for a leader first, then reads the rest. Facts that Docker and Auto Scaling do not report are missing in the
/// result, and rows that cannot be read are named.
pub async fn observe(node: &Node) -> Result<Observed, RecoverError> {
    // A node that joined while a leader was seen here has written its row by the end of that search.
    let looks = look_for_leader(node).await;
    let (charter, rows, local) =
        tokio::join!(node.ledger.fetch_charter(), node.ledger.survey_managers(), fetch_local(node));
    let (charter, rows) =
        (charter.map_err(RecoverError::NotSeen)?, rows.map_err(RecoverError::NotSeen)?);
    let me = node.instance.id.as_str();
    let MemberRows { rows, unreadable, .. } = rows;
    let (own, others) = managers_of(rows, me, charter.as_ref());
    let generation = charter.as_ref().map(|charter| charter.generation);
    let mut unlock_keys = None;
    // A worker is not allowed to read them, and recovers nothing.
    if let Some(generation) = generation
        && local.as_ref().is_some_and(|local| local.is_manager)
        && node.tokens.fetch_unlock_keys(generation).await?.is_some()
    {
        unlock_keys = Some(node.tokens.place(Item::UnlockKeys, generation));
    }
    let ids: Vec<&str> = others.iter().map(|row| row.instance_id.as_str()).chain([me]).collect();
    let addresses: Vec<IpAddr> = others.iter().map(|row| row.address).collect();
    let (listed, listening) =
        tokio::join!(node.autoscaling.fetch_listed(&ids), fetch_listening(&addresses));
    let listed = listed.inspect_err(|error| tracing::warn!("{}", chain(error)));
    Ok(Observed {
        me: me.to_owned(),
        charter,
        has_leader: has_leader(looks, local.as_ref()),
        local,
        row: own,
        others,
        unreadable,
        // An answer that does not list this instance is about something else.
        listed: listed.ok().filter(|listed| listed.contains_key(me)),
        listening,
        unlock_keys,
        leaves_by: leaving(node),
        now: OffsetDateTime::now_utc(),
    })
}

/// Returns this node's departure, if one is under way or has ended just now.
pub(super) fn leaving(node: &Node) -> Option<Leaving> {
    let state = node.state.now();
    let recovery_until = state.recovery_until;
    state.departure.map(|Departure { deadline, .. }| Leaving { deadline, recovery_until })
}

async fn fetch_local(node: &Node) -> Option<LocalNode> {
    timeout(INFO_WITHIN, node.swarm.fetch_local_node()).await.ok()?.ok()
}

/// Whether the swarm has a leader. Asks until one answers, or for [`QUORUM_PATIENCE`]: an election may still elect one
/// after Docker's answer that there is none. Without an answer it cannot tell.
async fn look_for_leader(node: &Node) -> Fact {
    let end = Instant::now() + QUORUM_PATIENCE;
    let mut leader = Fact::CannotTell;
    while Instant::now() < end {
        if let Ok(answer) = timeout(ANSWER_WITHIN, node.swarm.fetch_nodes()).await {
            match peers::has_leader(answer.as_deref()) {
                Fact::Yes => return Fact::Yes,
                Fact::No => leader = Fact::No,
                Fact::CannotTell => {}
            }
        }
        sleep(LOOK_EVERY).await;
    }
    leader
}

/// Combines the search for a leader with Docker's answer in `/info`, which was read after it. If the search got no
/// answer, `/info` decides whether there is none; a node that `/info` reports as healthy has found a leader meanwhile.
fn has_leader(looks: Fact, local: Option<&LocalNode>) -> Fact {
    match looks {
        Fact::Yes => Fact::Yes,
        _ if local.is_some_and(LocalNode::is_sound) => Fact::CannotTell,
        Fact::No => Fact::No,
        Fact::CannotTell => local.map_or(Fact::CannotTell, |local| peers::no_leader(None, local)),
    }
}

/// Returns this node's row, and those of the other managers. A promoted worker counts among the others; it recovers
/// nothing itself, because its role is not allowed to write the charter.
fn managers_of(
    rows: Vec<Member>,
    me: &str,
    charter: Option<&Charter>,
) -> (Option<Member>, Vec<Member>) {
    let (own, mut others): (Vec<Member>, Vec<Member>) =
        rows.into_iter().filter(Member::is_manager).partition(|row| row.instance_id == me);
    // After a recovery that failed, the managers are still those of the generation before.
    others.retain(|row| {
        charter.is_some_and(|charter| row.generation == charter.generation || charter.is_recovery())
    });
    (own.into_iter().find(|row| row.role == Role::Manager), others)
}

async fn fetch_listening(addresses: &[IpAddr]) -> BTreeSet<IpAddr> {
    let probes = addresses.iter().map(|address| async move { first_listening(&[*address]).await });
    join_all(probes).await.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::docker::LocalState;
    use crate::lifecycle::boot::tests::world::member;

    fn local(error: &str) -> LocalNode {
        LocalNode {
            state: LocalState::Active,
            node_id: Some("node".into()),
            swarm_id: Some("swarm".into()),
            is_manager: true,
            has_managers: true,
            managers: vec![],
            error: error.into(),
            address: None,
            live_restore: false,
        }
    }

    #[test]
    fn only_dockers_own_word_says_that_there_is_no_leader() {
        use Fact::{CannotTell, No, Yes};
        let lost = local("rpc error: The swarm does not have a leader. It's possible that");
        let silent = local("rpc error: code = DeadlineExceeded desc = context deadline exceeded");
        let well = local("");
        for (looks, info, expected) in [
            (Yes, Some(&lost), Yes),
            (No, Some(&lost), No),
            (No, Some(&silent), No),
            (No, None, No),
            (No, Some(&well), CannotTell),
            (CannotTell, Some(&lost), No),
            (CannotTell, Some(&silent), CannotTell),
            (CannotTell, Some(&well), CannotTell),
            (CannotTell, None, CannotTell),
        ] {
            assert_eq!(has_leader(looks, info), expected, "{looks:?} {info:?}");
        }
    }

    /// Two promoted workers that hold the quorum, beside one manager that is cut off.
    #[test]
    fn promoted_workers_count_among_the_others() {
        use Role::{Manager, Worker};
        let rows = || {
            vec![
                member("i-me", Manager, Manager, 2),
                member("i-promoted", Worker, Manager, 2),
                member("i-worker", Worker, Worker, 2),
                member("i-demoted", Manager, Worker, 2),
                member("i-old", Manager, Manager, 1),
            ]
        };
        let now = OffsetDateTime::UNIX_EPOCH;
        let claim = Charter::claim(None, &Default::default(), "i-me", now, Duration::ZERO);
        let mut charter = Charter { generation: 2, ..claim };
        let names = |me: &str, charter: &Charter| {
            let (own, others) = managers_of(rows(), me, Some(charter));
            let others: Vec<_> = others.into_iter().map(|row| row.instance_id).collect();
            (own.is_some(), others.join(" "))
        };
        assert_eq!(names("i-me", &charter), (true, "i-promoted i-demoted".into()));
        assert_eq!(names("i-promoted", &charter), (false, "i-me i-demoted".into()));
        charter = Charter::recovery(&charter, "swarm", "i-me", now);
        assert_eq!(names("i-me", &charter), (true, "i-promoted i-demoted i-old".into()));
    }
}
