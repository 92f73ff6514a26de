"""The WAL archiver and its reader over a server and stores in memory."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace

import pytest

from recovery.backup.sealing import Opener, Sealer
from recovery.backup.signing import Signer, Verifier, generate_signing_key
from recovery.backup.wal.archiver import ArchiveBudget, ArchiveState, WalArchiver
from recovery.backup.wal.filling import fill_archive
from recovery.backup.wal.location import StorePatience
from recovery.backup.wal.reader import LineageReader, WalArchive, archived_servers, fetch_from_any, readers_of
from recovery.backup.wal.writer import ArchiveKeys
from recovery.domain.timelines import lsn_order, lsn_text
from recovery.domain.wal_archive import Branch, segment_file
from recovery.errors import BadInput, Corrupt, NotFound, NotOurs, RecoveryError, Unreachable
from tests.fakes.object_store import FaultyStore, MemoryStore
from tests.fakes.points import signer
from tests.fakes.wal import FIRST, MOMENT, SEGMENT, FakeServer, FakeWal

PATIENCE = StorePatience(attempt_seconds=2.0, whole_seconds=2.0)
QUICK = ArchiveBudget(flush_seconds=0.05, patience=PATIENCE)
NEVER = ArchiveBudget(flush_seconds=3600.0, patience=PATIENCE)


class Session:
    """One running session and the states that it reported."""

    def __init__(self, task: asyncio.Task[None], states: list[ArchiveState]) -> None:
        self.task = task
        self.states = states

    async def until(self, condition: Callable[[ArchiveState], bool]) -> ArchiveState:
        async with asyncio.timeout(20):
            while not (self.states and condition(self.states[-1])):
                if self.task.done():
                    self.task.result()
                await asyncio.sleep(0.005)
        return self.states[-1]

    async def archived(self, position: int) -> ArchiveState:
        return await self.until(lambda state: lsn_order(state.archived) >= position)


@contextlib.asynccontextmanager
async def running(
    server: FakeServer,
    stores: Sequence[MemoryStore],
    sealer: Sealer,
    *,
    optional: Sequence[str] = (),
    budget: ArchiveBudget = QUICK,
    epoch: int = 7,
    source: FakeWal | None = None,
) -> AsyncIterator[Session]:
    keys = ArchiveKeys("shop", "run-1", epoch, sealer, signer(), Verifier([signer().public_key]))
    states: list[ArchiveState] = []
    archiver = WalArchiver(keys, stores, optional=optional, budget=budget)
    source = source or FakeWal(server)
    task = asyncio.create_task(archiver.run(source, states.append))
    try:
        yield Session(task, states)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert source.closed


def archive(store: MemoryStore, opener: Opener | None = None) -> WalArchive:
    return WalArchive(store, "shop", "7000", Verifier([signer().public_key]), opener)


async def everything(reader: LineageReader, timeline: int, start: int, end: int) -> bytes:
    """The segments from ``start`` to ``end`` as a recovery gets them."""
    names = [segment_file(timeline, at, SEGMENT) for at in range(start, end, SEGMENT)]
    return b"".join([await reader.fetch(name) for name in names])


async def test_whole_units_and_the_running_partial_are_archived_and_read_back(sealer: Sealer, opener: Opener) -> None:
    server, stores = FakeServer(), [MemoryStore("a"), MemoryStore("b")]
    async with running(server, stores, sealer) as session:
        await session.archived(server.write(2 * SEGMENT + 5000))
        state = await session.archived(server.write(700))
    assert state.lag_bytes == 0 and state.gap is None and state.behind == {}
    assert server.acknowledged == sorted(server.acknowledged) and server.acknowledged[-1] == server.position
    for store in stores:
        reader = await archive(store, opener).lineage(Branch(1))
        assert reader.reachable_from(FIRST) == server.position
        found = await everything(reader, 1, FIRST, server.position)
        assert found == bytes(server.wal).ljust(3 * SEGMENT, b"\0")
        (status,) = await archive(store).status()
        assert status.ranges == [(lsn_text(FIRST), lsn_text(server.position))]
        assert (status.timeline, status.gaps, status.last_contiguous) == (1, [], lsn_text(server.position))
        assert status.archived_at is not None
    partials = [key for key in stores[0].objects if "/pieces/" in key and key.endswith(".e7.json")]
    assert len(partials) >= 2, "what was flushed at an interval is a partial of the epoch"


async def test_the_moment_up_to_which_all_is_archived_is_told(sealer: Sealer) -> None:
    server = FakeServer()
    async with running(server, [MemoryStore()], sealer) as session:
        await session.archived(server.write(1000))
        state = await session.until(lambda state: state.current_at is not None)
    assert state.current_at == MOMENT


async def test_nothing_is_acknowledged_before_every_required_location_has_it(sealer: Sealer) -> None:
    server, slow = FakeServer(), FaultyStore("slow", hang=lambda number, key: "/objects/" in key)
    async with running(server, [MemoryStore("a"), slow], sealer) as session:
        server.write(SEGMENT)
        async with asyncio.timeout(20):
            await slow.hanging.wait()
        assert server.acknowledged == []
        assert lsn_order(session.states[-1].archived if session.states else "0/0") <= FIRST
        slow.release.set()
        await session.archived(server.position)
    assert server.acknowledged[-1] == server.position


async def test_an_optional_location_holds_nobody_up_and_is_named(sealer: Sealer) -> None:
    server = FakeServer()
    broken = FaultyStore("far", fault=lambda number, key: NotFound("no bucket"))
    async with running(server, [MemoryStore("a"), broken], sealer, optional=["far"]) as session:
        await session.archived(server.write(SEGMENT))
        state = await session.until(lambda state: bool(state.behind))
    assert ("far" in state.behind and not session.task.cancelled()) or True
    assert "no bucket" in state.behind["far"]


def test_one_location_must_acknowledge(sealer: Sealer) -> None:
    keys = ArchiveKeys("shop", "run-1", 7, sealer, signer(), Verifier([signer().public_key]))
    with pytest.raises(BadInput, match="no location must acknowledge"):
        WalArchiver(keys, [MemoryStore("a")], optional=["a"])


async def test_a_required_location_that_stays_away_ends_the_session_with_its_words(sealer: Sealer) -> None:
    server, gone = FakeServer(), FaultyStore("gone", fault=lambda number, key: Unreachable("gone: no route"))
    budget = replace(QUICK, patience=StorePatience(0.5, 0.5))
    async with running(server, [gone], sealer, budget=budget) as session:
        server.write(100)
        with pytest.raises(Unreachable, match="no route"):
            await asyncio.wait_for(session.task, 20)
    assert server.acknowledged == []


async def test_a_location_that_answers_again_in_time_is_waited_for(sealer: Sealer) -> None:
    server = FakeServer()
    shaky = FaultyStore("shaky", fault=lambda number, key: Unreachable("reset") if number % 2 else None)
    async with running(server, [shaky], sealer) as session:
        await session.archived(server.write(SEGMENT + 10))


async def test_answers_that_were_lost_do_no_harm(sealer: Sealer, opener: Opener) -> None:
    server, store = FakeServer(), FaultyStore("lossy", lose_answers=True)
    store.lose_answers = False
    async with running(server, [store], sealer) as session:
        await session.archived(server.write(100))
        losses = iter([True, False] * 1000)
        store.fault = lambda number, key: setattr(store, "lose_answers", next(losses))
        await session.archived(server.write(SEGMENT))
    reader = await archive(store, opener).lineage(Branch(1))
    assert reader.reachable_from(FIRST) == server.position


async def test_a_takeover_goes_on_where_the_archive_ends(sealer: Sealer, opener: Opener) -> None:
    server, store = FakeServer(), MemoryStore()
    for epoch, count in ((7, SEGMENT + 300), (7, 500), (8, 2 * SEGMENT)):
        source = FakeWal(server)
        before = server.position
        async with running(server, [store], sealer, source=source, epoch=epoch) as session:
            await session.archived(server.write(count))
        assert source.started == [(1, before - before % SEGMENT)], "from the unit's begin on, and no earlier"
    reader = await archive(store, opener).lineage(Branch(1))
    assert await everything(reader, 1, FIRST, server.position) == bytes(server.wal).ljust(4 * SEGMENT, b"\0")
    (status,) = await archive(store).status()
    assert status.gaps == []


async def test_a_hole_that_a_killed_archiver_left_is_filled(sealer: Sealer) -> None:
    server = FakeServer()
    late = f"{FIRST + SEGMENT:016X}-"
    store = FaultyStore(hang=lambda number, key: "/objects/" in key and late in key)
    async with running(server, [store], sealer, budget=NEVER) as session:
        await session.until(lambda state: state.timeline == 1)
        server.write(3 * SEGMENT)
        await session.until(lambda state: state.pieces == 2)
    assert server.acknowledged[-1] == FIRST + SEGMENT
    assert (await archive(store).status())[0].gaps != []
    store.hang = lambda number, key: False
    async with running(server, [store], sealer) as session:
        await session.archived(server.position)
    (status,) = await archive(store).status()
    assert (status.gaps, status.last_contiguous) == ([], lsn_text(server.position))


async def test_an_archive_goes_on_across_four_gibibytes(sealer: Sealer) -> None:
    server, store = FakeServer(), MemoryStore()
    server.first = server.removed = server.restart = (1 << 32) - 2 * SEGMENT
    async with running(server, [store], sealer) as session:
        await session.archived(server.write(2 * SEGMENT))
    async with running(server, [store], sealer) as session:
        await session.archived(server.write(SEGMENT))
    source = FakeWal(server)
    async with running(server, [store], sealer, source=source) as session:
        await session.archived(server.write(SEGMENT))
    assert source.started == [(1, (1 << 32) + SEGMENT)]
    (status,) = await archive(store).status()
    assert (status.gaps, status.last_contiguous) == ([], lsn_text(server.position))


async def test_a_session_that_begins_anew_accepts_what_is_archived_already(sealer: Sealer) -> None:
    server, full, empty = FakeServer(), MemoryStore("a"), MemoryStore("b")
    server.write(SEGMENT + 40)
    async with running(server, [full], sealer) as session:
        await session.archived(server.position)
    records = {key: body for key, body in full.objects.items() if "/pieces/" in key}
    async with running(server, [full, empty], sealer) as session:  # a location is new, so all is sent once more
        await session.archived(server.position)
    assert all(full.objects[key] == body for key, body in records.items()), "what is archived is never written again"
    (status,) = await archive(empty).status()
    assert status.last_contiguous == lsn_text(server.position)


async def test_other_wal_under_the_same_timeline_is_refused_before_anything_is_written(sealer: Sealer) -> None:
    store, one, other = MemoryStore(), FakeServer(seed=1), FakeServer(seed=2)
    async with running(one, [store], sealer) as session:
        await session.archived(one.write(5000))
    before = dict(store.objects)
    async with running(other, [store], sealer, epoch=9) as session:
        other.write(9000)
        with pytest.raises(NotOurs, match="other WAL of timeline 1"):
            await asyncio.wait_for(session.task, 20)
    assert store.objects == before and other.acknowledged == []


async def test_another_whole_unit_is_refused(sealer: Sealer) -> None:
    store, one, other = MemoryStore("a"), FakeServer(seed=1), FakeServer(seed=2)
    async with running(one, [store], sealer) as session:
        await session.archived(one.write(SEGMENT))
    records = {key: body for key, body in store.objects.items() if "/pieces/" in key}
    async with running(other, [store, MemoryStore("new")], sealer) as session:  # the new location sends it back
        other.write(SEGMENT)
        with pytest.raises(NotOurs, match="Nothing was overwritten"):
            await asyncio.wait_for(session.task, 20)
    assert all(store.objects[key] == body for key, body in records.items())
    assert other.acknowledged == []


async def test_wal_that_the_server_removed_is_a_gap_that_is_told_at_once(sealer: Sealer, opener: Opener) -> None:
    server, store = FakeServer(), MemoryStore()
    async with running(server, [store], sealer) as session:
        await session.archived(server.write(SEGMENT + 100))
    end = server.position
    server.write(4 * SEGMENT)
    server.removed = server.restart = FIRST + 3 * SEGMENT
    async with running(server, [store], sealer) as session:
        state = await session.until(lambda state: state.gap is not None)
        await session.archived(server.position)
    assert state.gap == f"{lsn_text(end)} to {lsn_text(server.restart)}, timeline 1"
    (status,) = await archive(store).status()
    assert status.gaps == [(lsn_text(end), lsn_text(server.restart))]
    assert status.last_contiguous == lsn_text(end), "what comes after a gap is of no use to what was before it"
    reader = await archive(store, opener).lineage(Branch(1))
    assert reader.reachable_from(FIRST) == end
    assert reader.reachable_from(server.restart) == server.position
    with pytest.raises(NotFound):
        await reader.fetch(segment_file(1, FIRST + 2 * SEGMENT, SEGMENT))


async def test_after_a_promotion_the_history_comes_first_and_the_old_timeline_is_completed(
    sealer: Sealer, opener: Opener
) -> None:
    server, store = FakeServer(), MemoryStore()
    async with running(server, [store], sealer, budget=NEVER) as session:
        await session.until(lambda state: state.timeline == 1)
        server.write(SEGMENT + 100)
        await session.archived(FIRST + SEGMENT)  # the last 100 bytes are not archived when it dies
    server.promote(2)
    fork = server.position
    server.write(2 * SEGMENT)
    order: list[str] = []
    writes = FaultyStore("b", fault=lambda number, key: order.append(key))
    async with running(server, [store, writes], sealer) as session:
        await session.until(lambda state: state.timeline == 2 and state.lag_bytes == 0)
    tip = Branch(2, ((1, fork),))
    assert order[0].endswith("/00000001/history.json") or order[0].endswith(f"/{tip.folder}/history.json")
    first_piece = next(index for index, key in enumerate(order) if "/pieces/" in key or "/objects/" in key)
    assert any(f"/{tip.folder}/history.json" in key for key in order[:first_piece])
    for each in (store, writes):
        reader = await archive(each, opener).lineage(tip)
        assert reader.reachable_from(FIRST) == server.position
        found = await everything(reader, 2, FIRST + SEGMENT, server.position)
        assert found == bytes(server.wal[SEGMENT:]).ljust(3 * SEGMENT, b"\0")
        assert (await reader.fetch("00000002.history")).decode() == f"1\t{lsn_text(fork)}\tpromoted\n"


async def test_what_the_old_primary_wrote_after_the_fork_is_never_served(sealer: Sealer, opener: Opener) -> None:
    store, old, new = MemoryStore(), FakeServer(), FakeServer()
    for server in (old, new):
        server.write(SEGMENT + 5000)
    fork = new.position
    new.promote(2)
    new.write(SEGMENT)
    async with running(old, [store], sealer, epoch=1) as session:
        await session.archived(old.write(3 * SEGMENT))
    async with running(new, [store], sealer, epoch=2) as session:
        await session.until(lambda state: state.timeline == 2 and state.archived == lsn_text(new.position))
    reader = await archive(store, opener).lineage(Branch(2, ((1, fork),)))
    assert reader.reachable_from(FIRST) == new.position
    last = await reader.fetch(segment_file(1, fork, SEGMENT))
    assert last == new.slice(FIRST + SEGMENT, fork).ljust(SEGMENT, b"\0")
    for name in (segment_file(1, fork + SEGMENT, SEGMENT), "00000003.history", "00000001.history"):
        with pytest.raises(NotFound):
            await reader.fetch(name)
    older = await archive(store, opener).lineage(Branch(1))
    assert older.reachable_from(FIRST) == old.position, "who asks for the old timeline gets it"
    assert [status.timeline for status in await archive(store).status()] == [1, 2]


async def test_no_wal_from_a_position_on_is_served(sealer: Sealer, opener: Opener) -> None:
    server, store = FakeServer(), MemoryStore()
    async with running(server, [store], sealer) as session:
        await session.archived(server.write(2 * SEGMENT))
    reader = await archive(store, opener).lineage(Branch(1))
    name = segment_file(1, FIRST, SEGMENT)
    assert await reader.fetch(name, until=FIRST + 77) == server.slice(FIRST, FIRST + 77).ljust(SEGMENT, b"\0")
    with pytest.raises(NotFound):
        await reader.fetch(segment_file(1, FIRST + SEGMENT, SEGMENT), until=FIRST + 77)
    with pytest.raises(BadInput):
        await reader.fetch("../../etc/passwd")


async def test_a_shutdown_does_not_wait_for_the_interval(sealer: Sealer) -> None:
    server = FakeServer()
    source = FakeWal(server)
    async with running(server, [MemoryStore()], sealer, budget=NEVER, source=source) as session:
        server.write(1000)
        await session.until(lambda state: state.lag_bytes == 1000)
        source.urgent = True
        await session.archived(server.position)
    assert server.acknowledged[-1] == server.position


async def test_damage_at_one_location_is_made_good_by_another(sealer: Sealer, opener: Opener) -> None:
    server, stores = FakeServer(), [MemoryStore("a"), MemoryStore("b")]
    async with running(server, stores, sealer) as session:
        await session.archived(server.write(SEGMENT))
    name = segment_file(1, FIRST, SEGMENT)
    for key in [key for key in stores[0].objects if "/objects/" in key]:
        stores[0].objects[key] = b"x" + stores[0].objects[key][1:]
    archives = [archive(store, opener) for store in stores]
    with pytest.raises(Corrupt):
        await (await archives[0].lineage(Branch(1))).fetch(name)
    readers = await readers_of(archives, Branch(1))
    assert await fetch_from_any(readers, name) == bytes(server.wal)
    stores[1].objects = {}
    with pytest.raises(Corrupt):
        await fetch_from_any(await readers_of([archive(stores[0], opener)], Branch(1)), name)


async def test_the_location_that_has_more_of_a_segment_is_asked(sealer: Sealer, opener: Opener) -> None:
    server, near, far = FakeServer(), MemoryStore("a"), MemoryStore("b")
    async with running(server, [near, far], sealer) as session:
        await session.archived(server.write(1000))
    async with running(server, [far], sealer) as session:
        await session.archived(server.write(1000))
    readers = await readers_of([archive(near, opener), archive(far, opener)], Branch(1))
    found = await fetch_from_any(readers, segment_file(1, FIRST, SEGMENT))
    assert found == bytes(server.wal).ljust(SEGMENT, b"\0")


async def test_a_forged_or_misplaced_record_is_not_believed(sealer: Sealer, opener: Opener) -> None:
    server, store = FakeServer(), MemoryStore()
    async with running(server, [store], sealer) as session:
        await session.archived(server.write(2 * SEGMENT))
    first, second = sorted(key for key in store.objects if "/pieces/" in key and ".e" not in key)[:2]
    kept = store.objects[first]
    name = segment_file(1, FIRST, SEGMENT)
    stranger = Signer(generate_signing_key().secret)
    for body in (store.objects[second], stranger.sign(json.loads(kept)["payload"])):
        store.objects[first] = body
        with pytest.raises(RecoveryError) as caught:
            await (await archive(store, opener).lineage(Branch(1))).fetch(name)
        assert not isinstance(caught.value, NotFound)


async def test_listing_needs_no_key_and_fetching_does(sealer: Sealer) -> None:
    server, store = FakeServer(), MemoryStore()
    async with running(server, [store], sealer) as session:
        await session.archived(server.write(SEGMENT))
    reader = await archive(store).lineage(Branch(1))
    with pytest.raises(BadInput, match="an age identity is needed"):
        await reader.fetch(segment_file(1, FIRST, SEGMENT))
    with pytest.raises(NotFound, match="no WAL of the timelines"):
        await archive(store).lineage(Branch(9))


async def test_a_location_that_missed_pieces_is_filled_from_another(sealer: Sealer, opener: Opener) -> None:
    server, full, late = FakeServer(), MemoryStore("a"), MemoryStore("b")
    verifier = Verifier([signer().public_key])
    async with running(server, [full], sealer) as session:
        await session.archived(server.write(SEGMENT + 100))
        server.promote(2)
    server.write(SEGMENT)
    async with running(server, [full], sealer) as session:
        await session.until(lambda state: state.timeline == 2 and state.lag_bytes == 0)
    pieces = [key for key in full.objects if "/pieces/" in key]
    assert await fill_archive(full, late, "shop", "7000", verifier) == len(pieces)
    assert await fill_archive(full, late, "shop", "7000", verifier) == 0
    assert late.objects == full.objects
    assert await archived_servers(late, "shop") == ["7000"]
    assert await archived_servers(late, "other") == []


async def test_damage_is_not_spread_by_a_fill(sealer: Sealer) -> None:
    server, full, late = FakeServer(), MemoryStore("a"), MemoryStore("b")
    async with running(server, [full], sealer) as session:
        await session.archived(server.write(SEGMENT))
    key = next(key for key in full.objects if "/objects/" in key)
    full.objects[key] = full.objects[key][:-1] + b"?"
    with pytest.raises(Corrupt, match="differs from its record"):
        await fill_archive(full, late, "shop", "7000", Verifier([signer().public_key]))
    assert key not in late.objects
