"""Waiting for conditions, and the little things that a look at processes and files needs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import psutil

Value = TypeVar("Value")


async def eventually(question: Callable[[], Awaitable[Value]], seconds: float = 30.0, *, every: float = 0.03) -> Value:
    """Asks until the answer is true; returns it. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not (answer := await question()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s")
        await asyncio.sleep(every)
    return answer


def text_of(path: Path) -> str:
    return path.read_text() if path.exists() else ""


async def exists(path: Path) -> bool:
    return await asyncio.to_thread(path.exists)


async def found(values: list[Value]) -> list[Value]:
    return values


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def works_in(process: psutil.Process, folder: Path) -> bool:
    try:
        return Path(process.cwd()) == folder
    except (psutil.Error, OSError):
        return False
