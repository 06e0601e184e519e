//! Docker's refusals: the statuses and texts of the engines 20.10.24 and 28.5.2, as skep recognises them
//! (`docs/decisions/docker-answers.md`).

/// A refusal, with its HTTP status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) message: String,
}

impl Refusal {
    fn new(status: u16, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    pub(super) fn internal(error: &anyhow::Error) -> Self {
        Self::new(500, format!("{error:#}"))
    }

    /// The engine has been switched off while the request was under way.
    pub(super) fn no_host() -> Self {
        Self::new(500, "this engine is stopping")
    }

    pub(super) fn page_not_found() -> Self {
        Self::new(404, "page not found")
    }

    pub(super) fn too_new(version: &str, newest: &str) -> Self {
        Self::new(
            400,
            format!(
                "client version {version} is too new. Maximum supported API version is {newest}"
            ),
        )
    }

    pub(super) fn too_old(version: &str, oldest: &str) -> Self {
        Self::new(
            400,
            format!(
                "client version {version} is too old. Minimum supported API version is {oldest}, \
                 please upgrade your client to a newer version"
            ),
        )
    }

    pub(super) fn already_in_swarm() -> Self {
        Self::new(
            503,
            "This node is already part of a swarm. Use \"docker swarm leave\" to leave this swarm \
             and join another one.",
        )
    }

    pub(super) fn not_in_swarm() -> Self {
        Self::new(503, "This node is not part of a swarm")
    }

    pub(super) fn no_manager() -> Self {
        Self::new(
            503,
            "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" \
             to connect this node to swarm and try again.",
        )
    }

    pub(super) fn worker() -> Self {
        Self::new(
            503,
            "This node is not a swarm manager. Worker nodes can't be used to view or modify \
             cluster state. Please run this command on a manager node or promote the current node \
             to a manager.",
        )
    }

    pub(super) fn no_leader() -> Self {
        Self::new(
            500,
            "rpc error: code = Unknown desc = The swarm does not have a leader. It's possible \
             that too few managers are online. Make sure more than half of the managers are \
             online.",
        )
    }

    pub(super) fn still_manager() -> Self {
        Self::new(
            503,
            "You are attempting to leave the swarm on a node that is participating as a manager.",
        )
    }

    pub(super) fn malformed_token() -> Self {
        Self::new(400, "invalid join token")
    }

    pub(super) fn wrong_token() -> Self {
        Self::new(
            400,
            "rpc error: code = InvalidArgument desc = A valid join token is necessary to join \
             this cluster",
        )
    }

    pub(super) fn other_ca(digest: &str) -> Self {
        Self::new(500, format!("remote CA does not match fingerprint. Expected: {digest}"))
    }

    pub(super) fn connection_refused(remote: &str) -> Self {
        Self::new(
            503,
            format!(
                "rpc error: code = Unavailable desc = connection error: desc = \"transport: \
                 Error while dialing dial tcp {remote}: connect: connection refused\""
            ),
        )
    }

    pub(super) fn join_goes_on() -> Self {
        Self::new(
            503,
            "Timeout was reached before node joined. The attempt to join the swarm will continue \
             in the background. Use the \"docker info\" command to see the current swarm status \
             of your node.",
        )
    }

    pub(super) fn out_of_sequence() -> Self {
        Self::new(500, "rpc error: code = Unknown desc = update out of sequence")
    }

    pub(super) fn invalid(field: &str) -> Self {
        Self::new(400, format!("invalid {field}"))
    }

    pub(super) fn no_node(id: &str) -> Self {
        Self::new(404, format!("node {id} not found"))
    }

    pub(super) fn not_down(id: &str) -> Self {
        Self::new(
            400,
            format!(
                "rpc error: code = FailedPrecondition desc = node {id} is not down and can't be \
                 removed"
            ),
        )
    }

    pub(super) fn is_member(id: &str) -> Self {
        Self::new(
            400,
            format!(
                "rpc error: code = FailedPrecondition desc = node {id} is a cluster manager and is \
                 a member of the raft cluster. It must be demoted to worker before removal"
            ),
        )
    }

    pub(super) fn loses_quorum() -> Self {
        Self::new(
            400,
            "rpc error: code = FailedPrecondition desc = can't remove member from the raft: this \
             would result in a loss of quorum",
        )
    }

    pub(super) fn last_manager() -> Self {
        Self::new(
            400,
            "rpc error: code = FailedPrecondition desc = attempting to demote the last manager of \
             the swarm",
        )
    }

    pub(super) fn not_locked() -> Self {
        Self::new(409, "swarm is not locked")
    }
}
