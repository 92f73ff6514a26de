"""What reading a WAL archive back found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pydantic import Field

from recovery.domain.base import Model
from recovery.domain.wal_archive import WalRange, contiguous_end, merged

BASE_DUE = "no recovery gets beyond it, so take a base backup now (drctl backup run)"


class WalReadBack(Model):
    """``read_bytes``: of WAL, at all locations together.

    ``damaged``: pieces, each in a sentence that names location and range. ``lost``: ranges that no answering location
    gives any more. ``silent``: locations that could not be asked, with the reason.
    """

    pieces: int = 0
    read_bytes: int = 0
    damaged: list[str] = Field(default_factory=list)
    lost: list[str] = Field(default_factory=list)
    silent: list[str] = Field(default_factory=list)

    @classmethod
    def joined(cls, parts: Sequence[WalReadBack]) -> WalReadBack:
        """Of several servers."""
        return cls(
            pieces=sum(part.pieces for part in parts),
            read_bytes=sum(part.read_bytes for part in parts),
            damaged=[words for part in parts for words in part.damaged],
            lost=[words for part in parts for words in part.lost],
            silent=[words for part in parts for words in part.silent],
        )


def lost_ranges(damaged: Iterable[WalRange], sound: Iterable[WalRange]) -> list[WalRange]:
    """Of one timeline: what is damaged somewhere and sound nowhere.

    Args:
        sound: the ranges of all pieces, at any location, that were not found damaged.
    """
    held = merged(sound)
    return merged(each for each in damaged if contiguous_end(held, each.start) < each.end)
