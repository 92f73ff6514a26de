"""An old primary returns: what it alone has is saved and listed, then it is rewound or cloned, never half."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from recovery.adapters.diverged_folder import SealedFolder, open_diverged
from recovery.adapters.postgres import standby_files as files
from recovery.adapters.postgres.host import INCOMPLETE
from recovery.adapters.postgres.rejoin_folders import Work, begin_rewind, write_work
from recovery.adapters.postgres.standbys import LocalStandbys
from recovery.backup.sealing import Opener, Sealer, generate_age_key
from recovery.domain.guarding import StoreRole
from recovery.domain.timelines import lsn_order
from recovery.errors import Refused, RestoreFailed, Unreachable
from recovery.ports.standby import RejoinOptions
from tests.integration.postgres_pair import REPLICATOR, Load, Node, cluster, replayed, stop
from tests.integration.postgres_servers import eventually, public_folder

KEY = generate_age_key()


@pytest.fixture
async def sealer() -> AsyncIterator[Sealer]:
    async with Sealer([KEY.public], threads=1) as sealer:
        yield sealer


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Node, Node]]:
    with public_folder() as folder:
        async with cluster(folder, "a", "b") as (a, b):
            yield a, b


def standbys(node: Node) -> LocalStandbys:
    return LocalStandbys(node.postgres.host.binaries)


def options(upstream: Node, effect_id: str = "rejoin-1", **more: object) -> RejoinOptions:
    streaming = replace(REPLICATOR, host=upstream.place.host, port=upstream.place.port, slot="standby_a")
    return RejoinOptions(effect_id, streaming, **more)  # type: ignore[arg-type]


async def failed_over(a: Node, b: Node) -> list[int]:
    """B took over while A went on for a while; returns the ids that only A has."""
    await a.execute("INSERT INTO marks SELECT i, 'both' FROM generate_series(1, 100) i")
    await replayed(b, a)
    await b.guarded.stop_receiving()
    connection = await a.connect()
    for number in (501, 502, 503):
        await connection.execute("INSERT INTO marks VALUES ($1, 'only a')", number)
    async with connection.transaction():
        await connection.execute("UPDATE marks SET note = 'changed by a' WHERE id <= 50")
        await connection.execute("CREATE TABLE only_here (id int)")
    await connection.execute("ANALYZE marks")
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("INSERT INTO marks VALUES (504, 'never committed')")
    await a.guarded.demote()
    connection.terminate()
    await b.guarded.promote(2)
    await b.execute("INSERT INTO marks SELECT i, 'only b' FROM generate_series(1001, 1010) i")
    return [501, 502, 503]


async def rows(node: Node) -> set[tuple[int, str]]:
    connection = await node.connect()
    try:
        return {(row["id"], row["note"]) for row in await connection.fetch("SELECT id, note FROM marks")}
    finally:
        await connection.close()


async def follows(a: Node, b: Node) -> None:
    await b.execute("INSERT INTO marks VALUES ((SELECT max(id) + 1 FROM marks), 'after')")
    await replayed(a, b)
    assert await rows(a) == await rows(b)
    assert (await a.guarded.observe()).role is StoreRole.STANDBY
    assert await b.value("SELECT active FROM pg_replication_slots WHERE slot_name = 'standby_a'")
    left = sorted(path.name for path in a.folder.glob("a.*"))
    assert left == ["a.recovery-plans-rejoin.lock"]


async def test_divergence_lists_exactly_the_lost_transactions_and_saves_their_wal(
    pair: tuple[Node, Node], tmp_path: Path, sealer: Sealer
) -> None:
    a, b = pair
    await failed_over(a, b)
    before = a.control_mtime()
    sink = SealedFolder(tmp_path / "diverged", sealer)
    found = await standbys(a).save_divergence(a.place, b.login, sink, effect_id="save-1")
    assert a.control_mtime() == before and a.processes() == [], "only read"
    users = [each for each in found.transactions if not each.maintenance]
    assert found.count == len(users) == 4, found
    assert found.maintenance_count == 1, "ANALYZE"
    assert [each.relations for each in users[:3]] == [["postgres.public.marks"]] * 3
    assert "postgres.public.marks" in users[3].relations
    assert found.first_commit_at == users[0].committed_at and found.last_commit_at == users[-1].committed_at
    assert lsn_order(found.fork_lsn) <= lsn_order(users[0].lsn) < lsn_order(found.end_lsn)
    assert found.bytes == lsn_order(found.end_lsn) - lsn_order(found.fork_lsn) > 0
    assert "4 transactions" in found.summary()
    async with Opener([KEY.secret], threads=1) as opener:
        await open_diverged(tmp_path / "diverged", opener, tmp_path / "opened")
    for file in found.files:
        content = (tmp_path / "opened" / file.name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == file.sha256
        assert content == (a.data / "pg_wal" / file.name).read_bytes()
    assert len([file for file in found.files if not file.name.endswith(".history")]) == 1
    again = await standbys(a).save_divergence(a.place, b.login, sink, effect_id="save-1")
    assert again == found


async def test_nothing_diverged_after_a_planned_end(pair: tuple[Node, Node], tmp_path: Path, sealer: Sealer) -> None:
    a, b = pair
    async with Load(a):
        await a.guarded.end_in_order(10)
    await b.guarded.promote(2)
    found = await standbys(a).save_divergence(a.place, b.login, SealedFolder(tmp_path, sealer), effect_id="save-1")
    assert found.nothing and found.bytes == 0 and found.files == []
    back = await standbys(a).rejoin(a.place, b.login, options(b))
    assert back.method == "follow" and back.streaming
    await follows(a, b)
    sink = SealedFolder(tmp_path / "again", sealer)
    again = await standbys(a).save_divergence(a.place, b.login, sink, effect_id="save-2")
    assert again.nothing, "a standby that follows already is asked while another store of its region waits"


@pytest.mark.parametrize("running", [True, pytest.param(False, marks=pytest.mark.chaos)])
async def test_what_a_standby_has_of_a_later_timeline_is_listed_too(
    tmp_path: Path, sealer: Sealer, running: bool
) -> None:
    """It followed a promotion, and no checkpoint has told its control file of it yet. Then one is promoted that has
    less than it."""
    with public_folder() as folder:
        async with cluster(folder, "a", "b", "c") as (a, b, c):
            await replayed(b, a)
            await replayed(c, a)
            await a.guarded.demote()
            await b.guarded.promote(2)
            for node in (a, c):
                await node.guarded.follow(b.upstream)
                await replayed(node, b)
            await a.guarded.stop_receiving()
            for number in (501, 502, 503):
                await b.execute(f"INSERT INTO marks VALUES ({number}, 'not in a')")
            await replayed(c, b)
            await b.guarded.demote()
            await a.guarded.promote(3)
            if not running:
                stop(c.processes(), signal.SIGKILL)
                await eventually(lambda: ended(c))
            found = await standbys(c).save_divergence(
                c.place, a.login, SealedFolder(tmp_path / "diverged", sealer), effect_id="save-1"
            )
            assert found.count == 3 and found.files, found
            back = await standbys(c).rejoin(c.place, a.login, options(a))
            assert back.streaming and await rows(c) == await rows(a)


async def ended(node: Node) -> bool:
    return not node.processes()


async def test_missing_wal_stops_the_wiping(pair: tuple[Node, Node], tmp_path: Path, sealer: Sealer) -> None:
    a, b = pair
    await replayed(b, a)
    await b.guarded.stop_receiving()
    await a.execute("INSERT INTO marks VALUES (1); SELECT pg_switch_wal()")
    await a.execute("INSERT INTO marks VALUES (2)")
    fork = str(await b.value("SELECT pg_last_wal_replay_lsn()::text"))
    await a.guarded.demote()
    await b.guarded.promote(2)
    first = f"00000002{0:08X}{lsn_order(fork) // (16 << 20):08X}"
    (a.data / "pg_wal" / first).unlink()
    with pytest.raises(RestoreFailed, match="missing"):
        await standbys(a).save_divergence(a.place, b.login, SealedFolder(tmp_path, sealer), effect_id="save-1")


async def test_the_old_primary_is_rewound(pair: tuple[Node, Node]) -> None:
    a, b = pair
    lost = await failed_over(a, b)
    port = a.place.port
    back = await standbys(a).rejoin(a.place, b.login, options(b))
    print(f"rewind: {back.seconds:.2f} s")
    assert back.method == "rewind" and back.streaming and not back.already, back
    assert not {number for number, _ in await rows(a)} & {*lost, 504}
    assert a.place.port == port and await a.value("SHOW port") == str(port), "its own configuration"
    assert files.read_primary_mark(a.data) is None
    await follows(a, b)
    again = await standbys(a).rejoin(a.place, b.login, options(b))
    assert again.already and again.method == "rewind" and again.streaming
    await b.guarded.demote()
    promoted = await a.guarded.promote(3)
    assert promoted.timeline == 4, "a candidate again"


async def test_without_checksums_it_is_cloned(tmp_path: Path) -> None:
    with public_folder() as folder:
        async with cluster(folder, "a", "b", checksums=False) as (a, b):
            await failed_over(a, b)
            with pytest.raises(Refused, match="checksums"):
                await standbys(a).rejoin(a.place, b.login, options(b, method="rewind"))
            back = await standbys(a).rejoin(a.place, b.login, options(b))
            print(f"clone: {back.seconds:.2f} s")
            assert back.method == "clone" and "checksums" in back.why_not_rewind and back.streaming
            assert await a.value("SHOW port") == str(a.place.port)
            await follows(a, b)


async def test_a_clone_that_its_guard_starts_keeps_the_old_data_until_it_streams(pair: tuple[Node, Node]) -> None:
    a, b = pair
    await failed_over(a, b)
    old = a.data.with_name("a.recovery-plans-old")
    back = await standbys(a).rejoin(a.place, b.login, options(b, method="clone", start=False))
    assert back.method == "clone" and not back.streaming and old.exists() and str(old) in back.notes[-1]
    assert a.processes() == [] and (await a.guarded.observe()).role is StoreRole.STOPPED
    again = await standbys(a).rejoin(a.place, b.login, options(b, method="clone", start=False))
    assert again.already
    await a.another_guard(replication=replace(REPLICATOR, slot="standby_a")).follow(b.upstream)
    await follows(a, b)


async def test_with_passwords_nothing_secret_is_on_a_command_line(pair: tuple[Node, Node]) -> None:
    a, b = pair
    await failed_over(a, b)
    await b.execute("ALTER ROLE postgres PASSWORD 'root word'; ALTER ROLE replicator PASSWORD 'copy: word'")
    hba = "host all all 127.0.0.1/32 scram-sha-256\nhost replication all 127.0.0.1/32 scram-sha-256\n"
    for node in (a, b):
        (node.data / "pg_hba.conf").write_text(hba)
    await b.execute("SELECT pg_reload_conf()")
    login = replace(b.login, password="root word")
    streaming = replace(options(b).streaming, password="copy: word")
    seen: set[str] = set()
    watching = asyncio.create_task(_command_lines(seen))
    methods: tuple[Literal["rewind", "clone"], ...] = ("rewind", "clone")
    for number, method in enumerate(methods):
        wanted = replace(options(b, f"rejoin-{number}"), streaming=streaming, method=method)
        if number:
            await a.guarded.demote()
        back = await standbys(a).rejoin(a.place, login, wanted)
        assert back.method == method and back.streaming
    watching.cancel()
    assert any("pg_rewind" in line for line in seen) and any("pg_basebackup" in line for line in seen)
    assert not [line for line in seen if "copy: word" in line or "root word" in line]
    passfile = files.passfile_of(a.data)
    assert passfile.stat().st_mode & 0o777 == 0o600 and passfile.stat().st_uid == a.data.stat().st_uid
    assert "word" not in (a.data / "postgresql.auto.conf").read_text()


async def _command_lines(seen: set[str]) -> None:
    while True:
        for process in Path("/proc").iterdir():
            if process.name.isdigit():
                with contextlib.suppress(OSError):
                    seen.add((process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        await asyncio.sleep(0.02)


async def test_an_interrupted_rewind_is_never_started_and_then_cloned(pair: tuple[Node, Node]) -> None:
    a, b = pair
    await failed_over(a, b)
    aside = files.work_folder(a.data)
    task = asyncio.create_task(standbys(a).rejoin(a.place, b.login, options(b)))

    async def at_work() -> bool:
        return aside.exists()

    await eventually(at_work)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert not a.data.exists() and aside.exists()
    for attempt in (a.guarded.start, lambda: a.guarded.start(owner=True), lambda: a.guarded.promote(2)):
        with pytest.raises(Refused):
            await attempt()
    assert (await a.guarded.observe()).role is StoreRole.STALE
    assert a.processes() == []
    back = await standbys(a).rejoin(a.place, b.login, options(b))
    assert back.method == "clone" and "interrupted" in back.why_not_rewind, back
    await follows(a, b)


async def test_a_rewind_that_had_not_touched_anything_begins_again(pair: tuple[Node, Node]) -> None:
    a, b = pair
    await failed_over(a, b)
    write_work(a.data, Work("rejoin-1", "rewinding"))
    (a.data / INCOMPLETE).touch()
    with pytest.raises(Refused, match="interrupted"):
        await a.guarded.start(owner=True)
    back = await standbys(a).rejoin(a.place, b.login, options(b))
    assert back.method == "rewind"
    await follows(a, b)


async def test_a_rewind_that_fails_becomes_a_clone(pair: tuple[Node, Node]) -> None:
    a, b = pair
    await failed_over(a, b)
    (a.data / "pg_wal/00000003.history").write_text("nonsense\n")
    (a.data / "global/pg_control").write_bytes((a.data / "global/pg_control").read_bytes())
    begin_rewind(a.data, files.work_folder(a.data), "rejoin-0")
    back = await standbys(a).rejoin(a.place, b.login, options(b))
    assert back.method == "clone"
    await follows(a, b)


async def test_timelines_of_one_number_are_cloned_not_rewound() -> None:
    with public_folder() as folder:
        async with cluster(folder, "a", "b", "c") as (a, b, c):
            await a.execute("INSERT INTO marks VALUES (1)")
            await replayed(b, a)
            await replayed(c, a)
            await a.guarded.demote()
            await b.guarded.promote(2)
            await c.guarded.promote(2)
            await c.execute("INSERT INTO marks VALUES (2, 'only c')")
            with pytest.raises(Refused, match="accepts writes"):
                await standbys(c).rejoin(c.place, b.login, options(b))
            await c.guarded.demote()
            back = await standbys(c).rejoin(c.place, b.login, options(b))
            assert back.method == "clone" and "same number" in back.why_not_rewind, back
            assert await rows(c) == await rows(b)


async def test_rewind_on_version_18(sealer: Sealer) -> None:
    with public_folder() as folder:
        async with cluster(folder, "a", "b", major=18) as (a, b):
            await failed_over(a, b)
            found = await standbys(a).save_divergence(
                a.place, b.login, SealedFolder(folder / "saved", sealer), effect_id="save-1"
            )
            assert found.count == 4, found
            back = await standbys(a).rejoin(a.place, b.login, options(b))
            assert back.method == "rewind", back
            await follows(a, b)


# What the monitor and the plans read.


async def test_replication_is_told_from_both_sides(pair: tuple[Node, Node]) -> None:
    a, b = pair
    port = standbys(a)
    assert await port.create_slots(a.login, ["one", "two"]) == ["one", "two"]
    assert await port.create_slots(a.login, ["two"]) == []
    await replayed(b, a)
    state = await port.replication_state(a.login)
    [standby] = state.standbys
    assert not state.in_recovery and standby.state == "streaming" and standby.client_address == "127.0.0.1"
    assert standby.lag_bytes == 0 and standby.lag_seconds == 0
    assert [slot.name for slot in state.slots] == ["one", "two"] and not state.slots[0].active
    assert state.slots[0].retained_bytes is not None and state.slots[0].wal_status == "reserved"
    await b.execute("SELECT pg_wal_replay_pause()")
    await a.execute("INSERT INTO marks SELECT generate_series(1, 1000)")
    lsn = await a.lsn()

    async def received() -> bool:
        return await port.has_received(b.login, lsn)

    await eventually(received)
    state = await port.replication_state(a.login)
    assert (state.standbys[0].lag_bytes or 0) > 1000 and state.standbys[0].unflushed_bytes == 0
    behind = await port.replication_state(b.login)
    assert behind.in_recovery and behind.receiving and (behind.replay_bytes or 0) > 1000
    assert behind.upstream == a.place.host + f":{a.place.port}" and (behind.lag_seconds or 0) > 0
    with pytest.raises(Unreachable, match="replayed"):
        await port.wait_until_replayed(b.login, lsn, 0.2)
    await b.execute("SELECT pg_wal_replay_resume()")
    assert lsn_order(await port.wait_until_replayed(b.login, lsn, 10)) >= lsn_order(lsn)
    assert await port.drop_slots(a.login, ["one", "none"]) == ["one"]
    assert (await port.history(b.login)).timelines[0].left_at is not None


async def test_the_write_probe_never_waits_longer_than_it_may(pair: tuple[Node, Node]) -> None:
    a, b = pair
    port = standbys(a)
    first = await port.write_probe(a.login, vantage="one", epoch=7)
    assert first.written and first.in_recovery is False and first.epoch is None
    second = await port.write_probe(a.login, vantage="two")
    assert second.written and second.epoch == 7
    await replayed(b, a)
    standby = await port.write_probe(b.login, vantage="one")
    assert not standby.written and standby.in_recovery and standby.epoch == 7
    blocker = await a.connect()
    await blocker.execute("BEGIN; LOCK TABLE recovery_plans.heartbeat")
    locked = await port.write_probe(a.login, vantage="one", timeout=0.7)
    assert not locked.written and locked.seconds < 1.5 and locked.reason
    await blocker.close()
    await a.execute(["ALTER SYSTEM SET synchronous_standby_names = 'nobody'", " SELECT pg_reload_conf()"][0])
    await a.execute("SELECT pg_reload_conf()")
    waiting = await eventually(lambda: _unwritten(port, a))
    assert waiting.seconds < 1.5 and "no answer" in waiting.reason
    stop(a.processes(), signal.SIGSTOP)
    frozen = await port.write_probe(a.login, vantage="one", timeout=0.7)
    assert not frozen.written and frozen.seconds < 1.5 and frozen.in_recovery is None


async def _unwritten(port: LocalStandbys, node: Node) -> object:
    probe = await port.write_probe(node.login, vantage="one", timeout=0.7)
    return None if probe.written else probe
