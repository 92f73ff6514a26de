"""RESTORE-BY-HAND.md's commands for archived WAL as they stand: exactly the commits up to a moment."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from recovery.adapters.postgres.folder import give_to
from recovery.domain.recovery_point import RecoveryPoint
from recovery.domain.timelines import lsn_order, lsn_text
from tests.fakes.points import AGE, SIGNING, signer
from tests.integration.ledger import SCHEMA, Ledger, writing
from tests.integration.postgres_servers import Server, eventually, running_source
from tests.integration.test_wal_archive import Archive, Receiver
from tests.system.by_hand import Hand, PhysicalCopy, a_hand

pytestmark = pytest.mark.system
SEGMENT = 16 << 20
POINT = "20261122T101500Z-physical-1a2b3c4d"


@dataclass
class Lost:
    """A server that is lost, and what was archived of it: ``told`` are the positions that were reported."""

    hand: Hand
    server: Server
    ledger: Ledger
    point: RecoveryPoint
    told: list[int]
    fork: int = 0
    noted: tuple[datetime, int] = (datetime.max, 0)

    @property
    def stop(self) -> int:
        return lsn_order(self.point.manifest.postgres.stop_lsn or "")

    async def copy(self, name: str) -> PhysicalCopy:
        tool = await self.server.postgres.host.binaries.tool(16, "pg_ctl")
        return PhysicalCopy(self.hand, self.server.postgres, tool.parent, self.hand.found_page(), name)


@pytest.fixture(scope="module")
async def lost() -> AsyncIterator[Lost]:
    """Its settings of old say that it archives."""
    with a_hand() as hand:
        async with running_source(hand.folder, schema=SCHEMA) as server:
            for setting in ("archive_mode = on", "archive_command = 'cp %p /nowhere'"):
                await server.execute(f"ALTER SYSTEM SET {setting}")
            found = await archived_and_lost(hand, server)
        await hand.page([found.point])
        yield found


async def archived_and_lost(hand: Hand, server: Server) -> Lost:
    """Under load: an archiver that is killed, a base backup, a promotion, and the end."""
    archive = Archive(hand.folder, AGE, signer(), [hand.location])
    ledger, told = Ledger(server.connect), list[int]()
    receiver = await Receiver.start(archive, SIGNING.secret, server)
    try:
        async with writing(ledger):
            await receiver.next_state()
            point = await hand.take(server.postgres.physical_source(server.login, POINT), POINT)
            lost = Lost(hand, server, ledger, point, told)
            told += [lsn_order(state["archived"]) for state in await receiver.kill()]
            receiver = await Receiver.start(archive, SIGNING.secret, server)
            await receiver.until(lost.stop + 1)
            lost.noted = (datetime.now(UTC), len(ledger.commits))
            later = ledger.commits[-1][2]
            told.append(lsn_order((await receiver.until(later + 1))["archived"]))
            server.kill()
        told += [lsn_order(state["archived"]) for state in await receiver.rest() if "archived" in state]
        signal = server.place.data_directory / "standby.signal"
        signal.touch()
        give_to(signal, server.postgres.host.user_for(server.place))
        await server.postgres.host.start(server.place)
        await server.execute("SELECT pg_promote(true, 30)", "postgres")
        lost.fork = lsn_order((await _history(server)).split()[-1])
        receiver = await Receiver.start(archive, SIGNING.secret, server)
        async with writing(ledger):
            while (await receiver.next_state())["timeline"] != 2:
                pass
            await receiver.next_state()
            server.kill()
        told += [lsn_order(state["archived"]) for state in await receiver.rest() if "archived" in state]
    finally:
        await receiver.kill()
    return lost


async def _history(server: Server) -> str:
    """Its one line: the timeline that was left, and where."""
    text = (server.place.data_directory / "pg_wal" / "00000002.history").read_text()
    return " ".join(text.split()[:2])


async def ids(copy: Server) -> list[int]:
    return list(await copy.value("SELECT array_agg(id ORDER BY id) FROM commits"))


async def test_every_reported_position_is_reached(lost: Lost) -> None:
    """On the timeline of the backup, at the end of one of its segments, and on the timeline that a promotion began.

    The backup has WAL from behind it, as that of a standby may.
    """
    later = f"cp {lost.server.place.data_directory}/pg_wal/0* data/pg_wal/"
    first = min(each for each in lost.told if each > lost.stop)
    boundary = lost.stop - lost.stop % SEGMENT + SEGMENT
    assert lost.stop < boundary <= max(lost.told) and first < lost.fork < max(lost.told)
    for number, position in enumerate((first, boundary, max(lost.told))):
        copy = await lost.copy(f"lsn-{number}")
        async with copy.running(wal={"UNTIL": lsn_text(position)}, found=later) as restored:
            lost.ledger.expect(await ids(restored), position)


async def test_the_end_is_reached_and_nothing_comes_into_the_old_servers_archive(lost: Lost) -> None:
    before = sorted(str(path) for path in lost.hand.location.rglob("*"))
    copy = await lost.copy("everything")
    async with copy.running(wal={}) as restored:
        found = await ids(restored)
        assert len(found) >= max(number for number, _, after in lost.ledger.commits if after <= max(lost.told))
        histories = sorted((copy.place.data_directory / "pg_wal").glob("*.history"))
        assert [path.stem for path in histories] == ["00000002", "00000003"]
        lost.ledger.expect(found, lsn_order(histories[-1].read_text().splitlines()[-1].split("\t")[1]))
        assert await restored.value("SHOW archive_mode") == "off"
        await restored.execute("INSERT INTO commits VALUES (-1, 'goes on')")
        await restored.execute("SELECT pg_switch_wal()")
    assert sorted(str(path) for path in lost.hand.location.rglob("*")) == before


async def test_a_time_is_reached_by_the_old_servers_clock(lost: Lost) -> None:
    moment, committed = lost.noted
    copy = await lost.copy("time")
    async with copy.running(wal={"TIME": f"{moment:%Y-%m-%d %H:%M:%S.%f+00}"}) as restored:
        assert committed <= len(await ids(restored)) <= committed + 1


async def test_a_moment_after_the_last_commit_is_said_to_be_one(lost: Lost) -> None:
    copy = await lost.copy("late")
    folder, page = copy.place.data_directory.parent, copy.page
    try:
        await copy.make(wal={"TIME": "2100-01-01 00:00:00+00"})  # pg_ctl may find it while it can still be read

        async def ended() -> bool:
            return not (copy.place.data_directory / "postmaster.pid").exists()

        await eventually(ended)
        said = "recovery ended before configured recovery target was reached"
        assert said in (folder / "server.log").read_text() and said in page.text
        again = ["sed -i /^recovery_target_time/d data/postgresql.auto.conf", page.blocks("physical")[-1]]
        await lost.hand.done(again, folder, copy.user, path=copy.binaries)
        await eventually(lambda: copy.server.value("SELECT NOT pg_is_in_recovery()"))
        lost.ledger.expect(await ids(copy.server), max(lost.told))
    finally:
        await copy.stop()


async def test_without_all_of_the_wal_that_was_asked_for_no_server_starts(lost: Lost) -> None:
    copy = await lost.copy("beyond")
    folder = copy.place.data_directory.parent
    code, said = await copy.make(wal={"UNTIL": "FFFF/0"})
    assert code != 0 and "is archived up to" in said and "FFFF/0 is needed" in said
    # Nor for somebody who goes on all the same.
    *_, with_wal, start = copy.page.blocks("physical")
    goes_on = "set +e\nUNTIL=FFFF/0\n" + with_wal[with_wal.index("rm -f data/pg_wal") :]
    code, _ = await lost.hand.run([goes_on, start], folder, copy.user, path=copy.binaries)
    assert code != 0
    assert 'FATAL:  could not restore file "00000002.history" from archive' in (folder / "server.log").read_text()
    assert not (copy.place.data_directory / "postmaster.pid").exists()
    # With what there is it does, by the same commands once more.
    try:
        await lost.hand.done([with_wal, start], folder, copy.user, path=copy.binaries)
        await eventually(lambda: copy.server.value("SELECT NOT pg_is_in_recovery()"))
        lost.ledger.expect(await ids(copy.server), max(lost.told))
    finally:
        await copy.stop()
    assert not list((folder / "wal-archive").glob("*/*/history.json")), "the second copy stands in the first's place"
