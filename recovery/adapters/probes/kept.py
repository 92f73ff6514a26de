"""A session that is kept between two looks, so that one look is one question and not a whole login.

A login takes several rounds: a server that takes three seconds for each answer would need twelve, where its clients,
who are logged in, wait three. Looks overlap where an answer takes longer than the interval: they share the question
that is under way, and each waits for it from its own beginning.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from recovery.domain.health import Finding, Part

Session = TypeVar("Session")

GIVEN_UP_AFTER = 3  # times the longest wait, after which a session without an answer is thrown away
NEW_AFTER = 60.0  # seconds, after which a quick session is replaced: whether a login works is part of being well
QUICK = 0.2  # of the longest wait


class KeptSession(Generic[Session]):
    """Args:
    open: logs in.
    ask: one question; raises what the driver raises.
    drop: ends a session at once, without waiting for its server.
    limit: the longest wait for an answer, in seconds.
    """

    def __init__(
        self,
        open: Callable[[], Awaitable[Session]],
        ask: Callable[[Session, Part], Awaitable[Finding]],
        drop: Callable[[Session], Awaitable[None]],
        limit: float,
    ) -> None:
        self._open, self._ask, self._drop, self._limit = open, ask, drop, limit
        self._session: Session | None = None
        self._opened_at = 0.0
        self._asked: asyncio.Task[Finding] | None = None
        self._part: Part | None = None

    async def answer(self, part: Part) -> Finding:
        """Joins the question that is under way, or asks one. Bounded by the caller; what it raises is the driver's."""
        if self._asked is not None and not self._asked.done() and self._part is not part:
            self._asked.cancel()
            await asyncio.gather(self._asked, return_exceptions=True)
        if self._asked is None or self._asked.done():
            self._part = part
            self._asked = asyncio.create_task(self._run(part))
            self._asked.add_done_callback(_heard)
        return await asyncio.shield(self._asked)

    async def close(self) -> None:
        if self._asked is not None:
            self._asked.cancel()
            await asyncio.gather(self._asked, return_exceptions=True)
        await self._forget()

    async def _run(self, part: Part) -> Finding:
        try:
            async with asyncio.timeout(self._limit * GIVEN_UP_AFTER):
                began = time.monotonic()
                found = await self._ask_again(part) if self._session is None else await self._ask_first(part)
        except BaseException:
            await self._forget()
            raise
        now = time.monotonic()
        if now - self._opened_at > NEW_AFTER and now - began < self._limit * QUICK:
            await self._forget()
        return found

    async def _ask_first(self, part: Part) -> Finding:
        """A session that somebody ended meanwhile is no fault of its server's, if that takes another one at once."""
        assert self._session is not None
        try:
            return await self._ask(self._session, part)
        except Exception:  # noqa: BLE001  # whatever it was, the new session meets it again or it is over
            await self._forget()
            return await self._ask_again(part)

    async def _ask_again(self, part: Part) -> Finding:
        self._session, self._opened_at = await self._open(), time.monotonic()
        return await self._ask(self._session, part)

    async def _forget(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await self._drop(session)


def _heard(task: asyncio.Task[Finding]) -> None:
    """Those who waited may all have gone before it ended."""
    if not task.cancelled():
        task.exception()
