"""Whether archived WAL is still what was archived: its pieces are fetched, opened and held against signed records.

A recovery would find damage, too, but on the worst day. Nothing is changed here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from recovery.backup.bounded import for_each
from recovery.backup.wal.reader import ArchivedTimeline, WalArchive
from recovery.domain.wal_archive import Branch, WalPiece, WalRange
from recovery.errors import Corrupt, NotFound, WrongKey

READ_AT_ONCE = 4  # pieces of 16 MiB at most: memory stays bounded


@dataclass
class ReadPieces:
    """What one location's archive gave. ``damaged``: by branch and piece, in the words of what was found."""

    pieces: int = 0
    read_bytes: int = 0
    damaged: dict[tuple[Branch, WalPiece], str] = field(default_factory=dict)

    def sound(self, timeline: ArchivedTimeline) -> list[WalRange]:
        """The ranges of a timeline's pieces but for the damaged ones."""
        return [piece.range for piece in timeline.pieces if (timeline.branch, piece) not in self.damaged]


async def read_back(
    archive: WalArchive, timelines: Sequence[ArchivedTimeline], since: datetime, told: Callable[[int], None]
) -> ReadPieces:
    """Reads the pieces that were stored since then, by the store's clock.

    Args:
        told: gets the bytes of each piece of WAL that was read.

    Raises:
        Unreachable, Refused: in the location's words. BadInput: the archive was opened without a key.
    """
    found = ReadPieces()
    wanted = [(each.branch, piece) for each in timelines for piece, at in each.pieces.items() if at >= since]

    async def read(one: tuple[Branch, WalPiece]) -> None:
        branch, piece = one
        try:
            await archive.plain(branch, piece)
        except NotFound as error:
            # Retention takes partials of whole units away, and what no recovery point needs.
            if piece in await archive.pieces_around(branch, piece.start):
                found.damaged[one] = f"it is listed and missing: {error}"
        except (Corrupt, WrongKey) as error:
            found.damaged[one] = str(error)
        found.pieces += 1
        found.read_bytes += piece.range.size
        told(piece.range.size)

    await for_each(sorted(wanted, key=lambda one: (one[0].folder, one[1].start)), read, READ_AT_ONCE)
    return found
