"""Whole plans of a group whose PostgreSQL Patroni manages, on real clusters and under writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.patroni import FASTEST, cluster
from recovery.domain.report import RunReport, RunState, StepState
from tests.system.patroni_site import AWAY, HOME, Place, patroni_site
from tests.system.patroni_writes import TABLE, arrived, missing, never_two, primaries, program, streams, writing

pytestmark = pytest.mark.system
__all__ = ["program"]


def completed(report: RunReport) -> None:
    held = [f"{step.name}: {step.summary or step.error}" for step in report.steps if step.state is not StepState.DONE]
    assert report.state is RunState.COMPLETED, f"{report.error} {held}"


async def test_one_cluster_moves_and_is_taken_over(program: Path) -> None:
    """A switchover under writes loses nothing and needs nobody's word; then the new leader's host is lost.

    No monitor looks on here, so how far a standby is behind nobody knows: a person accepts that.
    """
    async with cluster(FASTEST, program, ("pg-a1", "pg-b1")) as shop:
        await shop.value("pg-a1", TABLE)
        places = {HOME: Place(shop, ["pg-a1"]), AWAY: Place(shop, ["pg-b1"])}
        async with patroni_site(places) as site, writing((shop, "pg-a1"), (shop, "pg-b1")) as writer:
            report = await site.run("Switchover", region=AWAY)
            completed(report)
            assert (await primaries(shop), (await site.record()).region) == (["pg-b1"], AWAY)
            assert report.fence is not None and (report.fence.how, report.fence.hands_over) == ("managed", True)
            await writer.more(len(writer.acknowledged) + 20)
            assert not await missing(shop, "pg-b1", list(writer.acknowledged))
            await shop.until(lambda: streams(shop, "pg-a1"))
            await shop.until(lambda: arrived(shop, "pg-a1", list(writer.acknowledged)[:-20]))
            shop.lose("pg-b1", "killed")
            report = await site.run("Failover", region=HOME, approve=True, accept_data_loss=True)
            completed(report)
            assert (await primaries(shop), (await site.record()).region) == (["pg-a1"], HOME)
            await writer.more(len(writer.acknowledged) + 20)


async def test_a_cluster_for_each_region_moves_and_is_taken_over(program: Path) -> None:
    """Never two primaries. What does not answer is a person's to vouch for."""
    async with cluster(FASTEST, program, ("pg-a1",)) as a:
        await a.value("pg-a1", TABLE)
        async with cluster(FASTEST, program, ("pg-b1",), follows=(a.host("pg-a1"), a.port)) as b:
            places = {HOME: Place(a, ["pg-a1"]), AWAY: Place(b, ["pg-b1"])}
            async with (
                never_two(a, b),
                patroni_site(places) as site,
                writing((a, "pg-a1"), (b, "pg-b1")) as writer,
            ):
                report = await site.run("Switchover", region=AWAY)
                completed(report)
                assert (await primaries(a, b), (await site.record()).region) == (["pg-b1"], AWAY)
                assert report.fence is not None and report.fence.positions, "where the old side ended is known"
                await writer.more(len(writer.acknowledged) + 20)
                assert not await missing(b, "pg-b1", list(writer.acknowledged))
                await b.until(lambda: streams(a, "pg-a1"))
                b.lose("pg-b1", "killed")
                report = await site.run("Failover", region=HOME, approve=True, accept_data_loss=True)
                assert report.state is RunState.ROLLED_BACK and "a person has to confirm" in report.error
                assert await primaries(a) == []
                report = await site.run(
                    "Failover", region=HOME, approve=True, accept_data_loss=True, confirm_fence=True
                )
                completed(report)
                assert (await primaries(a), (await site.record()).region) == (["pg-a1"], HOME)
                await writer.more(len(writer.acknowledged) + 20)
