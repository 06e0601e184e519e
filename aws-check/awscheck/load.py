"""A client that requests the service all the time, and counts what becomes of the requests."""

from __future__ import annotations

import http.client
import socket
import threading
import time

THREADS = 2
PAUSE = 0.1
PATIENCE = 5.0
# A day of requests would not fit into memory otherwise.
KEPT_FAILURES = 10_000


def outcome(host: str, port: int, patience: float = PATIENCE) -> str:
    """Sends one request over a connection of its own. An answer of any status below 500 counts as answered."""
    connection = http.client.HTTPConnection(host, port, timeout=patience)
    try:
        connection.request("GET", "/", headers={"Connection": "close"})
        response = connection.getresponse()
        response.read()
        return "answered" if response.status < 500 else f"status {response.status}"
    except ConnectionRefusedError:
        return "refused"
    except (ConnectionResetError, BrokenPipeError, http.client.RemoteDisconnected):
        return "reset"
    except (socket.timeout, TimeoutError):
        return "timed out"
    except socket.gaierror:
        return "name not found"
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__
    finally:
        connection.close()


class Counts:
    """The outcomes of a part of the run."""

    def __init__(self) -> None:
        self.since = time.time()
        self.outcomes: dict[str, int] = {}
        self.failures: list[tuple[float, str]] = []

    def add(self, at: float, what: str) -> None:
        self.outcomes[what] = self.outcomes.get(what, 0) + 1
        if what != "answered" and len(self.failures) < KEPT_FAILURES:
            self.failures.append((at, what))

    @property
    def answered(self) -> int:
        return self.outcomes.get("answered", 0)

    @property
    def lost(self) -> int:
        return sum(self.outcomes.values()) - self.answered

    def __str__(self) -> str:
        return ", ".join(f"{count} {what}" for what, count in sorted(self.outcomes.items())) or "no request"


class Client:
    """Requests `http://host:port/` from some threads until it is stopped."""

    def __init__(self, host: str, port: int, pause: float = PAUSE, patience: float = PATIENCE):
        self._target, self._pause, self._patience = (host, port), pause, patience
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._counts = Counts()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(THREADS)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while not self._stop.wait(self._pause):
            at = time.time()
            what = outcome(*self._target, self._patience)
            with self._lock:
                self._counts.add(at, what)

    def take(self) -> Counts:
        """The counts since the last call."""
        with self._lock:
            counts, self._counts = self._counts, Counts()
        return counts

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(self._patience + 1)
