"""Backup and restore of Debian's Redis 7.0: TLS, ACL users, functions, and the wheel's 6.2, which is too old for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lab.packages import redis_server
from recovery.adapters.redis.connection import connected
from recovery.adapters.redis.recovery import RedisDumps
from recovery.adapters.redis.scratch import Listening, ServerTls
from recovery.domain.recovery_point import VerdictState
from recovery.domain.redis import RedisSource, Way
from recovery.errors import Refused
from recovery.ports.redis import DumpPlace, RedisRestoreOptions
from tests.certificates import self_signed
from tests.integration.redis_dumps import stored, taken
from tests.integration.redis_servers import OwnRedis, own_redis
from tests.system.debian_redis import DEBIAN, Redis7

pytestmark = pytest.mark.system
KEYS = 2000
LIBRARY = "#!lua name=shop\nredis.register_function('price', function(keys, args) return args[1] * 2 end)"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> ServerTls:
    """One for everybody, which vouches for itself."""
    public, private = self_signed(tmp_path_factory.mktemp("tls"))
    return ServerTls(public, private, public)


@pytest.fixture(scope="module")
async def source(
    tmp_path_factory: pytest.TempPathFactory, certificate: ServerTls
) -> AsyncIterator[tuple[Redis7, Redis7]]:
    folder = tmp_path_factory.mktemp("redis7")
    primary = Redis7(folder / "primary", append_only=False, tls=certificate)
    replica = Redis7(folder / "replica", append_only=False, tls=certificate, upstream=primary.port)
    with own_redis(primary, replica):
        await primary.start()
        await replica.start()
        await primary.fill(KEYS)
        await primary.ask("FUNCTION", "LOAD", LIBRARY)
        async with asyncio.timeout(20), connected(primary.server) as connection:
            await connection.pipeline([("PEXPIRE", f"key:{number}", 600_000 + number) for number in range(100)])
        await replica.wait_for("DBSIZE", expected=KEYS)
        yield primary, replica


@pytest.fixture(scope="module")
async def dump(source: tuple[Redis7, Redis7]) -> tuple[bytes, RedisSource]:
    """Taken by a user who may do nothing else."""
    return await taken(RedisDumps(source[0].as_backup, program=DEBIAN))


async def expiries(server: OwnRedis) -> list[int]:
    async with asyncio.timeout(20), connected(server.server) as connection:
        return await connection.pipeline([("PEXPIRETIME", f"key:{number}") for number in range(KEYS)])


async def test_a_dump_comes_from_the_replica_over_tls(
    source: tuple[Redis7, Redis7], dump: tuple[bytes, RedisSource], tmp_path: Path
) -> None:
    data, described = dump
    assert (described.taken_from, described.address) == ("replica", f"127.0.0.1:{source[1].port}")
    assert (described.rdb_version, described.form, described.functions) == (10, "mark", {"shop": ["price"]})
    assert described.checked is not None and f"{KEYS} keys read" in described.checked
    state, reason, checks = await RedisDumps(source[0].server, program=DEBIAN).validate(
        stored(data, described), tmp_path
    )
    assert state == VerdictState.VALID, reason
    assert "shop (price)" in [check.detail for check in checks]


@pytest.mark.parametrize("way", ["replicate", "keys"])
async def test_a_server_with_tls_gets_keys_and_functions(
    source: tuple[Redis7, Redis7], dump: tuple[bytes, RedisSource], certificate: ServerTls, tmp_path: Path, way: Way
) -> None:
    data, described = dump
    target = Redis7(tmp_path / "target", append_only=False, tls=certificate)
    with own_redis(target):
        await target.start()
        await target.ask("FUNCTION", "LOAD", LIBRARY.replace("shop", "older").replace("price", "other"))
        plain = RedisDumps(target.server, program=DEBIAN)
        options = RedisRestoreOptions("restore-1", way, replace=True)
        with pytest.raises(Refused, match="function libraries older"):
            await plain.restore(stored(data), RedisRestoreOptions("restore-1", way), tmp_path)
        if way == "replicate":
            with pytest.raises(Refused, match="by TLS only, and the scratch server has no certificate"):
                await plain.restore(stored(data), options, tmp_path)
        recovery = RedisDumps(target.server, program=DEBIAN, listening=Listening(tls=certificate))
        done = await recovery.restore(stored(data, described), options, tmp_path)
        assert (done.keys, done.functions) == ({0: KEYS}, ["shop"])
        assert await target.ask("FCALL", "price", 0, 21) == 42
        assert (await recovery.look()).functions == ["shop"]
        assert await expiries(target) == await expiries(source[0])


@pytest.mark.parametrize("append_only", [False, True])
async def test_a_server_starts_on_a_placed_dump(
    source: tuple[Redis7, Redis7], dump: tuple[bytes, RedisSource], tmp_path: Path, append_only: bool
) -> None:
    target = Redis7(tmp_path / "target", append_only=append_only)
    target.folder.mkdir()
    place = DumpPlace(target.folder, append_only, program=DEBIAN)
    await RedisDumps(target.server).place(stored(*dump), place, "restore-1")
    with own_redis(target):
        await target.start()
        await target.wait_for("DBSIZE", expected=KEYS)
        assert await target.ask("FCALL", "price", 0, 21) == 42
        assert await expiries(target) == await expiries(source[0])
        if append_only:  # it goes on from there
            await target.ask("SET", "new", "value")
            target.end()
            await target.start()
            await target.wait_for("GET", "new", expected="value")


async def test_an_older_server_is_refused_by_name(dump: tuple[bytes, RedisSource], tmp_path: Path) -> None:
    data, described = dump
    old = OwnRedis(tmp_path / "old", append_only=False)
    with own_redis(old):
        await old.start()
        await old.ask("REPLICAOF", "NO", "ONE")
        recovery = RedisDumps(old.server, program=DEBIAN)
        words = r"written by Redis 7\.0\.\d+ \(RDB version 10\), and Redis 6\.2\.\d+ reads RDB version 9"
        with pytest.raises(Refused, match=words):
            await recovery.restore(stored(data, described), RedisRestoreOptions("restore-1"), tmp_path)
        with pytest.raises(Refused, match=words):
            await recovery.place(stored(data), DumpPlace(tmp_path, program=redis_server()), "restore-1")
        assert [path.name for path in tmp_path.iterdir()] == ["old"]
        own, _ = await taken(recovery)
        with pytest.raises(Refused, match=r"would hand the data on in RDB version 10"):
            await recovery.restore(stored(own), RedisRestoreOptions("restore-1"), tmp_path)
        state, reason, _ = await RedisDumps(old.server, program=redis_server()).validate(stored(data), tmp_path)
        assert state == VerdictState.FAILED and "RDB version 9" in reason
