"""Health endpoints over HTTP."""

from __future__ import annotations

import asyncio
import time

import httpx

from recovery.domain.recovery_point import CheckResult

LARGEST_BODY = 64 * 1024  # bytes that are read of an answer


class HttpProbe:
    """``recovery.ports.services.HealthProbe``: any status from 200 to 299 is well.

    Args:
        timeout: seconds for the whole question, name resolution and body included.
    """

    def __init__(self, timeout: float = 5.0) -> None:
        self._timeout = timeout
        self._client = httpx.AsyncClient(timeout=timeout, follow_redirects=False)

    async def check(self, url: str) -> CheckResult:
        """See the port."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._timeout), self._client.stream("GET", url) as answer:
                read = 0
                async for part in answer.aiter_bytes():
                    read += len(part)
                    if read > LARGEST_BODY:
                        break
                passed, detail = answer.is_success, f"HTTP {answer.status_code}"
        except (httpx.HTTPError, TimeoutError, httpx.InvalidURL) as error:
            passed, detail = False, f"{type(error).__name__}: {error}" if str(error) else "no answer in time"
        return CheckResult(name=url, passed=passed, detail=detail, seconds=round(time.monotonic() - began, 3))

    async def close(self) -> None:
        await self._client.aclose()
