"""Whether a port can be reached at all, and the frame that every probe runs in."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from recovery.domain.health import Finding, Part

SHORTEST_CONNECT, LONGEST_CONNECT = 0.5, 1.5  # seconds


@dataclass(frozen=True)
class Limits:
    """``answer``: the longest wait for a server's answer; ``connect``: for its kernel's, in seconds.

    A machine that is gone answers no connection request, and is known by that long before a slow query's limit; a
    slow server's kernel answers at once.
    """

    answer: float
    connect: float

    @classmethod
    def of(cls, answer: float, interval: float) -> Limits:
        return cls(answer, min(answer, max(interval, SHORTEST_CONNECT), LONGEST_CONNECT))


async def reach(host: str, port: int, limits: Limits) -> None:
    """Opens a connection and closes it. Raises OSError with a sentence."""
    try:
        async with asyncio.timeout(limits.connect):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        raise OSError(f"{host}:{port} did not accept a connection within {limits.connect:g} s") from None
    writer.transport.abort()


async def framed(
    check: str, limit: float, question: Callable[[], Awaitable[Finding]], failures: tuple[type[Exception], ...]
) -> Finding:
    """Asks within ``limit`` seconds. A timeout, an OSError and ``failures`` are findings; anything else is a bug."""
    expected: tuple[type[Exception], ...] = (OSError, *failures)
    began = time.monotonic()
    try:
        async with asyncio.timeout(limit):
            found = await question()
    except TimeoutError:
        found = Finding(check=check, passed=False, detail=f"no answer within {limit:g} s")
    except expected as error:
        found = Finding(check=check, passed=False, detail=_words(error))
    return found.model_copy(update={"seconds": round(time.monotonic() - began, 4)})


def _words(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and error.strerror and error.strerror not in text:
        text = f"{error.strerror}: {text}"
    return text[:300]


class TcpProbe:
    """A port that accepts connections, where nothing more can be asked."""

    def __init__(self, check: str, host: str, port: int, limits: Limits, note: str = "") -> None:
        self._check, self._host, self._port, self._limits, self._note = check, host, port, limits, note

    async def look(self, part: Part) -> list[Finding]:
        """See ``recovery.ports.health.StoreProbe``."""

        async def ask() -> Finding:
            await reach(self._host, self._port, self._limits)
            detail = f"{self._host}:{self._port} accepts connections"
            return Finding(check=self._check, passed=True, detail=f"{detail}; {self._note}" if self._note else detail)

        return [await framed(self._check, self._limits.answer, ask, ())]
