"""Whether a port can be reached at all, and the frame that every probe runs in."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from recovery.domain.addresses import address_of
from recovery.domain.health import Finding, Part

SHORTEST_CONNECT, LONGEST_CONNECT = 0.5, 1.5  # seconds
_ONE_ALONE = ("rejected SSL upgrade", "no ssl context provided")


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
        raise OSError(f"{address_of(host, port)} did not accept a connection within {limits.connect:g} s") from None
    writer.transport.abort()


async def framed(
    check: str,
    limit: float,
    question: Callable[[], Awaitable[Finding]],
    failures: tuple[type[Exception], ...],
    tls: str = "",
) -> Finding:
    """Asks within ``limit`` seconds. A timeout, an OSError and ``failures`` are findings; anything else is a bug.

    ``tls``: key of the configuration under which a store's certificates are trusted. A server that answers, and does
    not agree with it, is no lost one: that is not vital then.
    """
    expected: tuple[type[Exception], ...] = (OSError, *failures)
    began = time.monotonic()
    try:
        async with asyncio.timeout(limit):
            found = await question()
    except TimeoutError:
        found = Finding(check=check, passed=False, detail=f"no answer within {limit:g} s")
    except expected as error:
        ours = bool(tls) and disagrees(error)
        detail = f"{_words(error)} (check {tls})" if ours else _words(error)
        found = Finding(check=check, passed=False, vital=not ours, detail=detail)
    return found.model_copy(update={"seconds": round(time.monotonic() - began, 4)})


def disagrees(error: BaseException) -> bool:
    """Whether two that could speak to each other did not agree on TLS: on a certificate, or whether to use it at all.
    One that went away amid it said nothing."""
    if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)):
        return False
    # asyncpg's and nats-py's words where only one of the two wants TLS.
    if isinstance(error, ssl.SSLError) or any(words in str(error) for words in _ONE_ALONE):
        return True
    # httpx and httpcore raise errors of their own instead. What was handled when an error came is another matter.
    instead_of = error.__cause__ or (error.__context__ if error.__suppress_context__ else None)
    return instead_of is not None and disagrees(instead_of)


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
            detail = f"{address_of(self._host, self._port)} accepts connections"
            return Finding(check=self._check, passed=True, detail=f"{detail}; {self._note}" if self._note else detail)

        return [await framed(self._check, self._limits.answer, ask, ())]
