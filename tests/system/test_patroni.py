"""Patroni's adapter against Patroni: one cluster over two regions, and a cluster for each, with real servers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from lab.patroni import FASTEST, PASSWORD, USER, Cluster, cluster
from recovery.adapters.patroni import PatroniPromotion
from recovery.adapters.patroni_rest import PatroniAccess, PatroniCluster
from recovery.domain.group import GroupSnapshot, Objectives, RegionPlan
from recovery.domain.guarding import Promotion
from recovery.errors import Contended, Refused, Unreachable
from tests.system.patroni_writes import TABLE, arrived, missing, never_two, primaries, program, streams, writing

pytestmark = pytest.mark.system
__all__ = ["program"]
GROUP = GroupSnapshot(
    name="shop",
    objectives=Objectives(tier="critical", rto=timedelta(minutes=15), rpo=timedelta(minutes=5)),
    home_region="a",
    regions=[RegionPlan(name="a", task_queue="a"), RegionPlan(name="b", task_queue="b")],
)
ATTEMPTS = 90.0  # seconds in which a step that is tried again and again has to get there


@asynccontextmanager
async def promotion(views: dict[str, PatroniAccess]) -> AsyncIterator[PatroniPromotion]:
    async with AsyncExitStack() as stack:
        clusters = {region: PatroniCluster(access) for region, access in views.items()}
        for each in clusters.values():
            stack.push_async_callback(each.close)

        async def view(group: str, region: str) -> tuple[PatroniCluster, PatroniAccess]:
            return clusters[region], views[region]

        yield PatroniPromotion(view)


def access(of: Cluster, *nodes: str, password: str = PASSWORD) -> PatroniAccess:
    return PatroniAccess(tuple(of.api(node) for node in nodes), USER, password)


async def persistently(promotion: PatroniPromotion, region: str) -> Promotion:
    """As a step does: what is worth another attempt is attempted again."""
    deadline = time.monotonic() + ATTEMPTS
    while True:
        try:
            return await promotion.promote(GROUP, region, 5)
        except (Unreachable, Contended):
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(1)


async def test_one_cluster_over_two_regions(program: Path) -> None:
    """Handed over in order under load: nothing acknowledged is lost. Then its leader is killed: the other one leads."""
    async with cluster(FASTEST, program, ("pg-a1", "pg-b1", "pg-b2")) as shop:
        await shop.value("pg-a1", TABLE)
        a, b = access(shop, "pg-a1"), access(shop, "pg-b1", "pg-b2")
        async with promotion({"a": a, "b": b}) as patroni, writing(*((shop, node) for node in shop.nodes)) as writer:
            found = await patroni.fence(GROUP, "a", "b")
            assert found is not None and found.hands_over
            moved = await patroni.promote(GROUP, "b", 5)
            assert (moved.already, moved.before is not None) == (False, True)
            (leader,) = await primaries(shop)
            assert leader in ("pg-b1", "pg-b2") and leader in moved.note
            again = await persistently(patroni, "b")
            assert (again.already, again.timeline, await primaries(shop)) == (True, 2, [leader])
            await writer.more(len(writer.acknowledged) + 20)
            assert not await missing(shop, leader, list(writer.acknowledged))
            await shop.until(lambda: streams(shop, "pg-a1"))
            # The leader dies and its lock is still held: the order counts once the lock has ended.
            shop.lose(leader, "killed")
            assert (await persistently(patroni, "a")).epoch == 5
            assert await primaries(shop) == ["pg-a1"]


async def test_an_order_that_patroni_refuses_changes_nothing(program: Path) -> None:
    async with cluster(FASTEST, program, ("pg-a1", "pg-b1")) as shop:
        views = {region: access(shop, f"pg-{region}1", password="wrong") for region in ("a", "b")}
        async with promotion(views) as patroni:
            with pytest.raises(Refused, match=r"\(401\).*Check patroni\.user") as failure:
                await patroni.promote(GROUP, "b", 5)
        assert "wrong" not in str(failure.value)
        client = PatroniCluster(access(shop, "pg-a1"))
        with pytest.raises(Refused, match=r"\(412\)"):
            await client.switchover("pg-b1", "pg-a1")  # it is no leader
        await client.close()
        assert await primaries(shop) == ["pg-a1"]


async def test_a_cluster_for_each_region(program: Path) -> None:
    """The old one follows the new one before that is freed: at no time two primaries. And the undo before that."""
    async with cluster(FASTEST, program, ("pg-a1",)) as a:
        await a.value("pg-a1", TABLE)
        async with cluster(FASTEST, program, ("pg-b1",), follows=(a.host("pg-a1"), a.port)) as b:
            views = {"a": access(a, "pg-a1"), "b": access(b, "pg-b1")}
            async with (
                never_two(a, b),
                promotion(views) as patroni,
                writing((a, "pg-a1"), (b, "pg-b1")) as writer,
            ):
                assert await patroni.fence(GROUP, "a", "b") is not None
                assert await primaries(a, b) == []
                await patroni.unfence(GROUP, "a")
                assert await primaries(a, b) == ["pg-a1"]
                await writer.more(len(writer.acknowledged) + 20)

                await patroni.fence(GROUP, "a", "b")
                held = list(writer.acknowledged)
                # A plan compares positions before it promotes: the fenced one still sends what it has.
                await b.until(lambda: arrived(b, "pg-b1", held))
                moved = await persistently(patroni, "b")
                assert (moved.already, await primaries(a, b)) == (False, ["pg-b1"])
                await writer.more(len(held) + 20)
                assert not await missing(b, "pg-b1", list(writer.acknowledged))
                await b.until(lambda: streams(a, "pg-a1"))
                assert await primaries(a, b) == ["pg-b1"]


async def test_a_cluster_that_is_gone_is_no_proof(program: Path) -> None:
    async with (
        cluster(FASTEST, program, ("pg-a1",)) as a,
        cluster(FASTEST, program, ("pg-b1",), follows=(a.host("pg-a1"), a.port)) as b,
        promotion({"a": access(a, "pg-a1"), "b": access(b, "pg-b1")}) as patroni,
    ):
        a.lose("pg-a1", "silent")
        assert await patroni.fence(GROUP, "a", "b") is None
