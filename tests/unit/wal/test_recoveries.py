"""What a group's WAL archive can be used for: windows, the choice of a point, the files, the proof of the target."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import cast

import pytest

from recovery.adapters.key_ring import KeyRing
from recovery.adapters.logins import Logins
from recovery.adapters.wal_archives import PostgresWalArchives
from recovery.adapters.wal_recovery import WalRecovery, open_recovery
from recovery.backup.catalogue import Catalogue
from recovery.backup.layout import PointIdentity
from recovery.backup.pipeline import write_point
from recovery.backup.sealing import Opener, Sealer
from recovery.backup.signing import Signer
from recovery.backup.wal.archiver import ArchiveBudget, WalArchiver
from recovery.backup.wal.writer import ArchiveKeys
from recovery.domain.group import GroupSnapshot, Objectives, RegionPlan
from recovery.domain.recovery_target import ReachedPoint, RecoveryTarget
from recovery.domain.timelines import lsn_order, lsn_text
from recovery.domain.wal_archive import history_file, segment_file
from recovery.domain.wal_progress import ArchiveState
from recovery.errors import Corrupt, NotFound, Unreachable
from recovery.ports.postgres import BackupSource
from recovery.ports.recovery_points import ExpiredWal
from tests.fakes.object_store import MemoryStore, UnreadableStore
from tests.fakes.points import NOW, FakeSource, pg_source, signer, verdict_on, verifier
from tests.fakes.wal import FIRST, MOMENT, SEGMENT, FakeServer, FakeWal

GROUP = GroupSnapshot(
    name="shop",
    objectives=Objectives(tier="critical", rto=timedelta(minutes=15), rpo=timedelta(minutes=5)),
    home_region="region-a",
    regions=[RegionPlan(name="region-a", task_queue="a")],
)
QUICK = ArchiveBudget(flush_seconds=0.05)


@dataclass
class Rig:
    stores: list[MemoryStore]
    server: FakeServer
    archives: PostgresWalArchives
    sealer: Sealer

    async def archive(self, stores: Sequence[MemoryStore] | None = None) -> None:
        """Archives everything that the server has written."""
        states: list[ArchiveState] = []
        keys = ArchiveKeys("shop", "run-1", 7, self.sealer, signer(), verifier())
        archiver = WalArchiver(keys, stores or self.stores, budget=QUICK)
        task = asyncio.create_task(archiver.run(FakeWal(self.server), states.append))
        try:
            async with asyncio.timeout(20):
                while not (states and lsn_order(states[-1].archived) >= self.server.position):
                    assert not task.done(), task.exception()
                    await asyncio.sleep(0.005)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def point(
        self,
        name: str,
        start: int,
        stop: int,
        timeline: int = 1,
        *,
        stores: Sequence[MemoryStore] | None = None,
        signed_by: Signer | None = None,
        bases: Sequence[str] = (),
    ) -> str:
        identity = PointIdentity(
            point_id=f"20261122T101500Z-physical-{name}", group="shop", attempt=1, run_id="r", region="region-a",
            started_at=NOW,
        )  # fmt: skip
        source = FakeSource({"base.tar": [b"x"]}, source=pg_source(
            self.server.identifier, timeline=timeline, start_lsn=lsn_text(start), stop_lsn=lsn_text(stop),
            bases=list(bases),
        ))  # fmt: skip
        written = await write_point(
            cast(BackupSource, source), identity=identity, stores=stores or self.stores, sealer=self.sealer,
            signer=signed_by or signer(),
        )  # fmt: skip
        return written.manifest.point_id

    async def lacks_base(self, archived: int | None = None) -> str | None:
        """``archived``: as far as the session knows it; None: everything."""
        position = self.server.position if archived is None else archived
        return await self.archives.lacks_base(GROUP, self.server.identifier, 1, lsn_text(position))

    async def recovery(self, target: RecoveryTarget, point: str) -> WalRecovery:
        _, chosen = await self.archives.choose(GROUP, target, point)
        return await open_recovery(self.archives, GROUP, chosen)


def made_rig(sealer: Sealer, opener: Opener, stores: list[MemoryStore]) -> Rig:
    keys = KeyRing(sealer, verifier(), signer(), opener)
    return Rig(stores, FakeServer(), PostgresWalArchives(lambda group: stores, keys, cast(Logins, None)), sealer)


@pytest.fixture
def rig(sealer: Sealer, opener: Opener) -> Rig:
    return made_rig(sealer, opener, [MemoryStore("a"), MemoryStore("b")])


async def test_no_point_is_chosen_without_what_it_builds_on(rig: Rig) -> None:
    rig.server.write(2 * SEGMENT)
    await rig.archive()
    old = await rig.point("old", FIRST + 40, FIRST + 300)
    full = await rig.point("full", FIRST + 400, FIRST + 500)
    incremental = await rig.point("incremental", FIRST + 600, FIRST + 700, bases=[full])
    catalogue = Catalogue(rig.stores, verifier())
    for point_id in (old, incremental):
        found = await catalogue.point("shop", point_id)
        await catalogue.write_verdict(verdict_on(found.manifest, found.manifest_sha256), signer())
    assert (await rig.archives.choose(GROUP, RecoveryTarget(latest=True)))[0].point_id == incremental
    await catalogue.delete_point("shop", full)
    assert (await rig.archives.choose(GROUP, RecoveryTarget(latest=True)))[0].point_id == old


async def test_windows_begin_at_points_and_end_with_the_archived_wal(rig: Rig) -> None:
    rig.server.write(2 * SEGMENT + 5000)
    await rig.archive()
    point = await rig.point("one", FIRST + 40, FIRST + 300)
    await rig.point("early", FIRST - SEGMENT, FIRST - 100)
    (window,) = await rig.archives.all_windows(GROUP)
    assert (window.point_id, window.first, window.last) == (
        point, lsn_text(FIRST + 300), lsn_text(rig.server.position)
    )  # fmt: skip
    assert (window.last_time, window.validated) == (MOMENT, False)
    with pytest.raises(NotFound, match="no validated physical recovery point"):
        await rig.archives.choose(GROUP, RecoveryTarget(latest=True))
    with pytest.raises(NotFound, match="no physical recovery point 'other'"):
        await rig.archives.choose(GROUP, RecoveryTarget(latest=True), "other")


async def test_a_recovery_reads_nothing_behind_its_target(rig: Rig) -> None:
    rig.server.write(2 * SEGMENT + 5000)
    await rig.archive()
    point = await rig.point("one", FIRST + 40, FIRST + 300)
    target = FIRST + SEGMENT + 777
    recovery = await rig.recovery(RecoveryTarget(lsn=lsn_text(target)), point)
    names = [segment_file(1, FIRST + number * SEGMENT, SEGMENT) for number in range(3)]
    assert await recovery.fetch(names[0]) == rig.server.slice(FIRST, FIRST + SEGMENT)
    assert await recovery.fetch(names[1]) == rig.server.slice(FIRST + SEGMENT, target).ljust(SEGMENT, b"\0")
    with pytest.raises(NotFound):
        await recovery.fetch(names[2])
    assert recovery.options.settings == {}, "its end is where the WAL ends that it is given"


async def test_a_new_timelines_number_is_one_that_no_branch_has(rig: Rig) -> None:
    """PostgreSQL takes the first number without a history; a branch that is no ancestor has used one up."""
    rig.server.write(SEGMENT)
    rig.server.promote(2)
    rig.server.write(SEGMENT)
    await rig.archive()
    point = await rig.point("one", FIRST + 40, FIRST + 300)
    before = await rig.recovery(RecoveryTarget(lsn=lsn_text(FIRST + 5000)), point)
    assert before.chosen.timeline == 1
    assert b"promoted" in await before.fetch(history_file(2)), "else it would become a second timeline 2"
    with pytest.raises(NotFound):
        await before.fetch(history_file(3))
    with pytest.raises(NotFound):
        await before.fetch(segment_file(2, FIRST + SEGMENT, SEGMENT))
    after = await rig.recovery(RecoveryTarget(latest=True), point)
    assert (after.chosen.timeline, after.chosen.until) == (2, lsn_text(rig.server.position))


async def test_an_end_that_is_not_the_target_is_found_out(rig: Rig) -> None:
    rig.server.write(2 * SEGMENT)
    await rig.archive()
    point = await rig.point("one", FIRST + 40, FIRST + 300)
    recovery = await rig.recovery(RecoveryTarget(lsn=lsn_text(FIRST + 5000)), point)

    async def judged(timeline: int, lsn: int) -> tuple[bool, str]:
        check = await recovery.check(ReachedPoint(timeline=timeline, lsn=lsn_text(lsn), new_timeline=2))
        return check.passed, check.detail

    assert await judged(1, FIRST + 4900) == (
        True, f"LSN 0/301388: timeline 1, {lsn_text(FIRST + 4900)}; goes on with timeline 2"
    )  # fmt: skip
    assert "--timeline 1" in (await judged(2, FIRST + 4900))[1]
    assert "outside of" in (await judged(1, FIRST + 100))[1]
    assert "outside of" in (await judged(1, FIRST + 5008))[1]
    # A whole record between the end and the target.
    at = FIRST + 4000 - (FIRST + 4000) % 8
    rig.server.wal[at - FIRST : at - FIRST + 24] = (96).to_bytes(4, "little") + bytes(20)
    for store in rig.stores:
        await store.delete(list(store.objects))
    rig.server.restart = FIRST
    await rig.archive()
    point = await rig.point("two", FIRST + 40, FIRST + 300)
    recovery = await rig.recovery(RecoveryTarget(lsn=lsn_text(FIRST + 5000)), point)
    passed, detail = await judged(1, at)
    assert not passed and "was not replayed" in detail


@pytest.mark.parametrize("target", [RecoveryTarget(latest=True), RecoveryTarget(time=NOW)], ids=str)
async def test_wal_that_went_missing_before_the_target_is_no_success(rig: Rig, target: RecoveryTarget) -> None:
    rig.server.write(3 * SEGMENT)
    await rig.archive()
    point = await rig.point("one", FIRST + 40, FIRST + 300)
    _, chosen = await rig.archives.choose(GROUP, RecoveryTarget(latest=True), point)
    recovery = await open_recovery(rig.archives, GROUP, chosen.model_copy(update={"target": target}))
    second = segment_file(1, FIRST + SEGMENT, SEGMENT)
    for store in rig.stores:
        folder = f"-{FIRST + 2 * SEGMENT:016X}."
        await store.delete([key for key in store.objects if "/objects/" in key and folder in key])
    with pytest.raises(Corrupt, match="listed at"):
        await recovery.fetch(second)
    early = ReachedPoint(timeline=1, lsn=lsn_text(FIRST + SEGMENT), new_timeline=2, at_end_of_wal=True)
    check = await recovery.check(early)
    assert not check.passed and f"{second} holds WAL before the target" in check.detail
    if target.time is not None:
        stopped = early.model_copy(update={"at_end_of_wal": False, "last_commit_at": target.time})
        assert (await recovery.check(stopped)).passed, "PostgreSQL itself found the first commit that is later"


async def test_an_end_within_the_segment_of_a_fork_is_found_out(rig: Rig) -> None:
    rig.server.write(SEGMENT + 4000)
    rig.server.promote(2)
    rig.server.write(SEGMENT)
    at = FIRST + SEGMENT + 4800
    rig.server.wal[at - FIRST : at - FIRST + 24] = (96).to_bytes(4, "little") + bytes(20)
    await rig.archive()
    recovery = await rig.recovery(RecoveryTarget(latest=True), await rig.point("one", FIRST + 40, FIRST + 300))
    check = await recovery.check(ReachedPoint(timeline=2, lsn=lsn_text(at), new_timeline=3, at_end_of_wal=True))
    assert not check.passed and "was not replayed" in check.detail


async def test_a_recovery_does_not_begin_without_the_location_that_has_its_end(sealer: Sealer, opener: Opener) -> None:
    near, far = MemoryStore("near"), UnreadableStore("far")
    rig = made_rig(sealer, opener, [near, far])
    rig.server.write(SEGMENT)
    await rig.archive()
    rig.server.write(SEGMENT)
    await rig.archive([far])
    point = await rig.point("one", FIRST + 40, FIRST + 300)
    _, chosen = await rig.archives.choose(GROUP, RecoveryTarget(latest=True), point)
    far.broken = lambda method, key: Unreachable("far does not answer")
    with pytest.raises(Unreachable, match=f"near.* have the WAL up to {lsn_text(FIRST + SEGMENT)}"):
        await open_recovery(rig.archives, GROUP, chosen)


async def test_a_gap_asks_for_a_new_base_backup(rig: Rig) -> None:
    rig.server.write(SEGMENT)
    await rig.archive()
    assert await rig.lacks_base() is not None, "there is none at all"
    await rig.point("one", FIRST + 40, FIRST + 300)
    assert await rig.lacks_base() is None
    rig.server.write(3 * SEGMENT)
    rig.server.removed = rig.server.restart = FIRST + 3 * SEGMENT
    await rig.archive()
    why = await rig.lacks_base()
    assert why is not None and lsn_text(rig.server.position) in why
    await rig.point("two", FIRST + 3 * SEGMENT + 40, FIRST + 3 * SEGMENT + 300)
    assert await rig.lacks_base() is None


async def test_pieces_on_their_way_are_no_gap(rig: Rig) -> None:
    """Several are uploaded at once: the third may be there before the second is."""
    rig.server.write(3 * SEGMENT)
    await rig.archive()
    await rig.point("one", FIRST + 40, FIRST + 300)
    for store in rig.stores:
        await store.delete([key for key in store.objects if f"-{FIRST + 2 * SEGMENT:016X}." in key])
    partials = [key for key in rig.stores[0].objects if "/pieces/" in key and ".e7." in key]
    for store in rig.stores:
        await store.delete(partials)
    assert await rig.lacks_base(FIRST + SEGMENT) is None
    assert await rig.lacks_base(FIRST + 3 * SEGMENT) is not None


async def test_locations_complete_each_other(rig: Rig) -> None:
    rig.server.write(SEGMENT)
    await rig.archive([rig.stores[0]])
    rig.server.write(2 * SEGMENT)
    rig.server.removed = rig.server.restart = FIRST + SEGMENT
    await rig.archive([rig.stores[1]])
    await rig.point("one", FIRST + 40, FIRST + 300)
    (window,) = await rig.archives.all_windows(GROUP)
    assert window.last == lsn_text(rig.server.position)


async def test_wal_that_no_point_needs_is_removed_and_the_rest_still_recovers(rig: Rig) -> None:
    rig.server.write(SEGMENT // 2)
    await rig.archive()
    rig.server.write(2 * SEGMENT + 5000)
    await rig.archive()
    assert (await rig.archives.expire(GROUP)).pieces == 0, "without a point nothing is removed"
    point = await rig.point("one", FIRST + SEGMENT + 40, FIRST + SEGMENT + 300)
    before = {key for key in rig.stores[0].objects if "/postgres-wal/" in key}
    removed = (await rig.archives.expire(GROUP)).pieces
    after = {key for key in rig.stores[0].objects if "/postgres-wal/" in key}
    # At each location: the first unit, and the partials of it and of the other whole unit.
    assert removed % len(rig.stores) == 0 and len(before) - len(after) == 2 * removed // len(rig.stores)
    kept = sorted(key.rpartition("/")[2] for key in after if "/pieces/" in key)
    assert kept[0] == f"{FIRST + SEGMENT:016X}-{FIRST + 2 * SEGMENT:016X}.json"
    assert all(".e7." in name for name in kept[1:]), "the running unit's partials stay"
    assert {key for key in before if key.endswith("history.json")} <= after
    recovery = await rig.recovery(RecoveryTarget(latest=True), point)
    found = await recovery.fetch(segment_file(1, FIRST + 2 * SEGMENT, SEGMENT))
    assert found == rig.server.slice(FIRST + 2 * SEGMENT, rig.server.position).ljust(SEGMENT, b"\0")
    assert await rig.archives.expire(GROUP) == ExpiredWal(0)
