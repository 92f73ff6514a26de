"""Loopback addresses and ports of one lab.

Each region has an IP address of its own in a random 127.x.y.0/24, and a service has the same port in every region, so
that a changed DNS record really moves a client. Every port is also bound, without listening, on 127.0.0.1 for as long
as the lab lives: that reserves it against other labs, and keeps SeaweedFS, which otherwise listens on 127.0.0.1 beside
the address it is given, on its own address alone.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Sequence

from lab.errors import LabError
from lab.state import ALL, CLIENTS, CONTROL, GUARD, NATS_HUB, OUTSIDE, SEARCH, WITNESS

# Below Linux's range of ports for outgoing connections (32768 and up).
_LOWEST, _HIGHEST = 10_000, 32_000
PORTS_OF_ONE_STORE = ("s3-grpc", "master", "master-grpc", "volume", "volume-grpc", "filer", "filer-grpc")
_PLAIN_PORTS = (
    *sorted(ALL - {WITNESS}),
    "nats-monitor",
    "nats-leaf",
    NATS_HUB,
    "temporal-ui",
    GUARD,
    SEARCH,
    f"{SEARCH}-transport",
)
_WITNESS_HOST, _CONTROL_HOST, _FIRST_LINK_HOST = 90, 100, 120
MOST_REGIONS = 8
LOCALHOST = "127.0.0.1"
# Temporal's development server tells its own parts that they live on 127.0.0.1, whatever address it is given: with any
# other one it answers, and no workflow ever starts.
_ON_LOCALHOST = ("temporal", "temporal-ui")


def port_names(regions: Sequence[str]) -> list[str]:
    """Name every port that a lab needs; each store has internal ports of its own, because SeaweedFS
    names sockets in /tmp after the port alone and two stores with one number would talk to each other."""
    return [*_PLAIN_PORTS, *(f"{place}/{port}" for place in (*regions, WITNESS) for port in PORTS_OF_ONE_STORE)]


def reserve(names: Sequence[str]) -> tuple[dict[str, int], list[socket.socket]]:
    """Reserve one free port per name; it stays reserved while the returned sockets are open."""
    ports: dict[str, int] = {}
    held: list[socket.socket] = []
    for name in names:
        for _ in range(1000):
            candidate = random.randrange(_LOWEST, _HIGHEST)
            holder = socket.socket()
            try:
                holder.bind((LOCALHOST, candidate))
            except OSError:
                holder.close()
                continue
            if name in _ON_LOCALHOST:
                # Set after binding, this lets a listener that sets it too have the port, and still no other lab.
                holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            ports[name] = candidate
            held.append(holder)
            break
        else:
            raise LabError(f"No free port between {_LOWEST} and {_HIGHEST}: end programs that hold them.")
    return ports, held


def random_network() -> str:
    """Return the first three numbers of a random loopback /24, such as "127.83.201"."""
    return f"127.{random.randrange(16, 250)}.{random.randrange(1, 250)}"


def host_of(network: str, regions: Sequence[str], place: str) -> str:
    """Return the IP address of a region, of the witness or of the control servers."""
    last = {WITNESS: _WITNESS_HOST, CONTROL: _CONTROL_HOST}.get(place)
    return f"{network}.{last if last is not None else regions.index(place) + 1}"


def link_host(network: str, regions: Sequence[str], vantage: str, place: str) -> str:
    """Return the IP address at which `vantage` sees `place` through the lab's proxy."""
    vantages = [*regions, OUTSIDE, CLIENTS]
    places = [*regions, WITNESS, CONTROL]
    return f"{network}.{_FIRST_LINK_HOST + vantages.index(vantage) * (MOST_REGIONS + 2) + places.index(place)}"
