"""The guard's address against those who have no token and much time, and against those who send too much."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import time
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from recovery.adapters.guard_client import GuardClient
from recovery.guard import connections, process
from recovery.guard import server as serving
from recovery.guard.connections import Doors
from tests.certificates import self_signed
from tests.unit.guard.test_address import ORDER, TOKEN, FakeGuard, answering

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@contextlib.asynccontextmanager
async def strangers(url: str, count: int = 1) -> AsyncIterator[list[Stream]]:
    place = urlsplit(url)
    made = [await asyncio.open_connection(place.hostname, place.port) for _ in range(count)]
    try:
        yield made
    finally:
        for _, writer in made:
            writer.transport.abort()


async def ended_after(stream: Stream, limit: float = 5.0) -> float:
    """Seconds until the other side ended the connection."""
    began = time.monotonic()
    with contextlib.suppress(ConnectionResetError, TimeoutError):
        async with asyncio.timeout(limit):
            await stream[0].read()
    return time.monotonic() - began


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEADERS", 0.3)
    monkeypatch.setattr(connections, "HANDSHAKE", 0.3)
    monkeypatch.setattr(serving, "BODY_SECONDS", 0.3)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("said", [b"", b"GET /status HTTP/1.1\r\nHost: x\r\nX-Slow: "])
async def test_who_does_not_get_to_the_end_of_the_headers_is_cut_off(said: bytes) -> None:
    async with answering(FakeGuard()) as url, strangers(url) as (stranger,):
        stranger[1].write(said)
        assert await ended_after(stranger) < 2


@pytest.mark.usefixtures("quick")
async def test_a_byte_now_and_then_buys_no_time() -> None:
    async with answering(FakeGuard()) as url, strangers(url) as (stranger,):

        async def drip() -> None:
            while True:
                stranger[1].write(b"G")
                await asyncio.sleep(0.05)

        dripping = asyncio.create_task(drip())
        assert await ended_after(stranger) < 2
        dripping.cancel()


@pytest.mark.usefixtures("quick")
async def test_a_second_request_on_a_kept_connection_has_no_more_time_than_the_first() -> None:
    async with answering(FakeGuard()) as url, strangers(url) as (stranger,):
        stranger[1].write(b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"401" in await stranger[0].readline()
        await asyncio.sleep(0.6)  # idle, which is no request
        stranger[1].write(b"GET /sta")
        assert await ended_after(stranger) < 2


@pytest.mark.usefixtures("quick")
async def test_an_idle_client_with_a_token_stays_connected() -> None:
    async with answering(FakeGuard()) as url, httpx.AsyncClient(trust_env=False) as client:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        first = await client.get(f"{url}/status", headers=headers)
        await asyncio.sleep(0.8)
        second = await client.get(f"{url}/status", headers=headers)
        streams = [answer.extensions["network_stream"].get_extra_info("client_addr") for answer in (first, second)]
        assert streams[0] == streams[1]


@pytest.mark.usefixtures("quick")
async def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    guard = FakeGuard()
    async with answering(guard) as url, strangers(url) as (stranger,):
        head = f"POST /fence HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 500\r\n\r\n{{"
        stranger[1].write(head.encode())
        async with asyncio.timeout(5):
            assert b"400" in await stranger[0].readline()
    assert guard.asked == []


async def test_a_stranger_sends_no_body_and_no_endless_headers() -> None:
    guard = FakeGuard()
    async with answering(guard) as url, strangers(url, 2) as (one, two):
        one[1].write(b"POST /fence HTTP/1.1\r\nHost: x\r\nContent-Length: 900000000\r\n\r\n")
        assert b"401" in await one[0].readline()
        two[1].write(b"GET /status HTTP/1.1\r\nHost: x\r\nX-Much: " + b"x" * 4 * connections.HEADER_BYTES)
        assert b"400" in await two[0].readline()
    assert guard.asked == []


async def test_many_strangers_keep_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "Doors", lambda: Doors(most=100, from_one_host=10))
    async with answering(FakeGuard()) as url, strangers(url, 30) as streams:
        refused = await asyncio.gather(*(ended_after(stream, 0.5) for stream in streams))
        assert sum(seconds < 0.4 for seconds in refused) == 20
        for _, writer in streams[:10]:
            writer.transport.abort()
        await asyncio.sleep(0.1)
        async with GuardClient({"b": url}, TOKEN) as client:
            assert (await client.status("b")).region == "b"


@pytest.mark.usefixtures("quick")
async def test_a_handshake_that_does_not_end_is_cut_off(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    async with (
        answering(FakeGuard(), certificate=str(certificate), key=str(key)) as url,
        strangers(url) as (stranger,),
    ):
        assert await ended_after(stranger) < 2


@pytest.mark.parametrize("deadline", ["NaN", "Infinity", "0", "-1", "1e9"])
async def test_an_order_without_an_end_is_refused(deadline: str) -> None:
    guard = FakeGuard()
    async with answering(guard) as url, httpx.AsyncClient(trust_env=False) as client:
        body = ORDER.model_dump_json().replace('"deadline":20.0', f'"deadline":{deadline}')
        answer = await client.post(f"{url}/fence", content=body, headers={"Authorization": f"Bearer {TOKEN}"})
        assert (answer.status_code, answer.json()["kind"]) == (400, "BadInput")
    assert guard.asked == []


def test_a_guard_may_open_many_files(monkeypatch: pytest.MonkeyPatch) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, before[1]), before[1]))
        process._allow_descriptors()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(process.DESCRIPTORS, before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
