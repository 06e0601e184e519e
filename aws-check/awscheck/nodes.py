"""Runs commands on nodes, by Run Command: the nodes have no public address.

The output comes back compressed and in base64, because Run Command shows at most 24,000 characters of it.
"""

from __future__ import annotations

import base64
import dataclasses
import gzip
import json
import zlib

from .aws import Aws, AwsError

# Time for the agent to fetch a command; 30 s is Run Command's minimum.
DELIVERY = 60
# The marks around the output, among lines that others may print.
BEGIN, END = "skep-aws-check-begin", "skep-aws-check-end"
ENDED = {"Success", "Failed", "Cancelled", "TimedOut", "Undeliverable", "Terminated"}


class NoAnswer(Exception):
    """The node does not answer Run Command."""


@dataclasses.dataclass(frozen=True)
class Output:
    code: int
    out: str
    error: str


def wrapped(script: str) -> str:
    """The script that runs another one and prints its result in one line."""
    body = base64.b64encode(script.encode()).decode()
    return "\n".join([
        "d=$(mktemp -d) || exit 97",
        f"echo {body} | base64 -d >$d/script",
        "sh $d/script >$d/out 2>$d/err </dev/null; code=$?",
        f'echo "{BEGIN} $code $(gzip -c $d/out | base64 -w0) $(tail -c 2000 $d/err | gzip -c | base64 -w0) {END}"',
        "rm -rf $d",
    ])  # fmt: skip


def unwrapped(text: str) -> Output:
    for line in text.splitlines():
        words = line.split()
        if len(words) == 5 and words[0] == BEGIN and words[4] == END:
            try:
                out, error = (gzip.decompress(base64.b64decode(word)).decode(errors="replace") for word in words[2:4])
                return Output(int(words[1]), out, error)
            except (ValueError, OSError, EOFError, zlib.error) as fault:
                raise NoAnswer(f"the output of the command cannot be read: {fault}") from None
    raise NoAnswer(f"the output of the command is incomplete: {text[-200:]!r}")


class Nodes:
    def __init__(self, aws: Aws, pause: float):
        self._aws, self._pause = aws, pause

    def run(self, instance: str, script: str, limit: int = 120) -> Output:
        """Runs a script as root on an instance."""
        try:
            sent = self._aws.call(
                "ssm", "send-command", DocumentName="AWS-RunShellScript", InstanceIds=[instance], TimeoutSeconds=DELIVERY,
                Parameters={"commands": wrapped(script).splitlines(), "executionTimeout": [str(limit)]}, Comment="aws-check of skep",
            )  # fmt: skip
        except AwsError as error:
            if error.code == "InvalidInstanceId":
                raise NoAnswer(f"{instance} is not registered with Systems Manager") from None
            raise
        command = sent["Command"]["CommandId"]
        for _ in range(int((DELIVERY + limit + 60) / max(self._pause, 0.05)) + 1):
            self._aws.control.sleep(min(self._pause, 2.0))
            try:
                seen = self._aws.call("ssm", "get-command-invocation", CommandId=command, InstanceId=instance)
            except AwsError as error:
                # It appears a moment after the command.
                if error.code == "InvocationDoesNotExist":
                    continue
                raise
            if seen["Status"] in ENDED:
                if seen["Status"] not in ("Success", "Failed"):
                    raise NoAnswer(f"Run Command on {instance}: {seen.get('StatusDetails') or seen['Status']}")
                return unwrapped(seen.get("StandardOutputContent", ""))
        raise NoAnswer(f"Run Command on {instance} has not ended within {DELIVERY + limit + 60} s")

    def json(self, instance: str, script: str) -> object:
        """The JSON that a script prints, whatever its exit code is."""
        output = self.run(instance, script)
        try:
            return json.loads(output.out)
        except ValueError:
            raise NoAnswer(f"{script!r} on {instance} ended with {output.code}: {(output.error or output.out).strip()[-300:]}") from None


@dataclasses.dataclass(frozen=True)
class Node:
    """One node of the swarm, as a manager lists it."""

    id: str
    role: str
    instance: str
    is_ready: bool
    is_leader: bool
    is_reachable: bool
    labels: dict


def listed(inspected: object) -> list[Node]:
    """The nodes of `docker node inspect`."""
    nodes = []
    for one in inspected if isinstance(inspected, list) else []:
        labels = one["Spec"].get("Labels") or {}
        manager = one.get("ManagerStatus") or {}
        nodes.append(Node(
            id=one["ID"], role=one["Spec"]["Role"], instance=labels.get("skep.instance", ""),
            is_ready=one["Status"]["State"] == "ready", is_leader=bool(manager.get("Leader")),
            is_reachable=manager.get("Reachability") == "reachable", labels=labels,
        ))  # fmt: skip
    return nodes
