"""The WAL archiver and its reader over a server and stores in memory."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from recovery.backup.sealing import Opener, Sealer
from recovery.backup.signing import Verifier
from recovery.backup.wal.archiver import WalArchiver
from recovery.backup.wal.location import StorePatience
from recovery.backup.wal.writer import ArchiveKeys
from recovery.domain.timelines import lsn_order, lsn_text
from recovery.domain.wal_archive import Branch, segment_file
from recovery.errors import BadInput, NotFound, NotOurs, Unreachable
from tests.fakes.object_store import FaultyStore, MemoryStore
from tests.fakes.points import signer
from tests.fakes.wal import FIRST, MOMENT, SEGMENT, FakeServer, FakeWal
from tests.unit.backup.wal_session import NEVER, QUICK, archive, everything, running


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
    server.restart = FIRST  # it had not saved how far its slot was
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
    kept = server.removed = server.restart = FIRST + 3 * SEGMENT
    async with running(server, [store], sealer) as session:
        state = await session.until(lambda state: state.gap is not None)
        await session.archived(server.position)
    assert state.gap == f"{lsn_text(end)} to {lsn_text(kept)}, timeline 1"
    (status,) = await archive(store).status()
    assert status.gaps == [(lsn_text(end), lsn_text(kept))]
    assert status.last_contiguous == lsn_text(end), "what comes after a gap is of no use to what was before it"
    reader = await archive(store, opener).lineage(Branch(1))
    assert reader.reachable_from(FIRST) == end
    assert reader.reachable_from(kept) == server.position
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
    server.restart = FIRST
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


async def test_a_shutdown_does_not_wait_for_the_interval(sealer: Sealer) -> None:
    server = FakeServer()
    source = FakeWal(server)
    async with running(server, [MemoryStore()], sealer, budget=NEVER, source=source) as session:
        server.write(1000)
        await session.until(lambda state: state.lag_bytes == 1000)
        source.urgent = True
        await session.archived(server.position)
    assert server.acknowledged[-1] == server.position
