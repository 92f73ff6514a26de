"""Health endpoints over HTTP: status, body, latency."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

import httpx

from recovery.adapters.probes.reach import Limits, framed
from recovery.adapters.trust import trusted
from recovery.domain.health import Finding, Part
from recovery.domain.health_answer import LARGEST_BODY, ExpectedAnswer


class HttpEndpointProbe:
    """Asks every address at the same time, each on a connection of its own: a kept one hides a lost server for long.

    Only the owner's endpoints are vital: elsewhere the application need not work yet.
    """

    def __init__(self, urls: Sequence[str], expected: ExpectedAnswer, limits: Limits) -> None:
        self._urls, self._expected, self._limits = urls, expected, limits
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(None, connect=limits.connect),
            follow_redirects=False,
            verify=trusted(),
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
            status, body = await read_answer(self._client, url)
            wrong = self._expected.wrong(status, body, time.monotonic() - began)
            return Finding(check=check, passed=not wrong, detail=wrong or f"HTTP {status}")

        failures = (httpx.HTTPError, httpx.InvalidURL)
        found = await framed(check, self._limits.answer, question, failures, tls="the address's certificate")
        return found.model_copy(update={"vital": found.vital and part is Part.OWNER})


async def read_answer(client: httpx.AsyncClient, url: str) -> tuple[int, bytes]:
    """Status and the beginning of the body. Raises what httpx raises."""
    body = b""
    async with client.stream("GET", url) as answer:
        async for piece in answer.aiter_bytes():
            body += piece
            if len(body) > LARGEST_BODY:
                break
        return answer.status_code, body[:LARGEST_BODY]
