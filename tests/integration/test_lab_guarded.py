"""A guarded lab: stores that rest, mirrors across regions, links that fail one way or late, processes that belong."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import dns.asyncquery
import dns.message
import nats
import nats.errors
import psutil
import pytest
import pytest_asyncio
import redis.asyncio
import redis.exceptions

from drctl.demo.guarded import install_guarded
from lab import Lab, LabError
from lab.guarded import STREAMS
from lab.state import CLIENTS, CONTROL, MARK
from recovery.config import Config
from tests.integration.waiting import eventually

A, B = "region-a", "region-b"
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab() -> AsyncIterator[Lab]:
    services = {"postgres", "nats", "redis", "app", "witness", "temporal", "dns", "webhook"}
    async with await Lab.start(guarded=True, services=services) as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


async def test_redis_refuses_writes_at_rest_and_keeps_its_data(lab: Lab) -> None:
    async with redis.asyncio.from_url(lab.redis(A)) as client:
        with pytest.raises(redis.exceptions.ReadOnlyError):
            await client.set("key", "value")
        await client.replicaof("NO", "ONE")
        await client.set("key", "value")
    await lab.restart(A, "redis")
    async with redis.asyncio.from_url(lab.redis(A)) as client:
        with pytest.raises(redis.exceptions.ReadOnlyError):
            await client.set("key", "other")
        assert await client.get("key") == b"value"


async def test_a_redis_that_a_guard_ended_comes_back_at_rest_and_one_that_the_lab_killed_does_not(lab: Lab) -> None:
    before = lab.describe().server(f"{A}/redis").pid
    assert before is not None
    psutil.Process(before).kill()

    async def back() -> bool:
        server = lab.describe().server(f"{A}/redis")
        return server.state == "running" and server.pid not in (None, before)

    await eventually(back, 10)
    await wait_for_redis(lab)
    async with redis.asyncio.from_url(lab.redis(A)) as client:
        with pytest.raises(redis.exceptions.ReadOnlyError):
            await client.set("key", "other")
    await lab.kill(A, "redis")
    await asyncio.sleep(1)
    assert lab.describe().server(f"{A}/redis").state == "killed"
    await lab.restart(A, "redis")


async def wait_for_redis(lab: Lab) -> None:
    async def answers() -> bool:
        with contextlib.suppress(redis.exceptions.RedisError):
            async with redis.asyncio.from_url(lab.redis(A)) as client:
                return bool(await client.ping())
        return False

    await eventually(answers, 10)


async def test_the_other_redis_can_follow_through_the_link(lab: Lab) -> None:
    host, port = lab.seen_from(B, A, "redis")
    async with redis.asyncio.from_url(lab.redis(A)) as source, redis.asyncio.from_url(lab.redis(B)) as replica:
        await source.replicaof("NO", "ONE")
        await source.set("followed", "yes")
        await replica.replicaof(host, str(port))

        async def there() -> bool:
            return bool(await replica.get("followed") == b"yes")

        await eventually(there, 15)


async def test_the_application_publishes_nothing_at_rest_and_mirrors_follow(lab: Lab) -> None:
    place = lab.jetstream(A)
    administrator = await nats.connect(place.admin_url)
    mirror = await nats.connect(lab.jetstream(B).admin_url)
    application = await nats.connect(place.app_url, error_cb=_ignore)
    try:
        with pytest.raises(nats.errors.TimeoutError):
            await application.jetstream().publish("shop.orders.new", b"denied", timeout=0.5)
        await administrator.jetstream().publish("shop.orders.new", b"1")

        async def mirrored() -> bool:
            return bool((await mirror.jetstream().stream_info("ORDERS")).state.messages == 1)

        await eventually(mirrored, 15)
        info = await mirror.jetstream().stream_info("EVENTS")
        assert info.config.mirror is not None
        assert {stream.config.name for stream in await administrator.jetstream().streams_info()} == set(STREAMS)
        # The application's own subjects do not cross: no stream of the other side takes the message again.
        with pytest.raises((nats.errors.NoRespondersError, nats.errors.TimeoutError, nats.errors.Error)):
            await mirror.jetstream().publish("shop.orders.new", b"2", timeout=0.5)
        assert (await administrator.jetstream().stream_info("ORDERS")).state.messages == 1
    finally:
        for client in (administrator, mirror, application):
            await client.close()


async def _ignore(error: Exception) -> None:
    """The client library prints what the server refuses."""


async def test_a_one_way_partition_loses_only_one_direction(lab: Lab) -> None:
    host, port = lab.seen_from(B, A, "redis")
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"PING\r\n")
    assert (await asyncio.wait_for(reader.read(100), 5)).startswith(b"-NOAUTH")
    await lab.partition(A, B, one_way=True)
    try:
        assert lab.describe().one_way == [(A, B)]
        writer.write(b"PING\r\n")  # arrives; its answer is lost
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(100), 0.3)
        back_host, back_port = lab.seen_from(A, B, "redis")
        _, silent = await asyncio.open_connection(back_host, back_port)
        silent.close()
    finally:
        await lab.heal()
    assert (await asyncio.wait_for(reader.read(100), 5)).startswith(b"-NOAUTH")
    writer.close()


async def test_a_slow_service_answers_late_to_everybody_else(lab: Lab) -> None:
    await lab.slow(A, "redis", seconds=0.4)
    try:
        for vantage in (B, "outside", CLIENTS):
            began = time.monotonic()
            host, port = lab.seen_from(vantage, A, "redis")
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(b"PING\r\n")
            assert await asyncio.wait_for(reader.read(100), 5)
            assert 0.8 <= time.monotonic() - began < 4
            writer.close()
        began = time.monotonic()
        async with redis.asyncio.from_url(lab.redis(A)) as client:
            await client.ping()
        assert time.monotonic() - began < 0.4
        with pytest.raises(LabError, match="Nobody sees region-a mysql"):
            await lab.slow(A, "mysql", seconds=1)
    finally:
        await lab.slow(A, "redis", seconds=0)
    assert lab.describe().delays == []


async def test_dns_is_asked_through_its_link_by_datagrams_too(lab: Lab) -> None:
    host, port = lab.seen_from(CLIENTS, CONTROL, "dns")
    query = dns.message.make_query("db.shop.test", "A")
    answer = await dns.asyncquery.udp(query, host, port=port, timeout=3)
    assert answer.answer[0][0].address == lab.seen_from(CLIENTS, A, "postgres")[0]
    await lab.partition(CLIENTS, CONTROL)
    try:
        with pytest.raises(Exception, match=r"timed out|timeout"):
            await dns.asyncquery.udp(query, host, port=port, timeout=0.3)
    finally:
        await lab.heal()


async def test_an_isolated_place_keeps_only_what_it_is_left(lab: Lab) -> None:
    await lab.isolate(A, keep=["witness"])
    try:
        assert sorted(lab.describe().partitions) == [
            (CLIENTS, A), (CONTROL, A), ("outside", A), (A, B),
        ]  # fmt: skip
    finally:
        await lab.heal()


async def test_every_place_has_a_configuration_that_is_right(lab: Lab, folder: Path) -> None:
    installation = install_guarded(lab, folder)
    assert installation.vantage_points == [A, B, "outside"]
    for place in installation.vantage_points:
        config = Config.load(installation.for_vantage(place))
        snapshot = config.snapshot("shop")
        assert snapshot.guarded
        assert snapshot.replication.streaming
        for region in snapshot.regions:
            assert region.postgres is not None
            assert (region.postgres.host, region.postgres.port) == lab.seen_from(place, region.name, "postgres")
        assert {region.dns_value for region in snapshot.regions} == {
            lab.seen_from(CLIENTS, name, "postgres")[0] for name in (A, B)
        }
    own = Config.load(installation.for_vantage(A)).regions[A].guard
    assert own == lab.guard(A)
    assert Config.load(installation.for_vantage(B)).regions[A].guard != own


# A guard that starts a companion, which outlives it and forgets its environment.
_GUARD = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", sys.argv[1] + "/x/companion.py", sys.argv[1]],
                 env={}, start_new_session=True)
print("the guard is ready", flush=True)
time.sleep(600)
"""


async def test_guard_and_companion_are_hit_alone_or_with_their_region(lab: Lab, folder: Path) -> None:
    await lab.attend(B, "guard", ["-c", _GUARD, str(folder)], ready="is ready", folder=folder)

    async def companion() -> int | None:
        return lab.describe().server(f"{B}/companion").pid

    first = await eventually(companion, 10)
    assert first is not None
    await lab.freeze(B, "guard")
    state = lab.describe()
    assert state.server(f"{B}/guard").state == "frozen"
    assert psutil.Process(first).status() != psutil.STATUS_STOPPED
    await lab.thaw(B, "guard")
    await lab.kill(B, "guard")
    assert _runs(first), "the companion outlives its guard"
    await lab.freeze(B, "companion")
    assert psutil.Process(first).status() == psutil.STATUS_STOPPED
    await lab.thaw(B, "companion")
    await lab.restart(B, "guard")
    pids = lab.describe().server(f"{B}/guard").pids
    await lab.kill(B)
    assert not [pid for pid in (first, *pids) if _runs(pid)]
    for service in ("redis", "nats", "app"):
        await lab.restart(B, service)
    await lab.restart(B, "postgres")


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_a_guard_of_another_lab_on_this_machine_is_left_alone(lab: Lab, folder: Path) -> None:
    """It has the same name there."""
    stranger = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "import time; time.sleep(600)"),
        env={MARK: str(folder / "log" / f"{A}-guard.log")},
        start_new_session=True,
    )
    try:
        await lab.attend(A, "guard", ["-c", _GUARD, str(folder)], ready="is ready", folder=folder)
        await lab.kill(A, "guard")
        await lab.kill(A, "companion")
        assert stranger.returncode is None
        assert psutil.Process(stranger.pid).status() != psutil.STATUS_ZOMBIE
    finally:
        stranger.kill()
        await stranger.wait()


async def test_what_does_not_get_ready_is_shown_with_its_log(lab: Lab) -> None:
    with pytest.raises(LabError, match="no such luck"):
        await lab.attend(A, "monitor", ["-c", "print('no such luck')"], ready="is ready")
    with pytest.raises(LabError, match="not by 'sheriff'"):
        await lab.attend(A, "sheriff", [], ready="is ready")


async def test_after_the_hand_over_postgresql_starts_as_a_standby_only(lab: Lab) -> None:
    """The last test of this lab."""
    await lab.hand_over()
    connection = await asyncpg.connect(lab.postgres(A).dsn())
    assert await connection.fetchval("SELECT pg_is_in_recovery()") is False, "the primary runs on for its guard"
    await connection.close()
    data = lab.postgres(A).data_directory
    assert (data / "standby.signal").exists()
    with pytest.raises(LabError, match="guard starts postgres itself"):
        await lab.restart(A, "postgres")
    await lab.kill(A, "postgres")
    assert not [p for p in psutil.process_iter() if _runs_in(p, data)]


def _runs_in(process: psutil.Process, folder: Path) -> bool:
    try:
        return Path(process.cwd()) == folder
    except (psutil.Error, OSError):
        return False


async def test_a_guarded_lab_needs_standbys() -> None:
    with pytest.raises(LabError, match="two regions or more and streaming"):
        await Lab.start(guarded=True, standby="none")
