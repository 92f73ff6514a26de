"""Validation of a recovery point of streams: every archive read to its end, and restored into a scratch server."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

from recovery.adapters.nats.archive import ArchiveCheck
from recovery.adapters.nats.recovery import JetStreamSnapshots, stored_stream
from recovery.adapters.nats.scratch import PROGRAM, program, scratch_server
from recovery.domain.jetstream import StreamPart
from recovery.domain.recovery_point import CheckResult, VerdictState
from recovery.domain.words import size
from recovery.errors import Corrupt, NoSpace, NotFound, RecoveryError, RestoreFailed
from recovery.ports.jetstream import StoredStream, StreamRestoreOptions, archive_name, description_name
from recovery.ports.postgres import PointReader

RESTORE_ID = "validation"
HEADROOM = 1.2
_NOT_HERE = ("placement",)
"""Settings that only the source's own cluster can keep."""

Outcome = tuple[VerdictState, str, list[CheckResult]]
Progress = Callable[[int, int], None]


async def validate_streams(
    reader: PointReader,
    scratch_folder: Path,
    progress: Progress | None = None,
    find_program: Callable[[], Path | None] = program,
) -> Outcome:
    """Verdict, its reason in a sentence, and a check for each stream.

    ``CORRUPT``: an archive or description is not what was stored. ``RESTORE_FAILED``: a server does not take it, or the
    restored stream differs. ``FAILED``: this machine or the location kept us from finding out; it has no server of the
    archive's version, say. The scratch server is removed in every case, on cancellation, too.
    """
    checks: list[CheckResult] = []
    try:
        binary = find_program()
        if binary is None:
            for part in reader.manifest.jetstream.streams:
                checks.append(await _read(reader, part))
            return (
                VerdictState.FAILED,
                f"all {len(checks)} archives are whole, and none was restored: this worker has no {PROGRAM}."
                " Put one of the source's version, or of a later one, on its PATH",
                checks,
            )
        await asyncio.to_thread(_check_space, reader, scratch_folder)
        async with scratch_server(scratch_folder, binary) as server:
            for part in reader.manifest.jetstream.streams:
                checks.append(
                    await _restored(reader, part, JetStreamSnapshots(server), _further(reader, part, progress))
                )
    except (Corrupt, NotFound) as error:
        return VerdictState.CORRUPT, str(error), checks
    except RestoreFailed as error:
        return VerdictState.RESTORE_FAILED, str(error), checks
    except RecoveryError as error:
        return VerdictState.FAILED, str(error), checks
    except OSError as error:
        return VerdictState.FAILED, f"the scratch server could not be set up in {scratch_folder}: {error}", checks
    return VerdictState.VALID, f"restored, and all {len(checks)} streams are as they were stored", checks


async def stored_of(reader: PointReader, part: StreamPart) -> StoredStream:
    """A stream's description. Raises Corrupt, NotFound, and what the reader raises."""
    async with aclosing(reader.stream(description_name(part.stream))) as pieces:  # type: ignore[type-var]
        stored = stored_stream(b"".join([piece async for piece in pieces]), part)
    if stored.config["name"] != part.stream:
        raise Corrupt(f"the description of stream {part.stream} is that of {stored.config['name']}")
    return stored


async def _read(reader: PointReader, part: StreamPart) -> CheckResult:
    began, check = time.monotonic(), ArchiveCheck()
    await stored_of(reader, part)
    async with aclosing(reader.stream(archive_name(part.stream))) as pieces:  # type: ignore[type-var]
        try:
            async for piece in pieces:
                check.feed(piece)
            await asyncio.to_thread(check.finish)
        except Corrupt as error:
            raise Corrupt(f"The archive of stream {part.stream} is damaged: {error}.") from error
    detail = f"{size(check.bytes)} of format {part.archive_format}: whole, and not restored"
    return CheckResult(name=f"archive {part.stream}", passed=True, detail=detail, seconds=_since(began))


async def _restored(
    reader: PointReader, part: StreamPart, scratch: JetStreamSnapshots, progress: Progress | None
) -> CheckResult:
    began = time.monotonic()
    stored = await stored_of(reader, part)
    config = {key: value for key, value in stored.config.items() if key not in _NOT_HERE}
    done = await scratch.restore(
        replace(stored, config=config),
        reader.stream(archive_name(part.stream)),
        StreamRestoreOptions(RESTORE_ID, replicas=1),
        progress,
    )
    consumers = f", consumers {', '.join(done.consumers)}" if done.consumers else ""
    detail = "; ".join(
        [f"{done.messages} messages, sequences {done.first_seq} to {done.last_seq}{consumers}", *done.notes]
    )
    return CheckResult(name=f"stream {part.stream}", passed=True, detail=detail, seconds=_since(began))


def _further(reader: PointReader, part: StreamPart, progress: Progress | None) -> Progress | None:
    """The progress of one stream as that of the point."""
    if progress is None:
        return None
    parts = reader.manifest.jetstream.streams
    before = sum(earlier.archive_bytes for earlier in parts[: parts.index(part)])
    total = sum(each.archive_bytes for each in parts)
    return lambda done, expected: progress(before + done, total)


def _check_space(reader: PointReader, folder: Path) -> None:
    """For all streams, and for one archive: servers up to 2.14 write it to a file before they unpack it."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = reader.manifest.jetstream.streams
    needed = int(sum(part.bytes for part in parts) * HEADROOM) + max((part.archive_bytes for part in parts), default=0)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise NoSpace(f"the scratch server needs {size(needed)} in {folder}, and {size(free)} are free there")


def _since(began: float) -> float:
    return round(time.monotonic() - began, 3)
