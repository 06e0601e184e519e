"""What all steps of a run share: the stack, its groups and nodes, the client, the answers."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import time
from typing import Callable

from .aws import Aws, AwsError, NotTried
from .facts import Answers
from .load import Client, Counts
from .nodes import NoAnswer, Node, Nodes, listed
from .prices import Meter
from .stack import Stack
from .state import State
from .transcript import Transcript

# The name of the service that the client requests.
SERVICE = "aws-check"
LIST_NODES = "docker node inspect $(docker node ls --quiet)"


class StepFailed(Exception):
    """A step did not reach its end; the text says what is missing."""


class Useless(Exception):
    """No later step can answer anything; the text says why."""


@dataclasses.dataclass(frozen=True)
class Settings:
    stack: str
    image: str
    managers: int
    workers: int
    manager_type: str
    worker_type: str
    service_image: str
    port: int
    limit: int
    pause: float
    templates: pathlib.Path
    volume: int = 30
    zones: int = 2


@dataclasses.dataclass
class Member:
    """An instance of a group."""

    id: str
    state: str
    kind: str


@dataclasses.dataclass
class Departure:
    """When an instance was first seen in each state, in seconds after the request."""

    instance: str
    states: dict[str, float]
    target: str = ""


class Run:
    def __init__(self, settings: Settings, aws: Aws, transcript: Transcript, state: State):
        self.settings, self.aws, self.transcript, self.state = settings, aws, transcript, state
        self.control = aws.control
        self.say = transcript.line
        self.answers = Answers()
        self.meter = Meter(settings.volume, settings.zones)
        self.nodes = Nodes(aws, settings.pause)
        self.stack = Stack(aws, settings.stack, settings.templates / "skep.yaml")
        self.client: Client | None = None
        self.counts: dict[str, Counts] = {}
        self.managers, self.workers = settings.managers, settings.workers
        # Whether a role's group was there when it was last looked at.
        self.has_group: dict[str, bool] = {}
        # Empty until Run Command has reached a node.
        self.why_no_nodes = "the stack is not complete"
        # The account, the partition and the image, as far as they are known.
        self.identity: dict[str, str] = {}
        # Whether anything was created.
        self.has_created = False
        # The steps that have failed, with the reasons.
        self.failed: list[str] = []

    # --- waiting ---

    def wait(self, what: str, check: Callable[[], str], limit: int | None = None, pause: float | None = None) -> float:
        """Waits until `check` returns nothing; it returns what is missing. Returns the seconds."""
        limit = limit or self.settings.limit
        started, shown = time.monotonic() - self.aws.waited, ""
        while True:
            try:
                missing = check()
            except NoAnswer as error:
                missing = str(error)
            except AwsError as error:
                if not error.may_pass:
                    raise
                missing = f"an answer of AWS ({error})"
            passed = time.monotonic() - self.aws.waited - started
            if not missing:
                return passed
            if missing != shown:
                self.say(f"   {passed:6.0f} s  waiting for {what}: {missing}")
                shown = missing
            if passed > limit:
                raise StepFailed(f"no {what} within {limit} s: {missing}")
            self.control.sleep(self.settings.pause if pause is None else pause)

    # --- groups ---

    def group_name(self, role: str) -> str:
        return f"{self.settings.stack}-{role}s"

    def group(self, role: str) -> tuple[int, list[Member]]:
        """The desired capacity and the instances of a role's group."""
        answer = self.aws.call("autoscaling", "describe-auto-scaling-groups", AutoScalingGroupNames=[self.group_name(role)])
        self.has_group[role] = bool(answer["AutoScalingGroups"])
        if not self.has_group[role]:
            return 0, []
        found = answer["AutoScalingGroups"][0]
        members = [Member(one["InstanceId"], one["LifecycleState"], one.get("InstanceType", "")) for one in found["Instances"]]
        self.meter.saw({one.id: one.kind for one in members})
        self.meter.network_is_up()
        return found["DesiredCapacity"], members

    def in_service(self, role: str) -> list[str]:
        return [one.id for one in self.group(role)[1] if one.state == "InService"]

    def types(self) -> None:
        """Lets the meter see both groups."""
        for role in ("manager", "worker"):
            self.group(role)

    # --- nodes ---

    def on_manager(self, script: str, limit: int = 120) -> tuple[str, str]:
        """Runs a script on a manager that answers; returns its instance and output."""
        if self.why_no_nodes:
            raise NotTried(self.why_no_nodes)
        trouble = "no manager is in service"
        for instance in self.in_service("manager"):
            try:
                output = self.nodes.run(instance, script, limit)
            except NoAnswer as error:
                trouble = str(error)
                continue
            if output.code == 0:
                return instance, output.out
            trouble = f"{instance}: {(output.error or output.out).strip()[-300:]}"
        raise NoAnswer(trouble)

    def swarm(self) -> list[Node]:
        """The nodes as a manager lists them."""
        return listed(json.loads(self.on_manager(LIST_NODES)[1]))

    def not_whole(self) -> str:
        """What the swarm lacks: all nodes ready, in service, identified and alone in the list."""
        members = {}
        for role, count in (("manager", self.managers), ("worker", self.workers)):
            desired, of = self.group(role)
            members[role] = {one.id for one in of if one.state == "InService"}
            if len(members[role]) != count or len(of) != count or desired != count:
                states = ", ".join(sorted(one.state for one in of))
                return f"{len(members[role])} of {count} {role}s in service ({states or 'none'})"
        if self.why_no_nodes:
            return ""
        nodes = self.swarm()
        for role in members:
            here = [one for one in nodes if one.role == role]
            if {one.instance for one in here} != members[role] or len(here) != len(members[role]):
                return f"{len(members[role])} {role}s with labels in Docker's list, which has {len(here)}"
        not_ready = [one.id for one in nodes if not one.is_ready or one.role == "manager" and not one.is_reachable]
        if not_ready:
            return f"{len(not_ready)} nodes to be ready and reachable"
        return "" if sum(one.is_leader for one in nodes) == 1 else "a leader"

    def whole(self, what: str) -> float:
        return self.wait(what, self.not_whole)

    def leader(self) -> str:
        """The leader's instance."""
        for node in self.swarm():
            if node.is_leader:
                return node.instance
        raise StepFailed("the swarm has no leader")

    # --- departures ---

    def terminate(self, instance: str, *, decrement: bool) -> Departure:
        """Terminates an instance of a group, and watches its states until the group no longer lists it."""
        self.say(f"   terminating {instance}")
        self.aws.call(
            "autoscaling", "terminate-instance-in-auto-scaling-group", InstanceId=instance, ShouldDecrementDesiredCapacity=decrement
        )
        return self.watch_departure(instance)

    def watch_departure(self, instance: str) -> Departure:
        started, waited = time.monotonic(), self.aws.waited
        departure = Departure(instance, {})

        def missing() -> str:
            found = self.aws.call("autoscaling", "describe-auto-scaling-instances", InstanceIds=[instance])["AutoScalingInstances"]
            state = found[0]["LifecycleState"] if found else ""
            if found:
                self.meter.saw({instance: found[0].get("InstanceType", "")})
            if state and state not in departure.states:
                departure.states[state] = time.monotonic() - started
                if state == "Terminating:Wait":
                    departure.target = self._target(instance)
            return f"{instance} is {state}" if state else ""

        # A state can last a few seconds only.
        departure.states["gone"] = self.wait("departure", missing, pause=min(self.settings.pause, 1.0))
        if self.aws.waited > waited:
            # Nobody looked meanwhile: the time of the hook is not known.
            departure.states.pop("Terminating:Wait", None)
        self.say(f"   {instance}: " + ", ".join(f"{state} after {at:.0f} s" for state, at in departure.states.items()))
        return departure

    def _target(self, instance: str) -> str:
        """The state of an instance as a target of the load balancer; empty if that cannot be told."""
        try:
            for group in self.stack.resources("AWS::ElasticLoadBalancingV2::TargetGroup"):
                health = self.aws.call("elbv2", "describe-target-health", TargetGroupArn=group)["TargetHealthDescriptions"]
                states = [one["TargetHealth"]["State"] for one in health if one["Target"]["Id"] == instance]
                return states[0] if states else "not registered"
        except AwsError as error:
            self.say(f"   the state of the target cannot be read: {error}")
        return ""

    # --- requests ---

    def counted(self, step: str) -> Counts | None:
        """The counts since the last call, written into the transcript; `None` without a client."""
        if not self.client:
            return None
        counts = self.client.take()
        self.counts[step] = counts
        self.say(f"   requests: {counts}")
        for at, what in counts.failures[:20]:
            self.say(f"      {time.strftime('%H:%M:%S', time.gmtime(at))}.{int(at % 1 * 1000):03d} {what}", quiet=True)
        return counts

    def none_lost(self, fact: str, step: str) -> None:
        """Answers whether the step has lost requests."""
        counts = self.counted(step)
        if counts is None or not counts.answered:
            self.answers.not_tried(fact, "no client requests the service")
        else:
            self.answers.give(fact, not counts.lost, str(counts))
