"""A whole installation on a lab of its own: configuration, workers that can be killed, and what a test asks of it."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from temporalio.client import Client, WorkflowExecutionStatus

from drctl.demo.installation import GROUP, RECORD, Installation
from lab import Lab
from lab.readiness import s3_client
from lab.shop import load_shop
from recovery.adapters.rfc2136 import Rfc2136Zone, TsigKey
from recovery.adapters.secrets import Secrets
from recovery.adapters.witness import WitnessStore
from recovery.backup.catalogue import Catalogue
from recovery.config import Config
from recovery.domain.group import GroupSnapshot
from recovery.domain.ownership import OwnershipRecord
from recovery.domain.plan import PlanRequest
from recovery.domain.recovery_point import BackupKind
from recovery.domain.report import RunReport
from recovery.ports.object_store import ObjectStore
from recovery.telemetry.metrics import RecoveryMetrics
from tests.integration.armed_worker import Fault
from tests.integration.asked import at_the_source, copy_folder, execute, value_of
from tests.integration.contents import Contents, contents
from tests.integration.crew import AWAY, HOME, REGIONS, Crew, WorkerProcess
from tests.integration.installed_groups import CACHE, INDICES, STREAM_NAMES, STREAMS, installed_groups
from tests.integration.waiting import eventually, exists, found, lives, text_of, works_in
from workers import operations
from workers.client import connect
from workers.operations import Handle
from workers.wiring import Wiring

SERVICES = {"postgres", "nats", "redis", "s3", "app", "witness", "temporal", "dns", "webhook"}
SHOP_MEGABYTES = 24
COPIED = ("postgres", "app")  # what of the home region is put back after it was lost with its disks
PLAN_SECONDS = 90.0  # no plan of a test takes longer, faults included


@dataclass
class Site:
    """A lab with one region in service (``HOME``), an empty place in the other, an installation, and two workers."""

    lab: Lab
    folder: Path
    installation: Installation
    config: Config
    client: Client
    crew: Crew
    wiring: Wiring
    copies: Path
    _points: dict[BackupKind, tuple[str, Contents]] = field(default_factory=dict)

    @property
    def control(self) -> Path:
        return self.crew.control

    @property
    def group(self) -> GroupSnapshot:
        return self.config.snapshot(GROUP)

    # Plans.

    async def start(self, plan: str, **request: Any) -> Handle:
        wanted = PlanRequest.model_validate({"group": GROUP, "reason": "a test", "requested_by": "pytest", **request})
        handle, new = await operations.start(self.client, self.config, plan, wanted)
        assert new, f"{handle.id} was running already: an earlier test left it"
        return handle

    async def run(self, plan: str, **request: Any) -> RunReport:
        return await self.ended(await self.start(plan, **request))

    async def ended(self, handle: Handle) -> RunReport:
        async with asyncio.timeout(PLAN_SECONDS):
            return await operations.result(handle)

    async def backup(self, kind: BackupKind) -> str:
        """A new recovery point, validated."""
        report = await self.run("Backup", kind=kind)
        assert report.state == "completed", report
        await self.validated(report.point_ids[0])
        return report.point_ids[0]

    async def validated(self, point_id: str) -> RunReport:
        """The end of the validation that a backup starts."""

        async def known() -> Handle:
            return await operations.find(self.client, f"validate/{GROUP}/{point_id}")

        return await self.ended(await known())

    async def point(self, kind: BackupKind) -> str:
        """A validated recovery point that tests share: they must not change it."""
        known = {point.point_id for point in await (await self.catalogue()).points(GROUP)}
        if kind not in self._points or self._points[kind][0] not in known:
            # A logical restore fills materialised views anew: one that is out of date would differ from its source.
            await execute(self.lab.postgres(HOME).dsn(), "REFRESH MATERIALIZED VIEW daily_revenue")
            point_id = await self.backup(kind)
            self._points[kind] = point_id, await contents(self.lab.postgres(HOME).dsn())
        return self._points[kind][0]

    async def source_of(self, kind: BackupKind) -> Contents:
        """What the source of ``point`` held when it was taken; nobody wrote to it meanwhile."""
        await self.point(kind)
        return self._points[kind][1]

    # Faults.

    def arm(self, method: str, when: str = "before", *, keep_held: bool = False, **fault: Any) -> None:
        """See ``tests.integration.armed_worker.Fault``. ``keep_held``: a call that is held stays so."""
        if not keep_held:
            self.disarm()
        armed = Fault.model_validate({"method": method, "when": when, **fault})
        fresh = self.control / "armed.new"
        fresh.write_text(armed.model_dump_json())
        fresh.rename(self.control / "armed.json")

    def disarm(self) -> None:
        for name in ("armed.json", "held.json", "fired.json", "holder", "cancelled", "children", "calls.log"):
            (self.control / name).unlink(missing_ok=True)

    @property
    def fired(self) -> bool:
        return (self.control / "fired.json").exists()

    async def held(self) -> None:
        """Waits until a worker stands in the call that was armed with ``action="hold"``."""
        await eventually(lambda: exists(self.control / "held.json"), 60)

    async def freeze_holder(self) -> psutil.Process:
        """SIGSTOP to the worker that stands in the held call."""
        file = self.control / "holder"
        holder = psutil.Process(int(await eventually(lambda: asyncio.to_thread(text_of, file), 30)))
        holder.suspend()
        return holder

    async def cancel_arrives(self, handle: Handle) -> None:
        """Cancels, and expects the held call to hear of it within a second, and later on a machine that is late itself.

        The second is asked for by itself in ``tests/chaos/test_takeover.py``, where nothing else runs.
        """
        began = time.time()
        await handle.cancel()
        lateness = time.time() - began  # of one question to the server; some hundredths of a second on a quiet machine
        assert await self.cancelled_at() - began < 1.5 + 20 * lateness

    async def cancelled_at(self) -> float:
        """The unix time at which the held call was cancelled."""
        file = self.control / "cancelled"
        return float(await eventually(lambda: asyncio.to_thread(text_of, file), 30))

    def release(self) -> None:
        (self.control / "held.json").unlink()

    def calls(self, method: str) -> list[str]:
        """First arguments of the calls of a method since the last ``arm`` or ``disarm``."""
        path = self.control / "calls.log"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.split(" ", 2)[2] for line in lines if line.split(" ", 2)[1] == method]

    async def fallen(self) -> list[psutil.Process]:
        """Waits for the worker that killed itself; returns its former children that live on (none should)."""
        await eventually(lambda: exists(self.control / "fired.json"), 60)
        dead = await eventually(lambda: found([worker for worker in self.crew.workers if not worker.runs]), 30)
        assert len(dead) == 1
        self.crew.workers = [worker for worker in self.crew.workers if worker.runs]
        pids = [int(text) for text in (self.control / "children").read_text().split()]

        async def gone() -> bool:
            return not [pid for pid in pids if lives(pid)]

        with contextlib.suppress(TimeoutError):
            await eventually(gone, 20)
        return [psutil.Process(pid) for pid in pids if lives(pid)]

    # What stands where.

    async def stores(self) -> list[ObjectStore]:
        return (await self.wiring.locations())(self.group)

    async def catalogue(self, group: str = GROUP) -> Catalogue:
        return await self.wiring.catalogue(self.config.snapshot(group))

    async def witness(self) -> WitnessStore:
        return await self.wiring.witness()

    async def ownership(self) -> OwnershipRecord | None:
        found = await (await self.witness()).read(GROUP)
        return found[0] if found else None

    def zone(self) -> Rfc2136Zone:
        dns = self.lab.dns()
        return Rfc2136Zone(dns.host, dns.port, key=TsigKey(dns.tsig_key_name, dns.tsig_secret, dns.tsig_algorithm))

    async def address(self) -> str:
        """What the group's record says."""
        return " ".join((await self.zone().read(RECORD, "A", self.lab.dns().zone)).values)

    async def objects(self, point_id: str) -> dict[str, dict[str, int]]:
        """Location -> key -> size of everything that is stored of a point."""
        return {
            store.name: {info.key: info.size async for info in store.list(f"{GROUP}/postgres/{point_id}/")}
            for store in await self.stores()
        }

    async def residue(self) -> list[str]:
        """Everything that a finished run must not leave: in S3, on this machine, at the source."""
        found = [f"orphan {orphan}" for orphan in await (await self.catalogue()).orphans(GROUP)]
        scratch = self.installation.folder / "scratch"
        for folder in (scratch, self.control / "tmp"):
            # Libraries' own caches aside, nothing belongs there.
            found += [str(path) for path in folder.glob("*") if path.name.startswith(("scratch-", "recovery-", "tmp"))]
        place = self.lab.postgres(HOME)
        if (place.data_directory / "PG_VERSION").exists():
            found += await at_the_source(place.dsn())
        return found

    async def drop(self, database: str) -> None:
        await execute(self.lab.postgres(HOME).dsn(), f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')

    async def no_residue(self) -> None:
        """Sessions of a process that was killed end within moments, not at once."""

        async def clean() -> bool:
            return not await self.residue()

        with contextlib.suppress(TimeoutError):
            await eventually(clean, 30)
        assert await self.residue() == []

    def target_is_empty(self) -> None:
        """Nothing of a restore is left in the other region."""
        place = self.lab.postgres(AWAY)
        assert not place.data_directory.exists() or not any(place.data_directory.iterdir())
        busy = [process.pid for process in psutil.process_iter() if works_in(process, place.data_directory)]
        assert busy == [], f"a server runs in {place.data_directory}"

    # Back to the beginning.

    async def reset(self) -> None:
        """The home region owns the group and serves it, the other is empty, two workers wait, no plan runs."""
        self.disarm()
        await self._end_plans()
        await self.lab.kill(AWAY, "postgres", with_disks=True)
        client = s3_client(self.lab.witness())
        for group in (GROUP, STREAMS):
            key = f"recovery/ownership/{group}.json"
            await asyncio.to_thread(client.delete_object, Bucket=self.lab.witness().bucket, Key=key)
        await self._point_home()
        await self.crew.complete()

    async def _end_plans(self) -> None:
        async for run in self.client.list_workflows("ExecutionStatus = 'Running'"):
            if run.status is WorkflowExecutionStatus.RUNNING:
                await self.client.get_workflow_handle(run.id).terminate("the test is over")

    async def _point_home(self) -> None:
        zone, home = self.zone(), self.lab.postgres(HOME).host
        now = await zone.read(RECORD, "A", self.lab.dns().zone)
        if now.values != [home]:
            await zone.replace([(now, now.model_copy(update={"values": [home], "ttl": 1}))])

    async def rebuild_home(self) -> None:
        """Puts the home region back as it was at first, after it was lost with its disks."""
        await self.lab.kill(HOME, with_disks=True)
        for service in COPIED:
            await asyncio.to_thread(copy_folder, self.copies / service, _data(self.lab, service))
        await self.lab.restart(HOME)


@contextlib.asynccontextmanager
async def installed_site(amend: Callable[[dict[str, Any]], None] = lambda group: None) -> AsyncIterator[Site]:
    """Starts everything, and ends everything. ``amend`` changes the group's configuration."""
    folder = _made_folder()
    try:
        async with contextlib.AsyncExitStack() as stack:
            lab = await Lab.start(standby="none", services=SERVICES)
            stack.push_async_callback(lab.stop)
            place = lab.postgres(HOME)
            await load_shop(place.dsn(), SHOP_MEGABYTES)
            await _copy_home(lab, folder / "copies")
            installation = installed_groups(lab, folder / "installation", amend)
            config = Config.load(installation.config_file)
            client = await connect(config, Secrets())
            wiring = await stack.enter_async_context(Wiring(config, Secrets(), RecoveryMetrics()))
            crew = Crew(installation.config_file, folder / "control")
            stack.push_async_callback(crew.dismiss)
            await crew.complete()
            yield Site(lab, folder, installation, config, client, crew, wiring, folder / "copies")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _made_folder() -> Path:
    """As root, the database's user has to pass through it."""
    folder = Path(tempfile.mkdtemp(prefix="recovery-site-"))
    for each in (folder, folder / "control", folder / "control" / "tmp"):
        each.mkdir(exist_ok=True)
        each.chmod(0o711)
    return folder


async def _copy_home(lab: Lab, target: Path) -> None:
    """The home region's shop and the settings of its application as they stand, for ``rebuild_home``."""
    await lab.kill(HOME, "postgres")
    for service in COPIED:
        await asyncio.to_thread(copy_folder, _data(lab, service), target / service)
    await lab.restart(HOME, "postgres")


def _data(lab: Lab, service: str) -> Path:
    folder = lab.describe().server(f"{HOME}/{service}").data_directory
    assert folder is not None
    return folder


__all__ = [
    "AWAY",
    "CACHE",
    "HOME",
    "INDICES",
    "REGIONS",
    "STREAMS",
    "STREAM_NAMES",
    "Crew",
    "Site",
    "WorkerProcess",
    "eventually",
    "execute",
    "installed_site",
    "value_of",
]
