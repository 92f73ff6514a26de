"""States of streams and consumers as JetStream says them, held against each other and against what was stored."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from recovery.adapters.nats.archive import ArchiveHead
from recovery.adapters.nats.consumers import Position
from recovery.domain.jetstream import ConsumerPosition
from recovery.errors import Refused, SourceFailed

FORMAT_2_SINCE = (2, 15)
_REQUIRED_LEVEL = "_nats.req.level"


def version_of(text: str) -> tuple[int, ...]:
    """``2.15.1`` and ``2.15.0-dev`` as numbers; empty for what is no version."""
    found = re.match(r"v?(\d+)\.(\d+)\.(\d+)", text)
    return tuple(int(part) for part in found.groups()) if found else ()


def check_snapshot_state(
    stream: str, before: Mapping[str, Any], answer: Mapping[str, Any], head: ArchiveHead, after: Mapping[str, Any]
) -> None:
    """Holds a snapshot's own state against the stream's before and after it, and against the archive's.

    Raises SourceFailed: they cannot be of one stream and one moment.
    """
    state = answer["state"]
    if before["created"] != after["created"]:
        raise SourceFailed(f"Stream {stream} was deleted and made again during its snapshot. Take it again.")
    for name in ("first_seq", "last_seq"):
        if not int(before["state"][name]) <= int(state[name]) <= int(after["state"][name]):
            raise SourceFailed(
                f"The snapshot of stream {stream} is not of this stream: its {name} is {state[name]}, and the stream's"
                f" was {before['state'][name]} before and {after['state'][name]} after it."
            )
    if int(state["messages"]) > max(0, int(state["last_seq"]) - int(state["first_seq"]) + 1):
        raise SourceFailed(f"The state of stream {stream} has more messages than sequences.")
    for name in ("messages", "first_seq", "last_seq"):
        if head.state is not None and int(head.state.get(name, -1)) != int(state[name]):
            raise SourceFailed(
                f"The archive of stream {stream} says {name} {head.state.get(name)}, and the server said {state[name]}."
            )


def surely_kept(state: Mapping[str, Any], after: Mapping[str, Any]) -> int:
    """How many messages of a snapshot the archive holds at least: those that the stream still held after it."""
    added = int(after["last_seq"]) - int(state["last_seq"])
    return max(0, min(int(state["messages"]), int(after["messages"]) - added))


def positions_between(before: Iterable[Position], after: Iterable[Position], last: int) -> dict[str, ConsumerPosition]:
    """Durable consumers that stood there all the time; a snapshot knows no position beyond ``last``."""
    first = {position.name: position for position in before if position.config.get("durable_name")}
    return {
        position.name: ConsumerPosition(
            handled=min(first[position.name].handled, last),
            handled_after=min(position.handled, last),
            delivered_after=min(position.delivered, last),
        )
        for position in after
        if position.name in first
    }


def consumer_differences(wanted: Mapping[str, ConsumerPosition], found: Iterable[Position], first: int) -> list[str]:
    """Sentences; none where all durable consumers stand where the snapshot left them.

    ``first``: the restored stream's first sequence. What was dropped before it counts as handled.
    """
    standing = {position.name: position for position in found}
    differences = []
    for name, position in wanted.items():
        own = standing.get(name)
        if own is None:
            differences.append(f"consumer {name} is missing")
        elif not position.handled <= own.handled <= max(position.handled_after, first - 1):
            differences.append(
                f"consumer {name} goes on after {own.handled}, and was between {position.handled} and"
                f" {position.handled_after}"
            )
        elif own.delivered > max(position.delivered_after, first - 1):
            differences.append(f"consumer {name} is at {own.delivered}, beyond {position.delivered_after}")
    return differences


def may_expire(config: Mapping[str, Any], state: Mapping[str, Any], now: datetime) -> bool:
    """Whether messages of the archive may be too old by now for their own stream."""
    if config.get("allow_msg_ttl"):
        return True
    age = int(config.get("max_age") or 0)
    return age > 0 and instant(str(state["first_ts"])) + timedelta(microseconds=age / 1000) <= now


def state_differences(
    state: Mapping[str, Any], restored: Mapping[str, Any], *, at_least: int, first_after: int, expiring: bool
) -> list[str]:
    """Sentences; none where the restored stream holds what was stored.

    An empty stream has no first message: NATS calls it 0 where there never was one, and after a restore or a restart
    what the next one will be.
    """
    messages, first, last = (int(restored[name]) for name in ("messages", "first_seq", "last_seq"))
    differences = []
    if last != int(state["last_seq"]):
        differences.append(f"its last sequence is {last} and not {state['last_seq']}")
    lowest = 0 if expiring else at_least
    if not lowest <= messages <= int(state["messages"]):
        wanted = state["messages"] if lowest == int(state["messages"]) else f"{lowest} to {state['messages']}"
        differences.append(f"it has {messages} messages and not {wanted}")
    if messages == 0:
        misplaced = first > last + 1
    else:
        misplaced = first < int(state["first_seq"]) or (first > first_after and not expiring)
    if misplaced:
        differences.append(f"its first sequence is {first} and not {state['first_seq']}")
    return differences


def check_server(
    stored_config: Mapping[str, Any], head: ArchiveHead, source_version: str | None, version: str, level: int
) -> None:
    """Raises Refused for a server that is older than the archive."""
    name, target = stored_config.get("name"), version_of(version)
    if head.format == 2 and target < FORMAT_2_SINCE:
        raise Refused(
            f"The archive of stream {name} has format 2 (NATSARC1), which NATS reads from 2.15 on, and this server is"
            f" {version}: upgrade it, or restore into another one."
        )
    source = version_of(source_version or "")
    if target[:2] < source[:2]:
        raise Refused(
            f"The archive of stream {name} was written by NATS {source_version}, and this server is {version}: an older"
            " server may misread it. Upgrade it, or restore into another one."
        )
    needed = str((stored_config.get("metadata") or {}).get(_REQUIRED_LEVEL, "0"))
    if needed.isdigit() and int(needed) > level:
        raise Refused(
            f"Stream {name} needs JetStream API level {needed}, and this server ({version}) has {level}: upgrade it."
        )


def instant(text: str) -> datetime:
    """RFC 3339 with nanoseconds and any offset, which datetime does not know."""
    found = re.fullmatch(r"([^.Z+]+T[^.Z+-]+)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)", text)
    if found is None:
        raise ValueError(f"{text!r} is no time of RFC 3339")
    whole, fraction, offset = found.groups()
    offset = "+00:00" if offset == "Z" else offset
    return datetime.fromisoformat(f"{whole}.{(fraction or '0')[:6].ljust(6, '0')}{offset}").astimezone(UTC)
