"""Workers as processes of their own that tests can kill."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lab.control import python_environment
from lab.processes import die_with
from tests.integration.waiting import eventually

HOME, AWAY = "region-a", "region-b"
REGIONS = (HOME, AWAY)


@dataclass
class WorkerProcess:
    """One ``tests.integration.armed_worker``. It ends with this process, however that ends."""

    process: subprocess.Popen[bytes]
    log: Path
    regions: Sequence[str]

    @classmethod
    def start(
        cls, config_file: Path, control: Path, log: Path, regions: Sequence[str] = REGIONS, **environment: str
    ) -> WorkerProcess:
        temporary = control / "tmp"
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.integration.armed_worker", config_file, ",".join(regions), control],
                env={**os.environ, **python_environment(), "TMPDIR": str(temporary), **environment},
                stdout=output,
                stderr=output,
                preexec_fn=die_with(os.getpid()),
            )
        return cls(process, log, regions)

    async def ready(self) -> None:
        async def said() -> bool:
            assert self.process.poll() is None, f"the worker ended while it started:\n{self.log.read_text()[-3000:]}"
            return "is ready" in self.log.read_text()

        await eventually(said, 60)

    async def killed(self, seconds: float = 60) -> None:
        """Waits until it was killed, and reaps it."""
        await asyncio.to_thread(self.process.wait, seconds)

    @property
    def runs(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    async def stop(self) -> None:
        if self.runs:
            self.process.terminate()
        try:
            await asyncio.to_thread(self.process.wait, 30)
        except subprocess.TimeoutExpired:
            self.kill()
            raise


@dataclass
class Crew:
    """The workers of an installation: killed ones are replaced."""

    config_file: Path
    control: Path
    workers: list[WorkerProcess] = field(default_factory=list)
    size: int = 2
    started: int = 0

    def hire(
        self, config_file: Path | None = None, regions: Sequence[str] = REGIONS, **environment: str
    ) -> WorkerProcess:
        self.started += 1
        log = self.control / f"worker-{self.started}.log"
        worker = WorkerProcess.start(config_file or self.config_file, self.control, log, regions, **environment)
        self.workers.append(worker)
        return worker

    async def complete(self) -> None:
        """Brings the crew back to its size, all of them ready."""
        self.workers = [worker for worker in self.workers if worker.runs]
        while len(self.workers) < self.size:
            self.hire()
        await asyncio.gather(*(worker.ready() for worker in self.workers))

    async def dismiss(self) -> None:
        await asyncio.gather(*(worker.stop() for worker in self.workers))
        self.workers.clear()

    def logs(self) -> str:
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.control.glob("worker-*.log")))
