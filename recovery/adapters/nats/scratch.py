"""A throw-away NATS server with JetStream: on a free loopback port, with a password of its own, gone when we are."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import shutil
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

from recovery.adapters.nats.connection import LOST, NatsLogin, NatsServer, api, connected
from recovery.adapters.process import Child, clean_environment
from recovery.adapters.scratch_folder import scratch_folder
from recovery.errors import SourceFailed

PROGRAM = "nats-server"
READY_SECONDS = 20.0
# What a stream reserves (max_bytes) may be more than this machine has: only what it holds counts here.
_LIMITS = "max_memory_store: 64TB, max_file_store: 64TB"


def program() -> Path | None:
    """The server's program: beside our interpreter, else on the PATH."""
    found = shutil.which(PROGRAM, path=str(Path(sys.executable).parent)) or shutil.which(PROGRAM)
    return Path(found) if found else None


@contextlib.asynccontextmanager
async def scratch_server(parent: Path, binary: Path) -> AsyncIterator[NatsServer]:
    """Runs a server in a folder of its own below ``parent``; both are gone afterwards. What a killed worker left is
    removed first.

    Raises:
        SourceFailed: it does not start; with the end of its log. It holds nothing yet, so no point is to blame.
        OSError: the folder cannot be made.
    """
    async with scratch_folder(parent) as folder, _running(folder, binary) as server:
        yield server


@contextlib.asynccontextmanager
async def _running(folder: Path, binary: Path) -> AsyncIterator[NatsServer]:
    user, password = "scratch", secrets.token_urlsafe(24)
    configuration, log = folder / "nats.conf", folder / "log"
    configuration.touch(0o600)
    configuration.write_text(
        f'server_name: scratch\nlisten: "127.0.0.1:-1"\nports_file_dir: "{folder}"\n'
        f'jetstream {{ store_dir: "{folder / "data"}", {_LIMITS} }}\n'
        f'authorization {{ user: {user}, password: "{password}" }}\n'
    )
    with await asyncio.to_thread(log.open, "ab") as output:
        async with Child(
            [binary, "-c", configuration], environment=clean_environment(), stdout=output, stderr=output
        ) as child:
            port = await _port(folder, child, log)
            server = NatsServer("127.0.0.1", port, NatsLogin(user, password))
            await _ready(server, child, log)
            yield server


async def _port(folder: Path, child: Child, log: Path) -> int:
    """From the file that the server writes once it listens."""
    until = time.monotonic() + READY_SECONDS
    while True:
        for file in await asyncio.to_thread(lambda: list(folder.glob("*.ports"))):
            with contextlib.suppress(ValueError, KeyError, IndexError):
                address = json.loads(await asyncio.to_thread(file.read_text))["nats"][0]
                return int(address.rpartition(":")[2])
        await _still_starting(child, log, until)


async def _ready(server: NatsServer, child: Child, log: Path) -> None:
    until = time.monotonic() + READY_SECONDS
    while True:
        with contextlib.suppress(*LOST):
            async with connected(server) as client:
                await api(client, "INFO")
                return
        await _still_starting(child, log, until)


async def _still_starting(child: Child, log: Path, until: float) -> None:
    if child.code is not None or time.monotonic() > until:
        text = await asyncio.to_thread(log.read_text, errors="replace")
        what = "ended while it started" if child.code is not None else f"was not ready within {READY_SECONDS:g} s"
        raise SourceFailed(f"the scratch {PROGRAM} {what}. The end of its log: {text.strip()[-500:]}")
    await asyncio.sleep(0.02)
