"""What a worker that starts learns from earlier runs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

from prometheus_client import generate_latest

from recovery.adapters.report_store import ObjectReportStore
from recovery.domain.report import Achieved, RunReport, RunState
from recovery.telemetry.metrics import RecoveryMetrics
from tests.fakes.handover import group_of
from tests.fakes.object_store import MemoryStore
from workers.worker import _learn

BEGAN = datetime(2026, 11, 1, tzinfo=UTC)


def report(plan: str, hours: int, *, rto: float = 60) -> RunReport:
    began = BEGAN + timedelta(hours=hours)
    return RunReport(
        plan=plan, group="shop", run_id=f"{plan}-{hours}", workflow_id="w", state=RunState.COMPLETED, steps=[],
        started_at=began, ended_at=began + timedelta(minutes=1),
        achieved=Achieved(rto=timedelta(seconds=rto), rto_objective=timedelta(minutes=15)),
    )  # fmt: skip


async def test_compliance_survives_a_restart_however_many_backups_were_taken_since() -> None:
    store = ObjectReportStore(MemoryStore())
    await store.store(report("Failover", 0))
    await store.store(report("FullRecovery", 1, rto=9999))
    for number in range(2, 102):
        await store.store(report("Backup", number))

    async def reports() -> ObjectReportStore:
        return store

    async def catalogue(group: object) -> None: ...

    metrics = RecoveryMetrics()
    config = SimpleNamespace(groups={"shop": None}, snapshot=lambda name: group_of("a", "b"))
    await _learn(config, SimpleNamespace(reports=reports, catalogue=catalogue), metrics)  # type: ignore[arg-type]
    shown = generate_latest(metrics.registry).decode()
    metrics.close()
    assert "dr_rto_compliance_percent 50.0" in shown
