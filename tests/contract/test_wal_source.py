"""One contract for ``WalSource``: the server in memory that the archive's tests use, and a real one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import pytest

from recovery.adapters.postgres.folder import give_to
from recovery.adapters.postgres.wal_stream import WalStream
from recovery.domain.timelines import lsn_order
from recovery.errors import NotFound, SourceFailed, Unreachable
from recovery.ports.wal import WalBytes, WalEnd, WalEvent, WalIdle, WalSource
from tests.fakes.wal import SEGMENT, FakeServer, FakeWal
from tests.integration.ledger import SCHEMA
from tests.integration.postgres_servers import Server, eventually, public_folder, running_source


@dataclass
class Primary:
    """``write`` returns the position after what was written; ``kept`` is where the slot holds WAL from. ``forget``
    removes what no slot holds, and ``end`` is the server's sudden end.
    """

    connect: Callable[[], WalSource]
    write: Callable[[], Awaitable[int]]
    promote: Callable[[], Awaitable[None]]
    kept: Callable[[], Awaitable[int]]
    forget: Callable[[], Awaitable[None]]
    end: Callable[[], None]
    opened: list[WalSource] = field(default_factory=list)

    def source(self) -> WalSource:
        self.opened.append(self.connect())
        return self.opened[-1]

    async def started(self) -> tuple[WalSource, int]:
        """A session that streams from its slot on, as an archiver begins, and where."""
        source = self.source()
        found = await source.identify()
        begin = await source.take_slot()
        begin -= begin % found.segment_bytes
        await source.start(found.timeline, begin)
        return source, begin


async def received(source: WalSource, begin: int, end: int) -> bytes:
    """The WAL up to ``end``, without a gap."""
    found = bytearray()
    async with asyncio.timeout(20):
        while begin + len(found) < end:
            for event in await source.receive(1.0):
                if isinstance(event, WalBytes):
                    assert event.start == begin + len(found) and event.body
                    assert event.server_end >= event.start + len(event.body)
                    found += event.body
    return bytes(found[: end - begin])


async def ended(source: WalSource) -> None:
    """Its session ends, as one that a new one may follow."""
    async with asyncio.timeout(20):
        with pytest.raises(Unreachable):
            while True:
                await source.receive(1.0)


def fake_primary() -> Primary:
    server = FakeServer()
    sources: list[FakeWal] = []

    def connect() -> WalSource:
        sources.append(FakeWal(server))
        return sources[-1]

    async def write() -> int:
        return server.write(200_000)

    async def promote() -> None:
        server.promote(server.timeline + 1)

    async def kept() -> int:
        return server.restart

    async def forget() -> None:
        server.removed = server.write(2 * SEGMENT)

    def end() -> None:
        for source in sources:
            source.failure = Unreachable("it is gone")

    return Primary(connect, write, promote, kept, forget, end)


def real_primary(server: Server) -> Primary:
    slots = "SELECT restart_lsn::text FROM pg_replication_slots WHERE slot_name = 'contract'"

    async def write() -> int:
        await server.execute(
            "INSERT INTO commits SELECT coalesce(max(id), 0) + i, repeat(md5(i::text), 200) "
            "FROM commits, generate_series(1, 30) i GROUP BY i"
        )
        return lsn_order(await server.value("SELECT pg_current_wal_flush_lsn()::text"))

    async def promote() -> None:
        folder = server.place.data_directory
        await server.postgres.host.stop(server.place)
        (folder / "standby.signal").touch()
        give_to(folder / "standby.signal", server.postgres.host.user_for(server.place))
        await server.postgres.host.start(server.place)
        await server.execute("SELECT pg_promote(true, 30)", "postgres")

    async def kept() -> int:
        return lsn_order(await server.value(slots))

    async def forget() -> None:
        for statement in ("ALTER SYSTEM SET wal_keep_size = 0", "SELECT pg_reload_conf()"):
            await server.execute(statement)
        for statement in ["SELECT pg_switch_wal()", "CHECKPOINT"] * 2:
            await write()
            await server.execute(statement)

    return Primary(lambda: WalStream(server.login, "contract"), write, promote, kept, forget, server.kill)


@pytest.fixture(params=["fake", "real"])
async def primary(request: pytest.FixtureRequest) -> AsyncIterator[Primary]:
    async with AsyncExitStack() as stack:
        if request.param == "fake":
            found = fake_primary()
        else:
            folder = stack.enter_context(public_folder())
            found = real_primary(await stack.enter_async_context(running_source(folder, schema=SCHEMA)))
        yield found
        for source in found.opened:
            await source.close()


async def test_wal_is_streamed_from_the_slot_on_and_kept_until_it_is_acknowledged(primary: Primary) -> None:
    source, begin = await primary.started()
    end = await primary.write()
    first = await received(source, begin, end)
    seen: list[WalEvent] = []
    async with asyncio.timeout(20):
        while not any(isinstance(event, WalIdle) and event.position >= end for event in seen):
            seen += await source.receive(1.0)
    assert await primary.kept() <= begin + (await primary.source().identify()).segment_bytes, "nothing was acknowledged"
    await source.close()
    again, still = await primary.started()
    assert still <= begin
    assert (await received(again, still, end))[begin - still :] == first
    again.acknowledge(end)
    again.acknowledge(begin)  # it never goes back

    async def moved() -> bool:
        return await primary.kept() >= end

    await eventually(moved)
    primary.end()
    await ended(again)


async def test_of_two_sessions_on_a_slot_the_later_one_has_it(primary: Primary) -> None:
    first, _ = await primary.started()
    second, begin = await primary.started()
    end = await primary.write()
    assert await received(second, begin, end)
    await ended(first)


async def test_a_promotion_ends_the_timeline_and_leaves_a_history(primary: Primary) -> None:
    source = primary.source()
    before = await source.identify()
    begin = await source.take_slot()
    begin -= begin % before.segment_bytes
    with pytest.raises(SourceFailed):
        await source.history(before.timeline + 1)
    end = await primary.write()
    await primary.promote()
    source = primary.source()
    after = await source.identify()
    assert (after.system_identifier, after.timeline) == (before.system_identifier, before.timeline + 1)
    assert after.position >= end and await source.take_slot() <= end
    number, left = (await source.history(after.timeline)).split()[:2]
    assert int(number) == before.timeline and lsn_order(left) >= end
    await source.start(before.timeline, begin)
    seen: list[WalEvent] = []
    async with asyncio.timeout(20):
        while not any(isinstance(event, WalEnd) for event in seen):
            seen += await source.receive(1.0)
    assert seen[-1] == WalEnd(after.timeline, lsn_order(left))
    assert begin + sum(len(event.body) for event in seen if isinstance(event, WalBytes)) == lsn_order(left)


async def test_wal_that_the_server_removed_is_not_found(primary: Primary) -> None:
    source = primary.source()
    found = await source.identify()
    begin = found.position - found.position % found.segment_bytes
    await primary.forget()
    await source.take_slot()
    with pytest.raises(NotFound, match="already been removed"):
        await source.start(found.timeline, begin)
