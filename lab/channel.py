"""Requests between the lab's processes: one JSON object per line over a Unix socket in the lab's folder.

A Unix socket's path may have 107 bytes at most, and a lab's folder may be longer: the folder is opened, and the socket
is reached as /proc/self/fd/<n>/<name>, which is always short.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from lab.errors import LabError, LabUnreachableError

Handler = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
_LINE_LIMIT = 4 * 1024 * 1024


async def serve(folder: Path, name: str, handle: Handler) -> asyncio.Server:
    """Answer requests on `folder/name` until the returned server is closed. A LabError becomes the reply's "error"."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                try:
                    reply = await handle(json.loads(line))
                except LabError as error:
                    reply = {"error": str(error)}
                writer.write(json.dumps(reply).encode() + b"\n")
                await writer.drain()
        except ConnectionError:
            pass  # the client went away; there is nobody to tell
        finally:
            writer.close()

    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    old_mask = os.umask(0o177)
    try:
        return await asyncio.start_unix_server(talk, f"/proc/self/fd/{directory}/{name}", limit=_LINE_LIMIT)
    finally:
        os.umask(old_mask)
        os.close(directory)


async def call(folder: Path, name: str, request: dict[str, Any], timeout: float = 60.0) -> dict[str, Any]:
    """Send one request and return its reply. Raises LabError for an error reply or when nobody listens."""
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await _connect(folder, name)
            try:
                writer.write(json.dumps(request).encode() + b"\n")
                line = await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError) as error:
        raise LabUnreachableError(
            f"No lab answers in {folder} ({error or 'no answer in time'}). Start one with: drctl lab up"
        ) from error
    if not line:
        raise LabUnreachableError(f"The lab in {folder} ended while it was asked to {request.get('do', 'answer')}.")
    reply: dict[str, Any] = json.loads(line)
    if "error" in reply:
        raise LabError(reply["error"])
    return reply


async def wait_until_closed(folder: Path, name: str, request: dict[str, Any], timeout: float) -> None:
    """Send a request that ends the other process, and wait until that process is gone."""
    async with asyncio.timeout(timeout):
        reader, writer = await _connect(folder, name)
        try:
            writer.write(json.dumps(request).encode() + b"\n")
            while await reader.read(4096):
                pass
        except ConnectionError:
            pass  # gone, which is what was waited for
        finally:
            writer.close()


async def _connect(folder: Path, name: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return await asyncio.open_unix_connection(f"/proc/self/fd/{directory}/{name}", limit=_LINE_LIMIT)
    finally:
        os.close(directory)
