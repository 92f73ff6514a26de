"""PostgreSQL under guard: real servers that are promoted, frozen, killed, forked and re-pointed."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from recovery.adapters.postgres import standby_files as files
from recovery.adapters.postgres.demotion import kill_tree
from recovery.adapters.postgres.guarded import GuardedPostgres
from recovery.adapters.postgres.host import INCOMPLETE, postmaster_of
from recovery.adapters.postgres.ordered_end import STILL_SECONDS
from recovery.domain.guarding import StoreRole
from recovery.domain.timelines import lsn_order, lsn_text
from recovery.errors import Contended, Refused, Unreachable
from recovery.ports.postgres import PostgresLogin, PostgresPlace
from tests.integration.postgres_pair import Load, Node, busy, cluster, replayed, stop
from tests.integration.postgres_servers import eventually, public_folder


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Node, Node]]:
    with public_folder() as folder:
        async with cluster(folder, "a", "b") as (a, b):
            yield a, b


@pytest.fixture
async def three() -> AsyncIterator[tuple[Node, Node, Node]]:
    with public_folder() as folder:
        async with cluster(folder, "a", "b", "c") as (a, b, c):
            yield a, b, c


async def test_roles_positions_and_histories_are_told(pair: tuple[Node, Node]) -> None:
    a, b = pair
    await a.execute("INSERT INTO marks VALUES (1)")
    await replayed(b, a)
    primary, standby = await a.guarded.observe(), await b.guarded.observe()
    assert (primary.role, standby.role) == (StoreRole.PRIMARY, StoreRole.STANDBY), (primary, standby)
    assert primary.order is not None and primary.order == lsn_order(str(primary.position))
    assert standby.order is not None and standby.order >= primary.order - 200
    assert standby.lag_seconds == 0
    assert standby.heard_seconds_ago is not None and standby.heard_seconds_ago < 15
    assert primary.history == standby.history and str(primary.history).count("@") == 1, "timeline 2 of one promotion"
    assert "~" in str(primary.history), "the promotion's own mark"


async def test_promotion_is_quick_and_idempotent_and_the_next_start_is_a_standbys(pair: tuple[Node, Node]) -> None:
    a, b = pair
    await a.execute("INSERT INTO marks VALUES (1)")
    await replayed(b, a)
    await a.guarded.demote()
    began = time.monotonic()
    first = await b.guarded.promote(2)
    took = time.monotonic() - began
    print(f"promotion: {took:.3f} s")
    assert took < 2, "a busy machine; 0.15 s on a quiet one"
    assert not first.already and first.timeline == 3
    assert first.before is not None and lsn_order(first.before) <= lsn_order(str(first.position))
    owner = (b.data.stat().st_uid, b.data.stat().st_gid)
    signal_file = b.data / "standby.signal"
    assert (signal_file.stat().st_uid, signal_file.stat().st_gid) == owner
    await b.execute("INSERT INTO marks VALUES (2)")
    again = await b.another_guard().promote(2)
    assert again.already and again.timeline == 3 and again.before == first.before
    b.kill()
    await b.guarded.start(owner=True)
    assert not await b.accepts_writes()
    assert await b.value("SELECT count(*) FROM marks") == 2


async def test_a_server_that_restarted_itself_is_promoted_again_for_its_epoch(pair: tuple[Node, Node]) -> None:
    a, _ = pair
    backend = await a.connect()
    stop([await backend.fetchval("SELECT pg_backend_pid()")], signal.SIGKILL)

    async def standby() -> bool:
        return (await a.guarded.observe()).role is StoreRole.STANDBY

    await eventually(standby)
    again = await a.guarded.promote(1)
    assert not again.already
    await a.execute("INSERT INTO marks VALUES (1)")


@pytest.mark.parametrize("frozen", ["nothing", "postmaster", "everything"])
async def test_demotion_takes_less_than_a_second_in_any_state(pair: tuple[Node, Node], frozen: str) -> None:
    a, _ = pair
    computing = await busy(a)
    postmaster = postmaster_of(a.data)
    assert postmaster is not None
    await a.guarded.observe()
    if frozen != "nothing":
        stop([postmaster] if frozen == "postmaster" else a.processes(), signal.SIGSTOP)
    began = time.monotonic()
    position = await a.guarded.demote()
    took = time.monotonic() - began
    print(f"demotion with {frozen} frozen: {took:.3f} s")
    assert took < 1.0
    assert a.processes() == []
    assert (a.data / "standby.signal").exists()
    assert position is not None
    await computing
    state = await a.guarded.observe()
    assert state.role is StoreRole.STALE and state.position == position


async def test_a_backend_that_outlived_its_postmaster_is_ended(pair: tuple[Node, Node]) -> None:
    a, _ = pair
    computing = await busy(a)
    postmaster = postmaster_of(a.data)
    assert postmaster is not None
    stop([postmaster], signal.SIGKILL)
    assert a.processes()
    await a.guarded.demote()
    assert a.processes() == []
    await computing


async def test_a_former_primary_is_not_started_unless_its_region_owns(pair: tuple[Node, Node]) -> None:
    a, _ = pair
    await a.guarded.demote()
    with pytest.raises(Refused, match="was a primary of epoch 1"):
        await a.guarded.start()
    with pytest.raises(Refused, match="was the primary of epoch 1"):
        await a.guarded.promote(7)
    assert a.processes() == []
    again = await a.guarded.promote(2)  # its own region goes on
    assert not again.already
    await a.execute("INSERT INTO marks VALUES (1)")


async def test_an_incomplete_directory_is_never_started(pair: tuple[Node, Node]) -> None:
    a, b = pair
    await b.guarded.demote()
    (b.data / INCOMPLETE).touch()
    for attempt in (b.guarded.start, lambda: b.guarded.promote(2), lambda: b.guarded.follow(a.upstream)):
        with pytest.raises(Refused, match="interrupted"):
            await attempt()
    assert (await b.guarded.observe()).role is StoreRole.STALE
    assert b.processes() == []


async def test_synchronous_names_of_the_old_primary_do_not_hang_the_new_one(pair: tuple[Node, Node]) -> None:
    a, b = pair
    await b.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    await a.guarded.demote()
    promoted = await b.guarded.promote(2)
    assert "nobody" in promoted.note
    async with asyncio.timeout(5):
        await b.execute("INSERT INTO marks VALUES (1)")


async def test_receiving_is_stopped_and_confirmed(pair: tuple[Node, Node]) -> None:
    a, b = pair
    await a.execute("INSERT INTO marks VALUES (1)")

    async def level() -> bool:
        return (await b.guarded.observe()).lag_seconds == 0

    await eventually(level)
    position = await b.guarded.stop_receiving()
    await a.execute("INSERT INTO marks VALUES (2)")
    assert await b.value("SELECT count(*) FROM pg_stat_wal_receiver") == 0
    assert lsn_order(await b.guarded.stop_receiving()) == lsn_order(position)
    state = await b.guarded.observe()
    assert "receives nothing" in state.detail and state.lag_seconds == 0, "as last known"
    await b.another_guard(replication=None).follow(a.upstream)  # knows who replicates from what was there before
    await replayed(b, a)
    assert await b.value("SELECT count(*) FROM marks") == 2


async def test_another_standby_is_repointed_without_a_restart(three: tuple[Node, Node, Node]) -> None:
    a, b, c = three
    await a.execute("INSERT INTO marks VALUES (1)")
    await replayed(b, a)
    await replayed(c, a)
    began = await c.value("SELECT pg_postmaster_start_time()")
    await a.guarded.demote()
    await b.guarded.promote(2)
    await b.execute("INSERT INTO marks VALUES (2)")
    state = await c.guarded.follow(b.upstream)
    assert state.role is StoreRole.STANDBY
    await replayed(c, b)
    assert await c.value("SELECT count(*) FROM marks") == 2
    assert await c.value("SELECT pg_postmaster_start_time()") == began
    assert (await c.guarded.observe()).history == (await b.guarded.observe()).history


@pytest.mark.parametrize("ahead", [True, False], ids=["one wrote before", "forked at one LSN"])
async def test_equal_timeline_numbers_of_two_promotions_are_no_ancestry(
    three: tuple[Node, Node, Node], ahead: bool
) -> None:
    a, b, c = three
    await a.execute("INSERT INTO marks VALUES (1)")
    await replayed(b, a)
    await replayed(c, a)
    if ahead:
        await c.guarded.stop_receiving()
        await a.execute("INSERT INTO marks VALUES (2)")
        await replayed(b, a)
    await a.guarded.demote()
    await b.guarded.promote(2)
    await c.guarded.promote(2)
    mine, theirs = await c.guarded.observe(), await b.guarded.observe()
    assert mine.timeline == theirs.timeline == 3
    await c.guarded.demote()
    with pytest.raises(Refused, match="not the same one|common history ends"):
        await c.guarded.follow(b.upstream)
    await c.guarded.start(owner=True)
    with pytest.raises(Refused, match="not the same one|common history ends"):
        await c.guarded.follow(b.upstream)


async def test_a_former_primary_that_wrote_nothing_more_follows_as_it_is(pair: tuple[Node, Node]) -> None:
    a, b = pair
    async with Load(a) as load:
        final = await a.guarded.end_in_order(10)
    await b.guarded.wait_for(final, 5)
    await b.guarded.promote(2)
    assert await b.value("SELECT count(*) FROM marks") >= len(load.acknowledged)
    state = await a.guarded.follow(b.upstream)
    assert state.role is StoreRole.STANDBY
    assert files.read_primary_mark(a.data) is None
    files.write_primary_mark(a.data, 1, None)
    await a.guarded.follow(b.upstream)
    assert files.read_primary_mark(a.data) is None, "it follows, whoever started it before its guard was asked"
    await b.execute("INSERT INTO marks VALUES (-1)")
    await replayed(a, b)
    assert await a.value("SELECT count(*) FROM marks WHERE id = -1") == 1


async def test_a_former_primary_that_wrote_more_is_refused(pair: tuple[Node, Node]) -> None:
    a, b = pair
    await b.guarded.stop_receiving()
    await a.execute("INSERT INTO marks VALUES (1)")
    await a.guarded.demote()
    await b.guarded.promote(2)
    with pytest.raises(Refused, match="common history ends"):
        await a.guarded.follow(b.upstream)
    assert a.processes() == []


async def test_the_planned_end_loses_nothing_and_is_short(pair: tuple[Node, Node]) -> None:
    a, b = pair
    async with Load(a) as load:
        began = time.monotonic()
        final = await a.guarded.end_in_order(10)
        print(f"planned end: {time.monotonic() - began:.3f} s")
    received = await b.guarded.wait_for(final, 5)
    assert lsn_order(received) == lsn_order(final), "exactly everything, the shutdown's own record included"
    with pytest.raises(Unreachable, match="receiver"):
        await b.guarded.wait_for(lsn_text(lsn_order(final) + 1), 0.1)
    await b.guarded.promote(2)
    rows = await (await b.connect()).fetch("SELECT id FROM marks")
    assert {row["id"] for row in rows} >= set(load.acknowledged)


async def test_a_frozen_standby_does_not_hold_the_planned_end(three: tuple[Node, Node, Node]) -> None:
    a, b, c = three
    async with Load(a) as load:
        stop(c.processes(), signal.SIGSTOP)
        try:
            began = time.monotonic()
            final = await a.guarded.end_in_order(8)
            took = time.monotonic() - began
        finally:
            stop(c.processes(), signal.SIGCONT)
    print(f"planned end with a frozen standby: {took:.3f} s")
    assert took < 8
    assert lsn_order(await b.value("SELECT pg_last_wal_receive_lsn()::text")) >= lsn_order(final)
    await b.guarded.promote(2)
    assert await b.value("SELECT count(*) FROM marks") >= len(load.acknowledged)


async def test_the_planned_end_waits_for_a_standby_that_lacks_the_newest_records(pair: tuple[Node, Node]) -> None:
    """It stands still for longer than a walsender may, as one does that comes from the former timeline."""
    a, b = pair
    stop(b.processes(), signal.SIGSTOP)
    try:
        ending = asyncio.create_task(a.guarded.end_in_order(8))
        await asyncio.sleep(STILL_SECONDS + 0.8)
        await a.execute("INSERT INTO marks VALUES (1)")  # clients are served meanwhile
    finally:
        stop(b.processes(), signal.SIGCONT)
    final = await ending
    assert lsn_order(await b.guarded.wait_for(final, 5)) == lsn_order(final)


async def test_a_primary_without_standbys_is_not_ended_in_order(pair: tuple[Node, Node]) -> None:
    a, b = pair
    await b.guarded.stop_receiving()

    async def alone() -> bool:
        return bool(await a.value("SELECT count(*) = 0 FROM pg_stat_replication"))

    await eventually(alone)
    with pytest.raises(Unreachable, match="no standby streams"):
        await a.guarded.end_in_order(5)
    await a.execute("INSERT INTO marks VALUES (1)")


async def test_observe_answers_within_two_seconds_whatever_stands_still(pair: tuple[Node, Node]) -> None:
    a, _ = pair
    stop(a.processes(), signal.SIGSTOP)
    began = time.monotonic()
    state = await a.guarded.observe()
    assert time.monotonic() - began < 2.5
    assert state.role is StoreRole.UNREACHABLE


async def test_a_directory_that_is_not_there_needs_no_demotion(tmp_path: Path) -> None:
    place = PostgresPlace("127.0.0.1", 1, tmp_path / "missing")
    store = GuardedPostgres(place, PostgresLogin("127.0.0.1", 1))
    assert await store.demote() is None
    assert store.emergency().detail["data_directory"] == str(tmp_path / "missing")
    assert (await store.observe()).role is StoreRole.STOPPED
    with pytest.raises(Refused):
        await store.promote(1)


async def test_another_users_directory_is_refused(tmp_path: Path) -> None:
    assert files.why_incomplete(tmp_path / "missing") is None
    with pytest.raises(Refused, match="no PG_VERSION"):
        files.write_signal(tmp_path)


async def test_a_promotion_that_is_held_up_past_its_permission_meets_no_server(pair: tuple[Node, Node]) -> None:
    """The guard freezes after it was allowed; the companion kills the server, and something starts it again."""
    a, b = pair
    await a.guarded.demote()
    asked: list[bool] = []

    def permitted() -> str | None:
        asked.append(True)
        kill_tree(b.data, 5.0)  # all of it happens in the moment between the check and the act
        again = threading.Thread(target=lambda: asyncio.run(b.another_guard().start()))
        again.start()
        again.join()
        return None

    with pytest.raises((Unreachable, OSError)):
        await b.guarded.promote_if(2, permitted)
    assert asked
    assert not await b.accepts_writes()


async def test_a_promotion_asks_for_permission_last(pair: tuple[Node, Node]) -> None:
    a, b = pair
    await a.guarded.demote()
    with pytest.raises(Contended, match="the lease ended"):
        await b.guarded.promote_if(2, lambda: "the lease ended")
    assert not await b.accepts_writes()
    await b.guarded.promote_if(2, lambda: None)
    assert await b.accepts_writes()
