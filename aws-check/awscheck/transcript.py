"""The transcript: everything that a reader of a bug report needs, redacted as it is written."""

from __future__ import annotations

import contextlib
import os
import pathlib
import sys
import time

from .redact import Redactor


def stamp(seconds: float | None = None) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


class Transcript:
    """Lines for the terminal and the file, both redacted."""

    def __init__(self, directory: pathlib.Path, redact: Redactor):
        self.redact = redact
        self.path = directory / "transcript.txt"
        # Appended: `clean` continues the transcript of its run.
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._file = os.fdopen(descriptor, "w", encoding="utf-8", buffering=1)

    def line(self, text: str = "", *, quiet: bool = False) -> None:
        """Writes a line; a quiet one is in the file only."""
        text = self.redact(text)
        # A closed terminal or a full disk must not end a clean-up.
        with contextlib.suppress(OSError):
            self._file.write(f"{stamp()}  {text}\n" if text else "\n")
        if not quiet:
            with contextlib.suppress(OSError):
                print(text, file=sys.stderr, flush=True)

    def heading(self, text: str) -> None:
        self.line()
        self.line(f"== {text}")

    def close(self) -> None:
        self._file.close()
