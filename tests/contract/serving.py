"""An application on loopback for the length of a test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from starlette.applications import Starlette


class _Quiet(uvicorn.Server):
    """Leaves the signals of the test's process alone."""

    def install_signal_handlers(self) -> None:
        return


@asynccontextmanager
async def serving(
    application: Starlette, *, port: int = 0, certificate: Path | None = None, key: Path | None = None
) -> AsyncIterator[str]:
    """Its address. ``port`` 0: a free one."""
    config = uvicorn.Config(
        application,
        host="127.0.0.1",
        port=port,
        log_level="warning",
        lifespan="off",
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )
    server = _Quiet(config)
    running = asyncio.create_task(server._serve())
    try:
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"{'https' if certificate else 'http'}://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await running
