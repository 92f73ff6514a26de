"""Whose history a PostgreSQL has: system identifier, and the timelines with the LSN at which each was left.

Two servers may both say "timeline 2" and share nothing since timeline 1 ended: both were promoted. So histories are
compared by the LSN of each fork and, where it is known, by a mark of the first record that was written after it (its
checksum, which covers the time of the promotion).

As text, which ``StoreState.history`` holds: ``7301...: 1@0/3000000, 2~9f3c01aa@0/5000000, 3~77b0e15c``: timeline 1 was
left at 0/3000000, timeline 2 at 0/5000000, and 3 is the present one.
"""

from __future__ import annotations

import re

from recovery.domain.base import Model
from recovery.errors import BadInput

_ENTRY = re.compile(r"(\d+)(?:~([0-9a-f]{8}))?(?:@([0-9A-Fa-f]+/[0-9A-Fa-f]+))?")


def lsn_order(lsn: str) -> int:
    """An LSN like ``16/B374D848`` as one number that grows.

    Raises:
        BadInput: it is no LSN.
    """
    high, slash, low = lsn.partition("/")
    try:
        if not slash:
            raise ValueError
        return (int(high, 16) << 32) | int(low, 16)
    except ValueError:
        raise BadInput(f"{lsn!r} is no WAL position: expected two hexadecimal numbers like 16/B374D848") from None


def lsn_text(order: int) -> str:
    """The LSN of a number."""
    return f"{order >> 32:X}/{order & 0xFFFFFFFF:X}"


class Timeline(Model):
    """One timeline of a history. ``left_at``: where the next one begins; None for the present one."""

    number: int
    left_at: str | None = None
    mark: str | None = None  # checksum of its first record, eight hexadecimal digits; None while unknown


class History(Model):
    """The ancestry of one server's data, oldest timeline first."""

    system_identifier: str
    timelines: list[Timeline]

    @property
    def timeline(self) -> int:
        """The present one."""
        return self.timelines[-1].number

    def __str__(self) -> str:
        entries = []
        for each in self.timelines:
            mark = f"~{each.mark}" if each.mark else ""
            left = f"@{each.left_at}" if each.left_at else ""
            entries.append(f"{each.number}{mark}{left}")
        return f"{self.system_identifier}: {', '.join(entries)}"

    @classmethod
    def parse(cls, text: str) -> History:
        """Reads what ``str`` wrote. Raises BadInput."""
        identifier, colon, rest = text.partition(":")
        found = [_ENTRY.fullmatch(part.strip()) for part in rest.split(",")]
        timelines = [Timeline(number=int(m[1]), mark=m[2], left_at=m[3]) for m in found if m is not None]
        complete = len(timelines) == len(found) and all(each.left_at for each in timelines[:-1])
        if not colon or not identifier.strip().isdigit() or not complete:
            raise BadInput(f"{text!r} is no PostgreSQL history: expected '<system identifier>: 1@0/3000000, 2'")
        return cls(system_identifier=identifier.strip(), timelines=timelines)

    def fork_from(self, other: History) -> str | None:
        """The LSN up to which both have the same WAL, as far as histories tell; None: they have no common ancestor.

        ``FFFFFFFF/FFFFFFFF`` stands for "no fork is known": both are on one timeline.
        """
        if self.system_identifier != other.system_identifier:
            return None
        common = None
        for mine, theirs in zip(self.timelines, other.timelines, strict=False):
            if mine.number != theirs.number or _marks_differ(mine, theirs):
                break
            ends = [lsn_order(each.left_at) for each in (mine, theirs) if each.left_at]
            common = min(ends, default=_NO_FORK)
            if len(ends) != 2 or ends[0] != ends[1]:
                break
        return None if common is None else lsn_text(common)

    def why_not_ancestor_of(self, upstream: History, position: str) -> str | None:
        """Why a server with this history and data up to ``position`` may not follow ``upstream``; None: it may.

        A sentence's second half, for "it may not follow because ...".
        """
        if self.system_identifier != upstream.system_identifier:
            return (
                f"it was made by another initdb (system identifier {self.system_identifier}, "
                f"and the other's is {upstream.system_identifier})"
            )
        fork = self.fork_from(upstream)
        if fork is None:
            return f"their histories have no timeline in common ({self}; {upstream})"
        if lsn_order(position) > lsn_order(fork):
            return (
                f"it has WAL up to {position} of timeline {self.timeline} while their common history ends at {fork} "
                f"({self}; {upstream})"
            )
        if _same_number_apart(self, upstream):
            return (
                f"both call their timeline {self.timeline} and it is not the same one: their common history ends at "
                f"{fork} ({self}; {upstream})"
            )
        return None


_NO_FORK = (1 << 64) - 1


def _marks_differ(mine: Timeline, theirs: Timeline) -> bool:
    return mine.mark is not None and theirs.mark is not None and mine.mark != theirs.mark


def _same_number_apart(one: History, other: History) -> bool:
    """A timeline of one number that began at different places: both sides were promoted.

    A server that has such a timeline's history file, even with no record in it, would take the other's for its own.
    """
    begins: dict[int, list[tuple[str | None, str | None]]] = {}
    for history in (one, other):
        start = None
        for each in history.timelines:
            begins.setdefault(each.number, []).append((start, each.mark))
            start = each.left_at
    for found in begins.values():
        if len(found) == 2:
            (start, mark), (other_start, other_mark) = found
            if start is not None and other_start is not None and lsn_order(start) != lsn_order(other_start):
                return True
            if mark is not None and other_mark is not None and mark != other_mark:
                return True
    return False
