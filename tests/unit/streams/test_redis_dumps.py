"""A dump counts only when the server sent it whole, and for servers that read it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from recovery.adapters.redis import dumps, validation
from recovery.adapters.redis.dumps import RedisDumpSource
from recovery.adapters.redis.programs import DumpChecker, RedisProgram
from recovery.adapters.redis.rdb import DumpCheck, check_readable
from recovery.adapters.redis.target import ReplicaMark
from recovery.domain.redis import KeyCount, RedisSource, rdb_version_of, reads, written_by
from recovery.errors import Corrupt, NotFound, RecoveryError, Refused, SourceFailed, Unreachable
from tests.fakes.child import FakeChild
from tests.fakes.redis import (
    MARK,
    REPLID,
    FakeRedis,
    Send,
    a_dump,
    diskless,
    from_disk,
    preparing,
    redis_source,
    saying,
)

LARGE = a_dump(bytes(range(255)) * 1000)


@pytest.mark.parametrize(("loaded", "passed"), [(1223, True), (1222, False), (1224, False)])
def test_of_two_counts_at_one_position_the_second_is_the_dumps(loaded: int, passed: bool) -> None:
    """A write may come between the first count and the position that is told with it: a sound dump was refused."""
    source = redis_source().model_copy(update={"keys": {"0": KeyCount(before=1222, after=1223)}, "quiet": True})
    assert validation._keys({0: loaded}, source).passed is passed


@pytest.fixture(autouse=True)
def no_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake's dumps have no keys that redis-check-rdb could read."""

    async def none(configured: Path | None = None) -> None:
        raise NotFound("none here")

    monkeypatch.setattr(dumps, "redis_program", none)
    monkeypatch.setattr(dumps, "CATCH_UP_SECONDS", 0.2)


async def taken(fake: FakeRedis, silence: float = 0.5) -> tuple[bytes, RedisSource]:
    async with fake.serving() as server, RedisDumpSource(server, silence=silence) as source:
        (data,) = [b"".join([chunk async for chunk in artefact.chunks()]) async for artefact in source.artefacts()]
        return data, await source.finish()


@pytest.mark.parametrize(
    ("sync", "form"),
    [
        (diskless(pieces=100_000), "mark"),
        (diskless(pieces=1013, keep_alive=True), "mark"),
        (diskless(pieces=39), "mark"),
        (from_disk(), "length"),
        (from_disk(keep_alive=0.8), "length"),  # longer than its silence may last
    ],
)
async def test_both_forms_give_the_dump_and_nothing_else(sync: Callable[..., Awaitable[None]], form: str) -> None:
    fake = FakeRedis(LARGE, sync=sync)
    data, source = await taken(fake)
    assert data == LARGE
    assert (source.form, source.replid, source.offset, source.rdb_version) == (form, REPLID, 1234, 9)
    assert (source.rdb_bytes, source.crc64, source.taken_from) == (len(LARGE), "01" * 8, "primary")
    assert source.keys == {"0": KeyCount(before=3, after=3)} and source.quiet and source.identity == "data"
    asked = [words for words in fake.said if words[0] in ("REPLCONF", "PSYNC")]
    assert asked == [["REPLCONF", "capa", "eof"], ["REPLCONF", "rdb-only", "1"], ["PSYNC", "?", "-1"]]


async def test_what_looks_like_a_mark_is_data() -> None:
    dump = a_dump(MARK[:39] + b"x" + MARK[1:] + b"\n" * 100)
    data, _ = await taken(FakeRedis(dump, sync=diskless(pieces=11)))
    assert data == dump


@pytest.mark.parametrize(
    ("sync", "error", "words"),
    [
        (
            diskless(pieces=1013, cut=-1),
            Unreachable,
            "closed the connection after .* without the mark of its end: .* cut short",
        ),
        (diskless(cut=1000), Unreachable, "cut short"),
        (from_disk(cut=1000), Unreachable, rf"closed the connection after 1000 of {len(LARGE)} bytes"),
        (from_disk(cut=1000, silent=True), Unreachable, r"fell silent for 0.5 s .* 1000 of"),
        (saying(b""), Unreachable, "closed the connection before the dump"),
        (saying(b"-NOMASTERLINK Can't SYNC while not connected with my master\r\n"), Unreachable, "cannot .* now"),
        (saying(b"-NOPERM this user has no permissions to run the 'psync' command\r\n"), Refused, "NOPERM"),
        (saying(b"-ERR unknown command 'PSYNC'\r\n"), SourceFailed, "Managed services"),
        (saying(b"+CONTINUE\r\n"), SourceFailed, "answered .* with b'.CONTINUE'"),
        (saying(f"+FULLRESYNC {REPLID} 1234\r\n+what\r\n".encode()), SourceFailed, "announced its dump with b'.what'"),
        (saying(f"+FULLRESYNC {REPLID} 1234\r\n-ERR fork failed\r\n".encode()), SourceFailed, "ERR fork failed"),
    ],
)
async def test_what_is_not_whole_is_refused(
    sync: Callable[..., Awaitable[None]], error: type[RecoveryError], words: str
) -> None:
    with pytest.raises(error, match=words):
        await taken(FakeRedis(LARGE, sync=sync))


@pytest.mark.parametrize(
    ("dump", "words"),
    [
        (LARGE[:-1], "does not end as a dump ends"),
        (b"HTTP/1.1 400 Bad Request and more", "does not begin as a dump"),
        (a_dump(offset=999), "it says that it ends at .*999.*, and the server said .*1234"),
    ],
)
async def test_a_server_that_sends_something_else_is_not_believed(dump: bytes, words: str) -> None:
    with pytest.raises(SourceFailed, match=words):
        await taken(FakeRedis(dump))


async def test_a_server_that_is_never_ready_is_given_up() -> None:
    fake = FakeRedis(sync=preparing)
    async with asyncio.timeout(10), fake.serving() as server, RedisDumpSource(server, prepare=0.3) as source:
        with pytest.raises(Unreachable, match=r"was not ready to send its dump after 0\.3 s"):
            async for artefact in source.artefacts():
                _ = [chunk async for chunk in artefact.chunks()]


async def test_login_is_made_and_its_secret_stays_secret() -> None:
    secret = "a-password-that-nobody-sees"
    data, _ = await taken(FakeRedis(user="backup", password=secret))
    assert data == a_dump()
    fake = FakeRedis(user="backup", password=secret)
    async with fake.serving() as server:
        fake.password = "another"
        with pytest.raises(Refused, match="WRONGPASS") as caught:
            async with RedisDumpSource(server):
                pass
        assert secret not in f"{caught.value!r} {caught.value.__cause__!r} {server!r}"


async def test_writes_between_the_counts_are_told() -> None:
    _, source = await taken(FakeRedis(keys=(5, 5, 9), moves=True))
    assert source.keys == {"0": KeyCount(before=5, after=9)} and not source.quiet


async def test_no_checksum_is_told() -> None:
    _, source = await taken(FakeRedis(a_dump(checksum=bytes(8))))
    assert any("no checksum" in note for note in source.notes)


@contextlib.asynccontextmanager
async def with_replicas(*replicas: FakeRedis) -> AsyncIterator[FakeRedis]:
    async with contextlib.AsyncExitStack() as stack:
        for replica in replicas:
            await stack.enter_async_context(replica.serving())
        yield FakeRedis(a_dump(b"primary"), offset=1300, replicas=replicas)


async def test_the_closest_replica_is_taken() -> None:
    near = FakeRedis(a_dump(b"near", offset=1299), offset=1299, role="slave")
    far = FakeRedis(a_dump(b"far"), role="slave")
    distant = FakeRedis(offset=1300 - (64 << 20) - 1, role="slave")
    broken = FakeRedis(offset=9999, role="slave", link="down")
    stranger = FakeRedis(offset=9999, role="slave", replid="f" * 40)
    async with with_replicas(far, broken, near, stranger, distant) as primary:
        data, source = await taken(primary)
    assert data == near.dump and source.taken_from == "replica" and source.address.endswith(str(near.port))
    assert source.primary_offset == 1300 and source.held_until is None, "one byte may have been missing"
    assert len([note for note in source.notes if "passed over" in note]) == 3


async def test_a_replica_that_has_all_of_its_primary_holds_no_more_than_that() -> None:
    """What the primary acknowledged after it said how far it was may be missing, however soon the dump was read."""
    replica = FakeRedis(a_dump(offset=1300), offset=1300, role="slave")
    async with with_replicas(replica) as primary, primary.serving() as server, RedisDumpSource(server) as source:
        entered = datetime.now(UTC)
        while datetime.now(UTC) == entered:
            await asyncio.sleep(0)
        async for artefact in source.artefacts():
            _ = [chunk async for chunk in artefact.chunks()]
        described = await source.finish()
    assert described.taken_from == "replica"
    assert described.held_until is not None and described.held_until <= entered


async def test_a_replica_that_lacks_a_little_is_waited_for() -> None:
    replica = FakeRedis(a_dump(offset=1297), offset=1297, role="slave", moves=True)
    async with with_replicas(replica) as primary:
        _, source = await taken(primary)
    assert replica.looks == 5, "three until it had what its primary had, and one on each side of the dump"
    assert source.taken_from == "replica" and not any("passed over" in note for note in source.notes)


async def test_a_replica_that_refuses_leaves_it_to_the_primary() -> None:
    silent = FakeRedis(role="slave", sync=saying(b"-NOMASTERLINK Can't SYNC\r\n"))
    async with with_replicas(silent) as primary:
        primary.dump = a_dump(b"primary", offset=1300)
        data, source = await taken(primary)
    assert data == primary.dump and source.taken_from == "primary" and source.held_until == source.began_at
    assert any("passed over" in note and "NOMASTERLINK" in note for note in source.notes)


async def test_a_reader_that_stops_early_ends_the_synchronisation() -> None:
    ended = asyncio.Event()

    async def endless(fake: FakeRedis, send: Send) -> None:
        try:
            await from_disk()(FakeRedis(LARGE * 40), send)
            while True:
                await send(bytes(100_000))
        except ConnectionError:
            ended.set()

    fake = FakeRedis(LARGE * 40, sync=endless)
    async with fake.serving() as server, RedisDumpSource(server) as source:
        async for artefact in source.artefacts():
            async with contextlib.aclosing(artefact.chunks()) as chunks:  # type: ignore[type-var]
                await anext(chunks)
        await asyncio.wait_for(ended.wait(), 5)
        with pytest.raises(RuntimeError, match="before the dump was read"):
            await source.finish()


async def test_a_dump_whose_checker_was_killed_is_taken_unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    async def program(configured: Path | None = None) -> RedisProgram:
        return RedisProgram(Path("/usr/bin/redis-server"), "redis", "6.2.14")

    @contextlib.asynccontextmanager
    async def killed(program: RedisProgram) -> AsyncIterator[DumpChecker]:
        checker = DumpChecker(FakeChild(-9), "redis-check-rdb")  # type: ignore[arg-type]
        yield checker
        await checker.end()

    monkeypatch.setattr(dumps, "redis_program", program)
    monkeypatch.setattr(dumps, "dump_checker", killed)
    data, source = await taken(FakeRedis(LARGE))
    assert data == LARGE and source.checked is None
    assert any("not checked: redis-check-rdb was ended by signal 9" in note for note in source.notes)


def test_a_head_is_read_as_soon_as_it_is_there() -> None:
    check, dump = DumpCheck(), a_dump(b"\xfe\x00")
    for at in range(len(dump)):
        check.feed(dump[at : at + 1])
        head = check.head()
        if head is not None:
            break
    assert head is not None and at < len(dump) - 9
    assert (head.position, head.server) == ((REPLID, 1234), "Redis 6.2.14")


@pytest.mark.parametrize(
    ("product", "version", "expected"),
    [("redis", "6.2.14", 9), ("redis", "7.0.15", 10), ("redis", "7.4.0", 12), ("redis", "8.4.1", 12),
     ("redis", "8.10.0", 15), ("redis", "99.0", 15), ("valkey", "8.1.3", 11), ("valkey", "9.0.0", 80)],
)  # fmt: skip
def test_each_release_has_its_version_of_the_format(product: str, version: str, expected: int) -> None:
    assert rdb_version_of(product, version) == expected  # type: ignore[arg-type]


def test_an_older_server_and_the_other_branch_are_refused_by_name() -> None:
    check = DumpCheck()
    check.feed(a_dump(version=b"REDIS0012"))
    head = check.head()
    assert head is not None
    check_readable(head, "redis", "7.4.2")
    check_readable(head, "redis", "7.2.0", 12)  # what a running server says counts
    with pytest.raises(Refused, match=r"RDB version 12.*Redis 7\.0\.15 reads RDB version 10.*Redis 7\.4 or later"):
        check_readable(head, "redis", "7.0.15")
    with pytest.raises(Refused, match=r"Valkey 9\.0\.0 reads RDB version 80"):
        check_readable(head, "valkey", "9.0.0")
    assert reads("valkey", 80, 11) and not reads("redis", 15, 80) and not reads("valkey", 11, 12)
    assert written_by(80) == "Valkey 9.0 or later"
    with pytest.raises(Corrupt):
        check = DumpCheck()
        check.feed(b"REDIS0012")
        check.finish()


def test_a_mark_keeps_what_was_before_it_and_shows_none_of_it() -> None:
    mark = ReplicaMark("shop:restore:1", "user", 'pass:"word', ("::1", 6379))
    assert ReplicaMark.parse(mark.text()) == mark
    assert "word" not in repr(mark) and "word" not in mark.text()
    for text in ("", "user", "recovery-restoring", "recovery-restoring:1", "recovery-restoring:1:nothing"):
        assert ReplicaMark.parse(text) is None
