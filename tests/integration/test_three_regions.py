"""Failovers of a group with two places at one site and a third elsewhere: who takes over, and whom the rest follows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import asyncpg
import nats
import pytest
import pytest_asyncio

from recovery.adapters.redis.connection import RedisLogin, RedisServer, connected
from recovery.domain.health import ReplicaLag
from recovery.domain.replication import standby_slot
from recovery.domain.report import RunReport, RunState, StepState
from recovery.domain.timelines import lsn_order
from tests.integration.guarded_site import GuardedSite
from tests.integration.guarded_start import guarded_site
from tests.integration.guarded_verdicts import survived
from workers.replicas import replicas_of

UNHEARD = 4  # transactions that a kill may leave without an answer: one of each connection of the client, the checker
HOME, NEAR, FAR = "region-a", "region-b", "region-c"
RECEIVER = """
SELECT status, received_tli, sender_host, sender_port, slot_name, pg_last_wal_replay_lsn()::text AS replayed
FROM pg_stat_wal_receiver
"""
TIMELINE = "SELECT ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int"
SLOTS = "SELECT slot_name, active, wal_status FROM pg_replication_slots WHERE slot_type = 'physical' AND NOT temporary"


@pytest_asyncio.fixture(scope="module")
async def running_guarded() -> AsyncIterator[GuardedSite]:
    async with guarded_site(regions=(HOME, NEAR, FAR), sites={NEAR: HOME}) as site:
        yield site


def step_state(report: RunReport, name: str) -> StepState:
    return next(step.state for step in report.steps if step.name == name)


async def assert_follows(site: GuardedSite, region: str, owner: str) -> None:
    """All that is written at the owner arrives in the region, over the owner's new timeline and its own slot."""
    there = await asyncpg.connect(site.lab.postgres(owner).dsn(), timeout=5)
    here = await asyncpg.connect(site.lab.postgres(region).dsn(), timeout=5)
    try:
        timeline, written = await there.fetchval(TIMELINE), await there.fetchval("SELECT pg_current_wal_lsn()::text")

        async def replayed() -> bool:
            receiver = await here.fetchrow(RECEIVER)
            if receiver is None or lsn_order(receiver["replayed"]) < lsn_order(written):
                return False
            assert receiver["status"] == "streaming" and receiver["received_tli"] == timeline
            assert (receiver["sender_host"], receiver["sender_port"]) == site.lab.seen_from(region, owner, "postgres")
            assert receiver["slot_name"] == standby_slot(region)
            return True

        await site.eventually(replayed, 20, f"{region} did not replay what {owner} wrote")
        slots = {row["slot_name"]: row for row in await there.fetch(SLOTS)}
        slot = slots[standby_slot(region)]
        assert slot["active"] and slot["wal_status"] in ("reserved", "extended"), slot
        assert standby_slot(owner) not in slots, "nobody would move it on, and it keeps WAL"
    finally:
        await there.close()
        await here.close()
    (lag,) = [each for each in await replicas(site) if each.store == "postgres" and each.target == region]
    assert lag.connected and lag.state == "streaming" and lag.slot_active and not lag.is_late, lag
    assert lag.lag_seconds is not None and lag.lag_seconds < 2.0, lag
    await assert_redis_follows(site, region, owner)
    await assert_streams_follow(site, region, owner)


async def assert_redis_follows(site: GuardedSite, region: str, owner: str) -> None:
    key = f"after:{time.time_ns()}"
    async with connected(redis_of(site, owner)) as there, connected(redis_of(site, region)) as here:
        state = await here.info("replication")
        assert (state["role"], state["master_link_status"]) == ("slave", "up"), state
        seen = site.lab.seen_from(region, owner, "redis")
        assert (state["master_host"], int(state["master_port"])) == seen, state
        await there.run("SET", key, "1")

        async def arrived() -> bool:
            return bool(await here.run("EXISTS", key))

        await site.eventually(arrived, 10, f"Redis in {region} does not follow {owner}")


async def assert_streams_follow(site: GuardedSite, region: str, owner: str) -> None:
    """Their mirrors are of the owner's domain, and hold what it is given. Nothing else is a mirror's source."""
    there = await nats.connect(site.lab.jetstream(owner).app_url, connect_timeout=5)
    here = await nats.connect(site.lab.jetstream(region).admin_url, connect_timeout=5)
    try:
        acknowledged = await there.jetstream().publish("shop.orders.follows", b"1", timeout=5)

        async def arrived() -> bool:
            mirror = (await here.jetstream().stream_info("ORDERS")).config.mirror
            if mirror is None or mirror.external is None or mirror.external.api != f"$JS.{owner}.API":
                return False
            return (await here.jetstream().stream_info("ORDERS")).state.last_seq >= acknowledged.seq

        await site.eventually(arrived, 20, f"ORDERS in {region} does not follow {owner}")
    finally:
        await there.close()
        await here.close()


def redis_of(site: GuardedSite, region: str) -> RedisServer:
    at = urlsplit(site.lab.describe().redis[region])
    assert at.hostname is not None and at.port is not None
    return RedisServer(at.hostname, at.port, RedisLogin(at.username or None, at.password))


async def replicas(site: GuardedSite) -> list[ReplicaLag]:
    """As ``drctl replication`` shows them."""
    owner, found = await replicas_of(site.wiring, "shop")
    assert owner == site.active
    return found


async def test_a_lost_host_is_replaced_at_its_own_site_and_the_third_region_follows(guarded: GuardedSite) -> None:
    """The one elsewhere lacks what was written last: it gets that, and all that comes, from the new primary."""
    assert guarded.active == HOME
    await guarded.lab.partition(HOME, FAR)
    killed = await guarded.kill(HOME)
    await guarded.service_back(killed)
    report = await guarded.failover()
    assert report.target_region == NEAR
    found = {each.region: each for each in report.candidates}
    assert found[NEAR].is_local and not found[NEAR].rejected and not found[FAR].is_local
    assert NEAR in found[FAR].rejected, found[FAR]
    await survived(guarded, report, killed)
    assert step_state(report, "repoint-standbys") is StepState.DONE
    assert [words for words in report.warnings if FAR in words] == []
    await assert_follows(guarded, FAR, NEAR)
    # The old primary returns, and all of them follow one.
    await guarded.lab.heal()
    await guarded.reset()
    for region in (HOME, FAR):
        await assert_follows(guarded, region, NEAR)


@pytest.mark.chaos
async def test_a_lost_site_is_left_and_what_returns_there_follows(guarded: GuardedSite) -> None:
    """Two of four vantage points are lost with it: that is no majority, and a person starts the failover."""
    source = guarded.active
    site = [HOME, NEAR]
    assert source in site
    lost = min([await guarded.kill(region) for region in site])
    report = await guarded.run("Failover", approve=True)
    assert report.state is RunState.COMPLETED and report.target_region == FAR, report.error
    await survived(guarded, report, lost)
    await guarded.reset()
    for region in site:
        await assert_follows(guarded, region, FAR)


@pytest.mark.chaos
async def test_a_standby_that_is_ahead_of_the_new_owner_is_taken_back(guarded: GuardedSite) -> None:
    """A person names the less advanced one. The other one must not follow it, and is the one that Reprotect finds."""
    source, (target, ahead) = guarded.active, guarded.others
    await guarded.lab.partition(source, target)
    await asyncio.sleep(1.0)  # for that long the target receives nothing
    killed = await guarded.kill(source)
    report = await guarded.run("Failover", region=target, approve=True)
    assert report.state is RunState.COMPLETED and report.target_region == target, report.error
    assert [words for words in report.warnings if f"{ahead} does not follow {target}" in words], report.warnings
    await survived(guarded, report, killed)
    lost = await guarded.lost_since(guarded.since)
    assert lost, "the named one lacks a second's work"
    back = await guarded.run("Reprotect", approve=True)
    assert back.state is RunState.COMPLETED and back.target_region == ahead, back.error
    (found,) = [each for each in back.divergences if each.store == "postgres"]
    assert found.transactions is not None and 0 < found.transactions <= len(lost) + UNHEARD, (found, len(lost))
    await assert_follows(guarded, ahead, target)
