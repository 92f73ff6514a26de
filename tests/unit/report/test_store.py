"""Where reports are kept, and how the newest of a plan are found."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from recovery.adapters.report_store import ObjectReportStore
from recovery.domain.durations import expected_seconds
from recovery.domain.report import RunReport, RunState, StepRecord, StepState
from recovery.errors import NotFound
from tests.fakes.object_store import MemoryStore

BEGAN = datetime(2026, 11, 1, tzinfo=UTC)


class Counted(MemoryStore):
    """Counts what is read."""

    def __init__(self) -> None:
        super().__init__()
        self.read = 0
        self.listed: list[str] = []

    async def get(self, key: str) -> tuple[bytes, str]:
        self.read += 1
        return await super().get(key)

    def list(self, prefix: str):
        self.listed.append(prefix)
        return super().list(prefix)


def report(plan: str, hours: float = 0, group: str = "shop") -> RunReport:
    began = BEGAN + timedelta(hours=hours)
    step = StepRecord(
        name="promote", activity="a", where="target", group=1, budget=timedelta(minutes=1), state=StepState.DONE,
        started_at=began, ended_at=began + timedelta(seconds=7),
    )  # fmt: skip
    return RunReport(
        plan=plan, group=group, run_id=f"{plan}-{hours}", workflow_id="w", state=RunState.COMPLETED, steps=[step],
        started_at=began, ended_at=began + timedelta(minutes=1),
    )  # fmt: skip


async def keep_as_before(store: MemoryStore, kept: RunReport) -> None:
    """Under the key that an earlier version gave it."""
    key = f"reports/{kept.group}/{kept.started_at:%Y%m%dT%H%M%SZ}-{kept.run_id}.json"
    await store.put(key, kept.model_dump_json().encode())


async def test_a_month_of_backups_hides_no_failover() -> None:
    objects = Counted()
    store = ObjectReportStore(objects)
    await store.store(report("Failover"))
    for number in range(1, 101):
        await store.store(report("Backup", 6 * number))
    assert expected_seconds(await store.recent("shop", 20, "Failover"), "Failover") == {"promote": 7.0}
    assert (objects.read, len(objects.listed)) == (1, 1), "a failover has no time for more"
    assert await store.recent("shop", 20, "Restore") == []


async def test_the_newest_come_first_of_one_plan_and_of_all() -> None:
    objects = MemoryStore()
    store = ObjectReportStore(objects)
    for plan, hours in (("Failover", 3), ("Backup", 1), ("Backup", 4), ("Backup", 2)):
        await store.store(report(plan, hours))
    await keep_as_before(objects, report("Retention", 5))
    await store.store(report("Backup", 9, group="shop2"))
    assert [each.run_id for each in await store.recent("shop", 2, "Backup")] == ["Backup-4", "Backup-2"]
    assert [each.run_id for each in await store.recent("shop", 3)] == ["Retention-5", "Backup-4", "Failover-3"]


async def test_reports_of_an_earlier_version_teach_until_the_plan_has_run_again() -> None:
    objects = MemoryStore()
    store = ObjectReportStore(objects)
    for hours, plan in enumerate(["Failover", "Backup", "Failover"]):
        await keep_as_before(objects, report(plan, hours))
    await store.store(report("Backup", 7))
    assert [each.run_id for each in await store.recent("shop", 20, "Failover")] == ["Failover-2", "Failover-0"]
    await store.store(report("Failover", 8))
    assert [each.run_id for each in await store.recent("shop", 20, "Failover")] == ["Failover-8"]


async def test_a_run_is_found_by_its_id_wherever_it_is_kept() -> None:
    objects = MemoryStore()
    store = ObjectReportStore(objects)
    await keep_as_before(objects, report("Failover", 1))
    key = await store.store(report("Failover", 2))
    assert key == "reports/shop/Failover/20261101T020000Z-Failover-2.json"
    for hours in (1, 2):
        assert await store.find("shop", f"Failover-{hours}") == report("Failover", hours)
    with pytest.raises(NotFound):
        await store.find("shop", "Failover-3")


async def test_a_damaged_report_is_left_out() -> None:
    objects = MemoryStore()
    store = ObjectReportStore(objects)
    objects.objects[await store.store(report("Failover", 1))] = b"{"
    await store.store(report("Failover", 2))
    assert [each.run_id for each in await store.recent("shop", 20, "Failover")] == ["Failover-2"]
