"""Stores at an IPv6 address, where the machine has one: the same as at any other."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest

from lab.packages import script
from recovery.adapters.nats.connection import NatsLogin, NatsServer, api, connected
from recovery.adapters.probes import NatsLogin as ProbeLogin
from recovery.adapters.probes import NatsProbe, RedisProbe
from recovery.adapters.probes.reach import Limits, TcpProbe
from recovery.adapters.redis.connection import RedisServer
from recovery.domain.addresses import address_of
from recovery.domain.health import Part
from tests.integration.redis_servers import OwnRedis, own_redis
from tests.integration.test_nats_accounts import answering, back_up
from tests.ports import free_port

LIMITS = Limits(5.0, 2.0)


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as tried:
            tried.bind(("::1", 0))
    except OSError:
        return False
    return True


LOOPBACKS = ["127.0.0.1", "::1"] if _has_ipv6() else ["127.0.0.1"]
pytestmark = pytest.mark.parametrize("host", LOOPBACKS)


async def test_nats(host: str, tmp_path: Path) -> None:
    port, log, configuration = free_port(), tmp_path / "log", tmp_path / "nats.conf"
    configuration.write_text(f'listen: "{address_of(host, port)}"\njetstream {{ store_dir: "{tmp_path}/js" }}\n')
    server = NatsServer(host, port, NatsLogin())
    with log.open("wb") as output:
        process = subprocess.Popen([str(script("nats-server")), "-c", str(configuration)], stderr=output)  # noqa: ASYNC220
    probe = NatsProbe(ProbeLogin(host, port), ["events"], LIMITS)
    try:
        await answering(server, process, log)
        async with connected(server) as client:
            await api(client, "STREAM.CREATE.events", {"name": "events", "subjects": ["events.>"]}, 10.0)
        assert [part.stream for part in (await back_up(server)).streams] == ["events"]
        (found,) = await probe.look(Part.OWNER)
        assert found.passed, found.detail
    finally:
        await probe.close()
        process.kill()
        process.wait(10)


async def test_redis(host: str, tmp_path: Path) -> None:
    both = " ".join(sorted({"127.0.0.1", host}))
    own = OwnRedis(tmp_path / "redis", lines=(f"bind {both}",))
    with own_redis(own):
        await own.start()
        await own.ask("REPLICAOF", "NO", "ONE")
        (found,) = await RedisProbe(RedisServer(host, own.port, own.server.login), LIMITS).look(Part.OWNER)
        assert found.passed, found.detail
        (reached,) = await TcpProbe("redis", host, own.port, LIMITS).look(Part.OWNER)
        assert reached.passed and address_of(host, own.port) in reached.detail
