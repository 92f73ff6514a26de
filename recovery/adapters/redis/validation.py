"""Validation of a dump: redis-check-rdb reads it, a scratch server loads it, and both are compared with the source."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

from recovery.adapters.process import closing
from recovery.adapters.redis.connection import asking
from recovery.adapters.redis.programs import DumpChecker, RedisProgram, dump_checker, redis_program
from recovery.adapters.redis.rdb import DumpHead, check_readable
from recovery.adapters.redis.scratch import running, scratch_space
from recovery.adapters.redis.server_info import functions, server_info
from recovery.domain.recovery_point import CheckResult, VerdictState
from recovery.domain.redis import RedisSource
from recovery.errors import Corrupt, RecoveryError, RestoreFailed
from recovery.ports.postgres import Progress
from recovery.ports.redis import StoredDump

ANSWER_SECONDS = 10.0


async def validate_stored(
    dump: StoredDump, scratch_folder: Path, progress: Progress | None = None, program: Path | None = None
) -> tuple[VerdictState, str, list[CheckResult]]:
    """Verdict, its reason in a sentence, and the checks. ``program``: the redis-server of this machine; None: what is
    found.

    ``CORRUPT``: the bytes are no whole dump. ``RESTORE_FAILED``: the server does not load them, or holds something else
    then. ``FAILED``: this machine kept us from finding out.
    """
    checks: list[CheckResult] = []
    try:
        async with closing(dump.chunks):
            await validate_dump(dump, await redis_program(program), scratch_folder, checks, progress)
    except Corrupt as error:
        return VerdictState.CORRUPT, str(error), checks
    except RestoreFailed as error:
        return VerdictState.RESTORE_FAILED, str(error), checks
    except (RecoveryError, TimeoutError) as error:
        return VerdictState.FAILED, str(error) or "redis-check-rdb came to no end", checks
    except OSError as error:
        reason = f"the scratch server could not be set up in {scratch_folder}: {error}"
        return VerdictState.FAILED, reason, checks
    failed = [f"{check.name}: {check.detail}" for check in checks if not check.passed]
    if failed:
        return VerdictState.RESTORE_FAILED, "; ".join(failed), checks
    return VerdictState.VALID, f"loaded, and all {len(checks)} checks passed", checks


async def validate_dump(
    dump: StoredDump,
    program: RedisProgram,
    scratch_folder: Path,
    checks: list[CheckResult],
    progress: Progress | None = None,
    load_seconds: float = 3600.0,
) -> None:
    """Adds its findings to ``checks``.

    Raises:
        Corrupt: the dump is damaged.
        Refused: ``program`` is too old for it.
        RestoreFailed: the scratch server does not load it.
        NoSpace, OSError: this machine cannot hold it.
    """
    source = dump.source
    async with scratch_space(scratch_folder) as space, dump_checker(program) as checker:
        read = replace(dump, chunks=_watched(dump.chunks, checker))
        head = await space.write(read, lambda found: check_readable(found, program.product, program.version), progress)
        said = await checker.finish()
        checks.append(CheckResult(name="checksum", passed=True, detail=said))
        if source is not None:
            checks.append(_position(head, space.bytes, source))
        began = time.monotonic()
        async with (
            running(space, program, load_seconds=load_seconds, keep_expired=True) as scratch,
            asking(scratch.own, ANSWER_SECONDS, "count its keys") as connection,
        ):
            took = time.monotonic() - began
            checks.append(CheckResult(name="load", passed=True, detail=f"{program.name} loaded it in {took:.1f} s"))
            keys = (await server_info(connection)).keys
            checks.append(_counted(keys, said))
            if source is not None:
                checks.append(_keys(keys, source))
                checks.append(_functions(await functions(connection), source))


async def _watched(chunks: AsyncIterator[bytes], checker: DumpChecker) -> AsyncIterator[bytes]:
    async with closing(chunks):
        async for chunk in chunks:
            await checker.feed(chunk)
            yield chunk


def _position(head: DumpHead, size: int, source: RedisSource) -> CheckResult:
    if size != source.rdb_bytes:
        raise Corrupt(f"It has {size} bytes, and the backup had {source.rdb_bytes}.")
    expected = (source.replid, source.offset)
    wrong = head.position is not None and head.position != expected
    detail = f"it ends at {head.position}, and was taken at {expected}" if wrong else f"offset {source.offset}"
    return CheckResult(name="position", passed=not wrong, detail=detail)


def _counted(keys: dict[int, int], said: str) -> CheckResult:
    """Against the checker's own count."""
    loaded = sum(keys.values())
    found = re.search(r"(\d+) keys read", said)
    wrong = found is not None and int(found[1]) != loaded
    return CheckResult(name="keys", passed=not wrong, detail=f"{loaded} keys loaded" + (f" of {said}" if wrong else ""))


def _keys(keys: dict[int, int], source: RedisSource) -> CheckResult:
    """Against what stood in the source: exactly where it was quiet; else what had keys all the time has some.

    A count comes before the position that is told with it, so between two equal positions the second one is the dump's.
    """
    name = "keys of the source"
    if not source.keys and not keys:
        return CheckResult(name=name, passed=True, detail="none, then and now")
    wrong = []
    for number in sorted({*source.keys, *map(str, keys)}, key=int):
        loaded, then = keys.get(int(number), 0), source.keys.get(number)
        before, after = (then.before, then.after) if then else (0, 0)
        if source.quiet and loaded != after:
            wrong.append(f"database {number} has {loaded} and had {after}")
        elif min(before, after) > 0 and loaded == 0:
            wrong.append(f"database {number} has {loaded} and had {before} to {after}")
    how = "as many in each database as then" if source.quiet else "in every database that had keys before and after"
    return CheckResult(name=name, passed=not wrong, detail="; ".join(wrong) or how)


def _functions(found: dict[str, list[str]] | None, source: RedisSource) -> CheckResult:
    if source.functions is None:
        return CheckResult(name="functions", passed=True, detail="not known of the source")
    wrong = (found or {}) != source.functions
    there = ", ".join(f"{library} ({', '.join(names)})" for library, names in sorted((found or {}).items())) or "none"
    then = ", ".join(sorted(source.functions)) or "none"
    return CheckResult(name="functions", passed=not wrong, detail=f"{there}; at the source {then}" if wrong else there)
