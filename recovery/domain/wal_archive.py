"""What a WAL archive holds: pieces of timelines, what they cover together, and what a recovery may take of them.

WAL is a stream of bytes per timeline; a position in it (LSN) is an ``int`` here and a range ``[start, end)``. The
archive keeps it in *units*: aligned ranges of one segment's size, 16 MiB at most, so that a larger segment is several
units. A piece is a whole unit, or a *partial*: what was written since the piece before it within one unit.

A timeline is known by its number *and* the LSNs at which its ancestors were left: two promotions may take the same
number. Source of the file names and of the ``.history`` format: PostgreSQL's ``access/xlog_internal.h`` and
``access/transam/timeline.c``.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from recovery.domain.timelines import lsn_order, lsn_text
from recovery.errors import BadInput

UNIT_BYTES = 16 << 20
SMALLEST_SEGMENT = 1 << 20
LARGEST_SEGMENT = 1 << 30

_HISTORY_LINE = re.compile(r"\s*(\d+)\s+([0-9A-Fa-f]+/[0-9A-Fa-f]+)(?:\s|$)")
_PIECE = re.compile(r"([0-9A-F]{16})-([0-9A-F]{16})(?:\.e(\d+))?")
_FOLDER = re.compile(r"([0-9A-F]{8})(?:-([0-9a-f]{8}))?")
_SEGMENT_FILE = re.compile(r"([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})")
_HISTORY_FILE = re.compile(r"([0-9A-F]{8})\.history")


@dataclass(frozen=True, order=True)
class WalRange:
    """Positions from ``start`` up to, and without, ``end``."""

    start: int
    end: int

    def __str__(self) -> str:
        return f"{lsn_text(self.start)} to {lsn_text(self.end)}"

    @property
    def size(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, order=True)
class WalPiece:
    """One archived piece. ``epoch``: the group's, in which a partial was written; None for a whole unit.

    Whoever archives a whole unit writes it under one name, so two that differ cannot both be stored.
    """

    start: int
    end: int
    epoch: int | None = None

    @property
    def range(self) -> WalRange:
        return WalRange(self.start, self.end)

    @property
    def name(self) -> str:
        """Sorts by position: ``0000000003000000-0000000004000000``, a partial's ends in ``.e<epoch>``."""
        epoch = "" if self.epoch is None else f".e{self.epoch}"
        return f"{self.start:016X}-{self.end:016X}{epoch}"

    @classmethod
    def parse(cls, name: str) -> WalPiece:
        """Reads what ``name`` wrote. Raises BadInput."""
        found = _PIECE.fullmatch(name)
        if found is None or int(found[1], 16) >= int(found[2], 16):
            raise BadInput(f"{name!r} names no piece of WAL: expected <start>-<end>[.e<epoch>], 16 hexadecimal digits")
        return cls(int(found[1], 16), int(found[2], 16), None if found[3] is None else int(found[3]))


@dataclass(frozen=True)
class Stretch:
    """The part of one timeline that belongs to a lineage: ``[begin, left_at)``; None: it is the newest one."""

    branch: Branch
    begin: int
    left_at: int | None

    def clip(self, piece: WalRange) -> WalRange | None:
        """The part of a range that lies before the fork: what an older timeline holds after it is another history."""
        end = piece.end if self.left_at is None else min(piece.end, self.left_at)
        return WalRange(piece.start, end) if piece.start < end else None


@dataclass(frozen=True)
class Branch:
    """One timeline with its ancestry: ``forks`` are (timeline, LSN at which it was left), oldest first.

    Raises:
        BadInput: the ancestors do not grow in number and position, as PostgreSQL's always do.
    """

    timeline: int
    forks: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        numbers = [number for number, _ in self.forks] + [self.timeline]
        places = [left for _, left in self.forks]
        if numbers[0] < 1 or sorted(set(numbers)) != numbers or sorted(places) != places:
            raise BadInput(f"{self} is no history of a PostgreSQL: its timelines and forks must grow")

    def __str__(self) -> str:
        return ", ".join([*(f"{number}@{lsn_text(left)}" for number, left in self.forks), str(self.timeline)])

    @property
    def folder(self) -> str:
        """``00000001``, or ``00000002-9f3c01aa`` with a digest of the ancestry: equal numbers may be no relatives."""
        if not self.forks:
            return f"{self.timeline:08X}"
        return f"{self.timeline:08X}-{hashlib.sha256(str(self).encode()).hexdigest()[:8]}"

    @property
    def begin(self) -> int:
        """Where it forked from its parent; 0 without one."""
        return self.forks[-1][1] if self.forks else 0

    @classmethod
    def from_history(cls, timeline: int, text: str) -> Branch:
        """Of a ``.history`` file's content.

        Raises:
            BadInput: it names no ancestor, or they do not grow.
        """
        lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        found = [_HISTORY_LINE.match(line) for line in lines]
        forks = tuple((int(match[1]), lsn_order(match[2])) for match in found if match is not None)
        if not forks or len(forks) != len(lines):
            raise BadInput(f"{history_file(timeline)} is no history file: expected lines of a timeline and an LSN")
        return cls(timeline, forks)

    def stretches(self) -> list[Stretch]:
        """The lineage, oldest timeline first."""
        begin, found = 0, []
        for index, (number, left) in enumerate(self.forks):
            found.append(Stretch(Branch(number, self.forks[:index]), begin, left))
            begin = left
        return [*found, Stretch(self, begin, None)]

    def stretch_at(self, position: int) -> Stretch:
        """The timeline that a position of the lineage belongs to: at a fork, the newer one."""
        return next(each for each in self.stretches() if each.left_at is None or position < each.left_at)

    def stretch_of(self, timeline: int) -> Stretch | None:
        """Of one timeline by its number; None when it is no ancestor."""
        return next((each for each in self.stretches() if each.branch.timeline == timeline), None)

    def contains(self, other: Branch, position: int) -> bool:
        """Whether ``position`` on ``other`` lies in this lineage, so that a recovery from there can get here."""
        stretch = self.stretch_of(other.timeline)
        if stretch is None or stretch.branch != other:
            return False
        return stretch.left_at is None or position <= stretch.left_at


def lineage_ranges(branch: Branch, pieces: Mapping[Branch, Iterable[WalRange]]) -> list[WalRange]:
    """What an archive holds of a lineage.

    Every position of a lineage belongs to one timeline only, so these are plain ranges, across forks too. What an older
    timeline holds after its fork does not count, nor does the copy of its parent's bytes with which a timeline's first
    segment begins.
    """
    found = []
    for stretch in branch.stretches():
        clipped = [stretch.clip(piece) for piece in pieces.get(stretch.branch, ())]
        found += [
            WalRange(max(part.start, stretch.begin), part.end)
            for part in clipped
            if part is not None and part.end > stretch.begin
        ]
    return merged(found)


def merged(ranges: Iterable[WalRange]) -> list[WalRange]:
    """The same positions in as few ranges as possible, in order."""
    found: list[WalRange] = []
    for each in sorted(ranges):
        if found and each.start <= found[-1].end:
            found[-1] = WalRange(found[-1].start, max(found[-1].end, each.end))
        else:
            found.append(each)
    return found


def gaps_between(ranges: Iterable[WalRange]) -> list[WalRange]:
    """What is missing between the first position and the last."""
    found = merged(ranges)
    return [WalRange(before.end, after.start) for before, after in itertools.pairwise(found)]


def contiguous_end(ranges: Iterable[WalRange], start: int) -> int:
    """The position up to which everything from ``start`` on is covered; ``start`` when it is not."""
    return next((each.end for each in merged(ranges) if each.start <= start <= each.end), start)


def resume_position(ranges: Iterable[WalRange], restart: int) -> int:
    """Where an archiver goes on: the end of the range that holds ``restart``, else of the last one before it.

    ``restart`` is the LSN from which on the server surely has its WAL. Pieces are uploaded several at once, so an
    archiver that was killed may leave a hole *after* it: what stands behind the hole must not be taken for the end.
    """
    before = [each for each in merged(ranges) if each.start <= restart]
    return before[-1].end if before else restart


def pieces_for(pieces: Iterable[WalPiece], wanted: WalRange) -> list[WalPiece]:
    """The fewest pieces, in order, that cover ``wanted`` from its start as far as it can be without a gap."""
    useful = [each for each in pieces if each.start < wanted.end and each.end > wanted.start]
    chosen: list[WalPiece] = []
    position = wanted.start
    while position < wanted.end:
        reaching = [each for each in useful if each.start <= position < each.end]
        if not reaching:
            break
        # Of those that reach equally far the whole unit is preferred, then the newest epoch: they are equal anyway.
        best = max(reaching, key=lambda each: (each.end, each.epoch is None, each.epoch or 0))
        chosen.append(best)
        position = best.end
    return chosen


def unit_bytes(segment_bytes: int) -> int:
    """The size of an archive's units.

    Raises:
        BadInput: no PostgreSQL has segments of this size.
    """
    valid = SMALLEST_SEGMENT <= segment_bytes <= LARGEST_SEGMENT and segment_bytes & (segment_bytes - 1) == 0
    if not valid:
        raise BadInput(f"{segment_bytes} bytes is no segment size of a PostgreSQL: a power of two from 1 MB to 1 GB")
    return min(segment_bytes, UNIT_BYTES)


def history_file(timeline: int) -> str:
    return f"{timeline:08X}.history"


def history_timeline(name: str) -> int | None:
    """The timeline of a ``.history`` file's name; None for another name."""
    found = _HISTORY_FILE.fullmatch(name)
    return None if found is None else int(found[1], 16)


def segment_file(timeline: int, position: int, segment_bytes: int) -> str:
    """Name of the segment file that holds a position."""
    number, per_log = position // segment_bytes, (1 << 32) // segment_bytes
    return f"{timeline:08X}{number // per_log:08X}{number % per_log:08X}"


def segment_range(name: str, segment_bytes: int) -> tuple[int, WalRange] | None:
    """Timeline and range of a segment file's name; None for another name."""
    found = _SEGMENT_FILE.fullmatch(name)
    if found is None:
        return None
    log, within = int(found[2], 16), int(found[3], 16)
    if within >= (1 << 32) // segment_bytes:
        return None
    start = (log << 32) + within * segment_bytes
    return int(found[1], 16), WalRange(start, start + segment_bytes)


def served_range(branch: Branch, timeline: int, segment: WalRange, until: int | None = None) -> WalRange | None:
    """What a recovery along ``branch`` may read of a segment; None: nothing.

    No recovery passes the fork on an older timeline, and none reads a timeline that is no ancestor. ``until``: it must
    not read beyond this position on the newest timeline either.
    """
    stretch = branch.stretch_of(timeline)
    if stretch is None or segment.end <= stretch.begin:  # a timeline has no files from before it began
        return None
    allowed = stretch.clip(segment)
    if allowed is None or until is None:
        return allowed
    return WalRange(allowed.start, min(allowed.end, until)) if allowed.start < until else None


def tips(branches: Sequence[Branch]) -> list[Branch]:
    """Those that no other one descends from: what ``latest`` may mean. Two of them: somebody must choose."""
    ancestors = {stretch.branch for each in branches for stretch in each.stretches()[:-1]}
    return [each for each in branches if each not in ancestors]


def folder_timeline(folder: str) -> int | None:
    """The timeline of a branch's folder; None for another name."""
    found = _FOLDER.fullmatch(folder)
    return None if found is None else int(found[1], 16)
