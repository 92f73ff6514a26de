"""Saves the messages that only an old source holds, before its stream is deleted and made again as a mirror."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from nats.aio.client import Client

from recovery.adapters.nats.connection import NOT_FOUND, ApiError, api
from recovery.adapters.nats.streams import fork
from recovery.domain.handover import StoreDivergence

LISTED = 20  # messages named in a report
WINDOW = 64  # messages asked for at once
LONGEST_SEARCH = 100_000  # messages compared before everything counts as diverged


@dataclass(frozen=True)
class SavedTail:
    """``file``: one message a line, as the API gives it (``seq``, ``subject``, ``time``, ``hdrs`` and ``data`` in
    base64), ready to be published again."""

    stream: str
    fork: int
    last: int
    messages: int
    file: str | None
    listed: tuple[str, ...] = ()  # the first of them, for people


def told(tails: Sequence[SavedTail], when: datetime) -> StoreDivergence | None:
    """For the report, None where nothing was saved; the region is the plan's to say."""
    kept = [tail for tail in tails if tail.messages and tail.file]
    if not kept:
        return None
    return StoreDivergence(
        store="nats",
        region="",
        since=", ".join(f"{tail.stream}={tail.fork}" for tail in kept),
        until=", ".join(f"{tail.stream}={tail.last}" for tail in kept),
        messages=sum(tail.messages for tail in kept),
        files=[tail.file for tail in kept if tail.file],
        listed=[line for tail in kept for line in tail.listed][:LISTED],
        saved_at=when,
        detail="; ".join(
            f"{tail.messages} messages of {tail.stream} after {tail.fork} were saved in {tail.file}" for tail in kept
        ),
    )


async def message(client: Client, stream: str, sequence: int) -> dict[str, Any] | None:
    """None for one that was deleted or consumed. Raises ApiError, and what a connection raises."""
    try:
        found: dict[str, Any] = (await api(client, f"STREAM.MSG.GET.{stream}", {"seq": sequence}))["message"]
    except ApiError as error:
        if error.code not in NOT_FOUND:
            raise
        return None
    return found


async def last_common(ours: Client, theirs: Client, own: dict[str, Any], other: dict[str, Any]) -> int:
    """The last sequence up to which both streams are one: by their histories, else by comparing messages."""
    last = min(int(own["state"]["last_seq"]), int(other["state"]["last_seq"]))
    by_history = fork(own["config"], other["config"])
    if by_history is not None:
        return min(by_history, last)
    name = own["config"]["name"]
    lowest = max(int(own["state"]["first_seq"]), int(other["state"]["first_seq"]), last - LONGEST_SEARCH)
    for upper in range(last, lowest - 1, -WINDOW):
        window = range(upper, max(upper - WINDOW, lowest - 1), -1)
        pairs = await asyncio.gather(
            *(asyncio.gather(message(ours, name, number), message(theirs, name, number)) for number in window)
        )
        for number, (mine, its) in zip(window, pairs, strict=True):
            if mine is not None and mine == its:
                return number
    return 0


async def save_tail(client: Client, info: dict[str, Any], common: int, folder: Path) -> SavedTail:
    """Writes ``<stream>-<first>-<last>.jsonl`` into ``folder``. One that was written before is not written again.

    Raises OSError where it cannot be written, ApiError, and what a connection raises.
    """
    stream, last = info["config"]["name"], int(info["state"]["last_seq"])
    first = max(common + 1, int(info["state"]["first_seq"]))
    if first > last or not info["state"]["messages"]:
        return SavedTail(stream, common, last, 0, None)
    target = folder / f"{stream}-{first}-{last}.jsonl"
    if target.exists():
        return await asyncio.to_thread(_saved, target, stream, common, last)
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    partial, written = target.with_suffix(".partial"), 0
    await asyncio.to_thread(partial.write_bytes, b"")
    partial.chmod(0o600)
    for lower in range(first, last + 1, WINDOW):
        window = range(lower, min(lower + WINDOW, last + 1))
        found = [each for each in await asyncio.gather(*(message(client, stream, n) for n in window)) if each]
        await asyncio.to_thread(_append, partial, found)
        written += len(found)
    await asyncio.to_thread(_complete, partial, target)
    if not written:
        return SavedTail(stream, common, last, 0, None)
    return await asyncio.to_thread(_saved, target, stream, common, last)


def _saved(path: Path, stream: str, common: int, last: int) -> SavedTail:
    count = 0
    listed: list[str] = []
    with path.open() as file:
        for line in file:
            count += 1
            if len(listed) < LISTED:
                found = json.loads(line)
                listed.append(f"{stream} {found['seq']} {found['subject']} {found['time']}")
    return SavedTail(stream, common, last, count, str(path), tuple(listed))


def _append(path: Path, messages: list[dict[str, Any]]) -> None:
    with path.open("a") as file:
        file.writelines(json.dumps(each) + "\n" for each in messages)


def _complete(partial: Path, target: Path) -> None:
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    if partial.stat().st_size == 0:
        partial.unlink()
        return
    partial.replace(target)
    folder = os.open(target.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
