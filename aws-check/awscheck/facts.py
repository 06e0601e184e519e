"""The facts that only AWS can confirm, and their answers. docs/deploy.md shows the same table; a test compares them."""

from __future__ import annotations

import dataclasses

YES, NO, NOT_TRIED = "yes", "no", "not tried"


@dataclasses.dataclass(frozen=True)
class Fact:
    id: str
    question: str
    # Where the present answer comes from: documentation, local cloud, a transcript, or nothing yet.
    source: str
    # The step that answers it; empty: none does.
    step: str


DOCUMENTATION, LOCAL, NOTHING = "documentation", "local cloud", "nothing"

FACTS = [
    Fact("template", "CloudFormation accepts the template, and creates everything in it", LOCAL, "stack"),
    Fact("signals", "the SUCCESS of every node reaches CloudFormation, and every launch hook continues", LOCAL, "stack"),
    Fact("groups-order", "CloudFormation creates the managers' group, with its nodes Ready, before the workers' group", DOCUMENTATION, "stack"),
    Fact("run-command", "Run Command reaches the nodes with the permissions for Session Manager alone", DOCUMENTATION, "permissions"),
    Fact("source-instance", "requests to DynamoDB have `ec2:SourceInstanceARN` in the form that skep derives: a worker can write its own rows", DOCUMENTATION, "permissions"),
    Fact("foreign-rows", "IAM refuses a worker the rows of another worker", LOCAL, "permissions"),
    Fact("cluster-rows", "IAM refuses a worker every write to the cluster's rows, such as the charter", LOCAL, "permissions"),
    Fact("manager-token", "IAM refuses a worker the managers' join token", LOCAL, "permissions"),
    Fact("worker-role", "the worker's role has every permission that skep needs", LOCAL, "permissions"),
    Fact("manager-role", "the managers' role has every permission that skep needs", LOCAL, "permissions"),
    Fact("group-tags", "requests of managers for a group have the group's tags (`aws:ResourceTag`), on which their permission rests", DOCUMENTATION, "permissions"),
    Fact("describe-instances", "managers find the instance of every node by `DescribeInstances`, and label it", LOCAL, "permissions"),
    Fact("settings-in-ssm", "settings in an SSM parameter reach the nodes: CloudFormation resolves the reference, and UserData has the text", DOCUMENTATION, "permissions"),
    Fact("balancer", "the load balancer sends requests to the service, by the answers of the health port", NOTHING, "service"),
    Fact("mesh", "the routing mesh answers on a node without a task of the service", NOTHING, "service"),
    Fact("scale-out", "a worker that the group adds becomes Ready by itself", LOCAL, "scale-out"),
    Fact("scale-in", "a worker that the group removes leaves the swarm, and its hook is completed before the time-out", LOCAL, "scale-in"),
    Fact("deregistered", "Auto Scaling deregisters an instance from the load balancer before the termination hook waits", DOCUMENTATION, "scale-in"),
    Fact("scale-in-requests", "no request is lost while a worker leaves", NOTHING, "scale-in"),
    Fact("manager", "a terminated manager leaves in order, and its replacement joins", LOCAL, "manager"),
    Fact("leader", "a terminated leader leaves in order, and its replacement joins", LOCAL, "leader"),
    Fact("leader-requests", "no request is lost while the leader is replaced", NOTHING, "leader"),
    Fact("references", "a stack of `workers.yaml` gets the exports of the swarm's stack and an image id from SSM, and its worker joins", DOCUMENTATION, "group"),
    Fact("spot-notice", "a spot interruption reaches skep as a notice, and the node leaves before the instance ends", LOCAL, "spot"),
    Fact("spot-requests", "no request is lost during a spot interruption", NOTHING, "spot"),
    Fact("update", "an update replaces all nodes, and starts each new one before the old one leaves", DOCUMENTATION, "update"),
    Fact("update-requests", "no request is lost during an update", NOTHING, "update"),
    Fact("warm-pool", "an instance of a warm pool waits outside of the swarm, and joins when it enters service", LOCAL, "warm-pool"),
    Fact("delete", "deleting the stack removes the workers, then the managers", DOCUMENTATION, "delete"),
    Fact("charter-closed", "the last manager closes the charter", LOCAL, "delete"),
    Fact("nothing-left", "after the deletion nothing is left but the join tokens and DynamoDB's own backup of the table", DOCUMENTATION, "delete"),
    Fact("packer", "Packer 1.9 or newer builds the image in an account", LOCAL, "image"),
    Fact("debian-12", "an image of Debian 12 works", LOCAL, "permissions"),
    Fact("debian-13", "an image of Debian 13 works", NOTHING, "permissions"),
    Fact("ubuntu-24.04", "an image of Ubuntu 24.04 works", NOTHING, "permissions"),
    Fact("amazon-linux-2023", "an image of Amazon Linux 2023 works", NOTHING, "permissions"),
    Fact("arm64", "an image for arm64 works", NOTHING, "permissions"),
    Fact("pool-refresh", "an instance refresh replaces the prepared instances of a warm pool", DOCUMENTATION, ""),
    Fact("target-tracking", "the scaling policy of `WorkersTarget` follows the metric that the leader sends", LOCAL, ""),
    Fact("refresh", "an instance refresh replaces the nodes of a group in order", LOCAL, ""),
    Fact("root-volumes", "an instance refresh that replaces root volumes brings the instances back as new nodes", LOCAL, ""),
    Fact("zones", "Auto Scaling balances the zones of a group, the new nodes first", LOCAL, ""),
    Fact("other-group", "a worker that is attached to another group leaves by the hook of that group", LOCAL, ""),
    Fact("rollback", "an update that fails rolls back to the previous image", NOTHING, ""),
    Fact("kms", "a KMS key of your own encrypts the join tokens", NOTHING, ""),
    Fact("efs", "tasks can mount the stack's EFS", NOTHING, ""),
    Fact("hibernation", "hibernated instances of a warm pool work", NOTHING, ""),
    Fact("two-versions", "two versions of skep work in one fleet, and an older package can replace a newer one there", NOTHING, ""),
    Fact("large-account", "the filters of `DescribeInstances` work in an account with many instances", NOTHING, ""),
]  # fmt: skip


def table() -> str:
    """The table of docs/deploy.md."""
    rows = [f"| `{fact.id}` | {fact.question} | {fact.source} | {fact.step or '–'} |" for fact in FACTS]
    return "\n".join(["| Fact | | Answer from | Step |", "|---|---|---|---|", *rows])


class Answers:
    """The answers of one run, with their evidence. A fact is answered once: a no stays."""

    def __init__(self) -> None:
        self._facts = {fact.id: fact for fact in FACTS}
        self._given: dict[str, tuple[str, str]] = {}

    def give(self, fact: str, is_so: bool, evidence: str) -> None:
        assert fact in self._facts, fact
        if self._given.get(fact, ("", ""))[0] != NO:
            self._given[fact] = (YES if is_so else NO, evidence)

    def not_tried(self, fact: str, why: str) -> None:
        assert fact in self._facts, fact
        self._given.setdefault(fact, (NOT_TRIED, why))

    def step_ended(self, step: str, why: str) -> None:
        """Marks what a step has not answered."""
        for fact in FACTS:
            if fact.step == step:
                self.not_tried(fact.id, why)

    def all(self) -> list[tuple[Fact, str, str]]:
        missing = {"": "aws-check has no step for it"}
        return [(fact, *self._given.get(fact.id, (NOT_TRIED, missing.get(fact.step, "its step did not run")))) for fact in FACTS]

    def of(self, fact: str) -> str:
        return self._given.get(fact, (NOT_TRIED, ""))[0]
