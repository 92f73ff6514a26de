"""What the dual-writer checker found: who accepted writes when, and whether two ever did at once."""

from __future__ import annotations

import asyncio
import bisect
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import asyncpg
from pydantic import BaseModel

TABLE = "writer_checks"
_READING = 2.0  # seconds after which the checker has read the record for certain, on a busy machine
_NAMED = '{"seen"'  # how a line begins that is no write
_SILENCE = 1.0  # seconds without an acknowledgement that end a stretch


class Accepted(BaseModel):
    """One acknowledged write. Times are unix seconds of one machine."""

    region: str
    number: int
    began: float
    acknowledged: float
    epoch: int | None
    owner: str | None


class Named(BaseModel):
    """The witness was seen to name an owner, at a unix time."""

    seen: float
    owner: str


class Stretch(BaseModel):
    """A time in which a region was writable for certain: from its first acknowledgement to its last statement."""

    region: str
    begin: float
    end: float
    writes: int


class Overlap(BaseModel):
    """Two regions accepted writes at the same time."""

    regions: tuple[str, str]
    begin: float
    end: float

    @property
    def seconds(self) -> float:
        return max(0.0, self.end - self.begin)


class Verdict(BaseModel):
    """Whether there ever were two writers."""

    counts: dict[str, int]
    stretches: list[Stretch]
    overlaps: list[Overlap]
    unowned: dict[str, int]
    """Region -> writes that it accepted though the witness had named another owner before they were sent."""
    first_unowned: float | None
    last_unowned: float | None

    @property
    def two_writers(self) -> bool:
        return bool(self.overlaps)

    @property
    def overlap_seconds(self) -> float:
        """The longest overlap."""
        return max((overlap.seconds for overlap in self.overlaps), default=0.0)


def read_accepted(file: Path) -> list[Accepted]:
    """Return every complete line; one that a kill cut off was never acknowledged."""
    return [Accepted.model_validate_json(line) for line in _lines(file) if not line.startswith(_NAMED)]


def read_named(file: Path) -> list[Named]:
    """Return each owner that the witness was seen to name, in order."""
    return [Named.model_validate_json(line) for line in _lines(file) if line.startswith(_NAMED)]


def _lines(file: Path) -> list[str]:
    if not file.exists():
        return []
    with file.open() as lines:
        return [line for line in lines if line.endswith("\n")]


def judge(writes: Iterable[Accepted], named: Iterable[Named] = (), silence: float = _SILENCE) -> Verdict:
    """Say whether two regions accepted writes at the same time, without false alarms.

    A region was writable for certain between two acknowledged writes that follow each other within `silence` seconds;
    of a write alone only its own span is known. Two regions that were writable for certain at one time are an overlap.
    """
    ordered = sorted(writes, key=lambda write: write.acknowledged)
    regions = sorted({write.region for write in ordered})
    stretches = [
        stretch
        for region in regions
        for stretch in _stretches([write for write in ordered if write.region == region], silence)
    ]
    overlaps = [
        Overlap(regions=(one.region, other.region), begin=max(one.begin, other.begin), end=min(one.end, other.end))
        for one, other in itertools.combinations(stretches, 2)
        if one.region != other.region and _meet(one, other)
    ]
    unowned = _unowned(ordered, named)
    return Verdict(
        counts={region: sum(write.region == region for write in ordered) for region in regions},
        stretches=sorted(stretches, key=lambda stretch: stretch.begin),
        overlaps=overlaps,
        unowned={region: count for region in regions if (count := sum(x.region == region for x in unowned))},
        first_unowned=min((write.began for write in unowned), default=None),
        last_unowned=max((write.acknowledged for write in unowned), default=None),
    )


def _unowned(ordered: Sequence[Accepted], named: Iterable[Named]) -> list[Accepted]:
    """Writes of a region that was not the owner then and was not seen as it within the next moments: the record is
    written before its region accepts anything, and the checker reads it a few times a second."""
    owned: dict[str, list[float]] = {}
    for each in named:
        owned.setdefault(each.owner, []).append(each.seen)
    for write in ordered:
        if write.owner is not None:
            owned.setdefault(write.owner, []).append(write.acknowledged)
    for seen in owned.values():
        seen.sort()
    found = []
    for write in ordered:
        if write.owner is not None and write.owner != write.region:
            times = owned.get(write.region, [])
            position = bisect.bisect_left(times, write.acknowledged)
            if position == len(times) or times[position] > write.acknowledged + _READING:
                found.append(write)
    return found


def _stretches(writes: Sequence[Accepted], silence: float) -> list[Stretch]:
    """Begin: the first write was committed by then. End: the last one was not yet committed then, as far as we know."""
    found: list[list[Accepted]] = []
    for write in writes:
        if found and write.began - found[-1][-1].acknowledged <= silence:
            found[-1].append(write)
        else:
            found.append([write])
    return [
        Stretch(
            region=group[0].region,
            begin=min(write.acknowledged for write in group),
            end=max(write.began for write in group),
            writes=len(group),
        )
        for group in found
    ]


def _meet(one: Stretch, other: Stretch) -> bool:
    """Whether both were writable at one moment for certain. A single write is a span (end before begin) in which its
    commit lies: it meets a stretch that covers all of it."""
    lone, long = (one, other) if one.end < one.begin else (other, one)
    if lone.end < lone.begin:
        return long.begin <= long.end and long.begin <= lone.end and lone.begin <= long.end
    return max(one.begin, other.begin) < min(one.end, other.end)


async def lost_writes(file: Path, dsn: str) -> list[Accepted]:
    """Return the acknowledged writes that the database at `dsn` does not have. Raises what asyncpg raises."""
    accepted = await asyncio.to_thread(read_accepted, file)
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        there = {row["number"] for row in await connection.fetch(f"SELECT number FROM {TABLE}")}
    finally:
        await connection.close(timeout=10)
    return [write for write in accepted if write.number not in there]
