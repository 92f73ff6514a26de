"""WAL files of a data directory: which timelines they belong to, where a record ends, where the WAL ends.

Source of the format: PostgreSQL's ``access/xlog_internal.h`` and ``access/xlogrecord.h``, unchanged since 9.5: pages of
8 KiB with a header of 24 bytes (40 at a segment's begin), records aligned to 8 bytes, their header of 24 bytes with the
total length at 0 and the CRC at 20. Everything here blocks, and reads only; call it in a thread.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from recovery.adapters.postgres.binaries import PostgresBinaries
from recovery.adapters.postgres.settings import control_data
from recovery.adapters.process import clean_environment, run
from recovery.domain.timelines import History, Timeline, lsn_order, lsn_text
from recovery.errors import Refused, RestoreFailed

PAGE = 8192
RECORD_HEADER = 24

_SHORT_HEADER = 24
_LONG_HEADER = 40
_ALIGN = 8
_LARGEST_RECORD = 1 << 30
_HISTORY_LINE = re.compile(r"^\s*(\d+)\s+([0-9A-Fa-f]+/[0-9A-Fa-f]+)")
_HISTORY_FILE = re.compile(r"^([0-9A-F]{8})\.history$")
_SEGMENT_FILE = re.compile(r"^([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})$")
_LAST_RECORD = re.compile(r"error in WAL record at ([0-9A-F]+/[0-9A-F]+):")  # that it could read
_NO_RECORD = re.compile(r"could not find a valid record after ([0-9A-F]+/[0-9A-F]+)")

Read = Callable[[int, int], bytes]
"""Bytes of WAL from a position on, that many or fewer."""


@dataclass(frozen=True)
class Control:
    """What matters here of ``pg_controldata``."""

    system_identifier: str
    state: str
    timeline: int  # of the latest checkpoint, or of the minimum recovery end where that is later
    checkpoint: str  # LSN of the latest checkpoint's record
    redo: str
    minimum_recovery: str
    segment_bytes: int
    checksums: bool
    wal_log_hints: bool
    copied: bool = False  # a base backup that was not started yet: its state is that of the server it was taken from

    @property
    def was_primary(self) -> bool:
        """Whether it accepted writes when it ended: killed, or ended in order."""
        return not self.copied and ("recovery" not in self.state or self.state == "in crash recovery")

    @property
    def ended_in_order(self) -> bool:
        """A primary's shutdown checkpoint is its last record."""
        return self.state == "shut down"


async def read_control(binaries: PostgresBinaries, major: int, folder: Path, run_as: str | None) -> Control:
    """Raises RestoreFailed when the control file cannot be read."""
    found = await control_data(binaries, major, folder, run_as)
    try:
        return Control(
            system_identifier=found["Database system identifier"],
            state=found["Database cluster state"],
            timeline=max(
                int(found["Latest checkpoint's TimeLineID"]), int(found["Min recovery ending loc's timeline"])
            ),
            checkpoint=found["Latest checkpoint location"],
            redo=found["Latest checkpoint's REDO location"],
            minimum_recovery=found["Minimum recovery ending location"],
            segment_bytes=int(found["Bytes per WAL segment"]),
            checksums=found["Data page checksum version"] != "0",
            wal_log_hints=found["wal_log_hints setting"] == "on",
            copied=await asyncio.to_thread((folder / "backup_label").exists),
        )
    except KeyError as missing:
        raise RestoreFailed(f"pg_controldata of {folder} says nothing of {missing}: which PostgreSQL is it?") from None


def segment_name(timeline: int, position: int, segment_bytes: int) -> str:
    """Name of the file that holds a position."""
    number = position // segment_bytes
    per_log = (1 << 32) // segment_bytes
    return f"{timeline:08X}{number // per_log:08X}{number % per_log:08X}"


def segments_from(folder: Path, timeline: int, position: int, segment_bytes: int) -> list[Path]:
    """Segment files of one timeline that hold ``position`` or what came later, in order."""
    first = segment_name(timeline, position, segment_bytes)
    names = sorted(
        entry.name
        for entry in (folder / "pg_wal").iterdir()
        if _SEGMENT_FILE.match(entry.name) and entry.name[:8] == first[:8] and entry.name >= first
    )
    return [folder / "pg_wal" / name for name in names]


def file_reader(folder: Path, timeline: int, segment_bytes: int) -> Read:
    """Reads a timeline's WAL from its segment files; nothing where there is no file."""

    def read(position: int, count: int) -> bytes:
        path = folder / "pg_wal" / segment_name(timeline, position, segment_bytes)
        offset = position % segment_bytes
        try:
            with path.open("rb") as file:
                file.seek(offset)
                return file.read(min(count, segment_bytes - offset))
        except FileNotFoundError:
            return b""

    return read


def record_bytes(read: Read, position: int, count: int, segment_bytes: int) -> tuple[bytes, int]:
    """``count`` bytes of a record from ``position`` on without page headers, and the position after them."""
    content = bytearray()
    while len(content) < count:
        if position % PAGE == 0:
            position += _LONG_HEADER if position % segment_bytes == 0 else _SHORT_HEADER
        wanted = min(count - len(content), PAGE - position % PAGE)
        found = read(position, wanted)
        if not found:
            break
        content += found
        position += len(found)
    return bytes(content), position


def mark_at(read: Read, position: int, segment_bytes: int) -> str | None:
    """The CRC of the record at ``position``; None while there is none.

    Of a timeline's first record it covers the moment of the promotion, so two promotions at one LSN differ in it.
    """
    header, _ = record_bytes(read, position, RECORD_HEADER, segment_bytes)
    if len(header) < RECORD_HEADER or not any(header):
        return None
    length, crc = struct.unpack_from("<I16xI", header)
    if not RECORD_HEADER <= length <= _LARGEST_RECORD:
        return None
    return f"{crc:08x}"


def record_end(read: Read, position: int, segment_bytes: int) -> int | None:
    """Where the record at ``position`` ends, aligned: the next one's place. None when no record is there."""
    header, _ = record_bytes(read, position, RECORD_HEADER, segment_bytes)
    if len(header) < RECORD_HEADER:
        return None
    length = int(struct.unpack_from("<I", header)[0])
    if not RECORD_HEADER <= length <= _LARGEST_RECORD:
        return None
    content, end = record_bytes(read, position, length, segment_bytes)
    return None if len(content) < length else end + -end % _ALIGN


def parse_history(text: str) -> list[tuple[int, str]]:
    """Content of a ``.history`` file: (timeline, LSN at which it was left), oldest first."""
    found = [_HISTORY_LINE.match(line) for line in text.splitlines()]
    return [(int(match[1]), match[2]) for match in found if match is not None]


def build_history(
    system_identifier: str, forks: Sequence[tuple[int, str]], timeline: int, marks: dict[int, str]
) -> History:
    """A history of the timelines that were left and the present one."""
    entries = [Timeline(number=number, left_at=left, mark=marks.get(number)) for number, left in forks]
    return History(
        system_identifier=system_identifier,
        timelines=[*entries, Timeline(number=timeline, mark=marks.get(timeline))],
    )


def local_history(
    folder: Path,
    system_identifier: str,
    timeline: int,
    segment_bytes: int,
    known: Mapping[int, str] | None = None,
    *,
    exact: bool = False,
) -> History:
    """The history of a data directory that is on ``timeline``. ``known``: marks that were read before.

    With ``exact`` (a primary) that is the present one. Otherwise the present one is the latest that it has a history
    file of, because that is what a start with ``recovery_target_timeline = latest`` takes.

    Raises:
        Refused: a history file that is needed is missing, or does not name ``timeline`` among the ancestors.
    """
    files = {
        int(match[1], 16): entry
        for entry in (folder / "pg_wal").iterdir()
        if (match := _HISTORY_FILE.match(entry.name)) is not None
    }
    present = timeline if exact else max([timeline, *files])
    if present == 1:
        return build_history(system_identifier, [], 1, {})
    if present not in files:
        raise Refused(
            f"{folder}/pg_wal has no {present:08X}.history, so the origin of its timeline {present} is not known: "
            "clone it anew."
        )
    forks = parse_history(files[present].read_text())
    if timeline not in {present, *(number for number, _ in forks)}:
        raise Refused(
            f"{folder} is on timeline {timeline}, which {files[present].name} does not name among the ancestors of "
            f"timeline {present}: clone it anew."
        )
    marks = dict(known or {})
    for (_, left), (number, _) in itertools.pairwise([*forks, (present, "")]):
        if number not in marks:
            mark = mark_at(file_reader(folder, number, segment_bytes), lsn_order(left), segment_bytes)
            if mark is not None:
                marks[number] = mark
    return build_history(system_identifier, forks, present, marks)


async def end_of_wal(
    binaries: PostgresBinaries,
    major: int,
    folder: Path,
    *,
    timeline: int,
    start: str,
    segment_bytes: int,
    run_as: str | None,
    seconds: float,
) -> str | None:
    """The LSN after the last whole record of a timeline, from ``start`` on; None when it cannot be told in time.

    WAL that a killed server wrote is in its files, whether or not they were flushed.
    """
    files_end = await asyncio.to_thread(_end_of_files, folder, timeline, lsn_order(start), segment_bytes)
    if files_end <= lsn_order(start):
        return start
    tool = await binaries.tool(major, "pg_waldump")
    place: list[str | Path] = ["--path", folder / "pg_wal", "--timeline", str(timeline)]
    try:
        # With an end it does not wait five seconds for a segment that is not there.
        done = await run(
            [tool, "--quiet", *place, "--start", start, "--end", lsn_text(files_end)],
            run_as=run_as,
            environment=clean_environment(),
            timeout=seconds,
        )
    except TimeoutError:
        return None
    if done.code == 0:
        return lsn_text(files_end)
    if (none := _NO_RECORD.search(done.stderr)) is not None:
        return none[1]
    if (last := _LAST_RECORD.search(done.stderr)) is None:
        return None
    read = file_reader(folder, timeline, segment_bytes)
    end = await asyncio.to_thread(record_end, read, lsn_order(last[1]), segment_bytes)
    return lsn_text(end) if end is not None else None


def check_wal_is_whole(folder: Path, timeline: int, start: str, segment_bytes: int) -> None:
    """That a primary's segments from ``start`` on follow each other.

    Raises:
        RestoreFailed: one is missing, so that where the WAL ends is not known.
    """
    position = lsn_order(start)
    end = _end_of_files(folder, timeline, position, segment_bytes)
    found = segments_from(folder, timeline, position, segment_bytes)
    missing = segment_name(timeline, end, segment_bytes)
    if (end <= position and position % segment_bytes) or any(path.name > missing for path in found):
        raise RestoreFailed(
            f"{folder}/pg_wal/{missing} is missing: what this server wrote in it and after it is not known. Nothing "
            "may be wiped there before you looked at it."
        )


def _end_of_files(folder: Path, timeline: int, position: int, segment_bytes: int) -> int:
    """Where the segment files of a timeline end that follow each other from ``position`` on."""
    begin = position - position % segment_bytes
    while (folder / "pg_wal" / segment_name(timeline, begin, segment_bytes)).exists():
        begin += segment_bytes
    return begin


def latest(*positions: str | None) -> str | None:
    """The greatest of the known LSNs."""
    known = [lsn_order(position) for position in positions if position]
    return lsn_text(max(known)) if known else None
