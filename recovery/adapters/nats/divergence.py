"""Saves the messages that only an old source holds, before its stream is deleted and made again as a mirror."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from nats.aio.client import Client

from recovery.adapters.diverged_folder import DivergedFolders, objects_of
from recovery.adapters.nats.connection import NOT_FOUND, ApiError, api
from recovery.adapters.nats.streams import fork
from recovery.domain.handover import StoreDivergence

LISTED = 20  # messages named in a report
WINDOW = 64  # messages asked for at once
LONGEST_SEARCH = 100_000  # messages compared before everything counts as diverged


@dataclass(frozen=True)
class SavedTail:
    """``file`` names sealed objects: one message a line, as the API gives it (``seq``, ``subject``, ``time``, ``hdrs``
    and ``data`` in base64), ready to be published again."""

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


async def save_tail(client: Client, info: dict[str, Any], common: int, aside: DivergedFolders) -> SavedTail:
    """Seals ``<stream>-<first>-<last>.jsonl`` into a folder. One that was saved as a whole before is not saved again.

    The folder's name ends with the time of the last message: after two failovers at one sequence two tails have equal
    numbers and are two all the same.

    Raises OSError where it cannot be written, Unreachable where the sealer was closed, ApiError, and what a connection
    raises.
    """
    stream, last = info["config"]["name"], int(info["state"]["last_seq"])
    first = max(common + 1, int(info["state"]["first_seq"]))
    nothing = SavedTail(stream, common, last, 0, None)
    if first > last or not info["state"]["messages"]:
        return nothing
    name = f"{stream}-{first}-{last}"
    place = f"{name}-{re.sub('[^0-9TZ]', '', str(info['state'].get('last_ts', '')))}"
    if (known := await aside.about(place)) is not None:
        return SavedTail(**{**known, "listed": tuple(known["listed"])})
    reading = _Reading(client, stream, first, last)
    lines = reading.lines()
    begin = await anext(lines, None)
    if begin is None:
        return nothing
    async with aside.open(place) as folder:
        await folder.store(f"{name}.jsonl", _onwards(begin, lines))
        file = objects_of(folder.place, f"{name}.jsonl")
        saved = SavedTail(stream, common, last, reading.messages, file, tuple(reading.listed))
        await folder.complete(asdict(saved))
    return saved


@dataclass
class _Reading:
    """Messages from ``first`` to ``last``, counted and listed as they come."""

    client: Client
    stream: str
    first: int
    last: int
    messages: int = 0
    listed: list[str] = field(default_factory=list)

    async def lines(self) -> AsyncIterator[bytes]:
        for lower in range(self.first, self.last + 1, WINDOW):
            window = range(lower, min(lower + WINDOW, self.last + 1))
            answers = await asyncio.gather(*(message(self.client, self.stream, number) for number in window))
            found = [each for each in answers if each]
            self.messages += len(found)
            for each in found[: LISTED - len(self.listed)]:
                self.listed.append(f"{self.stream} {each['seq']} {each['subject']} {each['time']}")
            if found:
                yield "".join(json.dumps(each) + "\n" for each in found).encode()


async def _onwards(begin: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield begin
    async for each in rest:
        yield each
