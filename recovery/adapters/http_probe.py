"""Health endpoints over HTTP."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

import httpx

from recovery.adapters.probes.http import read_answer
from recovery.adapters.trust import trusted
from recovery.domain.health_answer import Expected
from recovery.domain.recovery_point import CheckResult


class HttpProbe:
    """``recovery.ports.services.HealthProbe``."""

    def __init__(self) -> None:
        # Each question has a limit of its own, and none goes through a proxy.
        self._client = httpx.AsyncClient(timeout=None, follow_redirects=False, verify=trusted(), trust_env=False)

    async def check(self, url: str, *, expected: Expected, timeout: timedelta) -> CheckResult:
        """See the port."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(timeout.total_seconds()):
                status, body = await read_answer(self._client, url)
            wrong = expected.wrong(status, body, time.monotonic() - began)
            passed, detail = not wrong, wrong or f"HTTP {status}"
        except (httpx.HTTPError, TimeoutError, httpx.InvalidURL) as error:
            passed, detail = False, f"{type(error).__name__}: {error}" if str(error) else "no answer in time"
        return CheckResult(name=url, passed=passed, detail=detail, seconds=round(time.monotonic() - began, 3))

    async def close(self) -> None:
        await self._client.aclose()
