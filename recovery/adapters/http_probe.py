"""Health endpoints over HTTP."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

import httpx

from recovery.domain.recovery_point import CheckResult

LARGEST_BODY = 64 * 1024  # bytes that are read of an answer


class HttpProbe:
    """``recovery.ports.services.HealthProbe``."""

    def __init__(self) -> None:
        self._client = httpx.AsyncClient(timeout=None, follow_redirects=False)  # each question has a limit of its own

    async def check(self, url: str, *, status: int, timeout: timedelta) -> CheckResult:
        """See the port."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(timeout.total_seconds()), self._client.stream("GET", url) as answer:
                read = 0
                async for part in answer.aiter_bytes():
                    read += len(part)
                    if read > LARGEST_BODY:
                        break
                passed = answer.status_code == status
                detail = f"HTTP {answer.status_code}" + ("" if passed else f", expected {status}")
        except (httpx.HTTPError, TimeoutError, httpx.InvalidURL) as error:
            passed, detail = False, f"{type(error).__name__}: {error}" if str(error) else "no answer in time"
        return CheckResult(name=url, passed=passed, detail=detail, seconds=round(time.monotonic() - began, 3))

    async def close(self) -> None:
        await self._client.aclose()
