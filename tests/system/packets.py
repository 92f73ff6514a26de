"""The lab's network in which the kernel drops packets, instead of a proxy that keeps them back.

Everything runs in a network namespace of its own (`tests/system/run` makes it): the rules touch nobody else.
Each place reaches each other one at an address of its own, so an address stands for one direction between two places.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from lab import faults
from lab.control import Supervised
from lab.faults import Network
from lab.lab import Lab
from lab.state import Link

TABLE = "inet recovery_lab"


def check_own_namespace() -> None:
    """Raises AssertionError with what to do."""
    advice = "run them with make test-system, as root"
    assert os.geteuid() == 0, f"these tests drop packets: {advice}"
    ways_out = Path("/proc/net/route").read_text().splitlines()[1:]
    assert not ways_out, (
        f"these tests drop packets in a network namespace of their own, and from this one others are reached: {advice}"
    )


def script(links: Sequence[Link], network: Network) -> str:
    """What `nft -f -` reads: these rules and no others."""
    rules = [f"add rule {TABLE} out {rule} counter drop" for rule in _drops(links, network)]
    return "\n".join(
        [
            f"add table {TABLE}",
            f"flush table {TABLE}",
            f"add chain {TABLE} out {{ type filter hook output priority 0; policy accept; }}",
            *rules,
            "",
        ]
    )


def _drops(links: Sequence[Link], network: Network) -> Iterator[str]:
    cut, one_way = {frozenset(pair) for pair in network.cut}, {tuple(pair) for pair in network.one_way}
    for vantage, place, host in sorted({(link.vantage, link.place, link.host) for link in links}):
        deaf = frozenset((vantage, place)) in cut
        if deaf or (vantage, place) in one_way:
            yield f"ip daddr {host}"
        if deaf or (place, vantage) in one_way:
            yield f"ip saddr {host}"


async def put_network(lab: Lab, supervised: Supervised, network: Network) -> None:
    """As ``lab.faults.put_network``. What is slow is the proxy's work here, too."""
    await proxied(supervised, Network(delays=network.delays))
    await asyncio.to_thread(_load, script(lab.describe().links, network))
    request = {
        "cut": list(network.cut),
        "one_way": list(network.one_way),
        "delays": [delay.model_dump() for delay in network.delays],
    }
    await supervised.put_network(request)


proxied = faults.put_network


def dropped() -> int:
    """How many packets were dropped since the rules were loaded last."""
    listed = subprocess.run(["nft", "list", "table", *TABLE.split()], capture_output=True, text=True, check=True).stdout
    words = listed.split()
    return sum(int(words[number + 1]) for number, word in enumerate(words) if word == "packets")


def _load(rules: str) -> None:
    subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True, capture_output=True)
