"""A small world of recording steps, in which the engine's rules are tested on a real Temporal server.

Each step has an effect (its name is in ``World.present``) and an undo that removes it, both idempotent, as every real
step must be. Faults are injected on either side of the effect.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RawValue

with workflow.unsafe.imports_passed_through():
    from activities.boundary import step
    from activities.configuration import ConfigurationSteps
    from activities.dns import DnsSteps
    from activities.ownership import Ownership
    from recovery.domain.group import GroupSnapshot, Objectives, RegionPlan
    from recovery.domain.plan import Facts, PlanContext, PlanRequest, StepOutcome
    from recovery.domain.recovery_point import CheckResult
    from recovery.domain.report import RunReport
    from recovery.errors import RecoveryError

from workflows.base import NOTHING, PlanWorkflow
from workflows.plans.failover import FAILOVER
from workflows.steps import CONTROL, HOLD, ONCE, PROBE, TARGET, WARN, Gate, Silence, Step, parallel, plan, s

GROUP = GroupSnapshot(
    name="shop",
    objectives=Objectives(tier="critical", rto=timedelta(minutes=15), rpo=timedelta(minutes=5)),
    home_region="region-a",
    regions=[RegionPlan(name="region-a", task_queue="queue-a"), RegionPlan(name="region-b", task_queue="queue-b")],
    config_hash="0" * 64,
)


@dataclass
class World:
    """What the steps did to the outside, and which faults wait for them."""

    present: set[str] = field(default_factory=set)
    log: list[str] = field(default_factory=list)
    requests: list[tuple[str, PlanRequest]] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    fail_before: dict[str, list[RecoveryError]] = field(default_factory=dict)
    fail_after: dict[str, list[RecoveryError]] = field(default_factory=dict)
    fail_undo: dict[str, list[RecoveryError]] = field(default_factory=dict)
    fail_observe: dict[str, list[RecoveryError]] = field(default_factory=dict)
    block: dict[str, asyncio.Event] = field(default_factory=dict)
    reached: dict[str, asyncio.Event] = field(default_factory=dict)
    effect_ids: set[str] = field(default_factory=set)
    group: GroupSnapshot = GROUP
    saying: str = ""  # instead of a short summary
    checks: list[CheckResult] = field(default_factory=list)
    target: str | None = None  # the region that the first step with an effect chooses

    def fault(self, where: dict[str, list[RecoveryError]], name: str) -> None:
        if where.get(name):
            raise where[name].pop(0)

    async def wait(self, name: str) -> None:
        self.reached.setdefault(name, asyncio.Event()).set()
        if name in self.block:
            await self.block[name].wait()

    async def until(self, name: str) -> None:
        async with asyncio.timeout(30):
            await self.reached.setdefault(name, asyncio.Event()).wait()


class Recording:
    """Steps whose only effect is an entry in the world."""

    def __init__(self, world: World) -> None:
        self.world = world

    @step("recording.act")
    async def act(self, context: PlanContext) -> StepOutcome:
        world, name = self.world, context.step
        world.calls[name] += 1
        world.requests.append((name, context.request))
        world.effect_ids.add(context.effect_id)
        await world.wait(f"before {name}")
        world.fault(world.fail_before, name)
        if name not in world.present:
            world.present.add(name)
            world.log.append(f"do {name}")
        await world.wait(f"after {name}")
        world.fault(world.fail_after, name)
        return StepOutcome(
            summary=world.saying or f"did {name}",
            checks=world.checks,
            warnings=[world.saying] * 100 if world.saying else [],
            facts=Facts(target_region=world.target),
        )

    @step("recording.undo")
    async def undo(self, context: PlanContext) -> StepOutcome:
        world, name = self.world, context.step
        await world.wait(f"undo {name}")
        world.fault(world.fail_undo, name)
        if name in world.present:
            world.present.remove(name)
            world.log.append(f"undo {name}")
        await world.wait(f"undone {name}")
        return StepOutcome(summary=f"undid {name}")

    @step("recording.observe")
    async def observe(self, context: PlanContext) -> StepOutcome:
        self.world.fault(self.world.fail_observe, context.step)
        return StepOutcome(effect_present=context.step in self.world.present, summary="seen")


DO, UNDO_IT, SEE = Recording.act, Recording.undo, Recording.observe

# fmt: off
REHEARSAL = plan(
    "Rehearsal", "every rule of the engine in one table",
    Step("load",    ConfigurationSteps.load, CONTROL, s(5), s(20), PROBE),
    Step("claim",   Ownership.claim_run,     CONTROL, s(5), s(20), PROBE, undo=Ownership.release_run),
    Step("prepare", DO, CONTROL, s(10), s(20), PROBE, undo=UNDO_IT),
    Step("tell",    DO, CONTROL, s(10), s(10), ONCE,  on_failure=WARN),
    parallel(
        Step("left",  DO, CONTROL, s(10), s(20), PROBE, undo=UNDO_IT),
        Step("right", DO, CONTROL, s(10), s(20), PROBE, undo=UNDO_IT),
    ),
    Step("check",   DO, CONTROL, s(10), s(20), PROBE, on_failure=HOLD),
    Step("gated",   DO, TARGET, s(10), s(20), PROBE, undo=UNDO_IT, gate=Gate("May the pivot begin?")),
    Step("pivot",   DO, CONTROL, s(10), s(20), PROBE, pivot=True, observe=SEE),
    Step("after",   DO, CONTROL, s(10), s(20), PROBE, undo=UNDO_IT),
    Step("release", Ownership.release_run,   CONTROL, s(5), s(20), PROBE),
    locks_group=True,
)
CROSSING = plan(
    "Crossing", "a parallel row in which one step fails, one is held and one goes on",
    Step("load",  ConfigurationSteps.load, CONTROL, s(5), s(20), PROBE),
    Step("first", DO, CONTROL, s(10), s(20), PROBE, undo=UNDO_IT),
    parallel(
        Step("fails", DO, CONTROL, s(10), s(20), PROBE, undo=UNDO_IT),
        Step("held",  DO, CONTROL, s(10), s(20), PROBE, undo=UNDO_IT, on_failure=HOLD, silence=Silence.SKIP),
        Step("holds", DO, CONTROL, s(10), s(20), PROBE, undo=UNDO_IT, on_failure=HOLD, silence=Silence.WAIT),
        Step("warns", DO, CONTROL, s(10), s(20), PROBE, on_failure=WARN),
    ),
    Step("last", DO, CONTROL, s(10), s(20), PROBE),
)
HANDING = plan(
    "Handing", "what failovers and switchovers ask of the engine beyond other plans",
    Step("load",    ConfigurationSteps.load, CONTROL, s(5), s(20), PROBE),
    Step("claim",   Ownership.claim_run,     CONTROL, s(5), s(20), PROBE, undo=Ownership.release_run),
    Step("choose",  DO, CONTROL, s(10), s(20), PROBE, costs_data=True),
    parallel(
        Step("tell",   DO, CONTROL, s(30), s(30), ONCE,  on_failure=WARN, beside=True),
        Step("orderly", DO, CONTROL, s(30), s(30), PROBE, graceful=True, when=lambda context: context.request.graceful),
    ),
    Step("fence",   DO, CONTROL, s(30), s(30), PROBE, undo=UNDO_IT, graceful=True, gate=Gate(
        "May data be lost?", asks=lambda context: context.request.accept_data_loss,
        two_persons=lambda context: context.group.second_person, only_persons=True)),
    Step("pivot",   DO, CONTROL, s(10), s(20), PROBE, pivot=True, observe=SEE),
    Step("release", Ownership.release_run,   CONTROL, s(5), s(20), PROBE),
    locks_group=True,
)
LEADING = plan(
    "Leading", "a failover's names after its pivot, in seconds instead of minutes",
    Step("load",    ConfigurationSteps.load, CONTROL, s(5), s(20), PROBE),
    Step("claim",   Ownership.claim_run,     CONTROL, s(5), s(20), PROBE, undo=Ownership.release_run),
    Step("choose",  DO, CONTROL, s(10), s(20), PROBE),
    Step("remember-records", DnsSteps.remember_records, CONTROL, s(5), s(20), PROBE),
    Step("pivot",   DO, CONTROL, s(10), s(20), PROBE, pivot=True, observe=SEE),
    replace(next(step for step in FAILOVER.steps() if step.name == "switch-dns"), attempt=s(1), budget=s(4)),
    Step("release", Ownership.release_run,   CONTROL, s(5), s(20), PROBE),
    locks_group=True,
)
# fmt: on


@workflow.defn
class Leading(PlanWorkflow):
    plan = LEADING

    @workflow.init
    def __init__(self, request: RawValue = NOTHING) -> None:
        self._prepare(request)

    @workflow.run
    async def run(self, request: RawValue = NOTHING) -> RunReport:
        return await self.engine.run()


@workflow.defn
class Handing(PlanWorkflow):
    plan = HANDING

    @workflow.init
    def __init__(self, request: RawValue = NOTHING) -> None:
        self._prepare(request)

    @workflow.run
    async def run(self, request: RawValue = NOTHING) -> RunReport:
        return await self.engine.run()


@workflow.defn
class Crossing(PlanWorkflow):
    plan = CROSSING

    @workflow.init
    def __init__(self, request: RawValue = NOTHING) -> None:
        self._prepare(request)

    @workflow.run
    async def run(self, request: RawValue = NOTHING) -> RunReport:
        return await self.engine.run()


@workflow.defn
class Rehearsal(PlanWorkflow):
    plan = REHEARSAL

    @workflow.init
    def __init__(self, request: RawValue = NOTHING) -> None:
        self._prepare(request)

    @workflow.run
    async def run(self, request: RawValue = NOTHING) -> RunReport:
        return await self.engine.run()
