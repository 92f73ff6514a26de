"""A server's archived WAL, read back at every location that answers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import structlog

from recovery.adapters.wal_listing import LIST_SECONDS
from recovery.backup.wal.reader import ArchivedTimeline, WalArchive
from recovery.backup.wal.reading_back import ReadPieces, read_back
from recovery.domain.wal_archive import Branch, WalRange
from recovery.domain.wal_read_back import WalReadBack, lost_ranges
from recovery.errors import RecoveryError
from recovery.ports.recovery_points import Progress

Answer = tuple[WalArchive, Sequence[ArchivedTimeline], ReadPieces]

log = structlog.get_logger("recovery.wal")


async def read_back_of(archives: Sequence[WalArchive], since: datetime, progress: Progress) -> WalReadBack:
    """One location after the other: memory stays bounded by a few pieces. One that goes away hinders no other."""
    answers: list[Answer] = []
    silent: list[str] = []
    for archive in archives:
        try:
            timelines = await archive.timelines(silence=LIST_SECONDS)
            answers.append((archive, timelines, await _read(archive, timelines, since, progress)))
        except (RecoveryError, TimeoutError) as error:
            log.warning("a location's WAL archive could not be read back", location=archive.location, why=str(error))
            silent.append(f"{archive.location}: {str(error) or f'no answer within {LIST_SECONDS:.0f} s'}")
    return WalReadBack(
        pieces=sum(read.pieces for _, _, read in answers),
        read_bytes=sum(read.read_bytes for _, _, read in answers),
        damaged=[
            f"WAL from {piece.range} of timeline {branch.timeline} at {archive.location}: {words}"
            for archive, _, read in answers
            for (branch, piece), words in sorted(read.damaged.items(), key=lambda each: each[0][1])
        ],
        lost=_lost(answers),
        silent=silent,
    )


async def _read(
    archive: WalArchive, timelines: Sequence[ArchivedTimeline], since: datetime, progress: Progress
) -> ReadPieces:
    expected = sum(piece.range.size for each in timelines for piece, at in each.pieces.items() if at >= since)
    done = 0

    def told(size: int) -> None:
        nonlocal done
        done += size
        progress(done, expected, archive.location)

    return await read_back(archive, timelines, since, told)


def _lost(answers: Sequence[Answer]) -> list[str]:
    damaged: dict[Branch, list[WalRange]] = {}
    sound: dict[Branch, list[WalRange]] = {}
    for _, timelines, read in answers:
        for branch, piece in read.damaged:
            damaged.setdefault(branch, []).append(piece.range)
        for each in timelines:
            sound.setdefault(each.branch, []).extend(read.sound(each))
    return [
        f"WAL from {each} of timeline {branch.timeline}"
        for branch, ranges in damaged.items()
        for each in lost_ranges(ranges, sound.get(branch, []))
    ]
