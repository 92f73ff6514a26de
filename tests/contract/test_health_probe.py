"""Health endpoints: asked over real HTTP; a failure is a result with its reason."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from recovery.adapters.http_probe import HttpProbe
from recovery.domain.health_answer import ExpectedAnswer

LIMIT = timedelta(seconds=1)
Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(answer: Answer, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await answer(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(once, "127.0.0.1", 0, ssl=tls)
    try:
        yield f"http{'s' if tls else ''}://127.0.0.1:{server.sockets[0].getsockname()[1]}/healthz"
    finally:
        server.close()


def status(code: int, body: bytes = b"{}") -> Answer:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (code, len(body), body))
        await writer.drain()

    return answer


async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()  # until the other side gives up


async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 X\r\nConnection: close\r\n\r\n")
    while True:
        writer.write(b"x" * 65536)
        await writer.drain()


@pytest.fixture
async def probe() -> AsyncIterator[HttpProbe]:
    probe = HttpProbe()
    yield probe
    await probe.close()


@pytest.mark.parametrize(("code", "passed"), [(200, True), (204, False), (301, False), (404, False), (500, False)])
async def test_status_decides(probe: HttpProbe, code: int, passed: bool):
    async with serving(status(code, b"")) as url:
        result = await probe.check(url, expected=ExpectedAnswer(200), timeout=LIMIT)
    assert result.passed is passed
    assert result.detail == (f"HTTP {code}" if passed else f"HTTP {code}, expected 200")


async def test_another_status_may_be_the_right_one(probe: HttpProbe):
    async with serving(status(204, b"")) as url:
        assert (await probe.check(url, expected=ExpectedAnswer(204), timeout=LIMIT)).passed


async def test_words_that_the_answer_must_contain_and_its_latency_decide_too(probe: HttpProbe):
    async with serving(status(200, b'{"status": "down"}')) as url:
        wrong = await probe.check(url, expected=ExpectedAnswer(body='"ok"'), timeout=LIMIT)
        late = await probe.check(url, expected=ExpectedAnswer(latency=0.0), timeout=LIMIT)
        well = await probe.check(url, expected=ExpectedAnswer(body="down", latency=1.0), timeout=LIMIT)
    assert (wrong.passed, late.passed, well.passed) == (False, False, True)
    assert "does not contain" in wrong.detail and "are the most" in late.detail


async def test_silence_is_a_failure_within_the_limit(probe: HttpProbe):
    began = asyncio.get_running_loop().time()
    async with serving(hang) as url:
        result = await probe.check(url, expected=ExpectedAnswer(200), timeout=LIMIT)
    assert not result.passed
    assert asyncio.get_running_loop().time() - began < 3


async def test_an_endless_body_costs_no_memory_and_no_time(probe: HttpProbe):
    async with serving(endless) as url:
        result = await probe.check(url, expected=ExpectedAnswer(200), timeout=LIMIT)
    assert result.passed


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "http://no.such.host.invalid/", "nonsense"])
async def test_what_cannot_be_asked_is_a_failure_with_a_reason(probe: HttpProbe, url: str):
    result = await probe.check(url, expected=ExpectedAnswer(200), timeout=LIMIT)
    assert not result.passed and result.detail
