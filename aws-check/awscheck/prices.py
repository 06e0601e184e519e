"""Estimates what a run costs, from the hours of what costs most."""

from __future__ import annotations

import time

# US dollars an hour, on demand, Linux, us-east-1, November 2025. Spot instances count as on-demand: an upper bound.
LISTED = "us-east-1, November 2025"
INSTANCES = {
    "t3.micro": 0.0104, "t3.small": 0.0208, "t3.medium": 0.0416, "t3.large": 0.0832,
    "t3a.small": 0.0188, "t3a.medium": 0.0376, "t4g.small": 0.0168, "t4g.medium": 0.0336,
    "m5.large": 0.096, "m6i.large": 0.096, "m7g.large": 0.0816, "c5.large": 0.085, "c6i.large": 0.085,
}  # fmt: skip
# A type that is not listed counts as this one.
UNLISTED = 0.1
NAT_GATEWAY = 0.045
LOAD_BALANCER = 0.0225
PUBLIC_ADDRESS = 0.005
GIB_OF_VOLUME = 0.08 / 730


def an_hour(types: list[str], volume: int, zones: int) -> float:
    """What a stack costs an hour, with one NAT gateway and a load balancer."""
    instances = sum(INSTANCES.get(one, UNLISTED) + volume * GIB_OF_VOLUME for one in types)
    return instances + NAT_GATEWAY + LOAD_BALANCER + PUBLIC_ADDRESS * (1 + zones)


class Meter:
    """Adds up the hours. An instance counts from the first to the last time it was seen."""

    def __init__(self, volume: int, zones: int):
        self._instances: dict[str, tuple[str, float, float]] = {}
        self._volume, self._zones = volume, zones
        self._network: list[float] = []

    def saw(self, instances: dict[str, str]) -> None:
        """Notes the types of the instances that exist at present, by their ids."""
        now = time.time()
        for instance, kind in instances.items():
            _, since, _ = self._instances.get(instance, (kind, now, now))
            self._instances[instance] = (kind, since, now)

    def network_is_up(self) -> None:
        self._network.append(time.time())

    def lines(self) -> tuple[list[str], float]:
        """The hours and dollars by kind, and the sum."""
        hours: dict[str, float] = {}
        for kind, since, until in self._instances.values():
            hours[kind] = hours.get(kind, 0.0) + (until - since) / 3600
        rows = [(kind, of, of * (INSTANCES.get(kind, UNLISTED) + self._volume * GIB_OF_VOLUME)) for kind, of in sorted(hours.items())]
        if self._network:
            of = (self._network[-1] - self._network[0]) / 3600
            price = NAT_GATEWAY + LOAD_BALANCER + PUBLIC_ADDRESS * (1 + self._zones)
            rows.append(("NAT gateway, load balancer, addresses", of, of * price))
        lines = []
        for kind, of, dollars in rows:
            unlisted = "" if kind in INSTANCES or " " in kind else f" (not in the list: counted as {UNLISTED} an hour)"
            lines.append(f"{kind}: {of:.2f} hours, {dollars:.3f} US dollars{unlisted}")
        return lines, sum(dollars for _, _, dollars in rows)
