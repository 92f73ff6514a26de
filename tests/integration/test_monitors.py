"""Three ``drctl monitor`` processes before two real PostgreSQL servers: who is reported as lost, when, and who is not.

The plan that is started only pretends: what counts here is whether and when it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.service import RPCError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from activities.monitoring import Monitoring
from activities.notifications import Notifications
from lab import Lab
from lab.control import python_environment
from lab.processes import die_with
from recovery.adapters.folder import FolderStore
from recovery.adapters.incident_text import TemplateIncidentWriter
from recovery.adapters.witness import WitnessStore
from recovery.config import Config
from tests.fakes.handover import FakeGuards
from tests.fakes.notifier import FakeNotifier
from tests.fakes.ownership import FakeOwnershipStore
from tests.integration.cuttable import Way
from tests.workflows.pretended import PretendedFailover, PretendedRecovery
from workers.options import worker_options
from workers.registry import activities_of
from workflows.health_monitor import MONITORS
from workflows.health_state import HealthView

POINTS = ("region-a", "region-b", "outside")
INTERVAL, THRESHOLD = 1.0, 3
SLOW_SECONDS = 9.0
TWO_MINUTES = 120.0
TEMPORAL = shutil.which("temporal", path=str(Path(sys.executable).parent))

CONFIGURATION = """
version: 1
temporal: {{address: "{temporal}", control_queue: "{queue}"}}
keys:
  recipients: ["age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"]
  trusted_signers: ["ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="]
witness: {{url: "file://{folder}/witness"}}
locations: {{store: {{url: "file://{folder}/store", versioning: ignored}}}}
guards: {{token: "env:GUARD_TOKEN"}}
notifications: {{channels: {{people: {{url: "env:PEOPLE"}}}}, attempts: 1, timeout: 2s}}
regions:
  region-a: {{role: primary, priority: 100, guard: "http://127.0.0.1:1", endpoints: {{postgres: "{region-a}"}}}}
  region-b: {{role: dr, priority: 90, guard: "http://127.0.0.1:1", endpoints: {{postgres: "{region-b}"}}}}
groups:
  {group}:
    tier: critical
    home: region-a
    regions: {{region-a: {{}}, region-b: {{}}}}
    postgres: {{databases: [shop], user: postgres, password: "env:SHOP_PASSWORD"}}
    replication: {{mode: streaming}}
    failover:
      policy: automatic
      vantage_points: [region-a, region-b, outside]
      health_check_interval: 1s
      health_check_timeout: {timeout}
      failure_threshold: 3
"""


@dataclass
class Onlooker:
    """One ``drctl monitor``, with ways of its own to everything that it looks at or tells."""

    vantage: str
    ways: dict[str, Way]
    config_file: Path
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self, environment: dict[str, str]) -> None:
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "drctl", "monitor", "--vantage", self.vantage, "--metrics-port", "0",
                 "--config", str(self.config_file), "--patience", "5"],
                env={**os.environ, **python_environment(), **environment},
                stdout=output, stderr=output, preexec_fn=die_with(os.getpid()),
            )  # fmt: skip

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            self.process.wait(20)

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""


@dataclass
class Scene:
    """A group that three onlookers watch, and its monitor."""

    lab: Lab
    client: Client
    folder: Path
    group: str = field(default_factory=lambda: f"shop-{uuid.uuid4().hex[:8]}")
    queue: str = field(default_factory=lambda: f"monitors-{uuid.uuid4()}")
    onlookers: dict[str, Onlooker] = field(default_factory=dict)
    notifier: FakeNotifier = field(default_factory=FakeNotifier)

    @property
    def environment(self) -> dict[str, str]:
        password = self.lab.postgres("region-a").password
        return {"SHOP_PASSWORD": password, "GUARD_TOKEN": "x" * 32, "PEOPLE": "json://127.0.0.1:9/"}

    def worker(self, region: str, number: int) -> subprocess.Popen[bytes]:
        with (self.folder / f"worker-{number}.log").open("wb") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "drctl", "--config", str(self.onlookers[region].config_file), "worker",
                 "--region", region, "--metrics-port", "0"],
                env={**os.environ, **python_environment(), **self.environment},
                stdout=output, stderr=output, preexec_fn=die_with(os.getpid()),
            )  # fmt: skip

    async def prepare(self, timeout: str, *, onlookers: bool = True) -> None:
        targets = {region: self.lab.postgres(region) for region in ("region-a", "region-b")}
        host, _, port = self.client.service_client.config.target_host.partition(":")
        for vantage in POINTS:
            ways = {name: await Way(place.host, place.port).listen() for name, place in targets.items()}
            ways["temporal"] = await Way(host, int(port)).listen()
            file = self.folder / f"{vantage}.yaml"
            file.write_text(
                CONFIGURATION.format(
                    queue=self.queue, folder=self.folder, group=self.group, timeout=timeout,
                    **{name: way.address for name, way in ways.items()},
                )
            )  # fmt: skip
            self.onlookers[vantage] = Onlooker(vantage, ways, file, self.folder / f"{vantage}.log")
        for onlooker in self.onlookers.values() if onlookers else ():
            onlooker.start(self.environment)

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        config = Config.load(self.onlookers["outside"].config_file)
        witness = WitnessStore(FolderStore("witness", self.folder / "witness"))

        async def watch(vantage: str, ordered_at: datetime) -> bool:
            return False

        monitoring = Monitoring(config, witness, watch, FakeGuards(FakeOwnershipStore()))
        notifications = Notifications(self.notifier, TemplateIncidentWriter())
        async with Worker(
            self.client,
            task_queue=self.queue,
            workflows=[*MONITORS, PretendedFailover, PretendedRecovery],
            activities=activities_of(monitoring, notifications),
            **worker_options(),
        ):
            yield

    async def view(self) -> HealthView | None:
        with contextlib.suppress(RPCError):
            found: HealthView = await self.client.get_workflow_handle(f"health/{self.group}").query(
                "health", result_type=HealthView
            )
            return found
        return None

    async def until(self, condition: Any, seconds: float) -> HealthView:
        view = None
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            view = await self.view()
            if view is not None and view.votes is not None and condition(view):
                return view
            await asyncio.sleep(0.05)
        logs = "\n".join(f"--- {each.vantage}\n{each.said[-1500:]}" for each in self.onlookers.values())
        raise AssertionError(f"not within {seconds} s: {view}\n{logs}")

    async def all_well(self) -> None:
        await self.until(lambda view: votes(view) == ["healthy"] * 3, 120)

    async def started(self) -> str | None:
        try:
            return (await self.client.get_workflow_handle(f"recovery/{self.group}").describe()).workflow_type
        except RPCError:
            return None

    async def stop(self) -> None:
        for onlooker in self.onlookers.values():
            onlooker.stop()
        for onlooker in self.onlookers.values():
            for way in onlooker.ways.values():
                await way.close()
        for name in (f"health/{self.group}", f"recovery/{self.group}"):
            with contextlib.suppress(RPCError):
                await self.client.get_workflow_handle(name).terminate("the test is over")


def votes(view: HealthView) -> list[str]:
    assert view.votes is not None
    return [ballot.vote.value for ballot in view.votes.ballots]


@pytest_asyncio.fixture(scope="module")
async def temporal() -> AsyncIterator[Client]:
    async with await WorkflowEnvironment.start_local(
        dev_server_existing_path=TEMPORAL,
        data_converter=pydantic_data_converter,
        dev_server_extra_args=["--dynamic-config-value", 'history.timerProcessorMaxTimeShift="10ms"'],
    ) as environment:
        yield environment.client


@pytest_asyncio.fixture(scope="module")
async def pair() -> AsyncIterator[Lab]:
    """A primary and its streaming standby."""
    async with await Lab.start(services={"postgres"}) as lab:
        yield lab


@contextlib.asynccontextmanager
async def watched(lab: Lab, client: Client, folder: Path, timeout: str = "5s") -> AsyncIterator[Scene]:
    scene = Scene(lab, client, folder)
    try:
        await scene.prepare(timeout)
        async with scene.working():
            await scene.all_well()
            yield scene
    finally:
        await scene.stop()


async def drctl(scene: Scene, *arguments: str) -> tuple[int, str]:
    """Exit code and standard output."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "drctl", "--config", str(scene.onlookers["outside"].config_file), *arguments,
        env={**os.environ, **python_environment(), **scene.environment, "NO_COLOR": "1"},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    print(out.decode(), err.decode())
    return process.returncode or 0, out.decode()


async def test_a_killed_primary_is_answered_in_time(pair: Lab, temporal: Client, tmp_path: Path) -> None:
    async with watched(pair, temporal, tmp_path) as scene:
        code, shown = await drctl(scene, "health")
        assert code == 0 and "not lost" in shown and shown.count("healthy") >= 6
        code, shown = await drctl(scene, "replication", "-o", "json")
        (replica,) = [each for each in json.loads(shown)["replicas"] if each["connected"]]
        assert code == 0 and json.loads(shown)["owner"] == "region-a"
        assert (replica["target"], replica["state"], replica["is_late"]) == ("region-b", "streaming", False)
        assert all(replica[lsn] for lsn in ("sent", "written", "flushed", "replayed"))
        assert "streaming" in (await drctl(scene, "replication"))[1]
        began = time.monotonic()
        await pair.kill("region-a", "postgres")
        try:
            view = await scene.until(lambda view: view.run is not None, 20)
            took = time.monotonic() - began
            assert view.run is not None and view.run.plan == "Failover"
            assert view.outage is not None and view.outage.region == "region-a"
            print(f"killed: Failover began after {took:.2f} s")
            assert took <= THRESHOLD * INTERVAL + 2.0
            code, shown = await drctl(scene, "health", "--group", scene.group)
            assert code == 1 and "LOST" in shown
        finally:
            await pair.restart("region-a", "postgres")


async def test_a_silent_region_is_answered_in_time(pair: Lab, temporal: Client, tmp_path: Path) -> None:
    """Its packets go nowhere, and nobody refuses anything: the longest wait for an answer counts, too."""
    async with watched(pair, temporal, tmp_path, timeout="1s") as scene:
        began = time.monotonic()
        for onlooker in scene.onlookers.values():
            onlooker.ways["region-a"].cut()
        await scene.until(lambda view: view.run is not None, 20)
        took = time.monotonic() - began
        print(f"silent: Failover began after {took:.2f} s")
        assert took <= THRESHOLD * INTERVAL + 2.0
        assert await scene.started() == "Failover"


async def test_neither_alone_nor_frozen_nor_cut_off_anybody_starts_a_failover(
    pair: Lab, temporal: Client, tmp_path: Path
) -> None:
    async with watched(pair, temporal, tmp_path, timeout="1s") as scene:
        alone, frozen = scene.onlookers["outside"], scene.onlookers["region-b"]
        for region in ("region-a", "region-b"):
            alone.ways[region].cut()
        view = await scene.until(lambda view: votes(view).count("lost") == 1, 10)
        assert view.outage is None

        # One that is frozen while the region is well, and finds its old questions unanswered when it wakes.
        frozen.signal(signal.SIGSTOP)
        await asyncio.sleep(6.0)
        frozen.signal(signal.SIGCONT)
        await scene.until(lambda _: "this loop stood still" in frozen.said, 10)
        await scene.until(lambda view: votes(view) == ["healthy", "healthy", "lost"], 20)

        # One that is cut off from everything says what it sees to people, and later goes on.
        alone.ways["temporal"].cut()
        await scene.until(lambda _: "Temporal cannot be asked" in alone.said, 30)
        assert (await scene.until(lambda view: True, 5)).outage is None
        for way in alone.ways.values():
            way.is_open.set()
        await scene.until(lambda view: votes(view) == ["healthy"] * 3, 40)
        assert await scene.started() is None
        assert [sent for sent in scene.notifier.sent if "lost" in sent.title] == []


@pytest.mark.parametrize(
    "seconds",
    [SLOW_SECONDS, pytest.param(TWO_MINUTES, marks=[pytest.mark.chaos, pytest.mark.timeout(600)])],
)
async def test_a_primary_that_takes_three_seconds_for_each_query_is_not_lost(
    pair: Lab, temporal: Client, tmp_path: Path, seconds: float
) -> None:
    """The write of every heartbeat waits for a lock for up to 3 s, again and again, and then each answer of the server
    is 3 s late on its way; the limit says 5. So long each."""
    async with watched(pair, temporal, tmp_path, timeout="5s") as scene:
        place = pair.postgres("region-a")
        connection = await asyncpg.connect(place.dsn(database="postgres"))
        try:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                async with connection.transaction():
                    await connection.execute("LOCK TABLE recovery_plans.heartbeat IN ACCESS EXCLUSIVE MODE")
                    await asyncio.sleep(3.0)
                view = await scene.view()
                assert view is not None and view.outage is None and "lost" not in votes(view)
        finally:
            await connection.close()
        for onlooker in scene.onlookers.values():
            onlooker.ways["region-a"].delay = 3.0
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            view = await scene.view()
            assert view is not None and view.outage is None
            await asyncio.sleep(0.5)
        assert await scene.started() is None


@pytest.mark.chaos  # tests/workflows/test_health_monitor.py has what the votes come to
async def test_two_of_three_that_are_cut_off_start_nothing_and_nothing_starts_without_them(
    pair: Lab, temporal: Client, tmp_path: Path
) -> None:
    """They see neither the primary nor Temporal. Then the primary dies: the third is alone with what it sees, until the
    others are back."""
    async with watched(pair, temporal, tmp_path, timeout="1s") as scene:
        apart = [scene.onlookers[name] for name in ("region-b", "outside")]
        for onlooker in apart:
            for way in onlooker.ways.values():
                way.cut()
        await scene.until(lambda view: votes(view) == ["healthy", "none", "none"], 60)
        for onlooker in apart:
            await scene.until(lambda _, each=onlooker: "Temporal cannot be asked" in each.said, 30)
        await pair.kill("region-a", "postgres")
        try:
            view = await scene.until(lambda view: votes(view) == ["lost", "none", "none"], 20)
            assert view.outage is None and await scene.started() is None
            for onlooker in apart:
                for way in onlooker.ways.values():
                    way.is_open.set()
            await scene.until(lambda view: view.run is not None, 40)
            assert await scene.started() == "Failover"
        finally:
            await pair.restart("region-a", "postgres")


async def test_another_worker_takes_a_vantage_point_over(pair: Lab, temporal: Client, tmp_path: Path) -> None:
    """Two workers of a region; the one that looks is killed."""
    scene = Scene(pair, temporal, tmp_path)
    await scene.prepare("5s", onlookers=False)
    workers = [scene.worker("region-b", number) for number in range(2)]
    try:
        first = await scene.until(lambda view: votes(view)[1] == "healthy", 150)
        described = await temporal.get_workflow_handle("monitor/region-b").describe()
        (looking,) = described.raw_description.pending_activities
        pid = int(looking.last_worker_identity.partition("@")[0])
        began = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        assert first.votes is not None
        heard = first.votes.ballots[1].heard_at
        await pair.kill("region-a", "postgres")
        try:
            await scene.until(lambda view: votes(view)[1] == "lost", 30)
            took = time.monotonic() - began
            print(f"taken over, and the loss noticed, after {took:.2f} s")
            assert heard is not None and took < 20.0
        finally:
            await pair.restart("region-a", "postgres")
    finally:
        for worker in workers:
            worker.kill()
            worker.wait(10)
        with contextlib.suppress(RPCError):
            await temporal.get_workflow_handle("monitor/region-b").terminate("the test is over")
        await scene.stop()
