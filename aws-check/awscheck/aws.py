"""Calls the `aws` command line.

A call is never interrupted in the middle: a creation that AWS has carried out must be known. Signals take effect
before and between calls.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from typing import Callable, Iterator

# Ends a call that hangs; the command's own limits are shorter.
LONGEST_CALL = 300
LIMITS = ["--cli-connect-timeout", "10", "--cli-read-timeout", "60"]
DENIED = re.compile(r"AccessDenied|UnauthorizedOperation|AuthorizationError|NotAuthorized", re.IGNORECASE)
PASSING = re.compile(r"Throttl|LimitExceeded|InternalFailure|InternalError|InternalServer|ServiceUnavailable|^50\d$", re.IGNORECASE)
# What the command prints when the endpoint does not know the service or the operation.
NOT_OFFERED = {"InvalidAction", "UnknownOperationException", "UnknownOperation", "Unknown", "404"}
EXPIRED = re.compile(r"ExpiredToken|RequestExpired|TokenRefreshRequired", re.IGNORECASE)
# The command's own words where the login has ended: there is no code then.
LOGIN_ENDED = re.compile(r"SSO Token|(?:token|session)\b.{0,60}\bexpired", re.IGNORECASE | re.DOTALL)
# How long a run waits for new credentials, in seconds.
RENEWAL = 3600
ERROR = re.compile(r"An error occurred \((?P<code>[^)]*)\) when calling the \w+ operation(?: \([^)]*\))?: ?(?P<message>.*)", re.DOTALL)


class Interrupted(BaseException):
    """A signal asked for the end. Not an `Exception`: no step may handle it."""


class NotTried(Exception):
    """Something cannot be tried here; the text says why."""


class AwsError(Exception):
    """A call that failed."""

    def __init__(self, service: str, operation: str, code: str, message: str):
        super().__init__(f"{service}:{operation}: {code + ': ' if code else ''}{message}")
        self.service, self.operation, self.code, self.message = service, operation, code, message

    @property
    def is_denied(self) -> bool:
        return bool(DENIED.search(self.code))

    @property
    def may_pass(self) -> bool:
        """Whether the same call can succeed later: no connection, too many calls, a fault of AWS."""
        return not self.is_expired and (not self.code or bool(PASSING.search(self.code)))

    @property
    def is_expired(self) -> bool:
        """Whether the credentials have ended."""
        return bool(EXPIRED.search(self.code) if self.code else LOGIN_ENDED.search(self.message))

    @property
    def is_not_offered(self) -> bool:
        return self.code in NOT_OFFERED


class Control:
    """The signals, and the waiting that they end."""

    def __init__(self) -> None:
        self.name = ""
        self.last_words = ""
        self._asked = threading.Event()
        self._cleaning = False
        self._in_question = False

    def listen(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._receive)

    @contextlib.contextmanager
    def question(self) -> Iterator[None]:
        """While a question is open, a signal ends it at once: a call of `input` would go on."""
        self._in_question = True
        try:
            yield
        finally:
            self._in_question = False

    def _receive(self, number: int, _frame: object) -> None:
        if self._in_question:
            raise Interrupted(signal.Signals(number).name)
        if self._asked.is_set():
            # A second signal ends everything at once. The state file says what is left.
            self._tell(f"ended. {self.last_words}")
            os._exit(130)
        self.name = signal.Signals(number).name
        self._asked.set()
        self._tell(f"{self.name}: cleaning up. {self.last_words}" if self.last_words else f"{self.name}: ending")

    def _tell(self, text: str) -> None:
        # The terminal can be closed: that is what SIGHUP reports.
        with contextlib.suppress(OSError):
            os.write(sys.stderr.fileno(), f"\naws-check: {text}\n".encode())

    @property
    def is_interrupted(self) -> bool:
        return self._asked.is_set()

    def clean_up(self) -> None:
        """From now on, the first signal no longer ends anything."""
        self._cleaning = True

    def check(self) -> None:
        if self._asked.is_set() and not self._cleaning:
            raise Interrupted(self.name)

    def sleep(self, seconds: float) -> None:
        self.check()
        if self._cleaning:
            time.sleep(seconds)
        else:
            self._asked.wait(seconds)
        self.check()


class Aws:
    """One account and region, through the command line."""

    def __init__(self, control: Control, region: str | None = None):
        self.control = control
        self.region = region
        self.program = shutil.which("aws")
        self.calls = 0
        # Set once something can be left: a call then waits for new credentials.
        self.waits_for_credentials = False
        self.pause = 5.0
        self.say: Callable[[str], None] = lambda text: None
        # The seconds for which calls have waited for credentials: they are no time of AWS's.
        self.waited = 0.0
        self._patience_ends: float | None = None

    def call(self, service: str, operation: str, **parameters: object) -> dict:
        """Calls an operation, whose parameters have the names of AWS's API, and returns its answer."""
        while True:
            try:
                answer = self._call(service, operation, **parameters)
            except AwsError as error:
                if not error.is_expired or not self.waits_for_credentials:
                    raise
                now = time.monotonic()
                if self._patience_ends is None:
                    self._patience_ends = now + RENEWAL
                    self.say(
                        f"the credentials have expired ({error}). Renew them, such as by `aws sso login`: aws-check retries for {RENEWAL // 60} minutes. "
                        f"Credentials in environment variables cannot be renewed from outside: press Ctrl-C twice, and use new ones. {self.control.last_words}"
                    )
                if now > self._patience_ends:
                    raise
                self.control.sleep(self.pause)
                self.waited += time.monotonic() - now
            else:
                self._patience_ends = None
                return answer

    def _call(self, service: str, operation: str, **parameters: object) -> dict:
        assert self.program
        self.control.check()
        command = [self.program, service, operation, "--output", "json", *LIMITS]
        if self.region:
            command += ["--region", self.region]
        if parameters:
            command += ["--cli-input-json", json.dumps(parameters)]
        self.calls += 1
        environment = {"AWS_RETRY_MODE": "standard", "AWS_MAX_ATTEMPTS": "5", **os.environ, "AWS_PAGER": ""}
        try:
            # In a session of its own, so that Ctrl-C does not reach it.
            done = subprocess.run(
                command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                errors="replace", timeout=LONGEST_CALL, start_new_session=True, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise AwsError(service, operation, "", f"no answer within {LONGEST_CALL} s") from None
        if done.returncode == 0:
            try:
                return json.loads(done.stdout or "{}")
            except ValueError:
                raise AwsError(service, operation, "", f"the answer is not JSON: {done.stdout[:200]!r}") from None
        found = ERROR.search(done.stderr)
        if found:
            raise AwsError(service, operation, found["code"], found["message"].strip())
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise AwsError(service, operation, "", " ".join(lines[-3:]) or f"aws ended with {done.returncode}")

    def find_region(self, given: str | None) -> str | None:
        """The region that the command would use."""
        for name in (given, os.environ.get("AWS_REGION"), os.environ.get("AWS_DEFAULT_REGION")):
            if name:
                return name
        assert self.program
        said = subprocess.run([self.program, "configure", "get", "region"], capture_output=True, text=True, check=False)
        return said.stdout.strip() or None

    def credentials_end(self) -> float | None:
        """When the present credentials end, in seconds since 1970; `None` if they do not, or if that cannot be told."""
        assert self.program
        command = [self.program, "configure", "export-credentials", "--format", "process"]
        try:
            said = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False).stdout
            # Python before 3.11 does not read the Z.
            return datetime.datetime.fromisoformat(json.loads(said)["Expiration"].replace("Z", "+00:00")).timestamp()
        except (subprocess.TimeoutExpired, ValueError, KeyError, TypeError, AttributeError):
            return None
