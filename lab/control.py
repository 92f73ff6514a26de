"""Starts the supervisor and talks to it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import channel
from lab.errors import LabError
from lab.state import LabState, Server
from lab.supervisor import SOCKET, Launch

_SOURCE = Path(__file__).resolve().parent.parent
_END_TIMEOUT = 30.0


def python_environment() -> dict[str, str]:
    """Return the environment in which `python -m lab...` finds this package, wherever it is started."""
    path = os.pathsep.join(filter(None, [str(_SOURCE), os.environ.get("PYTHONPATH", "")]))
    return {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


@dataclass(frozen=True)
class Supervised:
    """A connection to one lab's supervisor."""

    folder: Path

    async def register(self, server: Server, launch: Launch) -> None:
        """Make a server known without starting it."""
        await self._ask(do="register", server=server.model_dump(mode="json"), launch=launch.model_dump(mode="json"))

    async def start(self, name: str) -> int:
        """Start a registered server and return its pid."""
        return int((await self._ask(do="start", name=name))["pid"])

    async def run(self, launch: Launch, timeout: float = 120.0) -> str:
        """Run a command to its end and return its output. Raises LabError with that output when it fails."""
        reply = await self._ask(do="run", launch=launch.model_dump(mode="json"), timeout=timeout)
        if reply["code"] != 0:
            raise LabError(f"{Path(launch.argv[0]).name} failed with code {reply['code']}: {reply['output'].strip()}")
        return str(reply["output"])

    async def put_state(self, state: LabState) -> None:
        """Give the supervisor the whole state; it keeps and writes it from now on."""
        await self._ask(do="state", state=state.model_dump(mode="json"))

    async def outer_folder(self, parent: Path) -> Path:
        """Let the supervisor make a folder outside the lab's own, removed with the lab."""
        return Path((await self._ask(do="outer-folder", parent=str(parent)))["folder"])

    async def kill(self, names: Sequence[str], with_disks: bool) -> None:
        await self._ask(do="kill", names=list(names), with_disks=with_disks)

    async def freeze(self, names: Sequence[str]) -> None:
        await self._ask(do="freeze", names=list(names))

    async def thaw(self, names: Sequence[str]) -> None:
        await self._ask(do="thaw", names=list(names))

    async def put_network(self, network: dict[str, Any]) -> None:
        """Write down what is wrong with the network: {"cut", "one_way", "delays"}."""
        await self._ask(do="network", network=network)

    async def hand_over(self) -> None:
        """From now on PostgreSQL belongs to the guards."""
        await self._ask(do="hand-over")

    async def detach(self) -> None:
        """Let the lab outlive the process that started it."""
        await self._ask(do="detach")

    async def end(self) -> None:
        """End the lab and wait until nothing of it is left; nothing happens when it is already gone."""
        with contextlib.suppress(OSError):
            try:
                await channel.wait_until_closed(self.folder, SOCKET, {"do": "stop"}, _END_TIMEOUT)
            except TimeoutError as error:
                raise LabError(f"The lab in {self.folder} did not end within {_END_TIMEOUT:.0f} s.") from error

    async def _ask(self, **request: Any) -> dict[str, Any]:
        return await channel.call(self.folder, SOCKET, request, timeout=request.get("timeout", 60.0) + 30.0)


@dataclass
class Owned:
    """A supervisor that this process started and whose lab ends with this process."""

    process: subprocess.Popen[bytes]
    folder: Path
    network: str
    ports: dict[str, int]

    async def wait(self) -> None:
        """Wait until the supervisor has ended, so that no zombie is left."""
        await asyncio.to_thread(_end, self.process)


def _spawn_supervisor(folder: Path | None, regions: Sequence[str]) -> tuple[subprocess.Popen[bytes], bytes]:
    process = subprocess.Popen(
        [sys.executable, "-m", "lab.supervisor", str(folder or ""), ",".join(regions)],
        env={**os.environ, **python_environment()},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    with process.stdout as output:
        return process, output.readline()


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let go of a supervisor, which thereupon ends, and wait for it."""
    if process.stdin is not None:
        process.stdin.close()
    process.wait(_END_TIMEOUT)


async def start_supervisor(folder: Path | None, regions: Sequence[str]) -> Owned:
    """Start a supervisor, which makes the folder and reserves the ports. Raises LabError with its reason."""
    spawning = asyncio.ensure_future(asyncio.to_thread(_spawn_supervisor, folder, regions))
    try:
        process, line = await asyncio.shield(spawning)
    except asyncio.CancelledError:
        process, _ = await spawning
        await asyncio.to_thread(_end, process)
        raise
    hello: dict[str, Any] = json.loads(line) if line else {"error": "The lab's supervisor did not start."}
    if "error" in hello:
        await asyncio.to_thread(_end, process)
        raise LabError(hello["error"])
    return Owned(process, Path(hello["folder"]), hello["network"], hello["ports"])
