"""Removes from a text what must not be in a bug report.

Removed: join tokens and unlock keys, access keys, session tokens, private keys, EC2's encoded messages, account and
organization ids, public addresses, names of load balancers and public hosts, e-mail addresses, names of users, assumed
roles and sessions in ARNs, the user's home directory. Kept: ids of instances and other resources, private addresses.
"""

from __future__ import annotations

import ipaddress
import os
import re

# Values of these variables are removed wherever they occur.
SECRET_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN")
# Shorter values would remove ordinary words.
SHORTEST_VALUE = 8

# Order matters: what contains another pattern comes first.
PATTERNS = [
    (re.compile(r"-----BEGIN [A-Z0-9 ]+-----.*?(?:-----END [A-Z0-9 ]+-----|\Z)", re.DOTALL), "<pem>"),
    (re.compile(r"SWMTKN-[A-Za-z0-9-]*"), "<join-token>"),
    (re.compile(r"SWMKEY-[A-Za-z0-9+/=-]*"), "<unlock-key>"),
    (
        re.compile(
            r"((?:secret_?access_?key|session_?token|security_?token|secret|password|authorization)"
            r"[\"']?\s*[:=]\s*)(?!\s|<)(?:\"[^\"]*\"|'[^']*'|(?:AWS4-HMAC-SHA256|Bearer|Basic)\s+[^\r\n\"']*|[^\s\"',;}]+)",
            re.IGNORECASE,
        ),
        r"\1<secret>",
    ),
    (re.compile(r"(?<![A-Za-z0-9])A(?:KIA|SIA|ROA|IDA|GPA|NPA|NVA|BIA|CCA|PKA)[A-Z0-9]{12,}", re.ASCII), "<access-key>"),
    (re.compile(r"[\w.-]+\.elb\.[\w-]+\.amazonaws\.com(?:\.cn)?|[\w-]+\.[a-z0-9-]+\.elb\.amazonaws\.com(?:\.cn)?"), "<load-balancer>"),
    (re.compile(r"(?<![A-Za-z0-9])ec2-\d+-\d+-\d+-\d+\.[\w.-]*amazonaws\.com(?:\.cn)?"), "<public-host>"),
    # It holds the caller, the request and the policies.
    (re.compile(r"(Encoded authorization failure message:\s*)[\w+/=-]+", re.IGNORECASE), r"\1<encoded>"),
    (re.compile(r"(:assumed-role/)[\w+=,.@-]+/[\w+=,.@/-]+"), r"\1<role>/<name>"),
    (re.compile(r"(:(?:user|federated-user)/)[\w+=,.@/-]+"), r"\1<name>"),
    (re.compile(r"(?<![A-Za-z0-9-])o-[a-z0-9]{10,32}(?![A-Za-z0-9-])"), "<organization>"),
    (re.compile(r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+"), "<e-mail>"),
    (re.compile(r"(?<![0-9A-Za-z])\d{12}(?![0-9A-Za-z])"), "<account>"),
]
V4 = re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.]*\d)", re.ASCII)
V6 = re.compile(r"(?<![\w:])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:])", re.ASCII)


def _address(found: re.Match[str]) -> str:
    try:
        address = ipaddress.ip_address(found[0])
    except ValueError:
        return found[0]
    return "<public-address>" if address.is_global else found[0]


class Redactor:
    """Removes the patterns above, and what it was told to remove."""

    def __init__(self) -> None:
        self._values: list[tuple[str, str]] = []
        for name in SECRET_VARIABLES:
            self.hide(os.environ.get(name, ""), "<secret>")
        # Paths in errors have the user's name. root's is no secret, and / would be in every path.
        home = os.path.expanduser("~").rstrip("/")
        if home.count("/") > 1:
            self._values.append((home, "~"))

    def hide(self, value: str, label: str) -> None:
        """Removes this value from now on."""
        if len(value) >= SHORTEST_VALUE:
            self._values.append((value, label))
            # The longest first: a value can contain another one.
            self._values.sort(key=lambda pair: -len(pair[0]))

    def __call__(self, text: str) -> str:
        for value, label in self._values:
            text = text.replace(value, label)
        for pattern, label in PATTERNS:
            text = pattern.sub(label, text)
        return V6.sub(_address, V4.sub(_address, text))

    def all_of(self, value: object) -> object:
        """The same for all texts in a JSON value."""
        if isinstance(value, str):
            return self(value)
        if isinstance(value, list):
            return [self.all_of(one) for one in value]
        if isinstance(value, dict):
            return {self(key): self.all_of(one) for key, one in value.items()}
        return value
