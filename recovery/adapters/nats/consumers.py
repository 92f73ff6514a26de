"""Positions of consumers: copied from the owner's streams, for mirrors carry none, and made again at a promotion."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nats.aio.client import Client

from recovery.adapters.nats.connection import ApiError, api

_EXISTS = frozenset({10013, 10148})
_START = ("deliver_policy", "opt_start_seq", "opt_start_time", "num_replicas", "mem_storage")


@dataclass(frozen=True)
class Position:
    """A consumer as it was seen. ``handled``: everything up to this sequence was acknowledged (or, where nothing is
    acknowledged, delivered); ``delivered``: the last one that it was given."""

    name: str
    config: dict[str, Any]
    handled: int
    delivered: int

    def stored(self) -> dict[str, Any]:
        return asdict(self)


def position_of(info: Mapping[str, Any]) -> Position | None:
    """From an answer of the API; None for one that ends with its client, and for those of mirrors."""
    config = dict(info["config"])
    if not config.get("durable_name") and not config.get("name"):
        return None
    if (
        config.get("direct")
        or config.get("sourcing")
        or (not config.get("durable_name") and not config.get("inactive_threshold"))
    ):
        return None
    delivered = int(info["delivered"]["stream_seq"])
    handled = delivered if config.get("ack_policy") == "none" else int(info["ack_floor"]["stream_seq"])
    return Position(str(info["name"]), config, handled, delivered)


async def positions(client: Client, stream: str) -> list[Position]:
    """All consumers of a stream that outlive their clients. Raises ApiError, and what a connection raises."""
    found: list[Position] = []
    seen = 0
    while True:
        answer = await api(client, f"CONSUMER.LIST.{stream}", {"offset": seen})
        entries = answer.get("consumers") or []
        found += [position for entry in entries if (position := position_of(entry)) is not None]
        seen += len(entries)
        if not entries or seen >= int(answer.get("total", 0)):
            return found


def starting_config(position: Position, last: int) -> dict[str, Any]:
    """Configuration of a consumer that goes on after what was handled.

    ``last``: the stream's last sequence. A position beyond it would skip the messages that get these sequences next.
    """
    config = {key: value for key, value in position.config.items() if key not in _START}
    config["metadata"] = {
        key: value for key, value in (config.get("metadata") or {}).items() if not key.startswith("_nats.")
    }
    return config | {"deliver_policy": "by_start_sequence", "opt_start_seq": min(position.handled, last) + 1}


async def recreate(client: Client, stream: str, wanted: Iterable[Position], last: int) -> tuple[list[str], list[str]]:
    """Returns the names of those that stand now, and sentences about those that do not."""
    standing, complaints = [], []
    for position in wanted:
        body = {"stream_name": stream, "config": starting_config(position, last), "action": "create"}
        try:
            await api(client, f"CONSUMER.CREATE.{stream}.{position.name}", body)
        except ApiError as error:
            if error.code not in _EXISTS:
                complaints.append(f"consumer {position.name} of {stream} was not made again: {error}")
                continue
        standing.append(position.name)
    return standing, complaints
