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
from recovery.guard.connections import Door, Doors
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


@pytest.fixture
def doors(monkeypatch: pytest.MonkeyPatch) -> Doors:
    """Of every address that a test opens: ten strangers, and thirty connections in all."""
    made = Doors(most=30, strangers=10)
    monkeypatch.setattr(serving, "Doors", lambda: made)
    return made


@pytest.mark.parametrize("secure", [False, True], ids=["http", "in a TLS handshake"])
async def test_strangers_exhaust_their_bound_and_a_peer_is_answered(tmp_path: Path, doors: Doors, secure: bool) -> None:
    """They say nothing, and are counted all the same; who is too many ends the oldest of them, not a peer."""
    certificate, key = self_signed(tmp_path)
    tls = {"certificate": str(certificate), "key": str(key)} if secure else {}
    async with (
        answering(FakeGuard(), **tls) as url,
        GuardClient({"b": url}, TOKEN, ca_file=str(certificate)) as before,
        GuardClient({"b": url}, TOKEN, ca_file=str(certificate)) as after,
    ):
        assert (await before.status("b")).region == "b"
        assert doors.strangers == 0, "who has shown the token is none"
        async with strangers(url, 40) as streams:
            ended = await asyncio.gather(*(ended_after(stream, 0.5) for stream in streams))
            assert [seconds < 0.4 for seconds in ended] == [True] * 30 + [False] * 10
            assert doors.strangers == 10
            assert (await after.status("b")).region == "b"
            assert doors.strangers == 9, "the newcomer ended the oldest, and is known now"
            assert (await before.status("b")).region == "b"


async def test_who_left_is_counted_no_longer(doors: Doors) -> None:
    async with answering(FakeGuard()) as url:
        async with strangers(url, 10):
            while doors.strangers < 10:
                await asyncio.sleep(0.01)
        while doors.strangers:
            await asyncio.sleep(0.01)


class Shut:
    """Doors of hosts, and which of them were shut."""

    def __init__(self, doors: Doors) -> None:
        self._doors = doors
        self.shut: list[str] = []

    def enter(self, host: str, name: str) -> Door | None:
        return self._doors.enter(host, lambda: self.shut.append(name))


def test_the_most_crowded_host_makes_room() -> None:
    of = Shut(Doors(most=100, strangers=4))
    of.enter("peer", "p1")
    for number in range(3):
        of.enter("crowd", f"c{number}")
    of.enter("another", "a1")
    of.enter("crowd", "c3")
    assert of.shut == ["c0", "c1"], "never the peer's, although it is older"


def test_known_connections_have_a_bound_of_their_own() -> None:
    of = Shut(Doors(most=2, strangers=2))
    first, second = of.enter("peer", "p0"), of.enter("peer", "p1")
    assert first is not None and second is not None
    first.know()
    second.know()
    assert of.enter("peer", "p2") is None
    assert of.shut == []
    first.leave()
    first.leave()
    assert of.enter("peer", "p3") is not None


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
