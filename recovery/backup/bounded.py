"""Work with bounds: clean-ups that end although somebody cancels, and many small things a few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


async def finish_within(seconds: float, work: Coroutine[Any, Any, None]) -> bool:
    """Runs ``work`` to its end, however often the caller is cancelled meanwhile; False when the time was too short.

    For cleaning up in an ``except`` or ``finally`` block whose error is raised again: the cancellation that interrupts
    the wait is therefore not lost. Errors of ``work`` are raised.
    """
    task = asyncio.ensure_future(work)
    deadline = asyncio.get_running_loop().time() + seconds
    while not task.done():
        left = deadline - asyncio.get_running_loop().time()
        if left <= 0:
            task.cancel()
            await asyncio.wait({task}, timeout=1.0)
            return False
        try:
            await asyncio.wait({task}, timeout=left)
        except asyncio.CancelledError:
            continue
    task.result()
    return True


async def for_each(items: Iterable[Item], work: Callable[[Item], Awaitable[Result]], limit: int) -> list[Result]:
    """``work`` for all items, at most ``limit`` at once; results in the order of the items.

    The first error ends the others and is raised as it is, not in an exception group.
    """
    queue = enumerate(items)
    results: dict[int, Result] = {}

    async def worker() -> None:
        for number, item in queue:
            results[number] = await work(item)

    tasks = [asyncio.ensure_future(worker()) for _ in range(limit)]
    try:
        await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
    return [results[number] for number in range(len(results))]
