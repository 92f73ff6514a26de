"""Health endpoints over HTTP: status, body, latency."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx

from recovery.adapters.probes.reach import Limits, framed
from recovery.domain.health import Finding, Part

LARGEST_BODY = 64 * 1024  # bytes that are read of an answer


@dataclass(frozen=True)
class Expected:
    """``body``: words that the answer must contain; ``latency``: seconds above which an answer counts as a failure."""

    status: int = 200
    body: str | None = None
    latency: float | None = None


class HttpEndpointProbe:
    """Asks every address at the same time, each on a connection of its own: a kept one hides a lost server for long.

    Only the owner's endpoints are vital: elsewhere the application need not work yet.
    """

    def __init__(self, urls: Sequence[str], expected: Expected, limits: Limits) -> None:
        self._urls, self._expected, self._limits = urls, expected, limits
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(None, connect=limits.connect),
            follow_redirects=False,
            trust_env=False,
            limits=httpx.Limits(max_keepalive_connections=0),
        )

    async def look(self, part: Part) -> list[Finding]:
        """See ``recovery.ports.health.StoreProbe``."""
        return list(await asyncio.gather(*(self._ask(url, part) for url in self._urls)))

    async def close(self) -> None:
        await self._client.aclose()

    async def _ask(self, url: str, part: Part) -> Finding:
        check = urlsplit(url).path or "/"

        async def question() -> Finding:
            began = time.monotonic()
            status, body = await self._read(url)
            wrong = self._wrong(status, body, time.monotonic() - began)
            return Finding(check=check, passed=not wrong, detail=wrong or f"HTTP {status}")

        found = await framed(check, self._limits.answer, question, (httpx.HTTPError, httpx.InvalidURL))
        return found.model_copy(update={"vital": part is Part.OWNER})

    async def _read(self, url: str) -> tuple[int, bytes]:
        body = b""
        async with self._client.stream("GET", url) as answer:
            async for piece in answer.aiter_bytes():
                body += piece
                if len(body) > LARGEST_BODY:
                    break
            return answer.status_code, body[:LARGEST_BODY]

    def _wrong(self, status: int, body: bytes, seconds: float) -> str:
        expected = self._expected
        if status != expected.status:
            return f"HTTP {status}, expected {expected.status}"
        if expected.body is not None and expected.body.encode() not in body:
            return f"HTTP {status}, but the answer does not contain {expected.body!r}"
        if expected.latency is not None and seconds > expected.latency:
            return f"HTTP {status} after {seconds:.2f} s, and {expected.latency:g} s are the most"
        return ""
