"""Each probe before real servers: what passes, what fails and why, and what of it is vital."""

from __future__ import annotations

import asyncio
import signal
import ssl
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from recovery.adapters.probes import (
    DnsProbe,
    HttpEndpointProbe,
    Limits,
    NatsLogin,
    NatsProbe,
    ProbesOfRegion,
    RedisProbe,
    TcpProbe,
)
from recovery.adapters.probes.replicas import Places, Replicas
from recovery.adapters.redis.connection import RedisLogin
from recovery.adapters.trust import trusted
from recovery.domain.group import DnsRecord, GroupSnapshot, Objectives, RegionPlan, ReplicationRule
from recovery.domain.health import Finding, Part
from recovery.domain.health_answer import ExpectedAnswer
from recovery.ports.health import StoreProbe
from tests.certificates import self_signed
from tests.contract import dns_servers
from tests.contract.test_health_probe import hang, serving, status
from tests.integration.nats_pair import a_pair
from tests.integration.nats_servers import PASSWORD as NATS_PASSWORD
from tests.integration.nats_servers import OwnNats, publish
from tests.integration.redis_servers import OwnRedis
from tests.ports import free_port

LIMITS = Limits.of(2.0, 1.0)


async def one(probe: StoreProbe, part: Part = Part.OWNER) -> Finding:
    (finding,) = await probe.look(part)
    return finding


def group(**changes: object) -> GroupSnapshot:
    usual = GroupSnapshot(
        name="shop",
        objectives=Objectives(tier="critical", rto=timedelta(minutes=15), rpo=timedelta(minutes=5)),
        home_region="east",
        regions=[RegionPlan(name=name, task_queue=name) for name in ("east", "west")],
        replication=ReplicationRule(streaming=True, max_lag=timedelta(seconds=30)),
    )
    return usual.model_copy(update=changes)


def test_a_machine_that_is_gone_is_known_long_before_a_slow_answer_is_late() -> None:
    assert Limits.of(5.0, 1.0).connect == 1.0
    assert Limits.of(5.0, 30.0).connect == 1.5
    assert Limits.of(5.0, 0.1).connect == 0.5
    assert Limits.of(0.2, 1.0).connect == 0.2


async def test_redis(tmp_path: Path) -> None:
    a, b = OwnRedis(tmp_path / "a"), OwnRedis(tmp_path / "b")
    try:
        await asyncio.gather(a.start(), b.start())
        at_a, at_b = RedisProbe(a.server, LIMITS), RedisProbe(b.server, LIMITS)
        assert "it is a replica" in (await one(at_a)).detail, "at rest it is a replica of nowhere"
        await a.ask("REPLICAOF", "NO", "ONE")
        await b.ask("REPLICAOF", "127.0.0.1", a.port)
        async with asyncio.timeout(20):
            while not (found := await one(at_b, Part.STANDBY)).passed:
                assert not found.vital
                await asyncio.sleep(0.1)
        assert found.detail == "replica, link up" and found.lag_seconds is not None
        owner = await one(at_a)
        assert owner.passed and owner.vital and owner.detail == "primary, 1 replicas"
        assert "does not own the group" in (await one(at_a, Part.STANDBY)).detail

        replicas = Replicas(group(), Places(redis={"east": a.server}))
        (lag,) = await replicas.replicas("east")
        assert (lag.store, lag.state, lag.connected) == ("redis", "online", True)
        assert lag.lag_bytes is not None and lag.sent is not None and lag.replayed is not None

        wrong = RedisProbe(replace(a.server, login=RedisLogin(password="another")), LIMITS)
        refused = await one(wrong)
        assert not refused.passed and not refused.vital, "our mistake is no reason to leave a region"

        a.send(signal.SIGSTOP)
        began = time.monotonic()
        frozen = await one(at_a)
        assert not frozen.passed and frozen.vital and "no answer within 2 s" in frozen.detail
        assert time.monotonic() - began < 3.0
        a.send(signal.SIGCONT)
        assert (await one(at_a)).passed
        a.end()
        dead = await one(at_a)
        assert not dead.passed and dead.vital and dead.seconds < 1.0
    finally:
        a.end()
        b.end()


async def test_jetstream(tmp_path: Path) -> None:
    def login(server: OwnNats) -> NatsLogin:
        return NatsLogin("127.0.0.1", server.port, "recovery", NATS_PASSWORD)

    async with a_pair(tmp_path) as pair:
        at_a = NatsProbe(login(pair.a), ["events", "audit"], LIMITS)
        at_b = NatsProbe(login(pair.b), ["events", "audit"], LIMITS)
        wrong = NatsProbe(replace(login(pair.a), password="another"), ["events"], LIMITS)
        try:
            async with login(pair.a).connected(5) as client:
                await publish(client, "events.new", "first")
            owner = await one(at_a)
            assert owner.passed and owner.vital and owner.detail == "2 streams"
            standby = await one(at_b, Part.STANDBY)
            assert standby.passed and not standby.vital and "2 of them mirrors" in standby.detail
            assert "a mirror, which accepts no messages" in (await one(at_b)).detail
            refused = await one(wrong)
            assert not refused.passed and not refused.vital
            missing = NatsProbe(login(pair.a), ["events", "nothing"], LIMITS)
            assert not (await one(missing)).passed
            await missing.close()

            await pair.caught_up()
            places = Places(nats={"east": login(pair.a), "west": login(pair.b)})
            mirrors = await Replicas(group(streams=["events", "audit"]), places).replicas("east")
            assert [(found.name, found.target, found.lag_entries) for found in mirrors] == [
                ("events", "west", 0),
                ("audit", "west", 0),
            ]

            pair.a.end()
            dead = await one(at_a)
            assert not dead.passed and dead.vital
            await pair.a.start()
            assert (await one(at_a)).passed, "the kept session is replaced"
        finally:
            for probe in (at_a, at_b, wrong):
                await probe.close()


async def test_http() -> None:
    async def asked(expected: ExpectedAnswer, answer: object = status(200), seconds: float = 1.0) -> Finding:
        async with serving(answer) as url:  # type: ignore[arg-type]
            probe = HttpEndpointProbe([url], expected, Limits.of(seconds, 1.0))
            try:
                return await one(probe)
            finally:
                await probe.close()

    assert (await asked(ExpectedAnswer())).passed
    assert (await asked(ExpectedAnswer(status=204), status(204, b""))).passed
    assert "HTTP 503, expected 200" in (await asked(ExpectedAnswer(), status(503))).detail
    assert (await asked(ExpectedAnswer(body='"ok"'), status(200, b'{"status": "ok"}'))).passed
    assert "does not contain" in (await asked(ExpectedAnswer(body='"ok"'), status(200, b"down"))).detail
    assert "are the most" in (await asked(ExpectedAnswer(latency=0.0))).detail
    assert "no answer within" in (await asked(ExpectedAnswer(), hang, seconds=0.3)).detail
    nobody = HttpEndpointProbe([f"http://127.0.0.1:{free_port()}/healthz"], ExpectedAnswer(), LIMITS)
    found = await one(nobody)
    assert not found.passed and found.vital and found.check == "/healthz"
    assert not (await one(nobody, Part.STANDBY)).vital, "elsewhere the application need not work yet"
    await nobody.close()


async def test_the_machines_authorities_are_trusted_and_another_one_is_no_lost_region(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = self_signed(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    async with serving(status(200), context) as url:
        for trusts in (False, True):
            if trusts:
                monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
            trusted.cache_clear()
            probe = HttpEndpointProbe([url], ExpectedAnswer(), LIMITS)
            found = await one(probe)
            await probe.close()
            assert found.passed is trusts and found.vital is trusts, found.detail
            assert trusts or "certificate" in found.detail
    trusted.cache_clear()


@pytest.mark.parametrize("kind", dns_servers.available())
async def test_dns(kind: str, tmp_path: Path) -> None:
    async with dns_servers.running(kind, tmp_path) as server:
        record = DnsRecord(name="db.shop.test", zone="shop.test")
        address = (server.host, server.port)
        found = await one(DnsProbe([record], "192.0.2.1", 2.0, address))
        assert found.passed and not found.vital
        other = await one(DnsProbe([record], "192.0.2.9", 2.0, address))
        assert not other.passed and not other.vital and "expected 192.0.2.9" in other.detail
        assert await DnsProbe([record], "192.0.2.1", 2.0, address).look(Part.STANDBY) == []
        missing = record.model_copy(update={"name": "nothing.shop.test"})
        assert not (await one(DnsProbe([missing], "192.0.2.1", 2.0, address))).passed


async def test_a_region_fails_with_what_is_vital_in_it() -> None:
    async with serving(status(200)) as url:
        port = int(url.rsplit(":", 1)[1].split("/")[0])
        well = TcpProbe("redis", "127.0.0.1", port, LIMITS)
        dead = TcpProbe("postgres", "127.0.0.1", free_port(), LIMITS)
        sighting = await ProbesOfRegion([well, dead]).look(Part.OWNER)
        assert not sighting.passed and sighting.is_alive
        assert (await ProbesOfRegion([well]).look(Part.OWNER)).passed
        assert not (await ProbesOfRegion([dead]).look(Part.OWNER)).is_alive
