"""Stacks: their parameters, creation, update and deletion."""

from __future__ import annotations

import contextlib
import pathlib

from .aws import Aws, AwsError
from .state import TAG

GONE = "DELETE_COMPLETE"


class Stack:
    """One stack, by its name until it exists and by its id from then on: only the id finds a deleted stack."""

    def __init__(self, aws: Aws, name: str, template: pathlib.Path | None = None):
        self._aws, self.name = aws, name
        self._template = template
        self.id = ""
        self.parameters: dict[str, str] = {}

    def _pairs(self) -> list[dict]:
        return [{"ParameterKey": key, "ParameterValue": value} for key, value in sorted(self.parameters.items())]

    def create(self, parameters: dict[str, str], tags: dict[str, str]) -> None:
        assert self._template
        self.parameters = parameters
        # A stack that fails stays as it is: its instances show the reason. The clean-up deletes it.
        answer = self._aws.call(
            "cloudformation", "create-stack", StackName=self.name, TemplateBody=self._template.read_text(encoding="utf-8"),
            Parameters=self._pairs(), Capabilities=["CAPABILITY_IAM"], OnFailure="DO_NOTHING",
            Tags=[{"Key": key, "Value": value} for key, value in tags.items()],
        )  # fmt: skip
        self.id = answer["StackId"]

    def update(self, **changed: str) -> None:
        assert self._template
        self.parameters.update(changed)
        self._aws.call(
            "cloudformation", "update-stack", StackName=self.name, TemplateBody=self._template.read_text(encoding="utf-8"),
            Parameters=self._pairs(), Capabilities=["CAPABILITY_IAM"],
        )  # fmt: skip

    def look(self) -> dict | None:
        """The stack as CloudFormation describes it; `None` if there is none."""
        try:
            stacks = self._aws.call("cloudformation", "describe-stacks", StackName=self.id or self.name)["Stacks"]
        except AwsError as error:
            if error.code == "ValidationError" and "does not exist" in error.message:
                return None
            raise
        return stacks[0] if stacks else None

    def status(self) -> str:
        seen = self.look()
        return seen["StackStatus"] if seen else GONE

    def owner(self) -> str | None:
        """The run that has created it; empty for a stack of somebody else, `None` without a stack."""
        seen = self.look()
        if seen is None or seen["StackStatus"] == GONE:
            return None
        self.id = seen["StackId"]
        return next((tag["Value"] for tag in seen.get("Tags", []) if tag["Key"] == TAG), "")

    def outputs(self) -> dict[str, str]:
        seen = self.look() or {}
        return {one["OutputKey"]: one["OutputValue"] for one in seen.get("Outputs", [])}

    def events(self) -> list[dict]:
        """Its events, oldest first."""
        answer = self._aws.call("cloudformation", "describe-stack-events", StackName=self.id or self.name)
        return answer["StackEvents"][::-1]

    def resources(self, kind: str) -> list[str]:
        """The physical ids of its resources of a type."""
        answer = self._aws.call("cloudformation", "describe-stack-resources", StackName=self.id or self.name)
        return [one["PhysicalResourceId"] for one in answer["StackResources"] if one["ResourceType"] == kind and one.get("PhysicalResourceId")]

    def failures(self) -> list[str]:
        """What has failed, and why, oldest first."""
        return [
            f"{one['LogicalResourceId']}: {one['ResourceStatus']}: {one.get('ResourceStatusReason', 'no reason')}"
            for one in self.events()
            if one["ResourceStatus"].endswith("FAILED")
        ]

    def delete(self) -> None:
        """Asks for the deletion. A stack in the middle of an update can refuse it: then the update is cancelled."""
        try:
            self._aws.call("cloudformation", "delete-stack", StackName=self.id or self.name)
        except AwsError as error:
            status = self.status()
            if error.code != "ValidationError" or not status.endswith("_IN_PROGRESS"):
                raise
            if status == "UPDATE_IN_PROGRESS":
                # Without it, the deletion waits for the end of the update.
                with contextlib.suppress(AwsError):
                    self._aws.call("cloudformation", "cancel-update-stack", StackName=self.id or self.name)
