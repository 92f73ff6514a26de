"""Standbys that a failover passed by, because their guards were off: whom they follow afterwards. In virtual time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from recovery.errors import Refused, Unreachable
from tests.fakes.guard import FakeStandby, FakeStore, Regions, until
from tests.unit.guard.scenes import PRIMARY, played


async def moved(regions: Regions, c: FakeStandby) -> None:
    """From A, which is lost, to B; the guard of C is off until it is over."""
    b = FakeStandby(member="standby_b", follows="a")
    a = regions.start("a", {"shop": [FakeStore(role=PRIMARY)]}, others="abc")
    regions.start("b", {"shop": [b]}, others="abc")
    await until(lambda: "shop" in regions.witness.records and a.groups["shop"].armed)
    await regions.kill("a")
    order = regions.claim("run-1")
    await regions.guards["b"].fence(order)
    await regions.guards["b"].promote(order)
    regions.start("c", {"shop": [c]}, others="abc")
    await asyncio.sleep(30)
    assert "follow b" not in c.called, "a run says itself who follows whom"
    regions.witness.change("shop", run=None, plan=None)


def test_the_new_owner_is_followed_once_no_run_is_at_work(tmp_path: Path) -> None:
    async def scene(regions: Regions) -> None:
        c = FakeStandby(member="standby_c", follows="a")
        await moved(regions, c)
        await until(lambda: c.follows == "b", 10)
        await asyncio.sleep(60)
        assert c.called.count("follow b") == 1

    played(tmp_path, scene)


@pytest.mark.parametrize(("error", "tries"), [(Refused("it diverged"), 1), (Unreachable("no answer"), 3)])
def test_what_does_not_follow_is_said_and_tried_again(tmp_path: Path, error: Exception, tries: int) -> None:
    async def scene(regions: Regions) -> None:
        c = FakeStandby(member="standby_c", follows="a", fail={"follow b": error})
        await moved(regions, c)
        await until(lambda: "follow b" in c.called, 10)
        await asyncio.sleep(5)
        assert f"postgres does not follow b: {error}" in regions.guards["c"].groups["shop"].state().warnings
        assert c.called.count("follow b") == tries
        c.fail.clear()
        await until(lambda: c.follows == "b", 40)
        await asyncio.sleep(2)
        assert not [words for words in regions.guards["c"].groups["shop"].state().warnings if "follow" in words]

    played(tmp_path, scene)
