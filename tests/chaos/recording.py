"""A recording activity for every activity that a plan's table names, under the same name.

The lock (``Ownership``) and the loading of the configuration are the real ones: they are the engine's other half.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
from recovery.domain.group import GroupSnapshot
from recovery.domain.plan import PlanContext, StepOutcome
from tests.chaos.variants import group, variant_of
from tests.chaos.world import FileNotifier, FileReports, SqliteOwnership, World
from tests.fakes.measurements import FakeMeasurements
from workers.registry import activities_of
from workflows.plans import PLANS
from workflows.steps import Activity, Plan

REAL = ("ownership.", "configuration.")


def name_of(method: Activity) -> str:
    """The name under which a table's activity is known to Temporal."""
    definition: object = vars(method)["__temporal_activity_definition"]
    return str(getattr(definition, "name", ""))


def recorded(plans: Mapping[str, Plan]) -> set[str]:
    """The names of all activities that the tables name, but for those that stay real."""
    used = {each for plan in plans.values() for row in plan.steps() for each in (row.activity, row.undo, row.observe)}
    return {name for each in used if each is not None and not (name := name_of(each)).startswith(REAL)}


def _recording(name: str) -> Callable[..., Any]:
    @step(name)
    async def run(self, context: PlanContext) -> StepOutcome:
        # Temporal finds the argument's type only where self has none, as in a method.
        world, asked = World(self.root, context.request.group), activity.info().activity_id
        if asked.startswith("observe "):
            return StepOutcome(effect_present=context.step in world.present)
        if asked.startswith("undo "):  # the same activity may be a step of its own elsewhere
            world.undo(context.step)
            return StepOutcome(summary=asked)
        world.do(context.step)
        return StepOutcome(summary=f"do {asked}", facts=variant_of(context.request.group).told_by(name))

    return run


class RecordingSteps:
    """Its methods are made from the tables, below."""

    def __init__(self, root: Path) -> None:
        self.root = root


for _name in recorded(PLANS):
    setattr(RecordingSteps, _name.replace(".", "_"), _recording(_name))


class KnownGroups:
    """``recovery.ports.configuration.Configuration``: every group exists, and looks as its variant does."""

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
