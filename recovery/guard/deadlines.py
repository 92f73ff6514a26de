"""The companion's file of deadlines, and the companion itself: what ends the stores when this process does not."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from recovery.errors import Unreachable
from recovery.guard import companion
from recovery.guard.clock import boottime
from recovery.ports.guard import Emergency

log = structlog.get_logger("recovery.guard")

CHECK = 0.25
"""Seconds between two looks at the companion."""
SILENT = 2.0
"""A companion that did not look for so long (seconds) is replaced."""
ARM_TIMEOUT = 3.0
"""Seconds to wait for the file to be written and the companion to live, before a store becomes primary."""


@dataclass(frozen=True)
class _Armed:
    emergency: Emergency
    deadline: float


class Deadlines:
    """Which stores may be primary, and until when: kept in ``deadline.json`` for the companion.

    Writes happen one after the other in a thread of their own, the newest content each time, so that a slow disk stops
    nobody: a deadline that was not moved on in time makes the companion act, which is safe.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / companion.DEADLINE_FILE
        self._boot = companion.boot_id()
        self._armed: dict[tuple[str, str], _Armed] = {}
        self._ended = False
        self._wanted = self._written = 0
        self._dirty = asyncio.Event()
        self._changed = asyncio.Condition()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="deadlines")

    def inherited(self, groups: Iterable[str] = ()) -> dict[str, float]:
        """Group -> deadline that an earlier guard of this boot left; nothing of other boots (blocking).

        Where the file cannot be understood, each of ``groups`` may be primary under a deadline that nobody knows: it
        counts as past, so that everything is demoted.
        """
        try:
            found = json.loads(self._file.read_text())
            if found.get("boot_id") != self._boot or found.get("ended"):
                self._file.unlink(missing_ok=True)  # or the new companion would take it for its own end
                return {}
            armed = {
                (str(entry["group"]), str(entry["store"])): _Armed(
                    Emergency(entry["store"], entry["kind"], entry["detail"]), float(entry["deadline"])
                )
                for entry in found["stores"]
            }
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            log.critical(
                "the deadlines cannot be understood: everything is demoted", file=self._file, error=f"{error!r}"
            )
            return dict.fromkeys(groups, 0.0)
        self._armed = armed
        deadlines: dict[str, float] = {}
        for (group, _), one in armed.items():
            deadlines[group] = max(deadlines.get(group, 0.0), one.deadline)
        return deadlines

    async def arm(self, group: str, emergencies: Iterable[Emergency], deadline: float) -> None:
        """Returns when the file holds these stores.

        Raises:
            Unreachable: it could not be written in time.
        """
        for emergency in emergencies:
            self._armed[group, emergency.store] = _Armed(emergency, deadline)
        mine = self._want()
        try:
            async with asyncio.timeout(ARM_TIMEOUT), self._changed:
                await self._changed.wait_for(lambda: self._written >= mine)
        except TimeoutError:
            raise Unreachable(f"{self._file} could not be written within {ARM_TIMEOUT:g} s: see its disk") from None

    def move(self, deadline_of: Callable[[str], float]) -> None:
        """Moves the armed stores' deadlines on, never back; written soon."""
        for (group, store), armed in self._armed.items():
            moved = max(armed.deadline, deadline_of(group))
            self._armed[group, store] = _Armed(armed.emergency, moved)
        if self._armed:
            self._want()

    def disarm(self, group: str) -> None:
        """The group's stores were demoted: nothing has to be ended any more."""
        for key in [key for key in self._armed if key[0] == group]:
            del self._armed[key]
        self._want()

    async def end(self) -> None:
        """The last word: nothing is primary, and the companion may go."""
        self._armed.clear()
        self._ended = True
        self._want()
        await self._write()

    async def run(self) -> None:
        """Writes what changed until it is cancelled."""
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            await self._write()

    def _want(self) -> int:
        self._wanted += 1
        self._dirty.set()
        return self._wanted

    async def _write(self) -> None:
        generation = self._wanted
        document = {
            "boot_id": self._boot,
            "ended": self._ended,
            "stores": [
                {
                    "group": group,
                    "store": store,
                    "deadline": armed.deadline,
                    "kind": armed.emergency.kind,
                    "detail": armed.emergency.detail,
                }
                for (group, store), armed in self._armed.items()
            ],
        }
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, _replace, self._file, document)
        except OSError as error:
            log.error("the deadlines cannot be written: the companion will act", file=str(self._file), error=str(error))
            await asyncio.sleep(0.1)
            self._dirty.set()
            return
        async with self._changed:
            self._written = generation
            self._changed.notify_all()


def _replace(file: Path, document: dict[str, Any]) -> None:
    new = file.with_suffix(".new")
    descriptor = os.open(new, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        json.dump(document, stream)
    new.replace(file)


class CompanionProcess:
    """Keeps one living companion for a state folder; one that an earlier guard left is used on."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: subprocess.Popen[bytes] | None = None
        self._started_at = float("-inf")
        self._touched: int | None = None
        self._touched_at = float("-inf")

    @property
    def lives(self) -> bool:
        """Whether it looked at the deadlines a moment ago."""
        return boottime() - self._touched_at < SILENT

    async def wait_until_it_lives(self, seconds: float = ARM_TIMEOUT) -> None:
        """Raises Unreachable when it does not within so many seconds."""
        until = boottime() + seconds
        while not self.lives:
            if boottime() > until:
                raise Unreachable(
                    f"the companion process does not run: nothing may become primary. See {self._folder}/"
                    f"{companion.LOG_FILE}"
                )
            await asyncio.sleep(0.05)

    async def run(self) -> None:
        """Looks after it until cancelled. The companion itself goes on then: that is what it is for."""
        silent_since = boottime()
        while True:
            looked = await asyncio.to_thread(self._look)
            if looked:
                silent_since = boottime()
            elif not self._is_starting():
                holder = await asyncio.to_thread(self._holder)
                if holder is None or boottime() - silent_since > SILENT:
                    await asyncio.to_thread(self._replace, holder)
                    silent_since = boottime()
            await asyncio.sleep(CHECK if self.lives else 0.05)

    def _is_starting(self) -> bool:
        running = self._started is not None and self._started.poll() is None
        return running and boottime() - self._started_at < SILENT

    def _look(self) -> bool:
        """Whether it touched its file since the last look. The first look only learns what stands there."""
        try:
            touched = (self._folder / companion.ALIVE_FILE).stat().st_mtime_ns
        except FileNotFoundError:
            return False
        changed = self._touched is not None and touched != self._touched
        self._touched = touched
        if changed:
            self._touched_at = boottime()
        return changed

    def _replace(self, pid: int | None) -> None:
        if pid is not None:
            log.warning("the companion does not answer: replaced", pid=pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            _wait_until_gone(pid)
        self._touched = self._touched or 0
        self._started_at = boottime()
        self._started = subprocess.Popen(
            [sys.executable, "-I", "-S", companion.__file__, str(self._folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={},
            start_new_session=True,
        )

    def _holder(self) -> int | None:
        """The companion of this folder that is there, alive or frozen."""
        try:
            pid = int((self._folder / companion.LOCK_FILE).read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return None
        return pid if str(self._folder).encode() in command else None


def _wait_until_gone(pid: int, seconds: float = 1.0) -> None:
    until = boottime() + seconds
    while boottime() < until:
        try:
            Path(f"/proc/{pid}/cwd").readlink()  # a zombie has none
        except OSError:
            return
        time.sleep(0.01)
