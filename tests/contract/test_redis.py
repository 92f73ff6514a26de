"""One contract for ``RedisRecovery``: the server in memory that other tests use, and a real one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from lab.packages import redis_server
from recovery.adapters.redis.recovery import RedisDumps
from recovery.domain.redis import KeyCount, RedisSource
from recovery.errors import NotOurs, Refused
from recovery.ports.redis import RedisRecovery, RedisRestoreOptions
from tests.fakes.redis import a_dump, redis_source
from tests.fakes.redis_recovery import FakeRedisRecovery
from tests.integration.redis_dumps import stored, taken
from tests.integration.redis_servers import OwnRedis, own_redis

KEYS = 30
OPTIONS = RedisRestoreOptions("restore-1", attempt="first", keep_mark=True, load_seconds=60)


@dataclass
class Target:
    """``write`` gives the server so many keys more, as its clients do; ``follow`` makes a replica of it."""

    recovery: RedisRecovery
    dump: bytes
    source: RedisSource
    folder: Path
    write: Callable[[int], Awaitable[None]]
    follow: Callable[[], Awaitable[None]]

    async def restore(self, options: RedisRestoreOptions = OPTIONS) -> int:
        """How many keys it has now, as the restore says."""
        done = await self.recovery.restore(stored(self.dump, self.source), options, self.folder)
        assert done.bytes == len(self.dump) and done.rdb_version == self.source.rdb_version
        return sum(done.keys.values())

    async def keys(self) -> int:
        return sum((await self.recovery.look()).keys.values())

    async def mark(self) -> str | None:
        return (await self.recovery.look()).restore_id

    async def refusals(self, options: RedisRestoreOptions = OPTIONS) -> list[str]:
        checks = await self.recovery.check_target(self.source, options, self.folder)
        assert checks
        return [check.name for check in checks if not check.passed]


def fake_target(folder: Path) -> Target:
    server = FakeRedisRecovery()

    async def write(count: int) -> None:
        server.keys = {0: server.keys.get(0, 0) + count}

    async def follow() -> None:
        server.is_primary = False

    data = a_dump()
    source = redis_source().model_copy(
        update={"rdb_version": 9, "rdb_bytes": len(data), "keys": {"0": KeyCount(before=KEYS, after=KEYS)}}
    )
    return Target(server, data, source, folder, write, follow)


async def real_target(server: OwnRedis, folder: Path) -> Target:
    await server.start()
    await server.ask("REPLICAOF", "NO", "ONE")
    recovery = RedisDumps(server.server, program=redis_server())
    await server.fill(KEYS)
    dump, source = await taken(recovery)
    await server.ask("FLUSHALL")
    written = 0

    async def write(count: int) -> None:
        nonlocal written
        for _ in range(count):
            await server.ask("SET", f"since:{written}", written)
            written += 1

    async def follow() -> None:
        await server.ask("REPLICAOF", "127.0.0.1", 1)

    return Target(recovery, dump, source, folder, write, follow)


@pytest.fixture(params=["fake", "real"])
async def target(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Target]:
    """An empty primary, and a dump of ``KEYS`` keys."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    if request.param == "fake":
        yield fake_target(folder)
        return
    server = OwnRedis(tmp_path / "server", append_only=False)
    with own_redis(server):
        yield await real_target(server, folder)


async def test_a_server_says_what_it_holds(target: Target) -> None:
    seen = await target.recovery.look()
    assert seen.is_empty and seen.is_primary and seen.restore_id is None and not seen.clustered
    assert seen.rdb_version >= target.source.rdb_version
    await target.write(2)
    seen = await target.recovery.look()
    assert not seen.is_empty and seen.keys == {0: 2}
    await target.follow()
    assert not (await target.recovery.look()).is_primary


async def test_data_are_replaced_only_where_that_was_asked_for(target: Target) -> None:
    assert await target.refusals() == []
    await target.write(2)
    assert await target.refusals() == ["empty target"]
    with pytest.raises(Refused, match="--replace"):
        await target.restore()
    assert (await target.keys(), await target.mark()) == (2, None)
    over = replace(OPTIONS, replace=True)
    assert await target.refusals(over) == []
    assert await target.restore(over) == KEYS
    assert (await target.keys(), await target.mark()) == (KEYS, "restore-1")


async def test_a_replica_is_not_restored_into(target: Target) -> None:
    await target.follow()
    assert await target.refusals() != []
    with pytest.raises(Refused):
        await target.restore()
    assert await target.keys() == 0


async def test_another_attempt_goes_on_and_another_restore_does_not(target: Target) -> None:
    await target.restore()
    with pytest.raises(Refused):
        await target.restore(RedisRestoreOptions("restore-2", keep_mark=True, load_seconds=60))
    assert await target.restore(replace(OPTIONS, attempt="second")) == KEYS
    assert (await target.keys(), await target.mark()) == (KEYS, "restore-1")


async def test_only_what_is_its_own_is_taken_back(target: Target) -> None:
    assert not await target.recovery.remove_restored("restore-1"), "nothing was restored"
    await target.restore()
    for other in ("restore-2", replace(OPTIONS, attempt="second").mark):
        with pytest.raises(NotOurs):
            await target.recovery.remove_restored(other)
        with pytest.raises(NotOurs):
            await target.recovery.complete(other)
    assert (await target.keys(), await target.mark()) == (KEYS, "restore-1")
    assert await target.recovery.remove_restored(OPTIONS.mark)
    assert (await target.keys(), await target.mark()) == (0, None)
    assert not await target.recovery.remove_restored("restore-1")
    assert not await target.recovery.complete("restore-1"), "what was restored is gone"


@pytest.mark.parametrize("ours", ["restore-1", OPTIONS.mark])
async def test_what_was_completed_is_its_clients(target: Target, ours: str) -> None:
    await target.restore()
    assert await target.recovery.complete(ours)
    assert await target.mark() is None
    assert await target.recovery.complete(ours), "the answer was lost, and it is asked again"
    assert not await target.recovery.complete("restore-2")
    assert not await target.recovery.remove_restored(ours)
    await target.write(1)
    with pytest.raises(NotOurs):
        await target.restore(replace(OPTIONS, attempt="late", replace=True))
    assert await target.keys() == KEYS + 1


async def test_without_keeping_the_mark_a_restore_is_completed_at_once(target: Target) -> None:
    assert await target.restore(replace(OPTIONS, keep_mark=False)) == KEYS
    assert (await target.keys(), await target.mark()) == (KEYS, None)
    assert not await target.recovery.remove_restored("restore-1")
