"""A worker's memory while it backs up, validates and restores databases of several sizes.

``python -m bench.memory [megabytes ...]`` (default: 100 2000). Each size gets a lab of its own and one `drctl worker`
that does everything: two backups at once, both validations, a recovery into the other region. Five times a second the
memory of the worker and of its Python helpers (which compress and encrypt) is added up: PSS, in which a page that
several processes share counts once. Beside it stands that of the tools that they run (pg_dump, pg_restore, tar, the
scratch servers), where the machine lets us see it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from temporalio.client import Client

from drctl.demo.installation import GROUP, Installation, install
from lab import Lab
from lab.control import python_environment
from lab.processes import die_with
from lab.shop import load_shop
from recovery.adapters.secrets import Secrets
from recovery.config import Config
from recovery.domain.plan import PlanRequest
from recovery.domain.report import RunReport, RunState
from workers import operations
from workers.client import connect

SIZES = (100, 2000)  # MB of the database
MOST = 400.0  # MB that a worker may take, whatever the size
EVERY = 0.2  # seconds
SERVICES = {"postgres", "s3", "app", "witness", "temporal", "dns", "webhook"}
MEGABYTE = 1_000_000


@dataclass
class Peaks:
    """In MB: the worker with its helpers, and the tools that it runs."""

    worker: float = 0.0
    tools: float = 0.0

    async def watch(self, pid: int) -> None:
        """Runs until it is cancelled."""
        while True:
            await asyncio.to_thread(self._sample, pid)
            await asyncio.sleep(EVERY)

    def _sample(self, pid: int) -> None:
        worker = tools = 0
        with suppress(psutil.NoSuchProcess):
            root = psutil.Process(pid)
            for process in [root, *root.children(recursive=True)]:
                with suppress(psutil.Error):
                    resident = process.memory_full_info().pss
                    if process.name().startswith("python"):
                        worker += resident
                    else:
                        tools += resident
        self.worker = max(self.worker, worker / MEGABYTE)
        self.tools = max(self.tools, tools / MEGABYTE)


async def measure(megabytes: int) -> dict[str, Peaks]:
    """Peaks by phase, and ``idle`` before the first."""
    folder = _made_folder()
    try:
        async with await Lab.start(standby="none", services=SERVICES) as lab:
            await load_shop(lab.postgres("region-a").dsn(), megabytes)
            (folder / "installation").mkdir(mode=0o711)
            installation = install(lab, folder / "installation")
            return await _phases(lab, installation, folder)
    finally:
        shutil.rmtree(folder)


def _made_folder() -> Path:
    """As root, the database's user has to pass through it."""
    folder = Path(tempfile.mkdtemp(prefix="recovery-memory-"))
    folder.chmod(0o711)
    return folder


async def _phases(lab: Lab, installation: Installation, folder: Path) -> dict[str, Peaks]:
    config = Config.load(installation.config_file)
    client = await connect(config, Secrets())
    worker = await asyncio.to_thread(_start_worker, lab, installation.config_file, folder / "worker.log")
    found: dict[str, Peaks] = {}
    try:
        await _ready(worker, folder / "worker.log")
        found["idle"] = await _watched(worker, asyncio.sleep(2))
        points: list[str] = []
        found["backups"] = await _watched(worker, _backups(client, config, points))
        found["validations"] = await _watched(worker, _validations(client, points))
        found["recovery"] = await _watched(worker, _run(client, config, "FullRecovery"))
    finally:
        worker.terminate()
        await asyncio.to_thread(worker.wait)
    return found


def _start_worker(lab: Lab, config_file: Path, log: Path) -> subprocess.Popen[bytes]:
    regions = [part for region in lab.describe().regions for part in ("--region", region)]
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "drctl", "worker", *regions, "--metrics-port", "0", "--config", str(config_file)],
            env={**os.environ, **python_environment()},
            stdout=output,
            stderr=output,
            preexec_fn=die_with(os.getpid()),  # noqa: PLW1509 - two system calls, no locks
        )


async def _ready(worker: subprocess.Popen[bytes], log: Path) -> None:
    while "is ready" not in (said := await asyncio.to_thread(log.read_text)):
        if worker.poll() is not None:
            raise SystemExit(f"the worker ended: {said}")
        await asyncio.sleep(0.1)


async def _watched(worker: subprocess.Popen[bytes], work: object) -> Peaks:
    peaks = Peaks()
    watching = asyncio.create_task(peaks.watch(worker.pid))
    try:
        await work  # type: ignore[misc]
    finally:
        watching.cancel()
    return peaks


async def _backups(client: Client, config: Config, points: list[str]) -> None:
    points += (await _run(client, config, "Backup")).point_ids


async def _validations(client: Client, points: list[str]) -> None:
    for point_id in points:
        _demand(await operations.result(await operations.find(client, f"validate/{GROUP}/{point_id}")))


async def _run(client: Client, config: Config, plan: str) -> RunReport:
    request = PlanRequest(group=GROUP, reason="bench", requested_by="bench")
    handle, _ = await operations.start(client, config, plan, request)
    return _demand(await operations.result(handle))


def _demand(report: RunReport) -> RunReport:
    if report.state is not RunState.COMPLETED:
        raise SystemExit(f"{report.plan} ended as {report.state}: {report.error}")
    return report


async def main(sizes: list[int]) -> int:
    """Prints a table; 1 when a worker took more than it may."""
    print(f"{'database':>10}  {'phase':<12} {'worker':>8}  {'its tools':>9}")
    highest = 0.0
    for megabytes in sizes:
        began = time.monotonic()
        for phase, peaks in (await measure(megabytes)).items():
            print(f"{megabytes:>7} MB  {phase:<12} {peaks.worker:>5.0f} MB  {peaks.tools:>6.0f} MB", flush=True)
            highest = max(highest, peaks.worker)
        print(f"{'':>10}  took {time.monotonic() - began:.0f} s", flush=True)
    print(f"The worker took {highest:.0f} MB at most; {MOST:.0f} MB are allowed.")
    return int(highest > MOST)


if __name__ == "__main__":
    sys.exit(asyncio.run(main([int(text) for text in sys.argv[1:]] or list(SIZES))))
