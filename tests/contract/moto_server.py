"""moto's server as a process of its own: Amazon's APIs in memory. It is far laxer than Amazon: see the fronts."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from tests.ports import free_port


@asynccontextmanager
async def moto() -> AsyncIterator[str]:
    """The address of a fresh one."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port),
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        async with asyncio.timeout(60), httpx.AsyncClient() as client:
            while True:
                if process.returncode is not None:
                    raise RuntimeError(f"moto ended with {process.returncode} before it answered")
                try:
                    await client.get(f"{address}/moto-api/")
                    break
                except httpx.HTTPError:
                    await asyncio.sleep(0.05)
        yield address
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
