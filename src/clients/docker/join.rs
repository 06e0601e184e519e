//! Sorts the answers of `POST /swarm/join` by the reaction that each needs.

use super::{SwarmError, SwarmErrorKind};
use crate::common::instance::Role;

/// The outcome of one attempt to join through one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JoinAnswer {
    /// Docker reports that the node has joined.
    Joined,
    /// The host is in a swarm already, perhaps by an earlier call of skep: check which swarm.
    AlreadyInSwarm,
    /// The token was rotated after it was read, or is not a token: read it again.
    TokenRefused,
    /// The swarm's CA is not the one that the token names: read the token again.
    CaChanged,
    /// No manager listens at that address: use the next one.
    Refused,
    /// No answer from that address; Docker keeps trying in the background. Use the next address once that has ended.
    BlackHoled,
    /// The manager answered, but the swarm has no leader: back off.
    NoLeader,
    /// The swarm cannot reach this node's own port 2377, because of a security group. Each attempt leaves a dead entry
    /// in the node list, so the number of attempts must be small.
    OwnPortClosed,
    /// `live-restore` is on.
    LiveRestore,
    /// nftables is the firewall backend.
    NftablesFirewall,
    /// No answer within [`super::CALL_TIMEOUT`]: the join may still be in progress.
    Unknown,
    /// An answer that was never measured.
    Other(String),
}

impl JoinAnswer {
    pub(super) fn of(result: Result<(), SwarmError>) -> Self {
        let Err(error) = result else { return Self::Joined };
        let says = |text: &str| error.message.contains(text);
        match error.kind {
            SwarmErrorKind::AlreadyInSwarm => return Self::AlreadyInSwarm,
            SwarmErrorKind::LiveRestore => return Self::LiveRestore,
            SwarmErrorKind::NftablesFirewall => return Self::NftablesFirewall,
            SwarmErrorKind::TimedOut => return Self::Unknown,
            _ => {}
        }
        // Most specific first: the text about this node's own port also mentions a refused connection, that of the
        // manager to this node.
        if says("could not connect to prospective new cluster member") {
            Self::OwnPortClosed
        } else if says("does not match fingerprint") {
            Self::CaChanged
        } else if says("join token") {
            Self::TokenRefused
        } else if says("does not have a leader") {
            Self::NoLeader
        } else if says("connection refused") || says("no route to host") {
            Self::Refused
        } else if says("Timeout was reached before node joined") || says("deadline exceeded") {
            Self::BlackHoled
        } else {
            Self::Other(error.message)
        }
    }

    /// Whether skep ends this join at once, by leaving by force, because Docker may continue it in the background.
    /// Never for a manager: raft may count it by now, and it would stay there as a dead member, which costs two
    /// managers their quorum. The next polls show the outcome of its join; skep ends that join only after Docker
    /// reports `error`, or where the manager never got a certificate.
    #[must_use]
    pub fn is_ended_by_force(&self, role: Role) -> bool {
        role == Role::Worker && matches!(self, Self::BlackHoled | Self::NoLeader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard::errors::Error::DockerResponseServerError;

    fn answer(status_code: u16, message: &str) -> JoinAnswer {
        let error = DockerResponseServerError { status_code, message: message.into() };
        JoinAnswer::of(Err(SwarmError::new("join", &error)))
    }

    /// The texts as engines 20.10.24 and 28.5.2 sent them; the text about nftables is from the source of engine 29
    /// (moby, `daemon/config/config_linux.go`).
    #[test]
    fn every_measured_answer_has_its_own_way_out() {
        use JoinAnswer::*;
        assert_eq!(JoinAnswer::of(Ok(())), Joined);
        for (status, text, expected) in [
            (
                503,
                "This node is already part of a swarm. Use \"docker swarm leave\" to leave this swarm and join another one.",
                AlreadyInSwarm,
            ),
            (
                400,
                "rpc error: code = InvalidArgument desc = A valid join token is necessary to join this cluster",
                TokenRefused,
            ),
            (400, "invalid join token", TokenRefused),
            (500, "remote CA does not match fingerprint. Expected: 3a1f", CaChanged),
            (
                503,
                "rpc error: code = Unavailable desc = connection error: desc = \"transport: Error while dialing dial tcp 10.0.0.9:2377: connect: connection refused\"",
                Refused,
            ),
            (
                503,
                "Timeout was reached before node joined. The attempt to join the swarm will continue in the background. Use the \"docker info\" command to see the current swarm status of your node.",
                BlackHoled,
            ),
            (
                503,
                "rpc error: code = Unknown desc = The swarm does not have a leader. It's possible that too few managers are online.",
                NoLeader,
            ),
            (
                500,
                "manager stopped: can't initialize raft node: rpc error: code = Unknown desc = could not connect to prospective new cluster member using its advertised address: rpc error: code = DeadlineExceeded desc = context deadline exceeded",
                OwnPortClosed,
            ),
            (
                500,
                "--live-restore daemon configuration is incompatible with swarm mode",
                LiveRestore,
            ),
            (500, "--firewall-backend=nftables is incompatible with swarm mode", NftablesFirewall),
            (
                500,
                "--another daemon configuration is incompatible with swarm mode",
                Other("--another daemon configuration is incompatible with swarm mode".into()),
            ),
            (500, "the sky is falling", Other("the sky is falling".into())),
        ] {
            assert_eq!(answer(status, text), expected, "{text}");
        }
    }

    #[test]
    fn only_a_workers_join_is_ended_by_force() {
        for answer in [JoinAnswer::BlackHoled, JoinAnswer::NoLeader] {
            assert!(answer.is_ended_by_force(Role::Worker), "{answer:?}");
            assert!(!answer.is_ended_by_force(Role::Manager), "raft may count it: {answer:?}");
        }
        for answer in [JoinAnswer::Joined, JoinAnswer::Unknown, JoinAnswer::OwnPortClosed] {
            assert!(Role::ALL.iter().all(|role| !answer.is_ended_by_force(*role)), "{answer:?}");
        }
    }

    #[test]
    fn a_call_without_an_answer_is_not_a_refusal() {
        let error = SwarmError::new("join", &bollard::errors::Error::RequestTimeoutError);
        assert_eq!(JoinAnswer::of(Err(error)), JoinAnswer::Unknown);
    }
}
