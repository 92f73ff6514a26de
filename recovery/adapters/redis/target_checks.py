"""What stands in the way of a restore into a running server, before anything is downloaded or changed."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from recovery.adapters.point_checks import checked
from recovery.adapters.redis.by_replication import replica_mark
from recovery.adapters.redis.programs import RedisProgram, redis_program
from recovery.adapters.redis.rdb import check_readable, head_of
from recovery.adapters.redis.target import Target, TargetState
from recovery.domain.recovery_point import CheckResult
from recovery.domain.redis import RedisSource, reads
from recovery.domain.words import size
from recovery.errors import NoSpace, RecoveryError, Refused
from recovery.ports.redis import RedisRestoreOptions


async def target_checks(
    target: Target,
    source: RedisSource,
    options: RedisRestoreOptions,
    scratch_folder: Path,
    program: Path | None,
    serves_tls: bool,
) -> list[CheckResult]:
    """``program``: the redis-server of this machine; None: what is found. ``serves_tls``: our scratch server."""
    checks = [await checked("disk space", _room_here(source, scratch_folder))]
    found: RedisProgram | None = None
    try:
        found = await redis_program(program)
        checks.append(await checked("scratch server", _loads(found, source)))
    except RecoveryError as error:
        checks.append(CheckResult(name="scratch server", passed=False, detail=str(error)))
    try:
        state = await target.state()
    except RecoveryError as error:
        return [*checks, CheckResult(name="target server", passed=False, detail=str(error))]
    return [
        *checks,
        CheckResult(name="target server", passed=True, detail=f"{target.server} is {state.name}"),
        await checked("server version", _reads(state, source, found)),
        await checked("memory", _memory(target, state, source)),
        await checked("empty target", _free(target, state, options)),
        await checked("way", _way(target, state, options, serves_tls)),
    ]


def check_scratch(program: RedisProgram, state: TargetState) -> None:
    """A scratch server writes its own version of the format, whatever it read. Raises Refused."""
    if not reads(state.info.product, state.newest_rdb, program.rdb_version):
        raise Refused(
            f"{program.name} on this machine would hand the data on in RDB version {program.rdb_version}, and"
            f" {state.name} reads version {state.newest_rdb}: install a redis-server here that is not newer than that."
        )


async def _room_here(source: RedisSource, folder: Path) -> str:
    def free() -> int:
        folder.mkdir(parents=True, exist_ok=True)
        return shutil.disk_usage(folder).free

    try:
        there = await asyncio.to_thread(free)
    except OSError as error:
        raise NoSpace(f"{folder} cannot be used ({error}): name another scratch folder") from error
    words = f"{size(source.rdb_bytes)} needed in {folder}, {size(there)} free"
    if there < source.rdb_bytes:
        raise NoSpace(words)
    return words


async def _loads(program: RedisProgram, source: RedisSource) -> str:
    check_readable(head_of(source), program.product, program.version)
    return f"{program.name} at {program.path}"


async def _reads(state: TargetState, source: RedisSource, program: RedisProgram | None) -> str:
    check_readable(head_of(source), state.info.product, state.info.version, state.newest_rdb)
    if program is not None:
        check_scratch(program, state)
    return f"{state.name} reads RDB version {source.rdb_version}"


async def _memory(target: Target, state: TargetState, source: RedisSource) -> str:
    """A dump is smaller than what it takes in memory: the scratch server tells that later."""
    target.check_memory(state, source.rdb_bytes)
    limit = f"at most {size(state.info.max_memory)}" if state.info.max_memory else "not limited"
    return f"{limit}; the dump has {size(source.rdb_bytes)}"


async def _free(target: Target, state: TargetState, options: RedisRestoreOptions) -> str:
    target.check_free(state, options)
    if state.is_empty or state.restore_id == options.restore_id:
        return "the server holds no data of others"
    return f"to be deleted and replaced: {sum(state.keys.values())} keys"


async def _way(target: Target, state: TargetState, options: RedisRestoreOptions, serves_tls: bool) -> str:
    if options.way == "keys":
        return "key by key"
    await replica_mark(target, state, options, serves_tls)
    return "as a replica of a scratch server on this machine"
