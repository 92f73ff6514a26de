"""What one run of a contestant costs: seconds, processor seconds of it and of the server, stored bytes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import subprocess
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from lab.processes import trees

LONGEST = 3600.0  # seconds for one command


class CommandFailed(Exception):
    """With the command's name and the end of what it said."""


@dataclass(frozen=True)
class Cost:
    """Of one run. ``processor``: seconds of the contestant and of the server together."""

    seconds: float
    processor: float
    stored: int | None = None


@dataclass
class Row:
    """All runs of one contestant."""

    name: str
    costs: list[Cost] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return median(cost.seconds for cost in self.costs)

    @property
    def processor(self) -> float:
        return median(cost.processor for cost in self.costs)

    @property
    def stored(self) -> int | None:
        return self.costs[-1].stored

    @property
    def spread(self) -> tuple[float, float]:
        """Least and most seconds."""
        found = [cost.seconds for cost in self.costs]
        return min(found), max(found)


@dataclass(frozen=True)
class Work:
    """What a contestant reports of one run: processor seconds of its own, and how many bytes it stored."""

    processor: float
    stored: int | None = None


async def cost_of(work: Callable[[], Awaitable[Work]], servers: Sequence[int]) -> Cost:
    """Runs ``work`` with nothing left to be written to the disk. ``servers``: pids whose trees work for it."""
    await asyncio.to_thread(os.sync)
    before = processor_seconds(servers)
    began = time.perf_counter()
    done = await work()
    seconds = time.perf_counter() - began
    return Cost(seconds, done.processor + processor_seconds(servers) - before, done.stored)


def processor_seconds(roots: Sequence[int]) -> float:
    """Of these processes, of all below them, and of those of their children that have ended."""
    total = 0.0
    for process in trees(roots):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


async def command(
    arguments: Sequence[str | Path], *, user: str | None = None, environment: Mapping[str, str] | None = None
) -> float:
    """Runs a command to its end; its processor seconds, with those of its children.

    Raises:
        CommandFailed: it failed, or took longer than an hour.
    """
    return await asyncio.to_thread(_run, [str(argument) for argument in arguments], user, dict(environment or {}))


async def shell(script: str, *, user: str | None = None, environment: Mapping[str, str] | None = None) -> float:
    """``command`` of a pipeline; each of its parts must succeed."""
    return await command(["bash", "-c", f"set -euo pipefail; {script}"], user=user, environment=environment)


def _run(arguments: list[str], user: str | None, environment: dict[str, str]) -> float:
    identity: dict[str, Any] = {}
    if user is not None:
        entry = pwd.getpwnam(user)
        identity = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    home = os.environ.get("HOME", "/") if user is None else "/nonexistent"
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C", "HOME": home, **environment}
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=environment, cwd="/", **identity
        )
        late = threading.Timer(LONGEST, process.kill)
        late.daemon = True
        late.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        finally:
            late.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            said.seek(0)
            words = said.read()[-2000:].decode(errors="replace")
            raise CommandFailed(f"{Path(arguments[0]).name} ended with {process.returncode}: {words.strip()}")
    return usage.ru_utime + usage.ru_stime


def bytes_below(folder: Path) -> int:
    """Size of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
