"""Positions and states of a group's streams, as numbers and in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recovery.adapters.nats.memory import Remembered, Source
from recovery.adapters.nats.streams import is_work_queue

Infos = dict[str, dict[str, Any] | None]
"""Stream -> what JetStream says of it; None for one that does not exist."""


def last_of(info: Mapping[str, Any] | None) -> int:
    return int(info["state"]["last_seq"]) if info is not None else 0


def followed(infos: Infos) -> dict[str, int]:
    """Last sequences of all streams that can be mirrored: a work queue has no position in common with another one."""
    return {
        name: last_of(info) for name, info in infos.items() if info is not None and not is_work_queue(info["config"])
    }


def position_of(infos: Infos) -> str:
    """``audit=3, events=5``."""
    return ", ".join(f"{name}={last}" for name, last in followed(infos).items())


def promised_words(name: str, standing: list[str], last: int, source: Source) -> str:
    lost = f", and {source.last - last} messages were not here yet" if source.last > last else ""
    if not standing:
        return f"{name} goes on after {last}{lost}"
    return (
        f"{name} goes on after {last}{lost}; its consumers {', '.join(standing)} go on after what they had acknowledged"
        " without a gap, and get what came after that again"
    )


def state_words(infos: Infos, remembered: Remembered) -> str:
    parts = []
    for name, info in infos.items():
        source = remembered.sources.get(name)
        if info is None:
            queue = source is not None and is_work_queue(source.config)
            parts.append(f"{name}: {'a work queue, which is not mirrored' if queue else 'missing'}")
        elif info["config"].get("mirror"):
            mirror = info.get("mirror") or {}
            parts.append(f"{name}: {info['state']['messages']} messages, {mirror.get('lag', 0)} behind its source")
        else:
            parts.append(f"{name}: {info['state']['messages']} messages")
    return ", ".join(parts)
