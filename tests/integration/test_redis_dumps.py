"""Backup and restore of a Redis with real servers (6.2)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lab.packages import redis_server
from recovery.adapters.redis.recovery import RedisDumps
from recovery.adapters.redis.server_info import MARK_KEY, RESTORED_KEY
from recovery.adapters.redis.target import ReplicaMark
from recovery.domain.recovery_point import VerdictState
from recovery.domain.redis import RedisSource, Way
from recovery.errors import Corrupt, NoSpace, NotOurs, Refused, RestoreFailed
from recovery.ports.postgres import Progress
from recovery.ports.redis import DumpPlace, RedisRestoreOptions
from tests.integration.redis_dumps import contents, fill, stored, taken, writing
from tests.integration.redis_servers import PASSWORD, OwnRedis, own_redis
from tests.ports import free_port

KEYS = 1000


class _Primary(OwnRedis):
    async def start(self) -> None:
        await super().start()
        await self.ask("REPLICAOF", "NO", "ONE")


def dumps(server: OwnRedis, **settings: object) -> RedisDumps:
    return RedisDumps(server.server, program=redis_server(), **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
async def source(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OwnRedis]:
    server = _Primary(tmp_path_factory.mktemp("redis") / "source", append_only=False)
    with own_redis(server):
        await server.start()
        await fill(server.server, KEYS)
        yield server


@pytest.fixture(scope="module")
async def dump(source: OwnRedis) -> tuple[bytes, RedisSource]:
    return await taken(dumps(source))


async def test_a_dump_is_described_and_valid(source: OwnRedis, dump: tuple[bytes, RedisSource], tmp_path: Path) -> None:
    data, described = dump
    assert (described.taken_from, described.rdb_version, described.rdb_bytes) == ("primary", 9, len(data))
    assert described.server_version.startswith("6.2.")
    assert described.checked is not None and f"{KEYS + 9 + 200 + 1} keys read" in described.checked
    assert described.keys["0"].after == KEYS + 9 and described.keys["3"].after == 200
    state, reason, checks = await dumps(source).validate(stored(data, described), tmp_path)
    assert state == VerdictState.VALID, reason
    assert [check.name for check in checks] == [
        "checksum", "position", "load", "keys", "keys of the source", "functions",
    ]  # fmt: skip
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("diskless", ["yes", "no"])
async def test_a_dump_under_load_ends_at_one_moment(tmp_path: Path, diskless: str) -> None:
    """Taken from the replica, as ``$EOF`` and as ``$<length>``: all writes up to one, and none after it."""
    lines = (f"repl-diskless-sync {diskless}", "repl-diskless-sync-delay 0")
    primary = _Primary(tmp_path / "primary", append_only=False, lines=lines)
    replica = OwnRedis(tmp_path / "replica", append_only=False, lines=lines)
    scratch = _Primary(tmp_path / "restored", append_only=False)
    with own_redis(primary, replica, scratch):
        await primary.start()
        await replica.start()
        await primary.fill(KEYS)
        await replica.ask("REPLICAOF", "127.0.0.1", primary.port)
        await replica.wait_for("DBSIZE", expected=KEYS)
        recovery = dumps(primary)
        async with writing(primary.server) as acknowledged:
            while len(acknowledged) < 100:
                await asyncio.sleep(0.01)
            before = len(acknowledged)
            await primary.ask("SET", "brief", "value", "PX", 2000)
            await replica.wait_for("EXISTS", "brief", expected=1)  # and so all that was acknowledged before it
            data, described = await taken(recovery)
            after = len(acknowledged)
        assert described.form == ("mark" if diskless == "yes" else "length")
        assert (described.taken_from, described.address) == ("replica", f"127.0.0.1:{replica.port}")
        await primary.wait_for("EXISTS", "brief", expected=0)  # its time is over, and the dump has it
        state, reason, _ = await recovery.validate(stored(data, described), tmp_path)
        assert state == VerdictState.VALID, reason
        assert described.checked is not None and "1 expires" in described.checked
        await scratch.start()
        done = await dumps(scratch).restore(stored(data, described), RedisRestoreOptions("restore-1"), tmp_path)
        names = await scratch.ask("KEYS", "load:*")
        assert before - 1 <= len(names) <= after + 1
        assert {int(name.partition(":")[2]) for name in names} == set(range(len(names)))
        # A server that loads a dump as a replica keeps what has expired for a moment: "brief" may have been counted.
        assert done.keys[0] - KEYS - len(names) in (0, 1)


@pytest.mark.parametrize("way", ["replicate", "keys"])
async def test_a_running_server_gets_everything(
    source: OwnRedis, dump: tuple[bytes, RedisSource], tmp_path: Path, way: Way
) -> None:
    data, described = dump
    target = _Primary(tmp_path / "target", append_only=False)
    recovery = dumps(target)
    with own_redis(target):
        await target.start()
        await target.ask("CONFIG", "SET", "masteruser", "before")
        await target.ask("SET", "old", "value")
        options = RedisRestoreOptions("restore-1", way)
        with pytest.raises(Refused, match="holds data already: 1 keys in database 0"):
            await recovery.restore(stored(data, described), options, tmp_path)
        assert await target.ask("GET", "old") == "value"
        options = RedisRestoreOptions("restore-1", way, replace=True, keep_mark=True)
        await asyncio.sleep(0.3)  # time that a relative expiry would add
        done = await recovery.restore(stored(data, described), options, tmp_path)
        assert done.keys == {0: KEYS + 9, 3: 200, 9: 1}
        assert (await recovery.look()).restore_id == "restore-1"
        with pytest.raises(NotOurs, match="is at restore restore-1"):
            await recovery.complete("restore-2")
        assert await recovery.complete("restore-1") and await recovery.complete("restore-1")
        assert not await recovery.complete("restore-2") and 0 < await target.ask("TTL", RESTORED_KEY) <= 4 * 3600
        with pytest.raises(NotOurs, match="is its clients' since"):
            await recovery.restore(stored(data, described), options, tmp_path)
        assert await contents(target.server) == await contents(source.server)
        seen = await recovery.look()
        assert seen.is_primary and seen.restore_id is None
        assert await target.ask("CONFIG", "GET", "masteruser") == ["masteruser", "before"]
        assert (await target.ask("CONFIG", "GET", "masterauth"))[1] == target.password


async def test_what_a_killed_worker_left_is_gone_on_with_or_undone(
    dump: tuple[bytes, RedisSource], tmp_path: Path
) -> None:
    data, described = dump
    target = _Primary(tmp_path / "target", append_only=False)
    recovery = dumps(target)
    gone = free_port()
    mark = ReplicaMark("restore-1", "before", PASSWORD, ("127.0.0.1", gone))
    with own_redis(target):
        await target.start()

        async def left_behind(port: int = gone) -> None:
            """By a worker that ended while the target waited for its scratch server."""
            await target.ask("SET", "old", "value")
            await target.ask("CONFIG", "SET", "masteruser", mark.text())
            await target.ask("CONFIG", "SET", "masterauth", "of-the-scratch-server")
            await target.ask("REPLICAOF", "127.0.0.1", port)

        await left_behind(1)  # and then its guard fenced it
        with pytest.raises(NotOurs, match="it was left so"):
            await recovery.remove_restored("restore-1")
        with pytest.raises(Refused, match="name its primary, or promote it first"):
            await recovery.restore(stored(data), RedisRestoreOptions("restore-1", replace=True), tmp_path)
        assert not (await recovery.look()).is_primary
        await target.ask("REPLICAOF", "NO", "ONE")
        await left_behind()
        with pytest.raises(Refused, match="is at restore restore-1, which did not end"):
            await recovery.restore(stored(data), RedisRestoreOptions("restore-2", replace=True), tmp_path)
        with pytest.raises(NotOurs, match="is at restore restore-1"):
            await recovery.remove_restored("restore-2")
        assert await recovery.remove_restored("restore-1") and not await recovery.remove_restored("restore-1")
        assert (await recovery.look()).is_primary and await target.ask("GET", "old") == "value"
        assert (await target.ask("CONFIG", "GET", "masterauth"))[1] == PASSWORD
        for way in ("keys", "replicate"):
            await left_behind()
            await target.ask("CONFIG", "SET", "masteruser", mark.text())
            if way == "keys":  # what it held before is not its own, whoever made it a replica
                with pytest.raises(Refused, match="holds data already"):
                    await recovery.restore(stored(data), RedisRestoreOptions("restore-1", "keys"), tmp_path)
                assert await target.ask("GET", "old") == "value"
                await target.ask("FLUSHALL")
                await target.ask("SET", MARK_KEY, "restore-1")  # and the next one ended among the keys
                await target.ask("SET", "key:1", "half")
            done = await recovery.restore(stored(data, described), RedisRestoreOptions("restore-1", way), tmp_path)
            assert done.keys[0] == KEYS + 9 and await target.ask("GET", "key:1") == "1"
            assert await target.ask("CONFIG", "GET", "masteruser") == ["masteruser", "before"]
            await target.ask("FLUSHALL")


async def test_a_restore_that_breaks_leaves_the_server_empty(dump: tuple[bytes, RedisSource], tmp_path: Path) -> None:
    data, described = dump
    target = _Primary(tmp_path / "target", append_only=False, lines=("databases 4",))
    recovery = dumps(target)
    with own_redis(target):
        await target.start()
        await target.ask("SET", "old", "value")
        with pytest.raises(RestoreFailed, match="has no database 9, in which the dump has 1 keys"):
            await recovery.restore(stored(data), RedisRestoreOptions("restore-1", "keys", replace=True), tmp_path)
        assert await target.ask("GET", "old") == "value", "nothing was deleted before all could be refused"
        await target.ask("CONFIG", "SET", "maxmemory", 1 << 20)
        for way in ("keys", "replicate"):
            with pytest.raises(NoSpace, match="may use 1048576: raise its maxmemory"):
                await recovery.restore(stored(data), RedisRestoreOptions("restore-1", way, replace=True), tmp_path)
        await target.ask("CONFIG", "SET", "maxmemory", 0)
        for damaged in (data[:-1], data[: len(data) // 2], b"no dump", data[:200_000] + b"\xff" + data[200_001:]):
            with pytest.raises((Corrupt, RestoreFailed)):
                await recovery.restore(stored(damaged), RedisRestoreOptions("restore-1", replace=True), tmp_path)
        assert await target.ask("GET", "old") == "value"
        target.end()
        target.lines = ()
        await target.start()
        reached = asyncio.Event()
        copying = asyncio.create_task(
            recovery.restore(
                stored(data, described), RedisRestoreOptions("restore-1", "keys"), tmp_path, _seen(reached, len(data))
            )
        )
        await reached.wait()
        copying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await copying
        assert await target.ask("INFO", "keyspace") == "# Keyspace\r\n"
        assert not list(tmp_path.glob("scratch-*"))


async def test_an_attempt_that_lost_the_server_to_its_successor_writes_no_further_key(
    dump: tuple[bytes, RedisSource], tmp_path: Path
) -> None:
    data, described = dump
    target = _Primary(tmp_path / "target", append_only=False)
    with own_redis(target):
        await target.start()
        reached = asyncio.Event()
        late = asyncio.create_task(
            dumps(target).restore(
                stored(data, described), RedisRestoreOptions("restore-1", "keys"), tmp_path, _seen(reached, len(data))
            )
        )
        await reached.wait()
        await target.ask("SET", MARK_KEY, "restore-1/successor")
        with pytest.raises(RestoreFailed, match="not at this attempt any more"):
            await late
        assert await target.ask("GET", MARK_KEY) == "restore-1/successor", "what it holds is the successor's"
        assert 0 < int(str(await target.ask("DBSIZE"))) < KEYS


def _seen(reached: asyncio.Event, size: int) -> Progress:
    """Told when the keys are on their way: bytes begin again at zero."""
    most = 0

    def progress(done: int, expected: int) -> None:
        nonlocal most
        if done < most == size:
            reached.set()
        most = max(most, done)

    return progress


@pytest.mark.parametrize("append_only", [False, True])
async def test_a_server_starts_on_a_placed_dump(
    source: OwnRedis, dump: tuple[bytes, RedisSource], tmp_path: Path, append_only: bool
) -> None:
    data, described = dump
    target = _Primary(tmp_path / "target", append_only=append_only)
    place = DumpPlace(target.folder, append_only)
    recovery = dumps(target)
    with pytest.raises(Refused, match="is no folder"):
        await recovery.place(stored(data), place, "restore-1")
    target.folder.mkdir()
    with pytest.raises(Corrupt, match="does not end as a dump ends"):
        await recovery.place(stored(data[:-1]), place, "restore-1")
    assert not list(target.folder.iterdir())
    for _ in range(2):  # a repeated attempt finds its own work
        placed = await recovery.place(stored(data, described), place, "restore-1")
    with pytest.raises(Refused, match="is there already"):
        await recovery.place(stored(data), place, "restore-2")
    with pytest.raises(NotOurs, match="not the work of restore restore-2"):
        await recovery.remove_placed(place, "restore-2")
    assert await recovery.remove_placed(place, "restore-1") and not await recovery.remove_placed(place, "restore-1")
    placed = await recovery.place(stored(data, described), place, "restore-1")
    assert (placed.rdb_version, placed.bytes) == (9, len(data))
    with own_redis(target):
        await target.start()
        assert await contents(target.server) == await contents(source.server)
        with pytest.raises(Refused, match="A Redis runs in"):
            await recovery.place(stored(data), place, "restore-1")
