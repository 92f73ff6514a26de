"""In place of ``/dev/watchdog``: a named pipe that a guard pets, and a process that does what the kernel would do.

    python -m tests.integration.watchdog_device <pipe> <seconds> <log> <folder of the lab> <region>

It waits for the first sign of life. From then on, whenever none came for so many seconds, it ends every process of the
region at once, as a reset does, notes the time in its log, and waits for the first sign of the host that came up again.
``V`` before the end disarms it. Differences from a device: it cannot be set to other seconds (a pipe knows no ioctl,
which the guard says in its log), it is armed by the first sign and not by the opening, and its clock is one of another
host: it goes on while the region stands still, as a hypervisor's does and a paused guest's own would not.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from lab import Lab
from lab.control import python_environment
from lab.processes import die_with
from tests.integration.waiting import text_of

LOOK = 0.02  # seconds


@dataclass
class Device:
    """Of one region. It is there before the guard opens it, and ends with this process."""

    region: str
    pipe: Path
    log: Path
    seconds: float
    process: subprocess.Popen[bytes] | None = None

    @classmethod
    def made(cls, folder: Path, region: str, seconds: float) -> Device:
        device = cls(region, folder / f"{region}-watchdog", folder / f"{region}-watchdog.log", seconds)
        os.mkfifo(device.pipe, 0o600)
        device.log.touch()
        return device

    async def start(self, lab: Lab) -> None:
        words = [str(self.pipe), str(self.seconds), str(self.log), str(lab.folder), self.region]
        self.process = await asyncio.to_thread(
            subprocess.Popen,
            [sys.executable, "-m", "tests.integration.watchdog_device", *words],
            env={**os.environ, **python_environment()},
        )
        while not text_of(self.log):
            assert self.process.poll() is None, "the watchdog's process ended"
            await asyncio.sleep(LOOK)

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def resets(self, since: float) -> list[float]:
        """When it reset its region, in unix seconds."""
        assert self.process is not None and self.process.poll() is None, "the watchdog's process ended"
        return [at for at in map(float, text_of(self.log).splitlines()[1:]) if at >= since]


def watch(pipe: Path, seconds: float, log: Path, lab: Lab, region: str) -> None:
    descriptor = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    _note(log, "watching")
    petted: float | None = None
    while True:
        with contextlib.suppress(BlockingIOError):  # somebody has it open, and says nothing
            if said := os.read(descriptor, 4096):
                petted = None if said.endswith(b"V") else time.monotonic()
        if petted is not None and time.monotonic() - petted > seconds:
            asyncio.run(lab.kill(region))
            _note(log, f"{time.time():.3f}")
            petted = None
        time.sleep(LOOK)


def _note(log: Path, line: str) -> None:
    with log.open("a") as file:
        file.write(f"{line}\n")


if __name__ == "__main__":
    die_with(os.getppid())()
    watch(Path(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3]), Lab.attach(Path(sys.argv[4])), sys.argv[5])
