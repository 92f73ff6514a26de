"""The activities that keep an archive going: who owns the group, and what is looked at beside the archiver."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import generate_latest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

import activities.wal
from activities.wal import WalArchiving
from recovery.domain.group import GroupSnapshot, Objectives, PostgresAt, RegionPlan, WalRule
from recovery.domain.ownership import OwnershipRecord
from recovery.domain.wal_progress import HeldWal, WalOrder, WalProgress
from recovery.errors import RecoveryError, Unreachable
from recovery.telemetry.metrics import RecoveryMetrics
from recovery.telemetry.wal_metrics import WalMetrics
from tests.fakes.notifier import FakeNotifier
from tests.fakes.ownership import FakeOwnershipStore

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
GIB = 1 << 30


def group(wal: WalRule | None = None) -> GroupSnapshot:
    return GroupSnapshot(
        name="shop",
        objectives=Objectives(tier="critical", rto=timedelta(minutes=15), rpo=timedelta(minutes=5)),
        home_region="region-a",
        regions=[
            RegionPlan(name=name, task_queue=name, postgres=PostgresAt(host=name)) for name in ("region-a", "region-b")
        ],
        wal=wal or WalRule(),
    )


def progress(**more: object) -> WalProgress:
    usual: dict[str, object] = {
        "region": "region-a", "epoch": 3, "system_identifier": "7000", "timeline": 1, "archived": "0/5000",
        "server_position": "0/6000", "lag_bytes": 4096, "current_at": NOW, "archived_bytes": 100, "pieces": 1,
    }  # fmt: skip
    return WalProgress.model_validate({**usual, **more})


@dataclass
class FakeArchives:
    """Reports what it is given and goes on until it is told to fail."""

    reports: asyncio.Queue[WalProgress | RecoveryError] = field(default_factory=asyncio.Queue)
    orders: list[WalOrder] = field(default_factory=list)
    followed: list[tuple[str, str]] = field(default_factory=list)
    slot: HeldWal | None = None
    lacking: str | None = None

    async def archive(self, group: GroupSnapshot, order: WalOrder, report: Callable[[WalProgress], None]) -> None:
        self.orders.append(order)
        while True:
            found = await self.reports.get()
            if isinstance(found, RecoveryError):
                raise found
            report(found)

    async def follow(self, group: GroupSnapshot, region: str, archived: str) -> str:
        self.followed.append((region, archived))
        return archived

    async def held(self, group: GroupSnapshot, region: str) -> HeldWal | None:
        return self.slot

    async def lacks_base(
        self, group: GroupSnapshot, system_identifier: str, timeline: int, archived: str
    ) -> str | None:
        assert archived == "0/5000", "as far as the session knows it without a gap"
        return self.lacking


@dataclass
class Rig:
    snapshot_: GroupSnapshot
    ownership: FakeOwnershipStore
    archives: FakeArchives
    metrics: RecoveryMetrics
    notifier: FakeNotifier
    backups: list[str] = field(default_factory=list)
    busy: bool = False

    def __post_init__(self) -> None:
        measurements = WalMetrics(self.metrics, ["shop"], clock=(NOW + timedelta(seconds=3)).timestamp)
        self.steps = WalArchiving(self, self.ownership, self.archives, measurements, self.notifier, self._start_backup)

    def snapshot(self, group: str) -> GroupSnapshot:
        return self.snapshot_

    async def _start_backup(self, order: WalOrder, why: str) -> bool:
        if not self.busy:
            self.backups.append(why)
        return not self.busy

    async def own(self, region: str, epoch: int) -> None:
        found = await self.ownership.read("shop")
        record = OwnershipRecord(group="shop", region=region, epoch=epoch, changed_at=NOW)
        await self.ownership.write(record, version=found[1] if found else None)

    @contextlib.asynccontextmanager
    async def session(self, **order: object) -> AsyncIterator[asyncio.Task[str]]:
        given = WalOrder.model_validate({"group": "shop", "region": "region-a", "epoch": 3, **order})
        task: asyncio.Task[str] = asyncio.ensure_future(ActivityEnvironment().run(self.steps.archive, given))
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    @property
    def titles(self) -> list[str]:
        return [sent.title for sent in self.notifier.sent]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
async def rig(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    monkeypatch.setattr(activities.wal, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(activities.wal, "BASE_SECONDS", 0.02)
    metrics = RecoveryMetrics()
    made = Rig(group(), FakeOwnershipStore(), FakeArchives(), metrics, FakeNotifier())
    await made.own("region-a", 3)
    yield made
    metrics.close()


async def test_the_archive_is_where_the_owner_is(rig: Rig) -> None:
    found = await ActivityEnvironment().run(rig.steps.find_owner, "shop")
    assert (found.region, found.queue, found.epoch) == ("region-a", "region-a", 3)
    assert found.control_queue, "base backups are started on it"
    await rig.own("region-b", 4)
    assert (await ActivityEnvironment().run(rig.steps.find_owner, "shop")).region == "region-b"
    rig.snapshot_ = rig.snapshot_.model_copy(update={"wal": None})
    assert (await ActivityEnvironment().run(rig.steps.find_owner, "shop")).region is None


async def test_a_session_ends_when_the_group_moves(rig: Rig) -> None:
    async with rig.session() as task:
        rig.archives.reports.put_nowait(progress())
        await until(lambda: bool(rig.archives.followed))
        assert rig.archives.followed[0] == ("region-b", "0/5000"), "the other region's slot follows the archive"
        await rig.own("region-b", 4)
        async with asyncio.timeout(10):
            assert await task == "region-b owns the group with epoch 4"


async def test_a_witness_that_does_not_answer_ends_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(group: str) -> None:
        raise Unreachable("no witness")

    async with rig.session() as task:
        rig.archives.reports.put_nowait(progress())
        await until(lambda: bool(rig.archives.followed))
        monkeypatch.setattr(rig.ownership, "read", silent)
        before = len(rig.archives.followed)
        await until(lambda: len(rig.archives.followed) > before + 3)
        assert not task.done()


async def test_an_error_of_the_archiver_ends_the_session_with_its_words(rig: Rig) -> None:
    async with rig.session() as task:
        rig.archives.reports.put_nowait(progress())
        rig.archives.reports.put_nowait(Unreachable("PostgreSQL went away"))
        with pytest.raises(ApplicationError, match="PostgreSQL went away") as caught:
            async with asyncio.timeout(10):
                await task
        assert not caught.value.non_retryable
    assert b"dr_wal_archive_lag_bytes{" not in generate_latest(rig.metrics.registry)


async def test_a_gap_is_told_at_once_and_a_base_backup_is_started_until_one_could_be(rig: Rig) -> None:
    rig.archives.lacking, rig.busy = "no recovery point leads there", True
    async with rig.session():
        rig.archives.reports.put_nowait(progress(gap="0/5000 to 0/9000, timeline 1"))
        await until(lambda: bool(rig.titles))
        sent = rig.notifier.sent[0]
        assert (sent.severity, sent.title) == ("critical", "WAL of shop has a gap in its archive")
        assert "0/5000 to 0/9000" in sent.body
        assert rig.backups == [], "one runs, which may have begun before the gap"
        rig.busy = False
        await until(lambda: bool(rig.backups))
        looks = len(rig.archives.followed)
        await until(lambda: len(rig.archives.followed) > looks + 5)
    assert rig.backups == ["no recovery point leads there"], "it is given time"
    assert rig.titles == ["WAL of shop has a gap in its archive"]


async def test_the_slots_wal_is_watched_and_each_level_told_once(rig: Rig) -> None:
    async with rig.session():
        rig.archives.slot = HeldWal(retained_bytes=3 * GIB, safe_bytes=GIB)
        rig.archives.reports.put_nowait(progress())
        await until(lambda: len(rig.titles) == 1)
        rig.archives.slot = HeldWal(retained_bytes=11 * GIB)
        await until(lambda: len(rig.titles) == 2)
        rig.archives.slot = HeldWal(retained_bytes=9 * GIB)  # hardly less: nothing new
        looks = len(rig.archives.followed)
        await until(lambda: len(rig.archives.followed) > looks + 5)
        rig.archives.slot = HeldWal(retained_bytes=GIB)
        await until(lambda: len(rig.titles) == 3)
    assert [sent.severity for sent in rig.notifier.sent] == ["warning", "critical", "info"]
    assert "holds 3 GiB of WAL; it is given up after 1 GiB more" in rig.notifier.sent[0].body


async def test_a_slot_that_the_server_is_about_to_give_up_is_critical_however_little_it_holds(rig: Rig) -> None:
    async with rig.session():
        rig.archives.slot = HeldWal(retained_bytes=GIB, safe_bytes=GIB // 10)
        rig.archives.reports.put_nowait(progress())
        await until(lambda: len(rig.titles) == 1)
        rig.archives.slot = HeldWal(retained_bytes=GIB, safe_bytes=GIB // 5)  # hardly more left: nothing new
        looks = len(rig.archives.followed)
        await until(lambda: len(rig.archives.followed) > looks + 5)
        rig.archives.slot = HeldWal(retained_bytes=GIB, safe_bytes=GIB)
        await until(lambda: len(rig.titles) == 2)
    assert [sent.severity for sent in rig.notifier.sent] == ["critical", "info"]


async def test_a_location_that_is_not_waited_for_any_more_is_told_once(rig: Rig) -> None:
    rig.snapshot_ = group(WalRule(optional_locations=["spare"]))
    async with rig.session():
        rig.archives.reports.put_nowait(progress(behind={"far": "no answer", "spare": "it is slower"}))
        await until(lambda: bool(rig.titles))
        looks = len(rig.archives.followed)
        await until(lambda: len(rig.archives.followed) > looks + 5)
    assert rig.titles == ["WAL of shop is archived without far"]


async def test_after_failures_people_hear_that_it_goes_on(rig: Rig) -> None:
    async with rig.session(failed=5):
        rig.archives.reports.put_nowait(progress())
        await until(lambda: bool(rig.titles))
    assert rig.titles == ["WAL of shop is archived again"]


async def test_what_is_measured(rig: Rig) -> None:
    def shown() -> str:
        return generate_latest(rig.metrics.registry).decode()

    labels = '{group="shop",region="region-a"}'
    assert 'dr_wal_archive_configured{group="shop"} 1.0' in shown()
    async with rig.session():
        rig.archives.slot = HeldWal(retained_bytes=5000)
        rig.archives.reports.put_nowait(progress())
        await until(lambda: bool(rig.archives.followed))
        rig.archives.reports.put_nowait(progress(archived_bytes=250, gap="all of it"))
        await until(lambda: f"dr_wal_archive_gap{labels} 1.0" in shown())
        assert f"dr_wal_archived_age_seconds{labels} 3.0" in shown()
        assert f"dr_wal_archive_lag_bytes{labels} 4096.0" in shown()
        assert f"dr_wal_archive_retained_bytes{labels} 5000.0" in shown()
        assert f"dr_wal_archived_bytes_total{labels} 250.0" in shown()
