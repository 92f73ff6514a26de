"""Runs the cases: pairs of workers on queues of their own, and what is asked of every end."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import multiprocessing
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle
from temporalio.service import RPCError

from activities.ownership import Ownership
from recovery.domain.ownership import OwnershipRecord
from recovery.domain.report import RunReport, RunState, StepState
from tests.chaos.cases import REHEARSALS, Case
from tests.chaos.recording import REAL, name_of
from tests.chaos.temporal_server import TemporalServer
from tests.chaos.variants import PLAIN
from tests.chaos.worker_process import serve
from tests.chaos.world import Fault, SqliteOwnership, World
from workflows.control import OperatorCommand
from workflows.plans import PLANS
from workflows.steps import WARN, Step

PATIENCE = 180  # seconds for one case, on a machine that does much else
SPAWN = multiprocessing.get_context("forkserver")
SPAWN.set_forkserver_preload(["tests.chaos.worker_process"])
ANA = OperatorCommand(actor="ana", reason="looked at both regions")


class Pair:
    """Two workers of one queue. One that was killed is replaced, so that there is always another one."""

    def __init__(self, server: TemporalServer, root: Path, queue: str) -> None:
        self.queue = queue
        self._server = server
        self._root = root
        self._processes: list[ForkServerProcess] = []

    def fill(self, count: int = 2) -> None:
        self._processes = [process for process in self._processes if process.is_alive()]
        while len(self._processes) < count:
            process = SPAWN.Process(target=serve, args=(self._server.address, self.queue, str(self._root)), daemon=True)
            process.start()
            self._processes.append(process)

    def thaw(self) -> None:
        """Lets a frozen worker go on, with whatever it was about to do."""
        for process in self._processes:
            if process.is_alive() and process.pid is not None:
                os.kill(process.pid, signal.SIGCONT)

    def kill(self) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()


@dataclass(frozen=True)
class Played:
    """How a run ended, and what the outside looked like then."""

    status: WorkflowExecutionStatus | None
    report: RunReport
    world: World
    record: OwnershipRecord | None
    held: str  # the question that the operator had to answer; empty where there was none


class Stage:
    """One server's namespace, a folder for the worlds, and a few pairs of workers."""

    def __init__(self, server: TemporalServer, client: Client, root: Path, pairs: int) -> None:
        self.server = server
        self.client = client
        self.root = root
        self.ownership = SqliteOwnership(root / "ownership.db")
        self.pairs = [Pair(server, root, f"queue-{number}") for number in range(pairs)]
        self._free: asyncio.Queue[Pair] = asyncio.Queue()
        self._numbers = itertools.count(1)
        for pair in self.pairs:
            self._free.put_nowait(pair)

    @contextlib.asynccontextmanager
    async def pair(self) -> AsyncIterator[Pair]:
        pair = await self._free.get()
        try:
            pair.fill()
            yield pair
        finally:
            pair.thaw()
            self._free.put_nowait(pair)

    def close(self) -> None:
        for pair in self.pairs:
            pair.kill()

    async def start(
        self, plan: str, queue: str, faults: list[Fault], variant: str = PLAIN.name
    ) -> tuple[World, WorkflowHandle[object, RunReport]]:
        group = f"{variant}-{next(self._numbers)}"
        world = World(self.root, group)
        world.create(faults)
        handle: WorkflowHandle[object, RunReport] = await self.client.start_workflow(
            plan, {"group": group, "confirm_fence": True}, id=f"{plan}/{group}", task_queue=queue, result_type=RunReport
        )
        return world, handle

    async def play(self, case: Case) -> Played:
        async with self.pair() as pair, asyncio.timeout(PATIENCE):
            world, handle = await self.start(case.plan, pair.queue, list(case.faults), case.variant)
            fault = case.faults[-1]
            if case.cancel:
                await self.struck(world, fault)
                await handle.cancel()
                # Before the pivot the cancellation itself ends the block; elsewhere the step has to finish.
                world.release(fault)
            held = question = await self.end_or_hold(handle)
            while question:
                await self.answer(handle, question)
                question = await self.end_or_hold(handle)
            if fault.kind == "freeze":
                await self.late(world, fault, pair)
            return await self.outcome(world, handle, held)

    async def struck(self, world: World, fault: Fault) -> float:
        while (at := world.struck(fault)) is None:
            await asyncio.sleep(0.02)
        return at

    async def late(self, world: World, fault: Fault, pair: Pair) -> None:
        """The frozen worker goes on after all is over; its attempt must change nothing."""
        before = world.present
        pair.thaw()
        await asyncio.sleep(0.3)  # time for the late attempt to do harm
        assert world.present == before, f"{fault.name}: a late attempt changed the outside"

    async def end_or_hold(self, handle: WorkflowHandle[object, RunReport]) -> str:
        """The open question, or nothing when the run has ended."""
        ended = asyncio.create_task(_ended(handle))
        try:
            while not ended.done():
                report = await self.report(handle)
                if report is not None and report.hold_choices:
                    return report.hold_choices[0]
                await asyncio.wait([ended], timeout=0.25)
            await ended
            return ""
        finally:
            ended.cancel()

    async def report(self, handle: WorkflowHandle[object, RunReport]) -> RunReport | None:
        """None while no worker answers."""
        try:
            report: RunReport = await handle.query("progress", result_type=RunReport)
        except RPCError:
            return None
        return report

    async def answer(self, handle: WorkflowHandle[object, RunReport], question: str) -> None:
        """Steps that run beside each other are held each by itself."""
        update = "resume" if "resume" in question.lower() else "retry"
        report = await self.report(handle)
        steps = report.steps if report is not None else []
        held: list[str | None] = [step.name for step in steps if step.state is StepState.HELD]
        for name in held or [None]:
            await handle.execute_update(update, ANA.model_copy(update={"step": name}))

    async def outcome(self, world: World, handle: WorkflowHandle[object, RunReport], held: str) -> Played:
        report = None
        while report is None:
            report = await self.report(handle)
        found = await self.ownership.read(world.folder.name)
        described = await handle.describe()
        return Played(described.status, report, world, found[0] if found else None, held)


async def _ended(handle: WorkflowHandle[object, RunReport]) -> None:
    with contextlib.suppress(WorkflowFailureError):
        await handle.result()


def judge(case: Case, played: Played) -> None:
    """Complete, or completely undone, or held with its reason and then completed: never half of each."""
    assert [at for fault in case.faults if (at := played.world.struck(fault)) is None] == [], "a fault never struck"
    if case.end == "held":
        assert played.held, f"the run was not held: {played.report.state}"
    else:
        assert not played.held, f"the run was held: {played.held}"
    if case.end == "rolled-back":
        _judge_undone(case, played)
    else:
        _judge_complete(case, played)


def _judge_complete(case: Case, played: Played) -> None:
    table, world = REHEARSALS[case.plan, case.variant], played.world
    assert (played.status, played.report.state) == (WorkflowExecutionStatus.COMPLETED, RunState.COMPLETED)
    real = {step.name for step in table.steps if not _records(case.plan, step.name)}
    expected = ({step.name for step in table.steps} | case.added) - real - case.missing
    expected -= {step.name for step in table.steps if _went_on_without(case, step, played)}
    assert world.present == expected
    assert sorted(world.log) == sorted(f"do {name}" for name in expected), "each effect once, and nothing undone"
    assert played.report.undo_order == []
    if table.plan.locks_group:
        assert played.record is not None
        assert (played.record.run, played.record.pivot) == (None, None)
        if any(step.activity is Ownership.take_ownership for step in table.steps):
            assert played.record.region == "region-b"  # elsewhere a guard would have taken it


def _went_on_without(case: Case, step: Step, played: Played) -> bool:
    """Whether the plan went on without the step, as its row says. No worker took it in time: the one that did was
    killed before the effect, and the other was not there within seconds. Or a frozen one took it, and it is tried once:
    people are rather told nothing than twice."""
    record = next(record for record in played.report.steps if record.name == step.name)
    if record.state is not StepState.WARNED or step.on_failure is not WARN:
        return False
    if any(fault.kind == "freeze" for fault in case.faults) and step.retry.maximum_attempts == 1:
        return step.name not in played.world.present  # told or not, and nobody heard which
    killed = any(fault.kind == "kill" and (fault.at, fault.side) == (step.name, "before") for fault in case.faults)
    return killed and step.start_within is not None and "took the step in time" in record.error


def _judge_undone(case: Case, played: Played) -> None:
    table, world = REHEARSALS[case.plan, case.variant], played.world
    assert played.report.state is RunState.ROLLED_BACK
    wanted = WorkflowExecutionStatus.CANCELED if case.cancel else WorkflowExecutionStatus.FAILED
    assert played.status == wanted
    with_undo = [step.name for step in table.steps if step.undo is not None]
    assert world.present.isdisjoint(with_undo), "half of it is still there"
    assert table.pivot is None or table.pivot.name not in world.present
    registered = [name for name in with_undo if name in played.report.undo_order]
    assert played.report.undo_order == registered[::-1]
    undone = [line.removeprefix("undo ") for line in world.log if line.startswith("undo ")]
    done = [line.removeprefix("do ") for line in world.log if line.startswith("do ")]
    assert undone == [name for name in played.report.undo_order if name in undone]
    assert set(undone) == {name for name in done if name in with_undo}
    states = {step.state for step in played.report.steps if step.name in played.report.undo_order}
    assert states <= {StepState.UNDONE}
    if played.record is not None:
        assert (played.record.run, played.record.pivot, played.record.region) == (None, None, "region-a")


def _records(plan: str, step: str) -> bool:
    found = next(each for each in PLANS[plan].steps() if each.name == step)
    return not name_of(found.activity).startswith(REAL)
