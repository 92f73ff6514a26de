"""Work with bounds: clean-ups that end although somebody cancels, calls that may never return, and many small things a
few at a time.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import Future
from typing import Any, ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
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


async def to_the_end(work: Awaitable[Result]) -> Result:
    """Waits until ``work`` ended, however often the caller is cancelled: nothing may follow that it could still spoil.

    A cancellation that came meanwhile is raised afterwards, and errors of ``work`` before it.
    """
    ending = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not ending.done():
        try:
            await asyncio.wait({ending})
        except asyncio.CancelledError as error:
            cancelled = error
    result = ending.result()
    if cancelled is not None:
        raise cancelled
    return result


async def unless(refusal: Coroutine[Any, Any, None], work: Coroutine[Any, Any, Result]) -> Result:
    """The result of ``work``, which is ended by the error that ``refusal`` raises beside it; then that is raised."""
    working, watching = asyncio.ensure_future(work), asyncio.ensure_future(refusal)
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            watching.result()
        return await working
    finally:
        working.cancel()
        watching.cancel()
        await to_the_end(asyncio.gather(working, watching, return_exceptions=True))


async def through(work: Callable[Arguments, Result], *arguments: Arguments.args, **options: Arguments.kwargs) -> Result:
    """``work`` in a thread that is never left behind: for what changes something.

    ``asyncio.to_thread`` gives up waiting when it is cancelled, and its thread goes on beside whatever follows.
    """
    return await to_the_end(asyncio.to_thread(work, *arguments, **options))


async def opened(work: Callable[[], Result], close: Callable[[Result], object]) -> Result:
    """What ``work`` opens or makes, in a thread. Who is cancelled meanwhile never gets it: then it is closed."""
    opening = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await to_the_end(opening)
    except asyncio.CancelledError:
        if opening.done() and not opening.cancelled() and opening.exception() is None:
            await through(close, opening.result())
        raise


async def in_own_thread(name: str, work: Callable[[], Result]) -> Result:
    """``work`` in a daemon thread of this name, for what a disk or a mount that hangs keeps for ever.

    Nobody waits for it who is cancelled, nor does the process when it ends. ``asyncio.to_thread`` has few threads for
    everything, look-ups of addresses included, and ``asyncio.run`` does not return before they do.
    """
    answer: Future[Result] = Future()
    answer.set_running_or_notify_cancel()  # from now on it takes its result, whether or not anybody still waits

    def call() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            answer.set_exception(error)
        else:
            answer.set_result(result)

    threading.Thread(target=call, name=name, daemon=True).start()
    return await asyncio.wrap_future(answer)


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
