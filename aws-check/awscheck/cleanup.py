"""Deletes everything that a run has created. It can be repeated, and it works without the state file.

Nothing is deleted that does not have the run's tag, or that a resource with this tag has not made.
"""

from __future__ import annotations

import time
from typing import Callable

from .aws import Aws, AwsError
from .stack import GONE, TAG, Stack
from .state import State
from .transcript import Transcript

# Each node has the time-out of its hook, and managers leave one after the other.
LONGEST_DELETION = 3600
# The largest number of names that DeleteParameters takes.
NAMES = 10


class CleanUp:
    def __init__(self, aws: Aws, transcript: Transcript, state: State, name: str, pause: float):
        self._aws, self._say, self._state, self.name = aws, transcript.line, state, name
        self._pause = pause
        # What could not be deleted.
        self.left: list[str] = []
        self.watch: Callable[[], None] = lambda: None

    def everything(self) -> bool:
        """Returns whether nothing is left."""
        # An endpoint that does not know these services has nothing of them.
        self._do("the experiment", self._experiment, can_lack=True)
        self._do(f"the role {self.name}-fis", self._role, can_lack=True)
        # Its imports keep the stack of the swarm from being deleted.
        self._do(f"the stack {self.name}-group", lambda: self._stack(f"{self.name}-group", "group"))
        # The parameters' names are known to be this run's only while its stack is, or the state file.
        owner = self._do(f"the stack {self.name}", lambda: self._stack(self.name, "stack"))
        if owner or self._state.has("tokens"):
            self._do(f"the parameters of {self.name}", lambda: self._parameters(f"/skep/{self.name}/", "tokens"))
        # These have the run in their names.
        self._do("the parameters of the run", lambda: self._parameters(self._state.parameters, "parameters"))
        self._do(f"the stack {self.name}-network", lambda: self._stack(f"{self.name}-network", "network"))
        if self._state.has("image"):
            self._do("the image", self._image)
        return not self.left

    def _do(self, what: str, act: Callable[[], object], *, can_lack: bool = False) -> object:
        """Deletes one thing. A fault does not keep the others from being deleted."""
        try:
            return act()
        except AwsError as error:
            if not (can_lack and error.is_not_offered):
                self.left.append(what)
                self._say(f"error: cannot delete {what}: {error}")
        except (KeyError, TypeError, IndexError) as error:
            self.left.append(what)
            self._say(f"error: cannot delete {what}: an answer of AWS lacks {error}")
        except OSError as error:
            self.left.append(what)
            self._say(f"error: {self._state.path} cannot be written, while deleting {what}: {error}")
        return None

    def _is_ours(self, tags: dict) -> bool:
        return tags.get(TAG) == self._state.run

    def _stack(self, name: str, what: str) -> bool:
        """Deletes a stack of this run, and waits for the end. Returns whether there was one."""
        stack = Stack(self._aws, name)
        owner = stack.owner()
        if owner is None:
            self._state.deleted(what)
            return False
        if owner != self._state.run:
            if self._state.has(what):
                self._say(f"the stack {name} is not of this run, and stays")
            self._state.deleted(what)
            return False
        self._say(f"deleting the stack {name}")
        if what == "stack":
            self._state.creating("tokens")
        end, failed, status = time.monotonic() + LONGEST_DELETION, 0, ""
        while status != GONE and time.monotonic() < end:
            status = stack.status()
            failed += status == "DELETE_FAILED"
            if failed > 1:
                break
            if status not in (GONE, "DELETE_IN_PROGRESS"):
                stack.delete()
            self.watch()
            if status != GONE:
                self._aws.control.sleep(min(self._pause, 1.0) if what == "stack" else self._pause)
        if status == GONE:
            self._state.deleted(what)
        else:
            self.left.append(f"the stack {name} ({status})")
            for line in stack.failures()[-5:]:
                self._say(f"error: {line}")
        return True

    def _parameters(self, prefix: str, what: str) -> None:
        filters = [{"Key": "Name", "Option": "BeginsWith", "Values": [prefix]}]
        found = self._aws.call("ssm", "describe-parameters", ParameterFilters=filters)
        names = [one["Name"] for one in found["Parameters"] if one["Name"].startswith(prefix)]
        for start in range(0, len(names), NAMES):
            self._aws.call("ssm", "delete-parameters", Names=names[start : start + NAMES])
        if names:
            self._say(f"deleted {len(names)} parameters below {prefix}")
        self._state.deleted(what)

    def _experiment(self) -> None:
        found = self._aws.call("fis", "list-experiment-templates")
        for one in found.get("experimentTemplates", []):
            if self._is_ours(one.get("tags", {})):
                self._aws.call("fis", "delete-experiment-template", id=one["id"])
        self._state.deleted("experiment")

    def _role(self) -> None:
        role = f"{self.name}-fis"
        try:
            tags = self._aws.call("iam", "list-role-tags", RoleName=role)["Tags"]
        except AwsError as error:
            if error.code != "NoSuchEntity":
                raise
            self._state.deleted("role")
            return
        if self._is_ours({tag["Key"]: tag["Value"] for tag in tags}):
            for policy in self._aws.call("iam", "list-role-policies", RoleName=role)["PolicyNames"]:
                self._aws.call("iam", "delete-role-policy", RoleName=role, PolicyName=policy)
            self._aws.call("iam", "delete-role", RoleName=role)
        self._state.deleted("role")

    def _image(self) -> None:
        """Deregisters an image that this run has built, and deletes its snapshots."""
        filters = [{"Name": f"tag:{TAG}", "Values": [self._state.run]}]
        for image in self._aws.call("ec2", "describe-images", Owners=["self"], Filters=filters)["Images"]:
            self._say(f"deleting the image {image['ImageId']}")
            self._aws.call("ec2", "deregister-image", ImageId=image["ImageId"])
            for device in image.get("BlockDeviceMappings", []):
                snapshot = device.get("Ebs", {}).get("SnapshotId")
                if snapshot:
                    self._aws.call("ec2", "delete-snapshot", SnapshotId=snapshot)
        # A snapshot whose image was never registered.
        try:
            snapshots = self._aws.call("ec2", "describe-snapshots", OwnerIds=["self"], Filters=filters)["Snapshots"]
        except AwsError as error:
            if not error.is_not_offered:
                raise
            snapshots = []
        for snapshot in snapshots:
            self._aws.call("ec2", "delete-snapshot", SnapshotId=snapshot["SnapshotId"])
        # A builder that Packer could not end.
        running = [{"Name": "instance-state-name", "Values": ["pending", "running", "stopping", "stopped"]}]
        found = self._aws.call("ec2", "describe-instances", Filters=filters + running)
        builders = [
            one["InstanceId"]
            for of in found["Reservations"]
            for one in of["Instances"]
            # Those of groups end with the stack, in order.
            if not any(tag["Key"] == "aws:autoscaling:groupName" for tag in one.get("Tags", []))
        ]
        if builders:
            self._aws.call("ec2", "terminate-instances", InstanceIds=builders)
        self._state.deleted("image")
