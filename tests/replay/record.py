"""Records the histories that the replay tests replay: ``python -m tests.replay.record [plan or monitor ...]``.

Run it, and commit what it wrote, whenever a table or the engine changes on purpose. A change that must not disturb
runs in flight needs a patch or worker versioning instead, and leaves these files as they are.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from temporalio.client import WorkflowHandle, WorkflowHistory

from recovery.domain.report import RunReport
from tests.chaos.cases import TABLES
from tests.chaos.stage import Stage
from tests.chaos.temporal_server import TemporalServer
from tests.chaos.world import Fault, World
from tests.replay.commands import commands
from tests.replay.monitors import SCENES
from workflows.control import OperatorCommand

HISTORIES = Path(__file__).parent / "histories"
FINGERPRINTS = Path(__file__).parent / "fingerprints.json"
ANA = OperatorCommand(actor="ana", reason="recorded for replay")
Handle = WorkflowHandle[object, RunReport]


@asynccontextmanager
async def _stage() -> AsyncIterator[Stage]:
    with tempfile.TemporaryDirectory() as folder:
        server = TemporalServer(Path(folder))
        stage = Stage(server, await server.start(), Path(folder), pairs=1)
        try:
            yield stage
        finally:
            stage.close()
            await server.kill()


async def _record(stage: Stage, name: str, plan: str, faults: list[Fault], answers: list[str]) -> None:
    async with stage.pair() as pair:
        world, handle = await stage.start(plan, pair.queue, faults)
        await _play(stage, world, handle, faults, answers)
        _keep(name, await handle.fetch_history())


def _keep(name: str, history: WorkflowHistory) -> None:
    (HISTORIES / f"{name}.json").write_text(json.dumps(_plain(json.loads(history.to_json())), indent=1) + "\n")


def _plain(value: Any) -> Any:
    """Without what differs from machine to machine and means nothing to a replay."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items() if key not in ("stackTrace", "identity", "taskId")}
    return [_plain(each) for each in value] if isinstance(value, list) else value


async def _play(stage: Stage, world: World, handle: Handle, faults: list[Fault], answers: list[str]) -> None:
    for answer in answers:
        if answer == "cancel":
            await stage.struck(world, faults[-1])
            await handle.cancel()
            world.release(faults[-1])
        else:
            while not await stage.end_or_hold(handle):
                await asyncio.sleep(0.1)
            await handle.execute_update(answer, ANA)
    await stage.end_or_hold(handle)


async def record(plans: Sequence[str]) -> None:
    """Only of ``plans``; of all where none is named."""
    HISTORIES.mkdir(exist_ok=True)
    async with _stage() as stage:
        for plan, table in TABLES.items():
            if plans and plan not in plans:
                continue
            await _record(stage, f"{plan} completed", plan, [], [])
            first = table.steps[0]
            await _record(stage, f"{plan} refused", plan, [Fault("fail", first.name, "before")], [])
            if any(step.undo for step in table.steps):
                failing = table.undone_by()
                await _record(stage, f"{plan} rolled back", plan, [Fault("fail", failing.name, "after")], [])
                undone = table.registered(failing)[-1]
                blocked = Fault("block", undone.name, "after")
                await _record(stage, f"{plan} cancelled", plan, [blocked], ["cancel"])
            if table.pivot is not None:
                await _record_pivot(stage, plan, table.pivot.name)
        for name, scene in SCENES.items():
            if not plans or name.partition(" ")[0] in plans:
                _keep(name, await scene(stage.client))
    FINGERPRINTS.write_text(json.dumps(fingerprints(), indent=2) + "\n")


async def _record_pivot(stage: Stage, plan: str, pivot: str) -> None:
    failed = [Fault("fail", pivot, "before")]
    await _record(stage, f"{plan} held and retried", plan, failed, ["retry"])
    await _record(stage, f"{plan} stopped after its pivot", plan, failed, ["abort"])
    await _record(stage, f"{plan} pivot seen to have worked", plan, [Fault("fail", pivot, "after")], [])
    withdrawn = Fault("block", f"record {pivot}", "after")
    await _record(stage, f"{plan} pivot withdrawn", plan, [withdrawn], ["cancel"])


def fingerprints() -> dict[str, list[str]]:
    """What each recorded run asked the server for, in its order: readable in a review."""
    found = {}
    for path in sorted(HISTORIES.glob("*.json")):
        found[path.stem] = commands(WorkflowHistory.from_json(path.stem, path.read_text()))
    return found


if __name__ == "__main__":
    asyncio.run(record(sys.argv[1:]))
