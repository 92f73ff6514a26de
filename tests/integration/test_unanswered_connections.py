"""Connection requests that nobody answers, as of a host whose packets are dropped: each probe's time is bounded.

A listening socket whose queue is full drops them as a firewall does.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta

from recovery.adapters.probes import (
    DnsProbe,
    HttpEndpointProbe,
    Limits,
    NatsLogin,
    NatsProbe,
    PostgresProbe,
    ProbesOfRegion,
    RedisProbe,
    TcpProbe,
)
from recovery.adapters.redis.connection import RedisLogin, RedisServer
from recovery.domain.group import DnsRecord, FailoverRule, GroupSnapshot, Objectives, RegionPlan
from recovery.domain.health import Part, Sighting, Verdict
from recovery.domain.health_answer import ExpectedAnswer
from recovery.health.pulse import boottime
from recovery.health.watch import GroupWatch, WatchedGroup
from recovery.ports.health import RegionProbe, StoreProbe
from recovery.ports.postgres import PostgresLogin
from recovery.telemetry.health_metrics import HealthMetrics
from recovery.telemetry.metrics import RecoveryMetrics
from tests.contract.test_health_probe import Answer, hang, serving, status

LIMITS = Limits.of(2.0, 0.5)
LATE = 0.5  # seconds that a busy machine may add
INTERVAL, FAILURES, ANSWER, SLOW = 0.5, 3, 5.0, 3.0
BOUND = FAILURES * INTERVAL + 2.0


@contextlib.contextmanager
def silent_port() -> Iterator[int]:
    """Where connection requests are dropped."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


@contextlib.contextmanager
def silent_names() -> Iterator[int]:
    """A name server that answers nothing."""
    with socket.socket(type=socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        yield server.getsockname()[1]


def http(port: int, limits: Limits = LIMITS) -> HttpEndpointProbe:
    return HttpEndpointProbe([f"http://127.0.0.1:{port}/healthz"], ExpectedAnswer(), limits)


def postgres(port: int, limits: Limits = LIMITS) -> PostgresProbe:
    return PostgresProbe(PostgresLogin("127.0.0.1", port, "app", "shop", "secret"), "west", limits)


KINDS: dict[str, Callable[[int], StoreProbe]] = {
    "http": http,
    "postgres": postgres,
    "nats": lambda port: NatsProbe(NatsLogin("127.0.0.1", port), None, LIMITS),
    "redis": lambda port: RedisProbe(RedisServer("127.0.0.1", port, RedisLogin()), LIMITS),
    "tcp": lambda port: TcpProbe("redis", "127.0.0.1", port, LIMITS),
}


@contextlib.asynccontextmanager
async def longest_hold_up() -> AsyncIterator[list[float]]:
    """How long the loop did nothing else, at most, as the list's last."""
    found = [0.0]

    async def tick() -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.01)
            found.append(max(found[-1], time.monotonic() - began - 0.01))

    task = asyncio.create_task(tick())
    try:
        yield found
    finally:
        task.cancel()


async def test_a_connection_request_that_nobody_answers_fails_within_its_limit_and_holds_nobody_up() -> None:
    with silent_port() as port:
        probes = {kind: make(port) for kind, make in KINDS.items()}

        async def asked(probe: StoreProbe) -> tuple[Sighting, float]:
            began = time.monotonic()
            return Sighting(findings=await probe.look(Part.OWNER)), time.monotonic() - began

        async with longest_hold_up() as held_up:
            found = await asyncio.gather(*(asked(probe) for probe in probes.values()))
        assert held_up[-1] < LATE
        for kind, (sighting, seconds) in zip(probes, found, strict=True):
            assert not sighting.passed, kind
            assert LIMITS.connect * 0.9 <= seconds <= LIMITS.connect + LATE, (kind, seconds)


async def test_names_that_nobody_resolves_are_asked_for_at_once() -> None:
    records = [DnsRecord(name=f"{name}.shop.test", zone="shop.test") for name in ("db", "api", "events")]
    with silent_names() as port:
        began = time.monotonic()
        found = await DnsProbe(records, "192.0.2.1", 1.0, ("127.0.0.1", port)).look(Part.OWNER)
        assert time.monotonic() - began <= 1.0 + LATE
    assert [finding.passed for finding in found] == [False] * 3


def late(seconds: float) -> Answer:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(seconds)
        await status(200)(reader, writer)

    return answer


async def watched(probe: RegionProbe, seconds: float) -> tuple[Verdict, float]:
    """The verdict on a region that owns the group, as soon as it is one of loss, and when it was reached."""
    snapshot = GroupSnapshot(
        name="shop",
        objectives=Objectives(tier="critical", rto=timedelta(minutes=15), rpo=timedelta(minutes=5)),
        home_region="east",
        regions=[RegionPlan(name="east", task_queue="east")],
        failover=FailoverRule(
            interval=timedelta(seconds=INTERVAL), timeout=timedelta(seconds=ANSWER), failure_threshold=FAILURES
        ),
    )

    async def checked() -> None:
        """The loop was never held up."""

    group = WatchedGroup(snapshot, {"east": probe})
    watch = GroupWatch("west", group, HealthMetrics(RecoveryMetrics()), checked, asyncio.Semaphore(16), clock=boottime)
    watch.owned(None, datetime.now(UTC))
    began = time.monotonic()
    task = asyncio.create_task(watch.run("east"))
    try:
        while watch.owner_verdict is not Verdict.LOST and time.monotonic() - began < seconds:
            await asyncio.sleep(0.02)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    return watch.owner_verdict, time.monotonic() - began


async def test_only_the_owner_s_failure_is_told_before_everybody_answered() -> None:
    """Elsewhere whether anything answers decides where a recovery may go to; and quick answers are always told."""
    limits = Limits.of(2.0, 0.5)
    async with serving(status(200)) as quick, serving(late(1.0)) as slow:
        with silent_port() as dead:
            ok, slow_one = (HttpEndpointProbe([url], ExpectedAnswer(), limits) for url in (quick, slow))
            region = ProbesOfRegion([slow_one, postgres(dead, limits), ok], limits.connect)
            owner, standby = await asyncio.gather(region.look(Part.OWNER), region.look(Part.STANDBY))
    assert [(finding.check, finding.passed) for finding in owner.findings] == [("postgres", False), ("/healthz", True)]
    assert [finding.passed for finding in standby.findings] == [True, False, True]


async def test_a_database_whose_packets_are_dropped_is_noticed_in_time_beside_what_hangs() -> None:
    """And under the same limits a primary that takes three seconds for each answer is well."""
    limits, record = Limits.of(ANSWER, INTERVAL), DnsRecord(name="db.shop.test", zone="shop.test")
    async with serving(hang) as hanging, serving(late(SLOW)) as slow:
        with silent_port() as dead, silent_names() as names:
            endpoint, slow_one = (HttpEndpointProbe([url], ExpectedAnswer(), limits) for url in (hanging, slow))
            resolver = DnsProbe([record], "192.0.2.1", ANSWER, ("127.0.0.1", names))
            *lost, well = await asyncio.gather(
                watched(ProbesOfRegion([postgres(dead, limits), endpoint], limits.connect), 10.0),
                watched(ProbesOfRegion([postgres(dead, limits), resolver], limits.connect), 10.0),
                watched(ProbesOfRegion([slow_one, resolver], limits.connect), ANSWER + 1.0),
            )
    for verdict, seconds in lost:
        assert verdict is Verdict.LOST and seconds <= BOUND, seconds
    assert well[0] is Verdict.HEALTHY
