"""A recording activity for every activity that a plan's table names, under the same name.

The lock (``Ownership``) and the loading of the configuration are the real ones: they are the engine's other half.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from temporalio import activity
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from activities.boundary import step
from activities.configuration import ConfigurationSteps
from activities.notifications import Notifications
from activities.ownership import Ownership
from activities.reports import Reports
from recovery.adapters.incident_text import TemplateIncidentWriter
from recovery.domain.group import DnsRecord, GroupSnapshot, Objectives, PostgresAt, RegionPlan
from recovery.domain.managed import ManagedTarget, Way
from recovery.domain.ownership import FenceProof
from recovery.domain.plan import DnsBefore, Facts, PlanContext, RestoredServer, StepOutcome
from recovery.domain.recovery_point import BackupKind, Verdict, VerdictState
from tests.chaos.world import FileNotifier, FileReports, SqliteOwnership, World
from tests.fakes.measurements import FakeMeasurements
from workers.registry import activities_of
from workflows.plans import PLANS
from workflows.steps import Activity, Plan

NOW = datetime(2026, 11, 22, 5, 0, tzinfo=UTC)
REAL = ("ownership.", "configuration.")


def group(name: str, queue: str) -> GroupSnapshot:
    """A group of two regions, both of whose queues the recording workers take."""
    return GroupSnapshot(
        name=name,
        objectives=Objectives(tier="critical", rto=timedelta(minutes=15), rpo=timedelta(minutes=5)),
        home_region="region-a",
        regions=[_region("region-a", queue, "10.0.0.1"), _region("region-b", queue, "10.0.0.2")],
        streams=["ORDERS"],
        records=[DnsRecord(name="shop.example.com", zone="example.com")],
        config_hash="0" * 64,
        validation_queue=queue,
    )


def _region(name: str, queue: str, address: str) -> RegionPlan:
    """With every kind of store, and a guard."""
    return RegionPlan(
        name=name,
        task_queue=queue,
        dns_value=address,
        guard=f"http://{address}:7450",
        postgres=PostgresAt(host=address),
        redis=f"{address}:6379",
        nats=f"{address}:4222",
    )


RESTORED = RestoredServer(
    region="region-b", host="127.0.0.1", port=5432, database="shop", kind=BackupKind.PHYSICAL, point_id="point-1"
)
VERDICT = Verdict(
    point_id="point-1", group="shop", state=VerdictState.VALID, location="folder", manifest_sha256="0" * 64,
    validated_at=NOW, duration=timedelta(seconds=3), run_id="run",
)  # fmt: skip
DAMAGED = VERDICT.model_copy(update={"state": VerdictState.CORRUPT, "reason": "an object at folder differs"})

MANAGED = ManagedTarget(
    way=Way.RESTORE, source_region="region-a", source_instance="shop-production", region="region-b",
    instance="shop-restored", snapshot="newest",
)  # fmt: skip
FENCE = FenceProof(epoch=1, region="region-a", how="demotion-confirmed", by="region-b/guard", at=NOW, run="run")

# What the following steps need to know, as the real activities would tell them.
FACTS: Mapping[str, Facts] = {
    "restores.choose_target": Facts(target_region="region-b"),
    "choosing.choose_target": Facts(target_region="region-b"),
    "choosing.find_way_home": Facts(target_region="region-a", source_region="region-b", stale_regions=["region-a"]),
    "reprotecting.find_returned": Facts(target_region="region-b"),
    "guarding.fence": Facts(fence=FENCE),
    "managed_postgres.choose_replacement": Facts(managed=MANAGED, target_region="region-b"),
    "managed_postgres.fence_primary": Facts(fence=FENCE),
    "managed_postgres.confirm_service": Facts(service_restored_at=NOW + timedelta(seconds=5)),
    "standbys.write_probe": Facts(service_restored_at=NOW + timedelta(seconds=5)),
    "standbys.verify_switchover": Facts(verification_failed=""),
    "points.choose_validated": Facts(point_id="point-1", outage_began_at=NOW),
    "restores.restore_database": Facts(restored=RESTORED, last_recovered_commit_at=NOW),
    "restores.confirm_service": Facts(service_restored_at=NOW + timedelta(seconds=42)),
    "dns.remember_records": Facts(
        dns_before=[DnsBefore(name="shop.example.com", type="A", ttl=60, values=["10.0.0.1"], zone="example.com")]
    ),
    "points.take_physical_backup": Facts(physical_point="point-1"),
    "points.take_logical_backup": Facts(logical_point="point-2"),
    "points.choose_to_validate": Facts(points_to_validate=["point-1"]),
    "points.validate": Facts(verdicts=[DAMAGED]),
    "points.repair": Facts(points_repaired=["point-1"]),
    "points.prove_again": Facts(verdicts=[VERDICT]),
    "points.expire": Facts(points_removed=["point-0"]),
}


def name_of(method: Activity) -> str:
    """The name under which a table's activity is known to Temporal."""
    definition: object = vars(method)["__temporal_activity_definition"]
    return str(getattr(definition, "name", ""))


def recorded(plans: Mapping[str, Plan]) -> dict[str, str]:
    """Activity name -> ``do``, ``undo`` or ``observe``: what the tables use it for."""
    found: dict[str, str] = {}
    for plan in plans.values():
        for row in plan.steps():
            uses = {"do": row.activity, "undo": row.undo, "observe": row.observe}
            found.update({name_of(used): use for use, used in uses.items() if used is not None})
    return {name: use for name, use in found.items() if not name.startswith(REAL)}


def _recording(name: str, use: str) -> Callable[..., Any]:
    @step(name)
    async def run(self, context: PlanContext) -> StepOutcome:
        # Temporal finds the argument's type only where self has none, as in a method.
        world = World(self.root, context.request.group)
        if use == "observe":
            return StepOutcome(effect_present=context.step in world.present)
        (world.do if use == "do" else world.undo)(context.step)
        return StepOutcome(summary=f"{use} {context.step}", facts=FACTS.get(name, Facts()))

    return run


class RecordingSteps:
    """Its methods are made from the tables, below."""

    def __init__(self, root: Path) -> None:
        self.root = root


for _name, _use in recorded(PLANS).items():
    setattr(RecordingSteps, _name.replace(".", "_"), _recording(_name, _use))


class KnownGroups:
    """``recovery.ports.configuration.Configuration``: every group exists and looks alike."""

    def __init__(self, queue: str) -> None:
        self.queue = queue

    def snapshot(self, name: str) -> GroupSnapshot:
        return group(name, self.queue)


def activities(root: Path, queue: str) -> list[Callable[..., Any]]:
    """All that a worker needs to run every plan."""
    reports = FileReports(root / "reports")
    steps = activities_of(
        RecordingSteps(root),
        Ownership(SqliteOwnership(root / "ownership.db")),
        ConfigurationSteps(KnownGroups(queue), reports),
    )
    notifications = Notifications(FileNotifier(root / "alerts"), TemplateIncidentWriter())
    return [*steps, notifications.alert, Reports(reports, FakeMeasurements()).store]


class Faults(Interceptor):
    """Lets the faults of a world strike on either side of every activity that is told of a group."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _Faults(next, self.root)


class _Faults(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, root: Path) -> None:
        super().__init__(next)
        self.root = root

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        given = input.args[0]
        if not isinstance(given, PlanContext):
            return await self.next.execute_activity(input)
        world, name = World(self.root, given.request.group), activity.info().activity_id
        world.called(name)
        await world.meet(name, "before")
        result = await self.next.execute_activity(input)
        await world.meet(name, "after")
        return result
