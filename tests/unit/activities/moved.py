"""A group that a run moves from one region into another, with the steps that do so."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.choosing import ChoosingSteps
from activities.guarding import GuardingSteps
from activities.looking import Look
from activities.reprotecting import ReprotectSteps
from activities.standbys import StandbySteps
from recovery.domain.group import GroupSnapshot
from recovery.domain.guarding import StoreRole
from recovery.domain.ownership import FenceProof, OwnershipRecord, Phase
from recovery.domain.plan import Facts, PlanContext, PlanRequest, StepOutcome
from tests.fakes.handover import NOW, FakeGuards, FakeHandover, FakeProbe, group_of, state
from tests.fakes.measurements import FakeMeasurements
from tests.fakes.ownership import FakeOwnershipStore

STANDBY, PRIMARY, STALE = StoreRole.STANDBY, StoreRole.PRIMARY, StoreRole.STALE
HELD = OwnershipRecord(
    group="shop", region="a", epoch=7, phase=Phase.RUNNING, run="run-1", workflow_id="recovery/shop",
    plan="Failover", changed_at=NOW,
)  # fmt: skip
PROOF = FenceProof(epoch=7, region="a", how="demotion-confirmed", by="b/1", at=NOW, run="run-1")
Step = Callable[[PlanContext], Awaitable[StepOutcome]]


class Opened:
    """``recovery.ports.recovery_points.Restores``, as far as it is asked here."""

    def __init__(self) -> None:
        self.opened: list[str] = []

    async def open_writes(self, group: GroupSnapshot, restored: object) -> None:
        self.opened.append(group.name)


@dataclass
class Site:
    """One group in regions a, b and c, a the owner."""

    group: GroupSnapshot = field(default_factory=lambda: group_of("a", "b", "c"))
    record: OwnershipRecord = HELD

    def __post_init__(self) -> None:
        self.ownership = FakeOwnershipStore()
        self.ownership.records["shop"] = (self.record, "1")
        self.guards = FakeGuards(self.ownership)
        self.guards.states = {"a": [state(PRIMARY)], "b": [state(STANDBY)], "c": [state(STANDBY, "0/3FFFFFF")]}
        self.handover, self.probe = FakeHandover(self.guards.states), FakeProbe()
        look = Look(self.guards, self.handover, self.ownership, self.probe)
        self.measurements = FakeMeasurements()
        self.choosing, self.reprotecting = ChoosingSteps(look), ReprotectSteps(look)
        self.serving = StandbySteps(look, self.measurements)
        self.restores = Opened()
        self.guarding = GuardingSteps(self.guards, self.guards, self.ownership, self.restores)  # type: ignore[arg-type]

    def context(self, plan: str = "Failover", step: str = "a-step", **more: object) -> PlanContext:
        request = {key: more.pop(key) for key in list(more) if key in PlanRequest.model_fields}
        facts = {"group": self.group, "source_region": "a", "target_region": "b", "ownership_before": HELD, **more}
        return PlanContext(
            plan=plan, run_id="run-1", first_run_id="run-1", workflow_id="recovery/shop", step=step,
            request=PlanRequest.model_validate({"group": "shop", **request}), facts=Facts.model_validate(facts),
            started_at=NOW,
        )  # fmt: skip

    async def run(self, method: Step, plan: str = "Failover", **more: Any) -> StepOutcome:
        outcome = await ActivityEnvironment().run(method, self.context(plan, **more))
        assert isinstance(outcome, StepOutcome)
        return outcome

    async def refused(self, method: Step, plan: str = "Failover", **more: Any) -> ApplicationError:
        with pytest.raises(ApplicationError) as caught:
            await self.run(method, plan, **more)
        return caught.value
