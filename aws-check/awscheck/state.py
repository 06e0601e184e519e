"""What a run has created. It is written before each creation, so that a crash leaves nothing unknown."""

from __future__ import annotations

import json
import os
import pathlib
import tempfile

# Every resource of a run has these tags, with the run and the name of its stack.
TAG, TAG_OF_STACK = "skep:aws-check", "skep:aws-check-stack"


class State:
    def __init__(self, path: pathlib.Path, content: dict):
        self.path, self._content = path, content

    @classmethod
    def load(cls, path: pathlib.Path) -> State | None:
        """The state in a file; `None` without a file."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(content.get("run"), str) or not isinstance(content.get("created"), list):
                raise ValueError("it is no state of aws-check")
        except FileNotFoundError:
            return None
        except (ValueError, AttributeError) as error:
            raise SystemExit(f"aws-check: error: {path} cannot be read: {error}") from None
        return cls(path, content)

    @property
    def run(self) -> str:
        return self._content["run"]

    @property
    def tags(self) -> dict[str, str]:
        """The tags of everything that the run creates: without this file, `clean` finds it by the stack's name."""
        return {TAG: self.run, TAG_OF_STACK: self._content.get("stack", "")}

    @property
    def parameters(self) -> str:
        """The beginning of the names of the run's SSM parameters."""
        return f"/skep-check/{self.run}/"

    @property
    def region(self) -> str | None:
        return self._content.get("region")

    def has(self, what: str) -> bool:
        return what in self._content["created"]

    def get(self, key: str) -> str:
        return self._content.get(key, "")

    def creating(self, what: str, **values: str) -> None:
        """Notes that `what` is created from now on."""
        self._content.update(values)
        if what not in self._content["created"]:
            self._content["created"].append(what)
        self.write()

    def deleted(self, what: str) -> None:
        if what in self._content["created"]:
            self._content["created"].remove(what)
            self.write()

    def write(self) -> None:
        descriptor, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=".state-")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(self._content, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self.path)
