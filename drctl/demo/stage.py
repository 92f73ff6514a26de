"""Everything that stands on the demo's stage: the lab, its workers and the workload."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

from temporalio.client import Client

from drctl.demo import contents
from drctl.demo.installation import GROUP, RECORD, Installation, install
from lab import Lab
from lab.shop import load_shop
from lab.workload import Workload
from recovery.adapters.secrets import Secrets
from recovery.config import Config
from recovery.errors import Unreachable
from workers.client import connect

REGION_A, REGION_B = "region-a", "region-b"
WORKER_READY_SECONDS = 30.0


@dataclass
class WorkerProcess:
    """``drctl worker`` as it runs in a region."""

    region: str
    process: asyncio.subprocess.Process
    log: Path

    def kill(self) -> None:
        """Loses the worker as its region is lost: without a word."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGKILL)

    async def stop(self) -> None:
        if self.process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        try:
            async with asyncio.timeout(10):
                await self.process.wait()
        except TimeoutError:
            self.kill()
            await self.process.wait()


@dataclass
class Stage:
    lab: Lab
    installation: Installation
    config: Config
    client: Client
    workload: Workload
    workers: dict[str, WorkerProcess] = field(default_factory=dict)

    async def lose_region(self, region: str) -> None:
        """Servers, disks, object store and worker: all at once."""
        if region in self.workers:
            self.workers[region].kill()
        await self.lab.kill(region, with_disks=True)


@contextlib.asynccontextmanager
async def set_stage(
    lab: Lab, folder: Path, *, megabytes: int, transactions_per_second: float, say: Callable[[str], None]
) -> AsyncIterator[Stage]:
    """Loads the shop, starts the workload and a worker in each region; all of it ends with the block."""
    installation = await asyncio.to_thread(install, lab, folder, all_stores=True)
    config = await asyncio.to_thread(Config.load, installation.config_file)
    await asyncio.gather(load_shop(lab.postgres(REGION_A).dsn(), megabytes), contents.fill(lab, REGION_A))
    say(f"the shop's database is loaded: {megabytes} MB of customers, orders, payments and events")
    say(f"beside it: {contents.described(lab)}")
    async with contextlib.AsyncExitStack() as stack:
        workload = await stack.enter_async_context(
            Workload(lab, name=RECORD, transactions_per_second=transactions_per_second)
        )
        await workload.wait_for(1)
        say(f"a client buys {transactions_per_second:.0f} times a second from {RECORD}")
        client = await connect(config, Secrets())
        stage = Stage(lab, installation, config, client, workload)
        for region, file in (
            (REGION_A, installation.backup_config_file),
            (REGION_B, installation.config_file),
        ):
            stage.workers[region] = await _start_worker(region, file, folder)
            stack.push_async_callback(stage.workers[region].stop)
        await asyncio.gather(*(_ready(worker) for worker in stage.workers.values()))
        say(f"a worker runs in each region; only the one in {REGION_B} holds the key that opens recovery points")
        yield stage


async def _start_worker(region: str, config_file: Path, folder: Path) -> WorkerProcess:
    log = folder / f"worker-{region}.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "drctl", "--config", str(config_file), "worker", "--region", region, "--metrics-port", "0"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    return WorkerProcess(region, process, log)


async def _ready(worker: WorkerProcess) -> None:
    deadline = asyncio.get_running_loop().time() + WORKER_READY_SECONDS
    while "is ready" not in (said := worker.log.read_text(errors="replace")):
        if worker.process.returncode is not None or asyncio.get_running_loop().time() > deadline:
            raise Unreachable(f"the worker of {worker.region} did not get ready: {said.strip()[-600:]}")
        await asyncio.sleep(0.05)


__all__ = ["GROUP", "REGION_A", "REGION_B", "Stage", "WorkerProcess", "set_stage"]
