"""Redis that lets nobody in without TLS and a certificate of its authority, under a name that is not its address."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from recovery.adapters.probes import RedisProbe
from recovery.adapters.probes.reach import Limits
from recovery.adapters.redis.connection import RedisLogin
from recovery.adapters.redis.guarded import GuardedRedis
from recovery.adapters.redis.scratch import ServerTls
from recovery.domain.guarding import StoreRole
from recovery.domain.health import Finding, Part
from recovery.ports.guard import Upstream
from tests.certificates import issued
from tests.integration.put_aside import RECIPIENTS
from tests.integration.redis_servers import demoted, own_redis
from tests.system.debian_redis import Redis7

pytestmark = pytest.mark.system
NAME = "redis.shop.example.com"
LIMITS = Limits(5.0, 2.0)
AT_REST = 1  # a replica of nowhere


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> ServerTls:
    authority, public, private = issued(tmp_path_factory.mktemp("tls"), NAME)
    return ServerTls(public, private, authority)


@contextlib.asynccontextmanager
async def running(folder: Path, certificate: ServerTls) -> AsyncIterator[Redis7]:
    own = Redis7(folder, append_only=False, tls=certificate, upstream=AT_REST, name=NAME, demands=True)
    with own_redis(own):
        await own.start()
        yield own


def guard_of(own: Redis7, state: Path) -> GuardedRedis:
    return GuardedRedis(own.server, state, recipients=RECIPIENTS, peers={})


async def look(own: Redis7, login: RedisLogin | None = None, part: Part = Part.OWNER) -> Finding:
    (found,) = await RedisProbe(replace(own.server, login=login or own.server.login), LIMITS).look(part)
    return found


async def test_a_guard_promotes_follows_and_demotes(tmp_path: Path, certificate: ServerTls) -> None:
    async with running(tmp_path / "a", certificate) as a, running(tmp_path / "b", certificate) as b:
        guard_a, guard_b = guard_of(a, tmp_path / "state-a"), guard_of(b, tmp_path / "state-b")
        await guard_a.promote(1, owner=True)
        await a.fill(100)
        await guard_b.follow(Upstream("region-a", "127.0.0.1", a.port))
        async with asyncio.timeout(20):
            while not (found := await look(b, part=Part.STANDBY)).passed:
                await asyncio.sleep(0.05)
        assert found.detail == "replica, link up"
        await b.wait_for("DBSIZE", expected=100)
        owner = await look(a)
        assert (owner.passed, owner.detail) == (True, "primary, 1 replicas")
        await demoted(guard_a)
        assert (await guard_a.observe()).role is StoreRole.STALE
        assert (await guard_b.promote(2)).epoch == 2
        assert await b.ask("SET", "after", "1") == "OK"


@pytest.mark.parametrize("lacking", ["authority", "certificate", "name"])
async def test_certificates_that_do_not_fit_are_no_lost_region(
    lacking: str, tmp_path: Path, certificate: ServerTls
) -> None:
    async with running(tmp_path / "a", certificate) as own:
        login = own.server.login
        if lacking == "name":
            wrong = replace(login, server_name=None)
        elif lacking == "certificate":
            wrong = replace(login, tls=ssl.create_default_context(cafile=str(certificate.ca)))
        else:
            others = tmp_path / "others"
            others.mkdir()
            context = ssl.create_default_context(cafile=str(issued(others, NAME)[0]))
            context.load_cert_chain(str(certificate.certificate), str(certificate.key))
            wrong = replace(login, tls=context)
        found = await look(own, wrong)
        assert not found.passed and not found.vital, found.detail
        assert "(check groups.<name>.redis.tls)" in found.detail
        own.end()
        assert (await look(own, wrong)).vital, "one that is gone is lost all the same"
